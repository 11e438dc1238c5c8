# SPDX-License-Identifier: Apache-2.0
"""gs-render as a user runs it: views, paths, and what it refuses."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from PIL import Image
from test_cli import SHORT, call, folder, trained  # noqa: F401  # fixtures
from test_frames import needs_av

from gsplat_train.evaluate.depth import read_depth
from gsplat_train.evaluate.pictures import CAPTION


def test_views_with_everything(trained: Any, tmp_path: Path) -> None:  # noqa: F811
    run, _ = trained
    done = call(
        "render",
        run,
        "--out",
        tmp_path / "all",
        "--depth",
        "--sheet",
        "--supersample",
        "2",
        "--progress",
        "jsonl",
    )
    names = {path.name for path in (tmp_path / "all").iterdir()}
    stems = ("view_00", "view_08")
    assert names == {f"{s}{e}.png" for s in stems for e in ("", "_depth", "_depth_color")} | {
        "metrics.json",
        "sheet.png",
    }
    metrics = json.loads((tmp_path / "all" / "metrics.json").read_text())
    depth = read_depth(tmp_path / "all" / "view_00_depth.png")
    assert metrics["depth_unit"] > 0 and depth.shape == (36, 48) and depth.max() > 0
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line.get("view") for line in lines] == ["view_00.png", "view_08.png", None]
    assert lines[-1]["psnr"] == metrics["psnr"]
    assert all(json.loads(line)["action"] for line in done.stderr.splitlines() if line.startswith("{"))


def test_scores_of_all_views_keep_held_out_ones_apart(trained: Any, tmp_path: Path) -> None:  # noqa: F811
    done = call("render", trained[0], "--out", tmp_path / "all", "--split", "all")
    metrics = json.loads((tmp_path / "all" / "metrics.json").read_text())
    assert metrics["split"] == json.loads(done.stdout)["split"] == "all"
    assert metrics["test"]["views"] == ["view_00.png", "view_08.png"]
    assert sorted(metrics["test"]["views"] + metrics["train"]["views"]) == sorted(metrics["views"])
    means = [
        np.mean([metrics["views"][name]["psnr"] for name in metrics[part]["views"]])
        for part in ("test", "train")
    ]
    assert means == pytest.approx([metrics["test"]["psnr"], metrics["train"]["psnr"]])


def test_alpha_and_background(trained: Any, tmp_path: Path) -> None:  # noqa: F811
    run, _ = trained
    call("render", run, "--out", tmp_path / "a", "--alpha")
    assert Image.open(tmp_path / "a" / "view_00.png").mode == "RGBA"
    call("render", run, "--out", tmp_path / "b", "--background", "1,0,0")
    alpha = np.asarray(Image.open(tmp_path / "a" / "view_00.png"), np.float64)
    red = np.asarray(Image.open(tmp_path / "b" / "view_00.png"), np.float64)
    a = alpha[:, :, 3:] / 255
    np.testing.assert_allclose(alpha[:, :, :3] * a + (1 - a) * [255, 0, 0], red, atol=4)


def test_a_path_needs_no_photos(trained: Any, tmp_path: Path) -> None:  # noqa: F811
    """The run knows the cameras, wherever the scene has gone."""
    shutil.copytree(trained[0], tmp_path / "run")
    config = (tmp_path / "run" / "config.toml").read_text()
    scene = next(line for line in config.splitlines() if line.startswith("scene = "))
    (tmp_path / "run" / "config.toml").write_text(config.replace(scene, 'scene = "/gone/away"'))
    done = call("render", tmp_path / "run", "--path", "orbit", "--frames", 5, "--width", 64)
    assert json.loads(done.stdout)["frames"] == 5
    out = tmp_path / "run" / "renders" / "orbit"
    assert sorted(path.name for path in out.iterdir()) == [*(f"{i:05d}.png" for i in range(5)), "path.json"]
    assert Image.open(out / "00000.png").size == (64, 48)
    call(
        "render",
        tmp_path / "run" / "point_cloud.ply",
        "--path",
        out / "path.json",
        "--out",
        tmp_path / "again",
    )
    before, after = (np.asarray(Image.open(place / "00003.png"), int) for place in (out, tmp_path / "again"))
    assert np.abs(before - after).max() <= 1  # the checkpoint's numbers are those of training's frame


def test_a_model_of_no_run_follows_a_file(trained: Any, tmp_path: Path) -> None:  # noqa: F811
    call("render", trained[0], "--path", "spiral", "--frames", 2, "--out", tmp_path / "p")
    shutil.copy(trained[0] / "point_cloud.ply", tmp_path / "model.ply")
    call("render", tmp_path / "model.ply", "--path", tmp_path / "p" / "path.json", "--depth")
    assert (tmp_path / "renders" / "path" / "00001_depth.png").is_file()


def test_of_width_and_height_the_other_follows_along_a_file_too(trained: Any, tmp_path: Path) -> None:  # noqa: F811
    """The picture of the file, larger: it was cut to the asked width, at the file's height."""
    call("render", trained[0], "--path", "spiral", "--frames", 1, "--out", tmp_path / "p")
    small = Image.open(tmp_path / "p" / "00000.png")
    for option, size in (("--width", small.width), ("--height", small.height)):
        asked = ["--path", tmp_path / "p" / "path.json", option, 2 * size, "--out", tmp_path / option]
        call("render", trained[0], *asked)
        large = Image.open(tmp_path / option / "00000.png")
        assert large.size == (2 * small.width, 2 * small.height)
        difference = np.asarray(large.resize(small.size, Image.Resampling.BOX), float) - np.asarray(small)
        assert np.abs(difference).mean() < 8


def test_a_sheet_along_a_path(trained: Any, tmp_path: Path) -> None:  # noqa: F811
    """Three frames, two a row, each with its depth; no pictures of depth beside the frames."""
    call("render", trained[0], "--path", "spiral", "--frames", 3, "--out", tmp_path / "p", "--sheet")
    names = sorted(path.name for path in (tmp_path / "p").iterdir())
    assert names == ["00000.png", "00001.png", "00002.png", "path.json", "sheet.png"]
    frame, sheet = Image.open(tmp_path / "p" / "00002.png"), Image.open(tmp_path / "p" / "sheet.png")
    assert sheet.size == (4 * frame.width, 2 * (frame.height + CAPTION))
    last = np.asarray(sheet)[2 * CAPTION + frame.height :]
    np.testing.assert_array_equal(last[:, : frame.width], np.asarray(frame))


def test_a_film(trained: Any, tmp_path: Path) -> None:  # noqa: F811
    needs_av()
    call("render", trained[0], "--path", "ellipse", "--frames", 6, "--out", tmp_path / "film.mp4", "--depth")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["film.mp4", "film_depth.mp4"]


def test_what_was_trained_on_is_never_test(folder: Path, tmp_path: Path) -> None:  # noqa: F811
    """A photo that came later moves the others' places; those that were trained on stay no test."""
    shutil.copytree(folder, tmp_path / "scene")
    for name in ("cameras", "images", "points3D"):
        assert list((tmp_path / "scene" / "sparse" / "0").glob(f"{name}.*"))
    call("train", tmp_path / "scene", "--out", tmp_path / "run", *SHORT, "--no-eval")
    assert "trained on all" in call("render", tmp_path / "run", code=2).stderr
    error = call("render", tmp_path / "run", "--set", "eval=true", code=2).stderr
    assert "eval is what the run" in error
    call("render", tmp_path / "run", "--split", "train", "--out", tmp_path / "train")
    assert len(list((tmp_path / "train").glob("*.png"))) == len(tiny.scene().views)


def test_it_never_writes_among_the_photos(trained: Any, folder: Path) -> None:  # noqa: F811
    before = {path: path.read_bytes() for path in (folder / "images").iterdir()}
    for out in (folder, folder / "images"):
        assert "holds the scene's photos" in call("render", trained[0], "--out", out, code=2).stderr
    call("render", trained[0], "--out", folder / "images", "--path", "orbit", "--frames", "1", code=2)
    assert before == {path: path.read_bytes() for path in (folder / "images").iterdir()}


def test_pictures_of_a_run_are_written_over_by_newer_ones(trained: Any, folder: Path, tmp_path: Path) -> None:  # noqa: F811
    """In its own renders/, whatever wrote them: those of 0.1 do not say so."""
    run = tmp_path / "run"
    shutil.copytree(trained[0], run, ignore=shutil.ignore_patterns("renders"))
    (run / "renders" / "orbit").mkdir(parents=True)
    old = [run / "renders" / "view_00.png", run / "renders" / "orbit" / "00000.png"]
    for path in old:
        shutil.copy(folder / "images" / "view_00.png", path)
    before = [path.read_bytes() for path in old]
    call("render", run)
    call("render", run, "--path", "orbit", "--frames", 1)
    assert all(path.read_bytes() != content for path, content in zip(old, before, strict=True))


def test_photos_are_kept_whatever_else_lies_among_them(folder: Path, tmp_path: Path) -> None:  # noqa: F811
    """Neither a run's files there nor a folder outside the scene's, where its photos lie, lets pictures over them."""
    shutil.copytree(folder, tmp_path / "scene")
    images = tmp_path / "scene" / "images"
    call("train", tmp_path / "scene", "--out", tmp_path / "run", *SHORT)
    (images / "metrics.json").write_text("{}")
    (images / "log.jsonl").touch()
    before = {path.name: path.read_bytes() for path in images.iterdir()}
    assert "holds the scene's photos" in call("render", tmp_path / "run", "--out", images, code=2).stderr
    (images / "log.jsonl").unlink()
    assert (
        "does not say that this program wrote it"
        in call("render", tmp_path / "run", "--out", images, code=2).stderr
    )
    outside = tmp_path / "outside"
    images.rename(outside)
    images.symlink_to(outside)
    assert (
        "does not say that this program wrote it"
        in call("render", tmp_path / "run", "--out", outside, code=2).stderr
    )
    shutil.copy(outside / "view_00.png", tmp_path / "00001.png")  # as somebody numbers the pictures of a film
    error = call(
        "render", tmp_path / "run", "--path", "orbit", "--frames", 2, "--out", tmp_path, code=2
    ).stderr
    assert "00001.png is there" in error and not (tmp_path / "00000.png").exists()
    assert {k: v for k, v in before.items() if k != "log.jsonl"} == {
        path.name: path.read_bytes() for path in outside.iterdir()
    }


@pytest.mark.parametrize("where", ["", "images", "elsewhere"])
def test_no_run_is_made_among_photos(where: str, folder: Path, tmp_path: Path) -> None:  # noqa: F811
    shutil.copytree(folder, tmp_path / "scene")
    shutil.copytree(folder / "images", tmp_path / "elsewhere")
    out = tmp_path / "elsewhere" if where == "elsewhere" else tmp_path / "scene" / where
    before = sorted(tmp_path.rglob("*"))
    error = call("train", tmp_path / "scene", "--out", out, *SHORT, code=2).stderr
    assert f"--out {out} " in error and f"as {out / 'run'}" in error
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--path", "circle"], "--path takes spiral"),
        (["--frames", "3"], "--frames 3 has no effect without --path: it is for free cameras"),
        (["--out", "film.mp4"], "a film needs a way"),
        (["--path", "orbit", "--out", "film.mp4", "--alpha"], "--alpha has no effect with --out film.mp4"),
        (["--path", "none.json"], "cannot read the camera path none.json"),
        (["--background", "puce"], "--background takes"),
        (["--background", "random-first"], "or sh for the model's sky, got 'random-first'"),
        (["--background", "sh"], "this model has none; give black, white, #rrggbb or R,G,B"),
        (["--backend", "gpu"], "'gpu' is not one of"),
        (
            ["--set", "antialiased=true"],
            "antialiased has no effect on gs-render, which does not train; it takes",
        ),
        (["--set", "backend=python"], "--set backend has no effect on gs-render"),
    ],
)
def test_what_does_not_go_together_is_told(trained: Any, arguments: list[str], says: str) -> None:  # noqa: F811
    assert says in call("render", trained[0], *arguments, code=2).stderr


def test_a_scene_that_is_named_keeps_the_runs_settings(folder: Path, tmp_path: Path) -> None:  # noqa: F811
    """Background, held-out views and size are the run's, wherever its scene lies now."""
    settings = ["--set", "background=white", "--set", "test_every=4", "--max-size", "40"]
    call("train", folder, "--out", tmp_path / "run", *SHORT, *settings)
    said = json.loads((tmp_path / "run" / "metrics.json").read_text())["test"]
    assert len(said["views"]) == 3
    shutil.copytree(folder, tmp_path / "moved")
    for scene in ([], ["--scene", tmp_path / "moved"]):
        call("render", tmp_path / "run", *scene, "--out", tmp_path / "out")
        found = json.loads((tmp_path / "out" / "metrics.json").read_text())
        assert found["views"].keys() == said["views"].keys()
        assert abs(found["psnr"] - said["psnr"]) < 1e-4
