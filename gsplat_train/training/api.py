# SPDX-License-Identifier: Apache-2.0
"""`train`: a scene in, a model and its scores out. The command gs-train is a thin user of `run_training`."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .. import backends, effects
from ..config import Config, changed, check, configure, fitted, load
from ..datasets import read_scene
from ..errors import UserError
from ..model.gaussians import Gaussians
from ..scene import Scene
from .budget import settled
from .callbacks import Callback
from .checkpoint import Checkpoint
from .report import Report
from .run_folder import RunFolder
from .trainer import Trainer


@dataclass(frozen=True)
class TrainResult:
    """What `train` returns."""

    gaussians: Gaussians  # in the scene's own frame
    antialiased: bool  # the mode that they were trained for
    metrics: dict[str, Any]  # as metrics.json


def train(
    scene: Scene | str | os.PathLike[str],
    config: Config | None = None,
    *,
    out: str | os.PathLike[str] | None = None,
    callbacks: Sequence[Callback] = (),
    **settings: Any,
) -> TrainResult:
    """Trains Gaussians on a scene: one that was loaded, or what the command would be given.

    config: all settings (None: the defaults, for a name or folder those of the command, as they suit the steps);
    `settings` change single ones, as steps=2000. out: the run folder; None leaves no files. Works in any thread.
    UserError and its kin, as the command.
    """
    started, spent = time.monotonic(), {}
    single = check(settings, "train")
    if config is not None:
        chosen = changed(config, single)
    elif isinstance(scene, Scene):
        chosen = fitted(load([], single), single)
    else:
        chosen = configure(os.fspath(scene), single)
    if isinstance(scene, Scene):
        effects.check_loaded(single)
    effects.check(chosen, single)

    def say(line: str) -> None:
        for callback in callbacks:
            callback.message(line)

    def tell(what: str, done: int, total: int) -> None:
        for callback in callbacks:
            callback.progress(what, done, total)

    def of_steps(steps: int) -> Config:  # what nobody gave follows the steps of a time budget too
        settings_now = single | {"steps": steps}
        if config is not None:
            return changed(config, settings_now)
        return fitted(load([], settings_now), settings_now) if name is None else configure(name, settings_now)

    name = None if isinstance(scene, Scene) else os.fspath(scene)
    if not isinstance(scene, Scene):
        began = time.monotonic()
        scene = read_scene(chosen, say, tell)
        spent["loading"] = time.monotonic() - began
    chosen = replace(chosen, backend=backends.choose(chosen.backend)).begun()
    if out is None:
        chosen, until = settled(chosen, scene, None, started, say, tell, of_steps)
        return run_training(Trainer(chosen, scene, None, callbacks, None, started, spent, until=until))
    run = RunFolder(Path(out))
    if run.holds_run():
        raise UserError(f"{out} holds a run; give another folder")
    with run.claimed():
        chosen, until = settled(chosen, scene, run, started, say, tell, of_steps)
        reported = [*callbacks, Report()]
        return run_training(Trainer(chosen, scene, run, reported, None, started, spent, until=until))


def run_training(trainer: Trainer, resumed: Checkpoint | None = None) -> TrainResult:
    """Trains to the end; a run folder gets its settings first, and loses what is of another run."""
    if trainer.run is not None:
        if resumed is None:
            trainer.run.clear()
        trainer.run.write_config(trainer.config)
        trainer.run.truncate_log(trainer.step)
    metrics = trainer.train()
    trainer.evaluation.end_if_flat()
    return TrainResult(trainer.gaussians(), trainer.config.antialiased, metrics)
