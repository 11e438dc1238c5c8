# SPDX-License-Identifier: Apache-2.0
"""What is measured while a run goes on: scores of held-out and training views, previews, metrics.json."""

from __future__ import annotations

import time
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np

from ..evaluate.measure import BACKGROUNDS, measure
from ..evaluate.pictures import write_preview
from ..machine import processor
from ..scene import View
from ..storage import file_name
from .alive import psnr_of_one_colour
from .run_folder import origin, peak_memory_mb

if TYPE_CHECKING:
    from .trainer import Trainer

FLAT_STEPS = 200  # a model of fewer steps may still be worse than one colour
OVERFIT_DB = 0.2  # warn when the held-out PSNR is this far below its best; the spread of seeds is about 0.1


class Evaluation:
    """The evaluations of one run; what it remembers is in the trainer's counts, and saved with the state."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        defaults = {"best_test": 0.0, "train_at_best": 0.0, "warned": False}
        trainer.counts = defaults | trainer.counts
        self.done, self.total = 0, 0  # views of the evaluation under way

    def run(self) -> None:
        """Measures held-out and some training views, pictures a few, writes metrics.json; warns of
        over-fitting.
        """
        trainer = self.trainer
        with trainer.clock.during("evaluation"):
            gaussians, some = trainer.gaussians(), self._some_training_views()
            self.done, self.total = 0, len(trainer.test_views) + len(some)
            test, train = (
                measure(
                    gaussians,
                    views,
                    trainer.backend,
                    background=trainer.config.background,
                    antialiased=trainer.config.antialiased,
                    each=self._pictured,
                )
                for views in (trainer.test_views, some)
            )
            self._compare_with_one_colour(train["psnr"])
            scores = {"test": test if trainer.test_views else None, "train": train}
            trainer.metrics = self._summary() | scores | {"warnings": trainer.warnings} | origin()
            if trainer.run is not None:
                trainer.run.write_metrics(trainer.metrics)
            for callback in trainer.callbacks:
                callback.evaluated(trainer, trainer.metrics)
            if trainer.test_views:
                self._watch(test["psnr"], train["psnr"])

    def _some_training_views(self) -> list[View]:
        views, wanted = self.trainer.train_views, self.trainer.config.eval_train_views
        n = min(wanted or len(views), len(views))
        return [views[i] for i in np.linspace(0, len(views) - 1, n).round().astype(int)]

    def _pictured(self, view: View, picture: np.ndarray) -> None:
        self.done += 1
        for callback in self.trainer.callbacks:
            callback.progress("evaluating", self.done, self.total)
            callback.pictured(self.trainer, view, picture)
        self._preview(view, picture)

    def _preview(self, view: View, picture: np.ndarray) -> None:
        trainer = self.trainer
        pictured = {view.name for view in trainer.test_views[: trainer.config.preview_views]}
        if trainer.run is None or view.name not in pictured:
            return
        name = str(PurePosixPath(view.name).with_suffix("")).replace("/", "_")
        path = trainer.run.previews / file_name(f"test_{name}", f"_{trainer.step:07d}.png")
        shown = BACKGROUNDS[trainer.config.background]
        trainer.beside.add(lambda: write_preview(path, view.pixels.shown(shown), picture))

    def _summary(self) -> dict[str, Any]:
        """What metrics.json says beside the scores."""
        trainer = self.trainer
        step, seconds = trainer.step, trainer.clock.seconds
        camera = trainer.scene.views[0].camera
        return {
            "scene": trainer.scene.name,
            "backend": trainer.config.backend,
            "steps": step,
            "n_splats": trainer.n_splats,
            "seconds": round(seconds, 3),
            "it_per_s": round(step / seconds, 3) if seconds else 0.0,
            "peak_memory_mb": peak_memory_mb(),
            **(self._gpu_memory() if trainer.config.backend in ("metal", "cuda") else {}),
            "width": camera.width,
            "height": camera.height,
            "undistort": trainer.scene.undistort,
            "batch": trainer.config.batch,
            "seed": trainer.config.seed,
            "machine": processor(),
            **self._seconds(),
        }

    def _seconds(self) -> dict[str, Any]:
        """All seconds to now, and by stage."""
        stages = {stage: round(seconds, 3) for stage, seconds in self.trainer.clock.stages.items()}
        return {"wall_seconds": round(time.monotonic() - self.trainer.began, 3), "stage_seconds": stages}

    def finish(self) -> None:
        """Writes metrics.json again, with what came after the last evaluation in its times."""
        self.trainer.metrics |= self._seconds()
        if self.trainer.run is not None:
            self.trainer.run.write_metrics(self.trainer.metrics)

    def _gpu_memory(self) -> dict[str, float]:
        """The peak of MLX's memory, and the setting that it is held against."""
        return {
            "peak_gpu_memory_mb": mx.get_peak_memory() / 1e6,
            "gpu_memory": self.trainer.config.gpu_memory,
        }

    def _compare_with_one_colour(self, psnr: float) -> None:
        """Warns, once, when a tenth of the run is done and the model shows no more than a colour would."""
        trainer, counts = self.trainer, self.trainer.counts
        if trainer.step < max(trainer.config.steps / 10, FLAT_STEPS) or counts.get("warned_flat"):
            return
        ground = BACKGROUNDS[trainer.config.background]
        flat = psnr_of_one_colour(self._some_training_views(), ground)
        if psnr < flat:
            counts["warned_flat"] = True
            trainer.message(
                f"warning: at step {trainer.step} the model is no better than one colour a photo ({psnr:.2f} dB on "
                f"training views, {flat:.2f} dB the colour): cameras, points or rates are probably wrong; "
                "see gs-train --check"
            )

    def _watch(self, test: float, train: float) -> None:
        """Warns, once, when the held-out PSNR falls while the training PSNR rises."""
        counts = self.trainer.counts
        best, train_at_best = counts["best_test"], counts["train_at_best"]
        if test > best:
            counts |= {"best_test": test, "train_at_best": train}
        elif test < best - OVERFIT_DB and train > train_at_best and not counts["warned"]:
            counts["warned"] = True
            self.trainer.message(
                f"warning: over-fitting at step {self.trainer.step}: held-out PSNR fell from {best:.2f} to "
                f"{test:.2f} dB while training PSNR rose from {train_at_best:.2f} to {train:.2f}; "
                "fewer splats or steps may help"
            )
