# SPDX-License-Identifier: Apache-2.0
"""gs-train SCENE --check, --trust and --init."""

import json
import subprocess
import sys
from dataclasses import replace

import foreign_scenes as foreign
import numpy as np
import pytest
from PIL import Image

from gsplat_train.cli.check import check
from gsplat_train.config import Config
from gsplat_train.datasets import load_scene, open_scene, survey
from gsplat_train.errors import UserError


def folder(root, wrong=False):
    demo = foreign.small_demo()
    points = demo.points * ([-1, 1, 1] if wrong else 1)
    foreign.write_transforms(root, ply_file_path="points.ply")
    foreign.write_ascii_ply(root / "points.ply", points, demo.colors)
    return root


def report(capsys, config, tmp_path):
    ahead = check(config, tmp_path, True)
    return ahead, json.loads(capsys.readouterr().out)


def test_a_sound_scene(tmp_path, capsys):
    ahead, found = report(capsys, Config(scene=str(folder(tmp_path / "scene"))), tmp_path / "out")
    assert ahead and not found["refused"] and found["findings"] == []
    assert (found["views"], found["held out"], found["cameras"], found["points"]) == (12, 2, 1, 900)
    assert found["sizes"] == {"96x72": 12}
    assert found["points seen by three views"] > 0.7
    assert found["correlation of colours"] > 0.35
    with Image.open(tmp_path / "out" / "check.png") as picture:
        assert picture.size == (960, 480 + 3 * 180)
        assert np.asarray(picture)[:480].std() > 5


def test_a_wrong_scene_is_shown_and_not_trained(tmp_path, capsys):
    config = Config(scene=str(folder(tmp_path / "scene", wrong=True)))
    ahead, found = report(capsys, config, tmp_path)
    assert not ahead and found["refused"]
    assert found["findings"][0]["level"] == "error"
    assert "mirrored" in found["findings"][0]["what"] and "x" in found["findings"][0]["mend"]
    assert (tmp_path / "check.png").is_file()
    assert report(capsys, replace(config, trust=True), tmp_path)[0]


def test_a_scene_that_cannot_be_read(tmp_path, capsys):
    ahead, found = report(capsys, Config(scene=str(tmp_path / "nowhere")), tmp_path)
    assert not ahead and "nowhere is not there" in found["findings"][0]["what"]
    with pytest.raises(UserError, match="nowhere is not there"):
        check(Config(scene=str(tmp_path / "nowhere")), tmp_path, False)


def test_pictures_that_are_no_use_are_named(tmp_path):
    root = folder(tmp_path)
    Image.new("RGB", (96, 72)).save(root / "images" / "view_02.png")
    (root / "images" / "view_05.png").write_bytes((root / "images" / "view_04.png").read_bytes())
    with Image.open(root / "images" / "view_07.png") as picture:
        picture.resize((6, 5)).resize((96, 72), Image.Resampling.BICUBIC).save(
            root / "images" / "view_07.png"
        )
    views = load_scene(root, trust=True).views
    findings = survey.pictures(views)
    assert [(f.names, f.what) for f in findings] == [
        (("images/view_02.png",), "1 picture is black"),
        (("images/view_05.png",), "1 picture is there twice"),
        (("images/view_07.png",), "1 picture is much less sharp than the others"),
    ]
    sides = [replace(view, group=str(i // 2)) for i, view in enumerate(views)]  # sky and ground of panoramas
    assert [f.names for f in survey.pictures(sides)] == [("images/view_05.png",)]


def test_the_commands_exit_code(tmp_path):
    folder(tmp_path / "good")
    folder(tmp_path / "wrong", wrong=True)
    for name, extra, code in (("good", [], 0), ("wrong", [], 2), ("wrong", ["--trust"], 0)):
        command = [sys.executable, "-P", "-m", "gsplat_train.cli.train", tmp_path / name, "--check", *extra]
        done = subprocess.run([*command, "--out", tmp_path], capture_output=True, text=True, timeout=60)
        assert done.returncode == code, done.stderr
        assert ("error: " in done.stdout) == (name == "wrong")
        assert "points                " in done.stdout


def test_points_to_start_from(tmp_path):
    demo = foreign.small_demo()
    root = folder(tmp_path / "scene", wrong=True)
    foreign.write_ascii_ply(tmp_path / "users_own.ply", demo.points[::2], demo.colors[::2])
    with pytest.raises(UserError, match="mirrored"):
        open_scene(root)
    scene = open_scene(root, init=str(tmp_path / "users_own.ply"))
    np.testing.assert_allclose(scene.points, demo.points[::2], atol=1e-6)
    assert len(open_scene("demo", init=str(tmp_path / "users_own.ply")).points) == 450
    with pytest.raises(UserError, match=r"cannot read .*none.ply"):
        open_scene(root, init=str(tmp_path / "none.ply"))


def test_the_picture_is_written_over_no_other_and_among_no_photos(tmp_path, capsys):
    scene = folder(tmp_path / "scene")
    config, users_own = Config(scene=str(scene)), tmp_path / "check.png"
    Image.new("RGB", (3, 3)).save(users_own)
    before = users_own.read_bytes()
    (photos,) = {path.parent for path in scene.rglob("*.png")}
    for out, why in ((tmp_path, "is there, and not of this program"), (photos, "holds the scene's photos")):
        assert check(config, out, True)
        assert why in capsys.readouterr().err
    assert users_own.read_bytes() == before and not (photos / "check.png").exists()
    for _ in range(2):  # its own it may write over
        assert check(config, tmp_path / "out", True) and (tmp_path / "out" / "check.png").exists()
        assert "no picture" not in capsys.readouterr().err
