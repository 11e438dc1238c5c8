# SPDX-License-Identifier: Apache-2.0
"""Trainings that run out of memory on purpose: python tests/scarcity.py MODE FIRST LAST ROOT [HOW MANY].

MODE native: with tests/native_scarcity.cpp preloaded, the k-th allocation of the native module fails, for every k from
FIRST to LAST, native+: and all after it. MODE limit: the process may take so many kB more than it has (RLIMIT_AS) from
step 3 on. Each run must end well, or with OutOfMemory and its state saved, and go on to the undisturbed bytes.
"""

import ctypes
import json
import resource
import shutil
import sys
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


def main() -> None:
    mode, first, last, root = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    train(root / "calm")
    wanted = bytes_of(root / "calm")
    library: Any = ctypes.CDLL(None) if mode.startswith("native") else None
    ended = {"well": 0, "out of memory": 0, "allocations": 0}
    if library is not None:
        library.allocations.restype = ctypes.c_long
        train(root / "count", [From(0, lambda: library.scarce(ctypes.c_long(1 << 40), False))])
        ended["allocations"] = library.allocations()
        library.scarce(ctypes.c_long(-1), False)
        last = min(last, ended["allocations"])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)

    def limit(kilobytes: int) -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 1024 * kilobytes, hard))

    step = max((last - first) // max(int(sys.argv[5]) if len(sys.argv) > 5 else 1 << 30, 1), 1)
    for k in range(first, last + 1, step):
        run = root / f"run{k}"
        if library is not None:
            act = From(0, lambda k=k: library.scarce(ctypes.c_long(k), mode.endswith("+")))
        else:
            act = From(3, lambda k=k: limit(k))
        try:
            train(run, [act])
            ended["well"] += 1
        except OutOfMemory as error:
            ended["out of memory"] += 1
            said = str(error)
            assert "out of memory at step" in said and "\n" not in said, said
            assert "step_0000000" in said or "--resume" in said or not committed(run / "checkpoints"), said
        finally:
            if library is not None:
                library.scarce(ctypes.c_long(-1), False)
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        train(run, resume=True)
        assert bytes_of(run) == wanted, k
        shutil.rmtree(run)
    print(json.dumps(ended))


if __name__ == "__main__":
    main()
