# SPDX-License-Identifier: Apache-2.0
"""One training in its run folder, as gs-train does it: loaded, trained, told."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Callable
from dataclasses import replace

from .. import backends
from ..config import Config, is_builtin
from ..datasets import read_scene, scene_folder
from ..errors import Interrupted
from ..registry import MADE
from ..scene import Scene
from ..training import checkpoint
from ..training.api import run_training
from ..training.budget import settled
from ..training.callbacks import Callback
from ..training.crew import ALONE, Crew
from ..training.report import Report
from ..training.run_folder import RunFolder
from ..training.trainer import Trainer
from .devices import lead
from .progress import Progress, tell_result
from .signals import stopping


def train_in(
    settings: Config,
    folder: RunFolder,
    resume: bool,
    scene: Scene | None = None,
    *,
    report: Progress,
    viewer: str | None,
    of_steps: Callable[[int], Config],
    started: float | None = None,
    spent: dict[str, float] | None = None,
    crew: Crew = ALONE,
    whole: bool = False,
) -> Trainer:
    """Trains in a folder that is claimed. scene: where it is loaded already. of_steps: see budget.settled. started,
    spent: see Trainer. whole: to the last step, whatever becomes of a time budget.
    """
    started, spent = time.monotonic() if started is None else started, spent or {}
    chosen = backends.choose(settings.backend, report.message)
    backends.load(chosen)  # or say why not, before the photos are loaded
    report.message(f"backend: {chosen}" + (" (auto)" if settings.backend == "auto" else ""))
    settings = replace(settings, backend=chosen)
    if settings.reader not in MADE and is_builtin(settings.scene):
        settings = replace(settings, data_root=str(scene_folder(settings).parent.resolve()))
    found = checkpoint.newest(folder.checkpoints, report.message) if resume else None
    callbacks: list[Callback] = [report, Report()]
    settings = lead(crew, settings, folder, found, callbacks)
    if viewer is not None:
        from ..viewer.live import Live  # a server, which few ask for: 50 to 100 ms of start-up

        callbacks.append(Live(viewer))
    began = time.monotonic()
    scene = scene or read_scene(settings, report.message, report.at)
    spent["loading"] = time.monotonic() - began
    until = math.inf
    if found is None:
        settings, until = settled(
            settings, scene, folder, started + spent.get("cameras", 0.0), report.message, report.at, of_steps
        )
    until = math.inf if whole else until
    trainer = Trainer(settings, scene, folder, callbacks, found, started, spent, crew, until)
    how = "new run" if not resume else f"resuming at step {trainer.step}"
    train, test = len(trainer.train_views), len(trainer.test_views)
    report.message(f"{train} views to train on, {test} held out, {trainer.n_splats:,} splats")
    report.message(f"{how} in {folder.root}")
    try:
        with stopping(trainer.stop, report.now):
            result = run_training(trainer, found)
    except Interrupted as error:
        how = shlex.join(["gs-train", settings.scene, "--out", str(folder.root), "--resume"])
        raise Interrupted(f"{error}; go on with: {how}") from None
    tell_result(result.metrics, folder, report)
    return trainer
