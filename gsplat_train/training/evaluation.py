# SPDX-License-Identifier: Apache-2.0
"""What is measured while a run goes on: scores of held-out and training views, previews, metrics.json."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np

from ..errors import TrainingDiverged
from ..evaluate.floaters import near_error
from ..evaluate.measure import BACKGROUNDS, measure
from ..evaluate.pictures import write_preview
from ..machine import processor
from ..model.gaussians import Gaussians
from ..model.sky import colour_of
from ..renderer import render
from ..scene import View, evenly
from ..storage import file_name
from .alive import psnr_of_one_colour, suspect
from .poses import fitted
from .run_folder import origin, peak_memory_mb, remove_splats

if TYPE_CHECKING:
    from .trainer import Trainer

FLAT_STEPS = 200  # in fewer steps a sound run may hardly move
KEPT_FROM = 0.25  # of the run: best.ply is not written before
SAME_DB = 0.01  # a last model that is worse by less is the best
PATIENCE, GAIN_DB = 3, 0.05  # a run has converged when so many evaluations bring less than that
LEARNT_DB = 0.5  # on training views, that FLAT_STEPS steps bring at the least: they bring 3 and more
WORST, MOST_COMPARED = 5, 200  # photos that are named at the end, of at most so many
MOST_POSED = 16  # held-out photos whose poses are fitted
OVERFIT_DB = 0.2  # warn when the held-out PSNR is this far below its best; the spread of seeds is about 0.1


class Evaluation:
    """The evaluations of one run; what it remembers is in the trainer's counts, and saved with the state."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        defaults: dict[str, Any] = {"best_test": 0.0, "train_at_best": 0.0, "warned": False}
        defaults |= {"kept": None, "tests": []}  # what best.ply is; held-out PSNR of all evaluations
        trainer.counts = defaults | trainer.counts
        self.done, self.total = 0, 0  # views of the evaluation under way
        self.one_colour: float | None = None  # PSNR of one colour a photo; photos stay as they are
        self.flat = ""  # what is wrong with a model that shows no more than a colour would

    def run(self) -> None:
        """Measures held-out and some training views, pictures a few, writes metrics.json; warns of over-fitting."""
        trainer = self.trainer
        with trainer.clock.during("evaluation"):
            gaussians, some = trainer.stepper.look().gaussians, self._some_training_views()
            last = trainer.ended
            self.done, self.total = 0, len(trainer.test_views) + len(some)
            test = self._measured(gaussians, trainer.test_views, self._pictured, fully=last)
            train = self._measured(gaussians, some, self._pictured)
            self._compare_with_one_colour(train["psnr"])
            if trainer.test_views:
                self._watch(test["psnr"], train["psnr"])
                self._end_if_converged(test["psnr"])
                self._keep_best(test["psnr"])
            if trainer.ended and not last:  # the run has just been found to have converged
                test = self._measured(gaussians, trainer.test_views, fully=True)
            scores: dict[str, Any] = {"test": test if trainer.test_views else None, "train": train}
            scores |= self._worst(gaussians, train["views"]) if trainer.ended else {}
            if trainer.ended and test["views"] and "poses" in trainer.objective.groups:
                test["psnr_posed"] = self._posed()
            if trainer.ended and test["views"]:
                how = (trainer.backend, trainer.config.antialiased, trainer.similarity.camera_to_train)
                scores["near_error"] = near_error(gaussians, trainer.test_views, *how)
            trainer.metrics = self._summary() | scores | {"warnings": trainer.warnings} | origin()
            if trainer.run is not None:
                trainer.run.write_metrics(trainer.metrics)
            for callback in trainer.callbacks:
                callback.evaluated(trainer, trainer.metrics)

    def _measured(
        self,
        gaussians: Gaussians,
        views: Sequence[View],
        each: Callable[[View, np.ndarray], None] | None = None,
        fully: bool = False,
    ) -> dict[str, Any]:
        """Scores of views in the scene's frame, of Gaussians in training's, where all scenes are of one size."""
        config, place = self.trainer.config, self.trainer.similarity.camera_to_train
        return measure(
            gaussians, views, self.trainer.backend, background=self.trainer.ground, place=place,
            antialiased=config.antialiased, fully=fully, each=each or (lambda view, picture: None),
            writers=self.trainer.judges,
        )  # fmt: skip

    def _worst(self, gaussians: Gaussians, measured: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
        """Which training photos the model shows worst, beside the median: of all, or of very many an even choice.
        Where exposure is learnt it is fitted first. measured: scores that there are already.
        """
        views, by = self.trainer.train_views, "psnr"
        if "exposure" in self.trainer.objective.groups:
            measured, by = {}, "psnr_corrected"
        chosen = evenly(views, MOST_COMPARED)
        rest = [self.trainer.as_learnt(view) for view in chosen if view.name not in measured]
        scores = {**measured, **self._measured(gaussians, rest, fully=by != "psnr")["views"]}
        if len(scores) < 2:
            return {}
        psnr = {name: scores[name][by] for name in sorted(scores, key=lambda name: scores[name][by])}
        median = float(np.median(list(psnr.values())))
        photos = dict(list(psnr.items())[:WORST])
        return {"worst_photos": {"median_psnr": median, "measured": len(psnr), "psnr": photos}}

    def _some_training_views(self) -> list[View]:
        views, wanted = self.trainer.train_views, self.trainer.config.eval_train_views
        return [self.trainer.as_learnt(view) for view in evenly(views, wanted or len(views))]

    def _posed(self) -> float:
        """Mean PSNR of the right halves of held-out photos, their poses fitted on the left ones: where training moves
        the cameras, those that were held out are as wrong as the others were.
        """
        trainer, config, found = self.trainer, self.trainer.config, []
        gaussians, ground = trainer.stepper.look().gaussians, trainer.ground
        for view in trainer.test_views[:MOST_POSED]:
            placed = replace(view, camera=trainer.similarity.camera_to_train(view.camera))
            camera = fitted(gaussians, placed, trainer.backend, config.antialiased, ground)
            shown = render(
                gaussians, camera, trainer.backend, background=ground, antialiased=config.antialiased
            )
            photo, right = view.pixels, np.ones((camera.height, camera.width), np.uint8)
            right[:, : camera.width // 2] = 0
            mask = right if photo.mask is None else right * (np.asarray(photo.mask) > 0)
            found.append(trainer.backend.score(shown.image, photo.shown(colour_of(ground)), mask).psnr)
        return float(np.nanmean(found))

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
            "devices": trainer.crew.size,
            "seed": trainer.config.seed,
            "machine": processor(),
            "best": trainer.counts["kept"] if trainer.ended else None,
            "converged": bool(trainer.counts.get("converged")),
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

    def _keep_best(self, test: float) -> None:
        """Writes best.ply where no evaluation was better, from a part of the run on; takes it away where the last
        model is as good.
        """
        trainer, kept = self.trainer, self.trainer.counts["kept"]
        if trainer.run is None or (trainer.step < KEPT_FROM * trainer.config.steps and not trainer.ended):
            return
        if kept is None or test > kept["psnr"] - (SAME_DB if trainer.ended else 0.0):
            if trainer.ended:
                trainer.beside.add(remove_splats, trainer.run.best)
            else:
                trainer.write_model(trainer.run.best, beside=True)
            trainer.counts["kept"] = None if trainer.ended else {"step": trainer.step, "psnr": test}
        elif trainer.ended:
            better = kept["psnr"] - test
            trainer.message(
                f"{'warning: over-fitting: ' if better > OVERFIT_DB else ''}the model of step {kept['step']} is "
                f"better on held-out views than the last, {kept['psnr']:.2f} dB against {test:.2f}: {trainer.run.best}"
            )

    def _end_if_converged(self, test: float) -> None:
        """Ends a run that is to stop when converged: photos are at full size, no refinement is ahead that could add
        splats, and the best of the last evaluations is hardly better than the best before them.
        """
        trainer, config = self.trainer, self.trainer.config
        tests = trainer.counts["tests"] = [*trainer.counts["tests"], test]
        if not config.stop_when_converged or trainer.step >= config.steps or len(tests) <= PATIENCE:
            return
        gain = max(tests[-PATIENCE:]) - max(tests[:-PATIENCE])
        if gain < GAIN_DB and trainer.is_grown():
            trainer.counts["converged"] = True
            trainer.message(
                f"converged at step {trainer.step}: {PATIENCE} evaluations brought {max(gain, 0.0):.2f} dB on held-out "
                f"views, less than {GAIN_DB:g}"
            )

    def _compare_with_one_colour(self, psnr: float) -> None:
        """Finds out whether the model shows no more than a colour would, and is no better than it was at the start:
        warns, once, from a tenth of the run on. At the end a model that is no better than a colour is said to be that.
        """
        trainer, counts = self.trainer, self.trainer.counts
        self.flat, some = "", self._some_training_views()
        if trainer.step < trainer.config.steps / 10:
            return
        if self.one_colour is None:
            self.one_colour = psnr_of_one_colour(some, BACKGROUNDS[trainer.config.background])
        flat = self.one_colour
        if not psnr < flat:
            return
        start = self._measured(trainer.start_again(), some)["psnr"]
        numbers = f"({psnr:.2f} dB on training views, {flat:.2f} dB the colour, {start:.2f} dB the start)"
        if psnr < start + (LEARNT_DB if trainer.step >= FLAT_STEPS else -LEARNT_DB / 2):
            self.flat = (
                f"at step {trainer.step} the model is no better than one colour a photo, or than it was at the start "
                f"{numbers}: {suspect(trainer.stepper.look().gaussians, trainer.config)}"
            )
            if not counts.get("warned_flat"):
                counts["warned_flat"] = True
                trainer.message(f"warning: {self.flat}")
        elif trainer.ended:
            trainer.message(
                f"warning: the model is no better than one colour a photo {numbers}; train for more steps"
            )

    def end_if_flat(self) -> None:
        """TrainingDiverged where the last evaluation found nothing learnt; all files are written by then."""
        if self.flat:
            kept = f"; it is kept in {self.trainer.run.ply}" if self.trainer.run is not None else ""
            raise TrainingDiverged(f"nothing was learnt: {self.flat}{kept}")

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


def score_lines(metrics: Mapping[str, Any]) -> list[str]:
    """What the scores of the last step say, a line each."""
    lines = []
    if test := metrics["test"]:
        more = ""
        if "psnr_posed" in test:
            more = f"; {test['psnr_posed']:.2f} dB on right halves with poses fitted on left ones"
        if "ms_ssim" in test:
            more += f"; MS-SSIM {test['ms_ssim']:.4f}, {test['psnr_half']:.2f} dB with exposure fitted on left halves"
        views = len(test["views"])
        scores = f"held-out PSNR {test['psnr']:.2f} dB, SSIM {test['ssim']:.4f}"
        lines.append(f"{scores}, mean of {views} views{more}")
    if worst := metrics.get("worst_photos"):
        photos = ", ".join(f"{name} {psnr:.1f}" for name, psnr in worst["psnr"].items())
        lines.append(
            f"shown worst, in dB: {photos}; median of {worst['measured']}: {worst['median_psnr']:.1f}"
        )
    return lines
