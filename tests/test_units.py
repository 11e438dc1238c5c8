# SPDX-License-Identifier: Apache-2.0
"""A scene in map coordinates, or of any size, trains, scores, renders and exports like the same one in metres."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import tiny
from conftest import load_backend
from PIL import Image

import gsplat_train
from gsplat_train.datasets.colmap_binary import write_pinholes
from gsplat_train.datasets.colmap_records import Points
from gsplat_train.errors import UserError
from gsplat_train.evaluate.depth import read_depth
from gsplat_train.model import formats
from gsplat_train.model.frame import euler
from gsplat_train.model.io import open_model
from gsplat_train.model.placing import HERE, Placing, read_placing, write_placing
from gsplat_train.scene import Scene, Similarity
from gsplat_train.training.run_folder import RunFolder
from gsplat_train.training.trainer import Trainer

SAME_DB = 0.1
UTM = (512_345.6, 4_187_654.3, 412.7)  # a place in zone 33, in metres
PLACES = {
    "UTM": Similarity(np.array(UTM), 1.0),
    "tiny": Similarity(np.zeros(3), 1e-5),
    "huge": Similarity(np.zeros(3), 1e5),
    "tiny and off": Similarity(np.array([3.0, -4.0, 5.0]), 1e-5),
    "huge and off": Similarity(np.array(UTM), 1e5),
}


def moved(scene: Scene, place: Similarity) -> Scene:
    """The scene with another origin and unit."""
    views = tuple(replace(view, camera=place.camera_to_scene(view.camera)) for view in scene.views)
    return replace(scene, views=views, points=place.to_scene(scene.points))


def trained(scene: Scene, root: Path | None = None, **changes: object) -> Trainer:
    """A run from its first step to its last."""
    config = tiny.settings(**({"steps": 60, "eval_every": 30} | changes)).begun()
    run = None if root is None else RunFolder(root)
    trainer = Trainer(config, scene, run)
    if run is not None:
        run.make()
        run.write_config(config)
    trainer.train()
    return trainer


@cache
def in_metres(backend: str) -> dict:
    """The scores of the scene as it is."""
    return trained(tiny.scene(), backend=backend, **shorter(backend)).metrics


def shorter(backend: str) -> dict[str, int]:
    return {"steps": 12, "eval_every": 12} if backend == "python" else {}


@pytest.mark.parametrize("backend", ["cpp", "python"])
@pytest.mark.parametrize("place", PLACES)
def test_a_moved_scene_scores_the_same(place: str, backend: str) -> None:
    load_backend(backend)
    before = in_metres(backend)
    after = trained(moved(tiny.scene(), PLACES[place]), backend=backend, **shorter(backend)).metrics
    for split in ("test", "train"):
        assert after[split]["psnr"] == pytest.approx(before[split]["psnr"], abs=SAME_DB)
        assert after[split]["ssim"] == pytest.approx(before[split]["ssim"], abs=0.01)


# ---- a folder, a run and what is made of it ----


def write_folder(root: Path, scene: Scene) -> Path:
    """The scene as a COLMAP folder."""
    (root / "images").mkdir(parents=True)
    (root / "sparse/0").mkdir(parents=True)
    for view in scene.views:
        Image.fromarray(view.pixels.image).save(root / "images" / view.name)
    n = len(scene.views)
    write_pinholes(
        root / "sparse/0",
        [(view.name, view.camera) for view in scene.views],
        Points(scene.points, scene.colors),
        [np.empty(0, np.int64)] * n,
        [np.empty((0, 2))] * n,
    )
    return root


def call(command: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    code = [sys.executable, "-P", "-m", f"gsplat_train.cli.{command}", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(Path(gsplat_train.__file__).parents[1])}
    done = subprocess.run(code, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    return done


RUN = ["--backend", tiny.BACKEND, "--steps", 60, "--max-splats", 400, "--set", "eval_every=30", "--quiet"]


@pytest.fixture(scope="module", params=["UTM", "tiny and off", "huge"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that the command made of a moved scene's folder, which lies beside it."""
    root = tmp_path_factory.mktemp(request.param.replace(" ", "_"))
    call(
        "train",
        write_folder(root / "scene", moved(tiny.scene(), PLACES[request.param])),
        *RUN,
        "--out",
        root / "run",
    )
    return root / "run"


def metrics_of(run: Path) -> dict:
    return json.loads((run / "metrics.json").read_text())


def test_what_is_rendered_of_a_run_scores_what_training_said(run: Path, tmp_path: Path) -> None:
    said = metrics_of(run)["test"]["psnr"]
    for model in (run, run / "point_cloud.ply"):
        done = call(
            "render", model, "--out", tmp_path / model.name, "--quiet", "--depth", "--backend", tiny.BACKEND
        )
        found = json.loads(done.stdout.splitlines()[-1])["psnr"]
        assert found == pytest.approx(said, abs=0.02), model
        depth = read_depth(next((tmp_path / model.name).glob("*_depth.png")))
        in_metres = np.median(depth[depth > 0]) / PLACES[run.parent.name[:-1].replace("_", " ")].scale
        assert 3 < in_metres < 12


@pytest.mark.parametrize("ending", formats.registry.FORMATS)
def test_what_is_exported_of_a_run_loses_what_its_format_does(run: Path, ending: str, tmp_path: Path) -> None:
    done = call(
        "export", run, tmp_path / f"x{ending}", "--progress", "jsonl", "--quiet", "--backend", tiny.BACKEND
    )
    scores = json.loads(done.stdout)
    assert scores["psnr_before"] == pytest.approx(metrics_of(run)["test"]["psnr"], abs=0.02)
    assert scores["psnr_after"] == pytest.approx(scores["psnr_before"], abs=0.3)


def test_a_path_is_the_same_path_in_another_frame(run: Path, tmp_path: Path) -> None:
    call("render", run, "--path", "orbit", "--frames", 3, "--out", tmp_path / "a", "--backend", tiny.BACKEND)
    path, model = tmp_path / "a/path.json", run / "point_cloud.ply"
    call("render", model, "--path", path, "--out", tmp_path / "b", "--backend", tiny.BACKEND)
    for name in ("00000.png", "00002.png"):
        first, second = (np.asarray(Image.open(tmp_path / folder / name), float) for folder in "ab")
        assert np.abs(first - second).mean() < 1 and first.std() > 10


def test_far_from_the_origin_the_offset_stands_beside_the_splats(run: Path, tmp_path: Path) -> None:
    place = read_placing(run / "point_cloud.ply")
    trained_at = open_model(run).frame
    splats = formats.format_of(run / "point_cloud.ply").read(run / "point_cloud.ply")
    in_scene = place.points(splats.arrays["means"])
    assert (
        np.abs(in_scene - trained_at.points(open_model(run).splats.arrays["means"])).max()
        < 1e-5 * trained_at.scale
    )
    assert place.moves == (run.parent.name in ("UTM0", "tiny_and_off0"))
    if place.moves:
        digits = [len(f"{abs(x) / trained_at.scale:.0f}".rstrip("0")) for x in place.offset]
        assert max(digits) <= 7, "a round place"


def test_placings_join_turn_back_and_are_read_as_written(tmp_path: Path) -> None:
    one = Placing(euler((30, -20, 70)), 0.3, np.array([1.0, 2, 3]))
    two = Placing(euler((5, 80, 7)), 4.0, np.array([-3.0, 1e5, 0]))
    points = np.random.default_rng(0).normal(size=(5, 3))
    np.testing.assert_allclose(one.then(two).points(points), two.points(one.points(points)), rtol=1e-12)
    np.testing.assert_allclose(two.back().points(two.points(points)), points, atol=1e-9)
    assert write_placing(tmp_path / "a.ply", one) == tmp_path / "a.ply.frame.json"
    np.testing.assert_allclose(
        read_placing(tmp_path / "a.ply").points(points), one.points(points), atol=1e-12
    )
    assert write_placing(tmp_path / "a.ply", HERE) is None and not read_placing(tmp_path / "a.ply").moves


@pytest.mark.parametrize(
    ("scale", "x"), [("0", "0"), ("-1", "0"), ("1e400", "0"), ("9" * 400, "0"), ("1e-320", "1")]
)
def test_a_damaged_placing_is_one_line(scale: str, x: str, tmp_path: Path) -> None:
    content = f'{{"rotation": [[1, 0, 0], [0, 1, 0], [0, 0, 1]], "scale": {scale}, "offset": [{x}, 0, 0]}}'
    (tmp_path / "a.ply.frame.json").write_text(content)
    with pytest.raises(UserError, match="take it away"):
        read_placing(tmp_path / "a.ply")


def test_parts_of_a_scene_far_away_are_cut_trained_and_merged_like_it(tmp_path: Path) -> None:
    psnr = {}
    for name, place in {"here": Similarity(np.zeros(3), 1.0), "UTM": PLACES["UTM"]}.items():
        root = tmp_path / name
        scene = write_folder(root / "scene", moved(tiny.scene(), place))
        call("partition", scene, root / "parts", "--quiet")
        for part in ("part_1", "part_2"):
            call("train", root / "parts" / part, *RUN, "--out", root / part)
        call("merge", root / "part_1", root / "part_2", root / "all.ply")
        assert (root / "all.ply.frame.json").is_file() == (name == "UTM")
        done = call("render", root / "all.ply", "--scene", scene, "--split", "all", "--quiet")
        psnr[name] = json.loads(done.stdout.splitlines()[-1])["psnr"]
    assert psnr["UTM"] == pytest.approx(psnr["here"], abs=2 * SAME_DB) and psnr["here"] > 10
