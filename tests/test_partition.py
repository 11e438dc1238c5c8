# SPDX-License-Identifier: Apache-2.0
"""A scene in parts: who owns what, what is written, and models of the parts as one again."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_cli import call
from tiny import BACKEND

from gsplat_train.datasets import open_scene
from gsplat_train.errors import UserError
from gsplat_train.model.formats import ply
from gsplat_train.model.splats import Splats
from gsplat_train.partition.cut import cut_views
from gsplat_train.partition.merge import Plan, merged, read_plan
from gsplat_train.partition.ownership import owners
from gsplat_train.partition.write import own_pixels, write_parts
from gsplat_train.scene import Camera, Photo, Scene, View

K = np.array([[60.0, 0, 32], [0, 60, 24], [0, 0, 1]])


def camera(x: float, z: float = -4.0) -> Camera:
    """Looks along +z from (x, 0, z)."""
    viewmat = np.eye(4)
    viewmat[:3, 3] = [-x, 0, -z]
    return Camera(viewmat, K, 64, 48)


def two_rooms(n: int = 8) -> Scene:
    """Cameras in front of two clouds, one about x = 0 and one about x = 10; nobody sees both but one between."""
    random = np.random.default_rng(0)
    points = random.uniform(-1, 1, (400, 3)) + np.where(np.arange(400) < 200, 0, 10)[:, None] * [1, 0, 0]
    views = [
        View(f"{i:02}.png", camera(x), Photo(np.full((48, 64, 3), 9, np.uint8)))
        for i, x in enumerate(places(n))
    ]
    return Scene("rooms", tuple(views), points, np.full((400, 3), 90, np.uint8))


def places(n: int) -> list[float]:
    half = n // 2
    return [*np.linspace(-0.4, 0.4, half), *np.linspace(9.6, 10.4, n - half)]


def test_views_that_see_different_things_are_cut_apart() -> None:
    assert cut_views(two_rooms(), 2) in ([0] * 4 + [1] * 4, [1] * 4 + [0] * 4)
    parts = cut_views(two_rooms(13), 4)
    assert sorted(set(parts)) == [0, 1, 2, 3] and min(np.bincount(parts)) >= 3
    left, right = set(parts[:6]), set(parts[6:])
    assert not left & right


def test_too_few_views_or_no_points_are_one_line() -> None:
    with pytest.raises(UserError, match="8 views make at most 2 parts"):
        cut_views(two_rooms(), 3)
    scene = two_rooms()
    with pytest.raises(UserError, match="without points"):
        cut_views(Scene("none", scene.views, np.empty((0, 3)), np.empty((0, 3))), 2)


def test_a_place_belongs_to_the_cameras_that_see_it_best() -> None:
    cameras, parts = [camera(0), camera(10)], [0, 1]
    asked = np.array([[0.0, 0, 0], [10, 0, 0], [-50, 0, 0], [60, 0, 0], [0, 0, -90]])
    assert owners(asked, cameras, parts).tolist() == [0, 1, 0, 1, 0]
    # A place that both see: the nearer one's.
    assert owners(np.array([[5.0, 0, 40]]), [camera(0), camera(10, 30)], parts).tolist() == [1]
    assert owners(np.empty((0, 3)), cameras, parts).shape == (0,)


def test_pixels_of_others_are_masked_in_cells() -> None:
    random = np.random.default_rng(1)
    points = np.column_stack([random.uniform(-1.5, 1.5, 500), random.uniform(-1.2, 1.2, 500), np.zeros(500)])
    own = points[:, 0] < 0
    counts = own_pixels(camera(0), points, own)
    assert counts.shape == (48, 64) and counts[:, :30].all() and not counts[:, 46:].any()
    assert own_pixels(camera(0), points, np.ones(500, bool)).all()
    assert own_pixels(camera(0), points[:0], own[:0]).all()


def test_the_parts_are_scenes(tmp_path: Path) -> None:
    scene = two_rooms()
    written = write_parts(scene, tmp_path / "parts", 2, test_every=4)
    assert [(part.own, part.ring) for part in written] == [(4, 0), (4, 0)]
    names: set[str] = set()
    for part in written:
        again = open_scene(str(part.folder))
        assert len(again.views) == 4 and 200 <= len(again.points) == part.points <= 240
        for view in again.views:
            old = next(one for one in scene.views if one.name == view.name)
            np.testing.assert_allclose(view.camera.viewmat, old.camera.viewmat, atol=1e-12)
            assert (view.pixels.image == old.pixels.image).all()
        held = {view.name for view in again.split(8)[1]}
        assert held == {view.name for view in scene.split(4)[1]} & {view.name for view in again.views}
        names |= {view.name for view in again.views}
        assert read_plan(part.folder).part == int(part.folder.name[-1]) - 1
    assert names == {view.name for view in scene.views} and read_plan(tmp_path / "parts").part == -1
    with pytest.raises(UserError, match="not an empty folder"):
        write_parts(scene, tmp_path / "parts", 2)


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(Exception, match="cannot be written: No space left"):
        write_parts(two_rooms(), tmp_path / "parts", 2)
    assert not (tmp_path / "parts").exists()


def splats_at(places: list[float], degree: int = 0) -> Splats:
    n = len(places)
    arrays = {
        "means": np.array([[x, 0, 0] for x in places], np.float32).reshape(n, 3),
        "quats": np.tile(np.float32([1, 0, 0, 0]), (n, 1)),
        "log_scales": np.zeros((n, 3), np.float32),
        "logit_opacities": np.arange(n, dtype=np.float32),
        "sh0": np.zeros((n, 1, 3), np.float32),
        "shN": np.zeros((n, (degree + 1) ** 2 - 1, 3), np.float32),
    }
    return Splats(arrays, False)


PLAN = Plan(2, [camera(0), camera(10)], [0, 1], -1)


def test_of_each_model_what_lies_in_its_part_stays() -> None:
    one = merged(PLAN, [(1, splats_at([9, 10, 0.5])), (0, splats_at([0.25, 11], degree=1))])
    assert one.arrays["means"][:, 0].tolist() == [9, 10, 0.25] and one.sh_degree == 1
    with pytest.raises(UserError, match="missing: part_2"):
        merged(PLAN, [(0, splats_at([0]))])
    with pytest.raises(UserError, match="one is there twice"):
        merged(PLAN, [(0, splats_at([0])), (1, splats_at([9])), (1, splats_at([9]))])
    with pytest.raises(UserError, match="no splat"):
        merged(PLAN, [(0, splats_at([10])), (1, splats_at([0]))])
    with pytest.raises(UserError, match="antialiased"):
        merged(PLAN, [(0, splats_at([0])), (1, splats_at([9])._replace(antialiased=True))])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "cannot be read"),
        ('{"parts": 2, "part_of_view": [0, 1], "cameras": []}', "is damaged"),
    ],
)
def test_a_damaged_plan_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "partition.json").write_text(text)
    with pytest.raises(UserError, match=message):
        read_plan(tmp_path)
    with pytest.raises(UserError, match="gs-partition writes it"):
        read_plan(tmp_path / "sparse")


def test_the_commands_cut_train_and_merge(tmp_path: Path) -> None:
    assert call("train", "demo", "--write", tmp_path / "demo")
    done = call("partition", tmp_path / "demo", tmp_path / "parts", "--parts", "2", "--progress", "jsonl")
    assert done.returncode == 0 and "gs-merge" in done.stderr
    assert [Path(part["folder"]).name for part in json.loads(done.stdout)["parts"]] == ["part_1", "part_2"]
    actions = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    assert any(a["action"] == "writing" and a["done"] == a["total"] for a in actions)
    for k in (1, 2):
        run = call(
            "train", tmp_path / "parts" / f"part_{k}", "--steps", "20", "--max-splats", "2000", "--backend", BACKEND,
            "--out", tmp_path / f"run_{k}", "--quiet",
        )  # fmt: skip
        assert run.returncode == 0, run.stderr
        metrics = json.loads((tmp_path / f"run_{k}" / "metrics.json").read_text())
        assert set(metrics["test"]["views"]) <= {f"view_{i:02}.png" for i in (0, 8, 16, 24)}
    done = call("merge", tmp_path / "run_1", tmp_path / "run_2", tmp_path / "out.ply", "--progress", "jsonl")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["splats"] == ply.read(tmp_path / "out.ply").n
    models = [ply.read(tmp_path / f"run_{k}" / "point_cloud.ply") for k in (1, 2)]
    assert 0 < ply.read(tmp_path / "out.ply").n < sum(model.n for model in models)
    refused = call("merge", tmp_path / "run_1", tmp_path / "run_1", tmp_path / "out2.ply", code=2)
    assert "missing: part_2" in refused.stderr
    assert not (tmp_path / "out2.ply").exists()
    refused = call("merge", tmp_path / "run_1", tmp_path / "out2.ply", code=2)
    assert "at least two runs" in refused.stderr
    refused = call("merge", tmp_path / "demo", tmp_path / "demo", tmp_path / "out2.ply", code=2)
    assert "no run folder" in refused.stderr
