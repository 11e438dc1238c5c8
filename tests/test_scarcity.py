# SPDX-License-Identifier: Apache-2.0
"""Memory that runs out: at the k-th allocation of the native code, at many limits of the process; and a clock set back.

GS_FULL=1 takes every k (scripts/reliability); otherwise some.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tiny
from conftest import load_backend
from test_trainer import Said, log_of, make

import gsplat_train
from gsplat_train.cli.progress import Progress
from gsplat_train.errors import OutOfMemory
from gsplat_train.training import rows
from gsplat_train.training.rows import HostPopulation

HERE = Path(__file__).parent
FULL = bool(os.environ.get("GS_FULL"))
LINUX = sys.platform == "linux"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that refuses allocations, compiled."""
    compiler = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    if not LINUX or compiler is None:
        pytest.skip("a C++ compiler and Linux's LD_PRELOAD are needed")
    path = tmp_path_factory.mktemp("scarce") / "scarce.so"
    words = [
        compiler,
        "-shared",
        "-fPIC",
        "-O1",
        "-std=c++20",
        str(HERE / "native_scarcity.cpp"),
        "-o",
        str(path),
        "-ldl",
    ]
    subprocess.run(words, check=True)
    return path


def run(
    mode: str, first: int, last: int, root: Path, many: int, library: Path | None = None
) -> dict[str, int]:
    load_backend("cpp")
    words = [sys.executable, str(HERE / "scarcity.py"), mode, *map(str, (first, last, root, many))]
    # The package that this process has: a clone's own has no compiled module where it was installed.
    paths = os.pathsep.join([str(Path(gsplat_train.__file__).parents[1]), str(HERE)])
    environment = os.environ | {"PYTHONPATH": paths} | ({"LD_PRELOAD": str(library)} if library else {})
    done = subprocess.run(
        words, env=environment, capture_output=True, text=True, timeout=3600 if FULL else 120
    )
    assert done.returncode == 0, done.stderr[-3000:]
    ended: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    print(f"{mode}: {ended}")
    return ended


@pytest.mark.parametrize("mode", ["native", "native+"])
def test_no_memory_at_any_allocation_of_the_native_code_loses_nothing(
    mode: str, library: Path, tmp_path: Path
) -> None:
    """Each run ends with its state saved, and goes on to the bytes of an undisturbed one."""
    ended = run(mode, 1, 1 << 40, tmp_path, 1 << 30 if FULL else 12, library)
    assert ended["allocations"] > 500 and ended["out of memory"] > 10


@pytest.mark.skipif(not LINUX, reason="RLIMIT_AS is Linux's")
def test_no_memory_at_any_limit_loses_nothing(tmp_path: Path) -> None:
    ended = run("limit", 0, 4000, tmp_path, 120 if FULL else 6)
    assert ended["out of memory"] >= (10 if FULL else 1) and ended["well"] >= 1


def test_an_edit_that_is_cut_short_is_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory for a few indices runs out between two leaves: the checkpoint before is what there is."""
    config = tiny.settings(checkpoint_every=4, refine_start=4, refine_every=6)
    make(config, tmp_path / "calm").train()
    work = make(config, tmp_path / "run")

    def cut(*args: Any) -> None:
        raise MemoryError

    real = rows._fill
    monkeypatch.setattr(rows, "_fill", cut)
    with pytest.raises(OutOfMemory, match=r"step_0000004.json, go on with it by --resume"):
        work.train()
    monkeypatch.setattr(rows, "_fill", real)
    assert make(config, tmp_path / "run", resume=True).step == 4
    make(config, tmp_path / "run", resume=True).train()
    for name in ("point_cloud.ply", "checkpoints/step_0000040.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "calm" / name).read_bytes()


LINES = {"strategies", "draws.py", "rows.py"}  # whose lines a refinement runs through


class Scarce:
    """MemoryError at the k-th line of the refinements of a run; without k they are counted."""

    def __init__(self, k: int = 0) -> None:
        self.k, self.seen = k, 0

    def trace(self, frame: Any, event: str, argument: Any) -> Any:
        path = Path(frame.f_code.co_filename)
        name = (
            frame.f_code.co_name
        )  # HostPopulation.apply keeps what is left of an edit in a line without allocations
        if not LINES & {path.name, path.parent.name} or (path.name == "rows.py" and name == "apply"):
            return None
        if event == "line":
            self.seen += 1
            if self.seen == self.k:
                raise MemoryError
        return self.trace

    def refine(self, real: Any, change: Any) -> Any:
        before = sys.gettrace()
        sys.settrace(self.trace)
        try:
            return real(change)
        finally:
            sys.settrace(before)


SHARING = {"error_views": 2, "opacity_decay": 0.01}
STRATEGIES: dict[str, dict[str, Any]] = {
    "mcmc": {},
    "mcmc by error": SHARING,
    "adc": {"grow_gradient": 1e-6, "reset_every": 8, "refine_stop": 1.0},
    "igs": {"grow_absgradient": 1e-6, "edge_views": 2, "recover": 4, "refine_stop": 1.0},
}


@pytest.mark.parametrize("name", STRATEGIES)
def test_no_memory_at_any_line_of_a_refinement_loses_nothing(name: str, tmp_path: Path) -> None:
    """Wherever it is cut short, a resumed run goes on behind its last whole part, or from the checkpoint before."""
    changes = {"grow_rate": 0.1} if name.startswith("mcmc") else {"grow_rate": None}
    own = {key: value for key, value in (STRATEGIES[name] | changes).items() if value is not None}
    config = tiny.settings(
        steps=16, checkpoint_every=3, refine_start=4, refine_every=4, strategy=name.split()[0], **own
    )

    def train(root: Path, scarce: Scarce | None = None, resume: bool = False) -> tuple[bytes, int]:
        work = make(config, root, resume=resume)
        if scarce is not None:
            monkeypatch.setattr(work.stepper, "refine", partial(scarce.refine, work.stepper.refine))
        work.train()
        names = ("point_cloud.ply", "checkpoints/step_0000016.safetensors")
        return b"".join((root / name).read_bytes() for name in names), work.n_splats

    with pytest.MonkeyPatch.context() as monkeypatch:
        train(tmp_path / "first")  # what is done once in a process is done then, and not counted
        count = Scarce()
        wanted, splats = train(tmp_path / "calm", count)
        assert count.seen > 100 and splats != 300
        every = range(1, count.seen + 1)
        saved = 0
        for k in every if FULL else every[:: len(every) // 9]:
            root = tmp_path / f"run{k}"
            with pytest.raises(OutOfMemory, match=r"step [12] |go on with it by --resume") as caught:
                train(root, Scarce(k))
            saved += "step_0000004" in str(caught.value) or "step_0000008" in str(caught.value)
            assert train(root, resume=True)[0] == wanted, (k, str(caught.value))
            shutil.rmtree(root)
    assert saved > 1  # the state of the refinement's own step
    print(f"{name}: {count.seen} lines")


def test_an_edit_without_room_moves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    state = tiny.random_state(20)
    before = {name: leaf.copy() for name, leaf in rows.rows(state.gaussians).items()}

    def none(count: int) -> None:
        raise MemoryError

    monkeypatch.setattr(rows, "reserve", none)
    with pytest.raises(MemoryError) as caught:
        HostPopulation(state).apply(rows.Edit(source=[0, 0, *range(2, 20), 3]))
    assert type(caught.value) is MemoryError and state.n_splats == 20
    assert all((leaf == before[name]).all() for name, leaf in rows.rows(state.gaussians).items())


# --- a clock that is set back


def test_a_clock_set_back_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of day goes back by a year at each look: names stay apart, seconds and forecasts stay sane."""
    make(tiny.settings(log_every=5), tmp_path / "calm").train()
    now = [1.9e9]

    def back(*args: Any) -> float:
        now[0] -= 3.2e7
        return now[0]

    monkeypatch.setattr(time, "time", back)
    work = make(tiny.settings(log_every=5), tmp_path / "run")
    work.callbacks = [Said(), Progress("plain")]
    metrics = work.train()
    monkeypatch.undo()
    for name in ("point_cloud.ply", "checkpoints/step_0000040.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "calm" / name).read_bytes()
    assert 0 < metrics["seconds"] <= metrics["wall_seconds"] < 60
    seconds = [line["seconds"] for line in log_of(tmp_path / "run")]
    assert seconds == sorted(seconds)
    assert all((line["seconds_left"] or 0) >= 0 for line in log_of(tmp_path / "run"))


def test_the_newest_checkpoint_is_that_of_the_last_step_whatever_the_files_times_say(tmp_path: Path) -> None:
    make(tiny.settings(), tmp_path).train()
    for path in (tmp_path / "checkpoints").iterdir():
        if "40" in path.name:
            os.utime(path, (1, 1))  # 1970
    assert make(tiny.settings(), tmp_path, resume=True).step == 40


def test_runs_of_one_second_and_of_an_earlier_one_stay_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names come from the time of day; a folder that is there is never taken again."""
    from gsplat_train.cli import runs

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runs.time, "strftime", lambda form: "20010101-000000")
    folders = [runs.new_run(tiny.settings(), None, False).root for _ in range(3)]
    assert len({*folders}) == 3 and all(folder.is_dir() for folder in folders)
