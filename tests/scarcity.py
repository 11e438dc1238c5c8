# SPDX-License-Identifier: Apache-2.0
"""Trainings that run out of memory on purpose: python tests/scarcity.py MODE FIRST LAST ROOT [HOW MANY].

MODE native: with tests/native_scarcity.cpp preloaded, the k-th allocation of the native module fails, for every k from
FIRST to LAST, native+: and all after it. MODE limit: a process of its own may take so many kB more than it has
(RLIMIT_AS) from step 3 on. Each run must end well, or with OutOfMemory and its state saved, and go on to the same
bytes. NumPy and glibc end a process at some limits, whatever it does: it must go on as after a kill.
"""

import ctypes
import faulthandler
import json
import resource
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import tiny

from gsplat_train.errors import OutOfMemory
from gsplat_train.model.io import committed
from gsplat_train.training import checkpoint
from gsplat_train.training.api import run_training
from gsplat_train.training.callbacks import Callback
from gsplat_train.training.run_folder import RunFolder
from gsplat_train.training.trainer import Trainer

STEPS = 16
HANGS = 100  # seconds after which a run is said to hang: it takes one
SETTINGS = {"steps": STEPS, "eval_every": 8, "checkpoint_every": 8, "refine_every": 4, "log_every": 4}


def train(root: Path, callbacks: Any = (), resume: bool = False) -> None:
    """A short run, or the rest of it."""
    run = RunFolder(root)
    with run.claimed():
        found = checkpoint.newest(run.checkpoints, lambda line: None) if resume else None
        run_training(
            Trainer(tiny.settings(backend="cpp", **SETTINGS), tiny.scene(), run, callbacks, found), found
        )


class From(Callback):
    """Does something once, after a step."""

    def __init__(self, number: int, action: Any) -> None:
        self.number, self.action = number, action

    def start(self, trainer: Trainer) -> None:
        if self.number == 0:
            self.action()

    def step(self, trainer: Trainer, newest: Any) -> None:
        if trainer.step == self.number:
            self.action()


def bytes_of(root: Path) -> tuple[bytes, ...]:
    names = ("point_cloud.ply", f"checkpoints/step_{STEPS:07d}.safetensors")
    return tuple((root / name).read_bytes() for name in names)


def disturbed(root: Path, action: Callback) -> str:
    """How a run ends that is disturbed."""
    try:
        train(root, [action])
        return "well"
    except OutOfMemory as error:
        said = str(error)
        assert "out of memory at step" in said and "\n" not in said, said
        assert "step_0000000" in said or "--resume" in said or not committed(root / "checkpoints"), said
        return "out of memory"


def limited(root: Path, kilobytes: int) -> None:
    """Prints how a run ends whose process may take so much more from step 3 on."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)

    def limit() -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 1024 * kilobytes, hard))

    faulthandler.dump_traceback_later(HANGS, exit=True)
    ended = disturbed(root, From(3, limit))
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    print(ended)


def of_process(root: Path, kilobytes: int) -> str:
    """How the process of `limited` ends: as that says, or "killed" where a library that finds no memory ends it."""
    words = [sys.executable, "-X", "faulthandler", __file__, "limited", str(kilobytes), "0", str(root)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=2 * HANGS)
    if done.returncode == 0:
        return done.stdout.splitlines()[-1]
    # NumPy raises MemoryError without holding the interpreter; glibc finds no room for a library's variables; MLX on
    # processors evaluates arrays that it found no memory for, which `_views` and `_empty` ask of it and nothing else.
    frames = done.stderr.partition("Current thread")[2].splitlines()[1:]
    newest = frames[0] if frames else ""
    crashed = done.returncode == -signal.SIGSEGV and bool(newest)
    numpy = crashed and "/backends/" not in newest
    mlx = crashed and newest.endswith((" in _views", " in _empty"))
    glibc = "cannot allocate memory for thread-local data" in done.stderr
    assert numpy or mlx or glibc, (done.returncode, frames[:6], done.stderr[-500:])
    return "killed"


def main() -> None:
    mode, first, last, root = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    if mode == "limited":
        return limited(root, first)
    train(root / "calm")
    wanted = bytes_of(root / "calm")
    library: Any = ctypes.CDLL(None) if mode.startswith("native") else None
    ended = Counter({"well": 0, "out of memory": 0, "killed": 0, "allocations": 0})
    if library is not None:
        library.allocations.restype = ctypes.c_long
        train(root / "count", [From(0, lambda: library.scarce(ctypes.c_long(1 << 40), False))])
        ended["allocations"] = library.allocations()
        library.scarce(ctypes.c_long(-1), False)
        last = min(last, ended["allocations"])
    step = max((last - first) // max(int(sys.argv[5]) if len(sys.argv) > 5 else 1 << 30, 1), 1)
    for k in range(first, last + 1, step):
        run = root / f"run{k}"
        if library is not None:
            refuse = From(0, lambda k=k: library.scarce(ctypes.c_long(k), mode.endswith("+")))
            try:
                ended[disturbed(run, refuse)] += 1
            finally:
                library.scarce(ctypes.c_long(-1), False)
        else:
            ended[of_process(run, k)] += 1
        train(run, resume=True)
        assert bytes_of(run) == wanted, k
        shutil.rmtree(run)
    print(json.dumps(ended))


if __name__ == "__main__":
    main()
