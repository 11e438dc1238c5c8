# SPDX-License-Identifier: Apache-2.0
"""gs-prepare, run as a user runs it: photos in, a scene out; what it says of bad ones; what a stopped run
leaves.
"""

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import captures
import numpy as np
import pytest
from PIL import Image

from gsplat_train.datasets import load_scene
from gsplat_train.errors import StorageError
from gsplat_train.prepare.make import prepare
from gsplat_train.prepare.orient import Similarity
from gsplat_train.prepare.reporter import Reporter
from gsplat_train.prepare.steps import Options

pytest.importorskip("pycolmap", reason="the extra [sfm] is not installed")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return captures.write_photos(tmp_path_factory.mktemp("captures") / "my photos")


@pytest.fixture(scope="module")
def made(photos, tmp_path_factory):
    """The scene made of all photos, and what the command said."""
    out = tmp_path_factory.mktemp("scenes") / "room"
    return out, captures.call(photos, out)


def test_cameras_are_where_the_photos_were_taken(made):
    out, _ = made
    found, true = captures.poses(out), captures.true_poses(captures.world())
    degrees, distances = captures.errors(found, true)
    assert len(found) >= 0.95 * len(true)
    # Runs differ by the threads' order. Six gave 0.19 to 0.26 degrees in the mean and at most 0.64; 0.28 to 0.42 % and
    # at most 0.97 %. A pixel at the border of these small photos is 0.2 degrees.
    assert degrees.mean() < 0.5 and degrees.max() < 1.0
    assert distances.mean() < 0.01 and distances.max() < 0.02


def test_the_scene_is_upright_centred_and_of_a_size(made):
    out, _ = made
    found = captures.poses(out)
    scale, R, shift = captures.aligned(found, captures.true_poses(captures.world()))
    up = R @ [0, 0, 1]
    assert up @ [0, -1, 0] > np.cos(np.radians(1))
    middle = scale * R @ [0, 0, 0.5] + shift  # what the photos were aimed at
    assert np.linalg.norm(middle) < 0.1
    assert np.median([np.linalg.norm(p) for _, p in found.values()]) == pytest.approx(4, abs=1e-3)


def test_any_reader_takes_the_folder(made):
    out, _ = made
    scene = load_scene(out)
    assert len(scene.views) >= 31 and len(scene.points) > 300
    assert scene.views[0].name == "view_00.png"
    assert sorted(p.name for p in out.iterdir()) == ["cameras.png", "images", "prepare.json", "sparse"]
    assert [p.name for p in (out / "sparse").iterdir()] == ["0"]
    assert Image.open(out / "cameras.png").size == (1280, 640)


def test_the_report_says_how_it_was_made(made):
    out, done = made
    output = captures.report(out)
    assert (
        output["used"] == 32
        and output["mapper"] in ("incremental", "global")
        and output["up_from"] == "cameras"
    )
    assert output["sources"]["view_00.png"] == "view_00.png"
    assert output["cameras"][0]["model"] == "SIMPLE_RADIAL" and output["n_cameras"] == 1
    assert output["cameras"][0]["params"][0] == pytest.approx(0.94 * 320, rel=0.03)
    assert set(output["seconds"]) >= {"photos", "features", "matches", "cameras", "all"}
    assert "matches: 486 pairs more take about " in done.stderr


def test_up_is_turned_and_undone_without_finding_cameras_again(made, photos, tmp_path):
    out = tmp_path / "scene"
    shutil.copytree(made[0], out)
    before = captures.poses(out)
    done = captures.call(photos, out, "--up", "none")
    assert "only turned" in done.stderr and "features" not in done.stderr
    own = captures.poses(out)
    turn = Similarity.from_json(captures.report(made[0])["transform"])
    for name, (R, position) in own.items():
        assert np.allclose(turn.apply(position[None])[0], before[name][1], atol=1e-9)
        assert np.allclose(R @ turn.rotation.T, before[name][0], atol=1e-9)
    captures.call(photos, out, "--up", "z")
    _, R, _ = captures.aligned(captures.poses(out), captures.true_poses(captures.world()))
    assert R[2, 2] > 0.999
    captures.call(photos, out, "--up", "-y")
    again = captures.poses(out)
    assert all(np.allclose(again[name][1], before[name][1], atol=1e-9) for name in before)


def test_a_scene_of_other_photos_is_not_touched(made, tmp_path):
    other = captures.write_photos(tmp_path / "others", range(5))
    assert "made from" in captures.call(other, made[0], code=2).stderr
    assert "holds other files" in captures.call(other, other.parent, code=2).stderr


def test_a_killed_run_goes_on_with_what_is_done(photos, tmp_path):
    out = tmp_path / "scene"
    run = subprocess.Popen(
        captures.command(photos, out, "--sparse"),
        stderr=subprocess.PIPE,
        env=captures.environment(),
        text=True,
    )
    database = out / ".prepare" / "database.db"
    assert run.stderr is not None
    for line in run.stderr:
        if "pairs more take about" in line:
            break
    time.sleep(1)
    run.kill()
    run.wait()
    time.sleep(0.5)  # the worker sees its parent gone
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
        features = connection.execute("select count(*), sum(rows) from keypoints").fetchone()
    assert features[0] == 32
    stamp = (out / "images" / "view_05.png").stat().st_mtime_ns
    done = captures.call(photos, out, "--sparse")
    assert "pictures: 32 from the run before" in done.stderr
    assert (out / "images" / "view_05.png").stat().st_mtime_ns == stamp
    assert captures.report(out)["features"] == features[1]
    assert len(captures.poses(out)) >= 31


def test_a_stopped_run_says_how_to_go_on_and_leaves_no_process(photos, tmp_path):
    run = subprocess.Popen(
        captures.command(photos, tmp_path / "scene"),
        stderr=subprocess.PIPE,
        env=captures.environment(),
        text=True,
    )
    assert run.stderr is not None
    for line in run.stderr:
        if line.startswith("photos:"):
            break
    time.sleep(0.5)
    children = _children(run.pid)
    run.send_signal(signal.SIGINT)
    rest = run.stderr.read()
    assert run.wait(timeout=20) == 130
    assert "the same command goes on with what is done" in rest and "Traceback" not in rest
    assert children and not any(_alive(pid) for pid in children)


def _children(pid):
    output = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    return [int(line.split()[0]) for line in output.splitlines() if int(line.split()[1]) == pid]


def _alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


# --- bad input: one line, and nothing left behind


def _plain(color):
    return Image.new("RGB", (96, 72), color)


def _noise(seed):
    random = np.random.default_rng(seed)
    blocks = random.integers(0, 255, (24, 32, 3)).astype(np.uint8)
    return Image.fromarray(blocks).resize((320, 240), Image.Resampling.BICUBIC)


BAD = {
    "two photos": ([_noise(0), _noise(1)], "2 photos .* can be used; at least 3"),
    "all black": ([_plain("black")] * 4, "4 photos .* show one colour only"),
    "all the same": ([_noise(0)] * 5, "5 photos .* all show the same"),
    "nothing overlaps": ([_noise(i) for i in range(6)], "0 of 15 pairs of photos overlap"),
    "one pixel": ([Image.new("RGB", (1, 1))] * 4, "1x1 pixels, too small"),
    "no photos": ([], "holds no photos"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_photos_are_told_in_a_line_and_leave_nothing(what, tmp_path):
    pictures, output = BAD[what]
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, picture in enumerate(pictures):
        picture.save(folder / f"{i}.png")
    done = captures.call(folder, tmp_path / "out", "--quiet", code=2)
    lines = done.stderr.splitlines()
    assert len([line for line in lines if not line.startswith("warning: ")]) == 1

    assert re.search(output, lines[-1]), lines
    assert not (tmp_path / "out").exists()


def test_two_scenes_mixed_are_told_by_their_groups(tmp_path):
    photos = captures.write_photos(tmp_path / "photos", range(8))
    for i in range(10):
        _noise(i).save(photos / f"other_{i}.png")
    done = captures.call(photos, tmp_path / "out", code=2)
    assert " of 18 photos could be placed" in done.stderr.splitlines()[-1]


def test_a_camera_that_turns_on_the_spot_is_told_not_made_a_scene_of(tmp_path):
    """All pairs fit well, and a mapper invents an orbit with another focal length."""
    photos = captures.write_turning(tmp_path / "photos")
    done = captures.call(photos, tmp_path / "out", code=2)
    assert "turned on the spot: none of the 15 pairs" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_photos_that_do_not_belong_are_listed(tmp_path):
    photos = captures.write_photos(tmp_path / "photos", range(9))
    for i in range(4):
        _noise(i).save(photos / f"other_{i}.png")
    done = captures.call(photos, tmp_path / "out", "--sparse")
    warning = next(line for line in done.stderr.splitlines() if line.startswith("warning: "))
    assert "of 13 photos were placed" in warning and "other_3.png" in warning
    assert captures.report(tmp_path / "out")["warnings"] == [warning.removeprefix("warning: ")]


@pytest.mark.parametrize("name", ["notes.txt", "nothing.mp4", "missing"])
def test_what_is_no_capture(name, tmp_path):
    path = tmp_path / name
    if name != "missing":
        path.write_text("hello")
    captures.call(path, tmp_path / "out", code=2)
    assert not (tmp_path / "out").exists()


def test_a_disk_without_room_is_told_before_anything_is_done(photos, tmp_path, monkeypatch):
    full = shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    with pytest.raises(StorageError, match=r"1 MB free, about .* MB are needed"):
        prepare(photos, tmp_path / "out", Options(), Reporter("plain", quiet=True))
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written(photos, tmp_path):
    (tmp_path / "file").write_text("")
    captures.call(photos, tmp_path / "file", code=2)
    captures.call(photos, tmp_path / "file" / "out", code=5)


def test_photos_of_two_sizes_have_two_cameras_or_a_line(tmp_path):
    photos = captures.write_photos(tmp_path / "photos", range(6))
    for i in (1, 4):
        path = photos / f"view_{i:02d}.png"
        Image.open(path).resize((240, 180)).save(path)
    done = captures.call(photos, tmp_path / "out", "--camera", "shared", code=2)
    assert "320x240" in done.stderr and "--camera per-size" in done.stderr
    done = captures.call(photos, tmp_path / "out", "--progress", "jsonl", "--sparse")
    assert captures.report(tmp_path / "out")["n_cameras"] == 2
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert events[-1]["stage"] in ("cameras", "points", "finer cameras") and {
        "done",
        "total",
        "seconds_left",
    } <= set(events[0])
    assert Path(tmp_path / "out" / "images" / "view_01.png").is_file()


def test_training_on_photos_finds_their_cameras_first(made, photos, tmp_path):
    """The scene lies in the run's folder; one that is there is not made again."""
    run = tmp_path / "run"
    shutil.copytree(made[0], run / "scene")
    command = [sys.executable, "-P", "-m", "gsplat_train.cli.train", str(photos), "--out", str(run)]
    for more in (["--steps", "2", "--no-eval"], ["--steps", "4", "--resume"]):
        done = subprocess.run(
            [*command, *more], capture_output=True, text=True, env=captures.environment(), timeout=100
        )
        assert done.returncode == 0, done.stderr
    assert json.loads((run / "metrics.json").read_text("utf-8"))["steps"] == 4


def test_training_on_a_video(tmp_path):
    """A walk around the scene, filmed with a shaking hand and halts."""
    film = captures.write_video(tmp_path / "walk.mp4")
    run = tmp_path / "run"
    command = [sys.executable, "-P", "-m", "gsplat_train.cli.train", str(film), "--out", str(run)]
    done = subprocess.run(
        [*command, "--steps", "3"], capture_output=True, text=True, env=captures.environment(), timeout=200
    )
    assert done.returncode == 0, done.stderr
    output = captures.report(run / "scene")
    assert output["kind"] == "video" and output["repeated"] >= 2 and output["found"] > 60
    assert len(output["registered"]) >= 0.8 * output["used"] >= 20
    # One half was turned against the other before, by up to 107 degrees.
    # A run gave 0.22 and at most 0.38 degrees, 0.5 %.
    degrees, distances = captures.errors(
        captures.poses(run / "scene"), captures.true_poses_of_film(output["sources"])
    )
    assert degrees.mean() < 1 and degrees.max() < 2 and distances.max() < 0.03
    assert json.loads((run / "metrics.json").read_text("utf-8"))["scene"] == "walk"
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(film.read_bytes()[: film.stat().st_size // 2])  # its index was at the end
    assert "no video that can be read" in captures.call(cut, tmp_path / "out", code=2).stderr
    assert not (tmp_path / "out").exists()
