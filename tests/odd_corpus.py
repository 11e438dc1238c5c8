# SPDX-License-Identifier: Apache-2.0
"""Odd scenes: what each is, what gs-train shall do with it, and whether it does.

A set is written by a function, trained by the command as a user runs it, and its model is judged by the true views of
the built-in scene, placed in the set's frame. So a reader that gets anything wrong loses decibels here.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import odd_makers as makers

import gsplat_train
from gsplat_train import backends
from gsplat_train.evaluate.measure import measure
from gsplat_train.model.io import committed, read_checkpoint, similarity_of, tree_of
from gsplat_train.scene import View

STEPS = 300
SETTINGS = ["--backend", "cpp", "--no-eval", "--max-splats", "4000", "--set", "preview_views=0"]
WITHIN = 0.3  # dB from the sound scene; three seeds of it differ by 0.07
PACKAGE = Path(gsplat_train.__file__).parent


@dataclass(frozen=True, eq=False)
class OddSet:
    """One odd data set and what is expected of it.

    make: writes it into an empty folder. code: the command's exit code; says: an expression that its messages match,
    not: one that they do not. like: the sound set whose PSNR its model has; loses: how much less it may have, where
    what is missing cannot be made up for. frame: from the built-in scene's to the set's. give: what the command is
    given, from the folder; inside: it is run there. truth: the views that judge, before
    that background.
    """

    kind: str
    name: str
    make: Callable[[Path], object]
    code: int = 0
    says: str = ""
    silent: str = ""
    like: str = "sound"
    loses: float = 0.0
    frame: np.ndarray | None = None  # None: the same
    give: str = "."
    inside: bool = False
    options: tuple[str, ...] = ()
    truth: Callable[[], Sequence[View]] = makers.truth
    background: str = "black"


class Outcome(NamedTuple):
    code: int
    psnr: float | None
    messages: str
    fault: str  # empty: as expected


SETS: dict[str, OddSet] = {}
REFERENCES: dict[str, OddSet] = {}


def add(kind: str, name: str, make: Callable[[Path], object], **expected: object) -> None:
    """Enters a set; kind and name are its key."""
    odd = OddSet(kind, name, make, **expected)  # type: ignore[arg-type]
    assert SETS.setdefault(f"{kind}: {name}", odd) is odd, name


def add_reference(name: str, make: Callable[[Path], object], **more: object) -> None:
    """Enters a sound set that others are compared with."""
    REFERENCES[name] = OddSet("reference", name, make, **more)  # type: ignore[arg-type]


def train(odd: OddSet, folder: Path, run: Path, seed: int = 0) -> tuple[int, str]:
    """Exit code and messages of the command on the set in `folder`."""
    place = odd.give if odd.inside else os.path.normpath(folder / odd.give)
    command = [sys.executable, "-P", "-m", "gsplat_train.cli.train", place, "--out", str(run)]
    command += [*SETTINGS, "--steps", str(STEPS), "--seed", str(seed)]
    environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent), "GS_DATA": "", "COLUMNS": "100"}
    environment["GS_CACHE"] = str(run.parent / "cache")
    done = subprocess.run(
        [*command, *(part.format(folder=folder) for part in odd.options)],
        capture_output=True,
        cwd=folder if odd.inside else run.parent,
        env=environment,
        timeout=120,
    )
    return done.returncode, done.stderr.decode("utf-8", "replace")


def judged(run: Path, odd: OddSet) -> float:
    """PSNR of the run's model over the true views, computed in training's frame, whose numbers are small."""
    meta, tensors = read_checkpoint(committed(run / "checkpoints")[0])
    frame = similarity_of(meta)
    placed = np.eye(4) if odd.frame is None else odd.frame
    views = [
        View(view.name, frame.camera_to_train(makers.moved_camera(view.camera, placed)), view.photo)
        for view in odd.truth()
    ]
    return float(measure(tree_of(tensors), views, backends.load("cpp"), background=odd.background)["psnr"])


def attempt(odd: OddSet, reference: float | None, seed: int = 0) -> Outcome:
    """Writes the set, runs the command, and compares with what is expected. reference: the sound set's PSNR."""
    with tempfile.TemporaryDirectory() as work:
        folder, run = Path(work) / "set", Path(work) / "run"
        folder.mkdir()
        odd.make(folder)
        code, messages = train(odd, folder, run, seed)
        psnr = judged(run, odd) if code == 0 else None
    return Outcome(code, psnr, messages, _fault(odd, code, messages, psnr, reference))


def _fault(odd: OddSet, code: int, messages: str, psnr: float | None, reference: float | None) -> str:
    last = messages.splitlines()[-1] if messages.strip() else ""
    if "Traceback" in messages:
        return f"traceback: {last}"
    if code != odd.code:
        return f"exit {code}: {last}"
    if odd.says and not re.search(odd.says, messages):
        return f"does not say {odd.says!r}: {last if code else messages}"
    if odd.silent and (found := re.search(odd.silent, messages)):
        return f"says {found[0]!r}"
    if code and not last.startswith("gs-train: "):
        return f"no line of its own: {last}"
    if psnr is not None and reference is not None:
        off = psnr - reference
        if not -max(WITHIN, odd.loses) <= off <= WITHIN:
            return f"{off:+.2f} dB from {odd.like}"
    return ""
