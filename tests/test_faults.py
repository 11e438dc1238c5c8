# SPDX-License-Identifier: Apache-2.0
"""No fault loses a state: whatever fails, one line says so, and going on ends in the bytes of an undisturbed run.

GS_FULL=1 takes every place where a fault can be (scripts/reliability); otherwise a seeded sample.
"""

import errno
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import tiny
from faults import Faults, failing, injected, used
from test_cli import call, environment

from gsplat_train.datasets.demo import write_demo
from gsplat_train.errors import OutOfMemory, StorageError, UserError
from gsplat_train.model.formats import ply
from gsplat_train.model.io import committed
from gsplat_train.scene import Photo, PhotoSource, Scene
from gsplat_train.storage import storage
from gsplat_train.training import checkpoint
from gsplat_train.training.api import run_training
from gsplat_train.training.callbacks import Callback
from gsplat_train.training.run_folder import RunFolder
from gsplat_train.training.trainer import Trainer

FULL = bool(os.environ.get("GS_FULL"))
STEPS = 16
SETTINGS = {"steps": STEPS, "eval_every": 8, "checkpoint_every": 8, "refine_every": 4, "log_every": 4}


def sample(numbers: Any, count: int, seed: int = 0) -> list[Any]:
    """All of them for the full test, otherwise a seeded few."""
    every, count = list(numbers), (2000 if FULL else count)
    return every if len(every) <= count else sorted(random.Random(seed).sample(every, min(count, len(every))))


def train(root: Path, resume: bool = False, scene: Scene | None = None, callbacks: Any = ()) -> None:
    """A short run in `root`, as the command does it."""
    run = RunFolder(root)
    with run.claimed():
        found = checkpoint.newest(run.checkpoints, lambda line: None) if resume else None
        run_training(Trainer(tiny.settings(**SETTINGS), scene or tiny.scene(), run, callbacks, found), found)


def outcome(root: Path) -> dict[str, bytes]:
    """What must be the same whatever happened: the model and the state."""
    names = ["point_cloud.ply", f"checkpoints/step_{STEPS:07d}.safetensors"]
    return {name: (root / name).read_bytes() for name in names}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], int]:
    """The outcome of a run that nothing disturbs, and how many things it writes."""
    root = tmp_path_factory.mktemp("undisturbed")
    with injected(Faults(pytest.fail)) as faults:
        train(root / "run")
    assert {"open", "write", "fsync", "replace", "makedirs", "unlink", "ftruncate", "pwrite"} == set(
        faults.seen
    )
    return outcome(root / "run"), len(faults.seen)


def check_what_is_there(root: Path) -> None:
    """Every file is whole, no leftover of a writer, no lock."""
    for path in sorted(root.rglob("*")):
        assert not path.name.endswith(".tmp") and path.name != "run.lock", path
        if path.suffix == ".ply":
            assert ply.read(path).n > 0
        elif path.suffix == ".jsonl":  # but for a last line that a crash cut short
            assert all(json.loads(line)["step"] for line in path.read_text().splitlines()[:-1])
        elif path.suffix == ".json":
            json.loads(path.read_text())
    for path in committed(root / "checkpoints"):
        checkpoint.load(path)


CASES = [("ENOSPC", False), ("EIO", False), ("ENOSPC", True), ("EROFS", True)]


@pytest.mark.parametrize(("name", "lasting"), CASES)
def test_whatever_cannot_be_written_loses_no_state(
    name: str, lasting: bool, undisturbed: tuple[dict[str, bytes], int], tmp_path: Path
) -> None:
    """The n-th open, write, fsync, rename, removal fails: once, or all from there on, as on a full disk."""
    wanted, count = undisturbed
    failed = 0
    for at in sample(range(1, count + 1), 12, seed=len(name) + lasting):
        root = tmp_path / f"run{at}"
        faults = Faults(failing(name), at, lasting)
        try:
            with injected(faults):
                train(root)
        except StorageError as error:
            failed += 1
            said = str(error)
            assert "\n" not in said and os.strerror(getattr(__import__("errno"), name)) in said
            if committed(root / "checkpoints"):
                assert re.search(
                    r"the last good state is \S+step_\d+\.json, go on with it by --resume", said
                ), said
        check_what_is_there(root) if root.exists() else None
        train(root, resume=root.exists())
        assert outcome(root) == wanted, at
        shutil.rmtree(root)
    assert failed > 5


def test_a_full_disk_at_the_end_leaves_the_model(undisturbed: Any, tmp_path: Path) -> None:
    """The last checkpoint does not fit, the model does: it is tried, and both are said."""
    root = tmp_path / "run"
    first = Faults(failing("ENOSPC"))

    class Fill(Callback):
        def step(self, trainer: Trainer, newest: Any) -> None:
            if trainer.step == STEPS - 1:  # it is written while the last step's model is measured
                trainer._settle_saving()  # the checkpoint before it lies on the disk
                first.disk = root
                first.quota = (
                    used(root) + len(undisturbed[0]["point_cloud.ply"]) + 30_000
                )  # and previews, logs and metrics

    with injected(first), pytest.raises(StorageError) as caught:
        train(root, callbacks=[Fill()])
    said = str(caught.value)
    assert f"the model of step {STEPS} is in" in said and "step_0000008.json" in said and "\n" not in said
    assert (root / "point_cloud.ply").read_bytes() == undisturbed[0]["point_cloud.ply"]
    train(root, resume=True)
    assert outcome(root) == undisturbed[0]


def test_photos_that_go_away_while_training_do_no_harm(undisturbed: Any, tmp_path: Path) -> None:
    """Of a folder, deleted and cut short after loading: they are in memory, or in a file that is open."""
    scene = tmp_path / "scene"
    write_demo(scene, tiny.scene())
    for name, harm in (
        ("deleted", Path.unlink),
        ("cut", lambda path: path.write_bytes(path.read_bytes()[:99])),
    ):

        class Harm(Callback):
            def __init__(self, harm: Any) -> None:
                self.harm = harm

            def step(self, trainer: Trainer, newest: Any) -> None:
                for path in (scene / "images").glob("*.png") if trainer.step == 3 else ():
                    self.harm(path)

        from gsplat_train import load_scene

        copy = tmp_path / name
        train(tmp_path / f"calm_{name}", scene=load_scene(scene, cache=False))
        train(copy, scene=load_scene(scene, cache=False), callbacks=[Harm(harm)])
        assert outcome(copy) == outcome(tmp_path / f"calm_{name}")
        write_again = tmp_path / "again"
        write_demo(write_again, tiny.scene())
        shutil.rmtree(scene)
        write_again.rename(scene)


class Vanishing:
    """A photo that can be read so many times."""

    def __init__(self, photo: PhotoSource, times: int) -> None:
        self.photo, self.times = photo, times

    def decode(self) -> Photo:
        self.times -= 1
        if self.times < 0:
            raise UserError("photo view_01.png cannot be read: No such file or directory")
        return self.photo.decode()


def test_a_photo_that_cannot_be_read_any_more_ends_in_one_line_with_the_state_saved(
    undisturbed: Any, tmp_path: Path
) -> None:
    from dataclasses import replace

    plain = tiny.scene()
    views = tuple(
        replace(view, photo=Vanishing(view.photo, 3 if view.index == 1 else 10**6))  # type: ignore[arg-type]
        for view in plain.views
    )
    broken = Scene(plain.name, views, plain.points, plain.colors)
    with pytest.raises(
        UserError, match=r"view_01.png cannot be read.*last good state is .*step_\d+"
    ) as caught:
        train(tmp_path / "run", scene=broken)
    assert caught.value.exit_code == 2 and len(committed(tmp_path / "run" / "checkpoints")) > 0
    train(tmp_path / "run", resume=True)
    assert outcome(tmp_path / "run") == undisturbed[0]


# --- checkpoints altered


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("checkpoints") / "run"
    train(root)
    return root


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
def test_a_checkpoint_altered_at_any_byte_is_not_believed(
    suffix: str, two_checkpoints: Path, tmp_path: Path
) -> None:
    """A bit turned, or all from there on gone: the one before is taken, and that is said; or it is the same state."""
    shutil.copytree(two_checkpoints / "checkpoints", tmp_path / "c")
    path = tmp_path / "c" / f"step_{STEPS:07d}{suffix}"
    content = path.read_bytes()
    same = json.loads(content) if suffix == ".json" else None
    for place in sample(range(len(content)), 150):
        turned = bytearray(content)
        turned[place] ^= 1 << random.Random(place).randrange(8)
        for damaged in (bytes(turned), content[:place]):
            path.write_bytes(damaged)
            said: list[str] = []
            found = checkpoint.newest(tmp_path / "c", said.append)
            assert found is not None
            if found.state.step == STEPS:  # only where it says the same, as with other white space
                assert json.loads(damaged) == same, place
            else:
                assert found.state.step == 8 and len(said) == 1 and "taking the one before" in said[0]


def test_checkpoints_that_cannot_be_listed_are_not_taken_for_none(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file in the place of the folder")
    with pytest.raises(UserError, match="cannot read the checkpoints"):
        checkpoint.newest(tmp_path / "checkpoints", print)


# --- killed and told to stop, as the command


COMMAND = [
    "--steps", STEPS, "--backend", tiny.BACKEND, "--max-splats", "400", "--set", "checkpoint_every=8",
    "--set", "eval_every=8", "--set", "refine_start=4", "--set", "refine_every=4", "--set", "log_every=4",
    "--set", "grow_rate=0.1", "--set", "sh_interval=4",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scenes") / "room"
    write_demo(path, tiny.scene())
    return path


@pytest.fixture(scope="module")
def calm(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], int, float]:
    """The outcome of the command when nothing disturbs it, how many things it writes, and how long it takes."""
    root = tmp_path_factory.mktemp("calm") / "run"
    began = time.monotonic()
    call("train", folder, "--out", root, *COMMAND)
    seconds = time.monotonic() - began
    with injected(Faults(pytest.fail)) as faults:
        train(root.parent / "count")
    return outcome(root), len(faults.seen), seconds


def disturbed(
    action: str, at: int, seconds: float | None, *arguments: object
) -> subprocess.CompletedProcess[str]:
    """gs-train with a fault; see faults.py."""
    words = [sys.executable, str(Path(__file__).with_name("faults.py")), action, str(at)]
    words += ([] if seconds is None else [str(seconds)]) + ["--", *map(str, arguments)]
    return subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=120)


def test_killed_at_any_moment_and_resumed_is_undisturbed(folder: Path, calm: Any, tmp_path: Path) -> None:
    """kill -9 at random moments of the whole command, and between any two things that it writes."""
    wanted, count, seconds = calm
    kills = 0
    rng = random.Random(11)
    moments: list[tuple[int, float | None]] = [(0, rng.uniform(0.05, 1.1) * seconds) for _ in range(40)]
    moments += [(rng.randrange(1, count + 1), None) for _ in range(20)]
    for i, (at, after) in enumerate(moments if FULL else moments[::12]):
        root = tmp_path / f"run{i}"
        done = disturbed("kill", at, after, folder, "--out", root, *COMMAND)
        kills += done.returncode == -signal.SIGKILL
        again = call("train", folder, "--out", root, *COMMAND, *(["--resume"] if root.exists() else []))
        assert outcome(root) == wanted, (at, after, again.stderr)
        steps = [json.loads(line)["step"] for line in (root / "log.jsonl").read_text().splitlines()]
        assert steps == list(range(4, STEPS + 1, 4))
        assert not list(root.rglob("*.tmp")) and not (root / "run.lock").exists()
    print(f"{kills} kills")
    assert kills >= (30 if FULL else 2)


@pytest.mark.parametrize("name", ["TERM", "HUP", "INT"])
def test_a_signal_while_anything_is_written_saves(name: str, folder: Path, calm: Any, tmp_path: Path) -> None:
    """SIGTERM in the middle of a save, SIGHUP, Ctrl-C: the state is saved, the run goes on to the same bytes."""
    wanted, count, _ = calm
    for at in sample(range(25, count - 12), 1, seed=ord(name[0])):
        root = tmp_path / f"run{at}"
        done = disturbed(name, at, None, folder, "--out", root, *COMMAND)
        assert done.returncode in (0, 130), done.stderr  # 0: it came when the last step was done
        assert "Traceback" not in done.stderr
        if done.returncode == 130:
            assert "state saved in" in done.stderr.splitlines()[-1] and committed(root / "checkpoints")
        call("train", folder, "--out", root, *COMMAND, "--resume")
        assert outcome(root) == wanted, at


def test_ctrl_c_twice_still_saves(folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "run"
    words = [
        sys.executable,
        "-P",
        "-m",
        "gsplat_train.cli.train",
        folder,
        "--out",
        root,
        *COMMAND,
        "--steps",
        100_000,
    ]
    process = subprocess.Popen(list(map(str, words)), env=environment(), stderr=subprocess.PIPE, text=True)
    while not ((root / "log.jsonl").exists() and (root / "log.jsonl").stat().st_size > 0):
        assert process.poll() is None
        time.sleep(0.01)
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.02)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130 and "state saved" in said.splitlines()[-1]
    assert committed(root / "checkpoints")


def test_a_run_killed_while_loading_is_resumed_from_the_start(
    folder: Path, calm: Any, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.lock").write_text("process 1 on a machine that lost its power\n")
    done = call("train", folder, "--out", tmp_path / "run", *COMMAND, "--resume")
    assert "starting anew" in done.stderr and "taken over" in done.stderr
    assert outcome(tmp_path / "run") == calm[0]


def test_leftovers_of_killed_writers_go(tmp_path: Path) -> None:
    root = tmp_path / "run"
    for name in (
        ".point_cloud.ply.77.tmp",
        "checkpoints/.step_0000008.json.1.tmp",
        "previews/.test_a.png.5.tmp",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("left")
    (root / "notes.tmp").write_text("mine")
    train(root)
    assert [path.name for path in root.rglob("*.tmp")] == ["notes.tmp"]


def test_no_memory_at_a_refinement_saves_what_was(undisturbed: Any, tmp_path: Path, monkeypatch: Any) -> None:
    from gsplat_train.training import rows

    calls = []

    def scarce(count: int) -> None:
        calls.append(count)
        if len(calls) == 2:
            raise MemoryError

    monkeypatch.setattr(rows, "reserve", scarce)
    if tiny.BACKEND == "cpp":  # as where there is no room for all rows at the start
        monkeypatch.setattr("gsplat_train.backends.cpp_stepper.WHOLE_SHARE", 1 << 60)
    with pytest.raises(OutOfMemory, match=r"out of memory at step \d+ .*last good state"):
        train(tmp_path / "run")
    monkeypatch.undo()
    train(tmp_path / "run", resume=True)
    assert outcome(tmp_path / "run") == undisturbed[0]


def test_a_scene_whose_name_is_no_utf_8_is_trained_resumed_and_rendered(folder: Path, tmp_path: Path) -> None:
    scene = Path(os.fsdecode(os.fsencode(tmp_path) + b"/sc\xff %41"))
    try:
        shutil.copytree(folder, scene)
    except OSError:  # macOS takes no such name
        pytest.skip("this file system takes UTF-8 only")
    call("train", scene, *COMMAND, cwd=tmp_path)
    call("train", scene, "--steps", STEPS + 2, "--resume", cwd=tmp_path)
    (run,) = next((tmp_path / "runs").iterdir()).iterdir()
    call("render", run)
    assert (run / "renders" / "view_00.png").is_file()


@pytest.mark.parametrize("program", ["train", "render", "export"])
def test_a_home_of_nobody_is_one_line(program: str, folder: Path, tmp_path: Path) -> None:
    path = "~nobody_of_this_name/x"
    more = [tmp_path / "out.ply"] if program == "export" else []
    assert "no user of that name" in call(program, path, *more, code=2).stderr
    if program == "train":
        assert "no user of that name" in call(program, folder, "--out", path, code=2).stderr


def test_what_to_do_about_it_fits_what_the_file_system_says(tmp_path: Path) -> None:
    """Nobody is sent to free space where a folder may not be written to."""
    for name, says in (
        ("ENOSPC", "free space there"),
        ("EACCES", "that can be written to"),
        ("EROFS", "that can be"),
    ):
        number = getattr(errno, name)
        with pytest.raises(StorageError, match=f"{os.strerror(number)}; .*{says}"), storage(tmp_path):
            raise OSError(number, os.strerror(number))


def test_a_disk_that_is_too_small_is_told_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From what the run takes at most; what lies there already is its own."""
    free = shutil.disk_usage(tmp_path)

    def warnings(root: Path, size: int) -> list[str]:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: free._replace(free=size))
        lines: list[str] = []
        listening = Callback()
        monkeypatch.setattr(listening, "message", lines.append)
        train(root, resume=root.exists(), callbacks=[listening])
        return [line for line in lines if line.startswith("warning: disk")]

    (line,) = warnings(tmp_path / "small", 10_000)
    assert line.startswith(f"warning: disk: 0 MB free in {tmp_path / 'small'}, ")
    taken = sum(path.stat().st_size for path in (tmp_path / "small").rglob("*") if path.is_file())
    assert warnings(tmp_path / "large", 20 * taken) == []
    assert warnings(tmp_path / "large", taken // 2) == []  # resumed: most is there
