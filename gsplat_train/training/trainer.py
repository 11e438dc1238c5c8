# SPDX-License-Identifier: Apache-2.0
"""The loop: sample a view, take a step, refine, measure, log, save.

All that decides what is trained is in `TrainState`, the strategy's sums and one random generator; the order
of views and MCMC's noise are functions of seed and step. A checkpoint holds these, so a resumed run is the
same, bit by bit. Training happens in training's frame (scene.Scene.normalized); what is measured and written
is in the scene's own.
"""

from __future__ import annotations

import math
import shlex
import signal
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Any

import mlx.core as mx
import numpy as np

from .. import backends, evaluate
from ..cli.progress import Progress
from ..config import Config
from ..errors import Interrupted, StorageError, TrainingDiverged, UserError
from ..model.formats import ply
from ..model.gaussians import Gaussians, gaussians_from_points
from ..scene import Scene, View
from ..storage import file_name
from . import checkpoint as checkpoints
from . import optimizer
from . import strategies as density
from .clock import Clock
from .photos import ViewSampler
from .run_folder import RunFolder, origin, peak_memory_mb, to_json
from .train_step import Noise, Regularizers, StepResult, train_step

OVERFIT_DB = 0.2  # warn when the held-out PSNR is this far below its best; the spread of seeds is about 0.1


class Trainer:
    """Trains `scene` into `run` by `config`, from the start or from a checkpoint; `train` does it all.

    config.backend names a backend, not auto. started: time.monotonic() when the command began.
    """

    def __init__(
        self,
        config: Config,
        scene: Scene,
        run: RunFolder,
        progress: Progress,
        resume: checkpoints.Checkpoint | None = None,
        started: float | None = None,
    ) -> None:
        self.config, self.scene, self.run, self.report = config, scene, run, progress
        self.backend = backends.load(config.backend)
        normalized, self.similarity = scene.normalized()
        test_every = config.test_every if config.eval else 0
        self.train_views, self.test_views = scene.split(test_every)
        views = normalized.split(test_every)[0]
        self.sampler = ViewSampler(views, config.seed, config.downscales, config.downscale_every)
        self.rng = np.random.default_rng(config.seed)
        self.background = np.array(evaluate.BACKGROUNDS[config.background], np.float32)
        self.counts: dict[str, Any] = {  # saved with the state
            "seconds": 0.0,
            "wall_seconds": 0.0,
            "best_test": 0.0,
            "train_at_best": 0.0,
            "warned": False,
            "views": zlib.crc32("\n".join(view.name for view in views).encode()),
        }
        if resume is None:
            self.state = optimizer.start(self._initial_gaussians(normalized))
        else:
            if resume.progress["views"] != self.counts["views"]:
                raise UserError(
                    f"{scene.name} has other training views than the run in {run.root}; start a new run"
                )
            self.state, self.rng.bit_generator.state = resume.state, resume.rng
            self.counts |= resume.progress
        self.strategy = density.load(config, self.state.n_splats)
        if resume is not None and resume.stats is not None:
            self.strategy.stats = resume.stats
        self.saved = -1 if resume is None else self.state.step
        self.metrics: dict[str, Any] = {}
        self.began = (time.monotonic() if started is None else started) - self.counts["wall_seconds"]
        self.clock = Clock(self.counts["seconds"])

    def train(self) -> dict[str, Any]:
        """Runs to the last step; the final metrics.

        TrainingDiverged, Interrupted, StorageError: the last good state is saved.
        """
        config, state = self.config, self.state
        self.report.open(state.step, config.steps)
        try:
            with _signals() as stop, self.clock.going():
                while state.step < config.steps:
                    result = self.step()
                    self._refine()
                    self.report.step()
                    measured = (self._due(config.eval_every) and config.eval) or state.step == config.steps
                    if measured:
                        self._evaluate_or_save()
                    if measured or self._due(config.log_every):
                        self.log(result)
                    interrupted = bool(stop) and state.step < config.steps
                    if interrupted or self._due(config.checkpoint_every):
                        self.save()
                    if interrupted:
                        how = shlex.join(["gs-train", config.scene, "--out", str(self.run.root), "--resume"])
                        raise Interrupted(f"interrupted at step {state.step}, state saved; go on with: {how}")
        finally:
            self.report.close()
        if not self.metrics:  # resumed after the last step
            self.evaluate()
        gaussians = checkpoints.scene_frame(state.gaussians, self.similarity)
        ply.write(self.run.ply, gaussians._asdict(), antialiased=config.antialiased)
        return self.metrics

    def step(self) -> StepResult:
        """One step on the next view; TrainingDiverged, the last good state saved, if its loss is none."""
        config, state = self.config, self.state
        lrs = optimizer.learning_rates(config, state.step)
        if config.background == "random":
            self.background = self.rng.random(3, np.float32)
        result = train_step(
            self.backend,
            state,
            self.sampler.at(state.step),
            lrs=lrs,
            sh_degree=optimizer.sh_degree_at(config, state.step),
            ssim_lambda=config.ssim_lambda,
            background=self.background,
            antialiased=config.antialiased,
            regularizers=Regularizers(config.opacity_reg, config.scale_reg),
            noise=Noise(config.noise_lr * lrs["means"], config.seed),
            stats=self.strategy.stats,
            absgrad=config.absgrad,
        )
        settle = getattr(self.backend, "settle", None)
        if settle and self._looked_at():  # a backend that works ahead told an older step's
            result = StepResult(*settle(state))
        if not math.isfinite(result.loss):
            self.save()
            raise self._diverged()
        return result

    def _refine(self) -> None:
        try:
            self.strategy.refine(self.state, self.rng)
        except (TrainingDiverged, MemoryError):
            self.save()
            raise

    def evaluate(self) -> None:
        """Measures held-out and some training views, pictures a few, writes metrics.json; warns of
        over-fitting.
        """
        with self.clock.stopped():
            config = self.config
            gaussians = checkpoints.scene_frame(self.state.gaussians, self.similarity)
            pictured = {view.name for view in self.test_views[: config.preview_views]}

            def preview(view: View, picture: np.ndarray) -> None:
                if view.name in pictured:
                    name = str(PurePosixPath(view.name).with_suffix("")).replace("/", "_")
                    path = self.run.previews / file_name(f"test_{name}", f"_{self.state.step:07d}.png")
                    evaluate.write_preview(path, view, picture)

            n = min(config.eval_train_views or len(self.train_views), len(self.train_views))
            spread = np.linspace(0, len(self.train_views) - 1, n).round().astype(int)
            test, train = (
                evaluate.measure(
                    gaussians,
                    views,
                    self.backend,
                    background=config.background,
                    antialiased=config.antialiased,
                    each=preview,
                )
                for views in (self.test_views, [self.train_views[i] for i in spread])
            )
            self.metrics = (
                self._summary() | {"test": test if self.test_views else None, "train": train} | origin()
            )
            self.run.write_metrics(self.metrics)
            if self.test_views:
                self._watch(test["psnr"], train["psnr"])

    def _evaluate_or_save(self) -> None:
        """`evaluate`; a picture or a file of scores that cannot be written costs no training."""
        try:
            self.evaluate()
        except StorageError:
            self.save()
            raise

    def log(self, result: StepResult) -> None:
        """A line of log.jsonl, with the scores if this step was measured."""
        summary = self._summary()
        record: dict[str, Any] = {
            "step": self.state.step,
            "loss": result.loss,
            "l1": result.l1,
            "ssim": result.ssim,
        }
        record |= {name: summary[name] for name in ("n_splats", "it_per_s", "seconds", "peak_memory_mb")}
        if self.metrics.get("steps") == self.state.step:
            for split in ("test", "train"):
                scores = self.metrics[split]
                record[split] = scores and {name: scores[name] for name in ("psnr", "ssim")}
        line = to_json(record)
        self.run.append_log(line)
        self.report.record(record, line)

    def save(self) -> None:
        """Writes a checkpoint of this step, unless there is one; TrainingDiverged if it is not finite."""
        if self.saved == self.state.step:
            return
        with self.clock.stopped():
            if not optimizer.is_finite(self.state):
                raise self._diverged()
            self.counts |= {"seconds": self.clock.seconds, "wall_seconds": time.monotonic() - self.began}
            checkpoint = checkpoints.Checkpoint(
                state=self.state,
                similarity=self.similarity,
                antialiased=self.config.antialiased,
                rng=dict(self.rng.bit_generator.state),
                stats=self.strategy.stats,
                progress=self.counts,
            )
            checkpoints.save(self.run.checkpoints, checkpoint, self.config.checkpoint_keep)
            self.saved = self.state.step

    def _initial_gaussians(self, scene: Scene) -> Gaussians:
        config, n = self.config, len(scene.points)
        chosen = np.arange(n)
        if n > config.max_splats:
            chosen = np.sort(self.rng.choice(n, config.max_splats, replace=False))
            self.report.message(
                f"{n:,} points, of which {config.max_splats:,} (max_splats) are taken at random"
            )
        return gaussians_from_points(
            scene.points[chosen],
            scene.colors[chosen],
            sh_degree=config.sh_degree,
            init_opacity=config.init_opacity,
            init_scale=config.init_scale,
        )

    def _diverged(self) -> TrainingDiverged:
        good = checkpoints.committed(self.run.checkpoints)
        where = f"the last good state is {good[0]}" if good else "no good state was saved before"
        return TrainingDiverged(
            f"training diverged: loss, gradient or state not finite at step {self.state.step + 1}; {where}; "
            f"try --set lr_means={self.config.lr_means / 4:g}"
        )

    def _looked_at(self) -> bool:
        """Whether something after this step looks at the state, the sums or the loss."""
        config = self.config
        every = (config.log_every, config.eval_every, config.checkpoint_every, config.reset_every)
        return density.due(config, self.state.step) or any(map(self._due, every))

    def _due(self, every: int) -> bool:
        return self.state.step % every == 0 or self.state.step == self.config.steps

    def _summary(self) -> dict[str, Any]:
        """What metrics.json says beside the scores; the log takes some of it."""
        step, seconds = self.state.step, self.clock.seconds
        camera = self.scene.views[0].camera
        gpu = (
            {"peak_gpu_memory_mb": mx.get_peak_memory() / 1e6}
            if self.config.backend in ("metal", "cuda")
            else {}
        )
        return {
            "scene": self.scene.name,
            "backend": self.config.backend,
            "steps": step,
            "n_splats": self.state.n_splats,
            "seconds": round(seconds, 3),
            "it_per_s": round(step / seconds, 3) if seconds else 0.0,
            "peak_memory_mb": peak_memory_mb(),
            **gpu,
            "width": camera.width,
            "height": camera.height,
            "undistort": self.scene.undistort,
            "seed": self.config.seed,
            "wall_seconds": round(time.monotonic() - self.began, 3),
        }

    def _watch(self, test: float, train: float) -> None:
        """Warns, once, when the held-out PSNR falls while the training PSNR rises."""
        best, train_at_best = self.counts["best_test"], self.counts["train_at_best"]
        if test > best:
            self.counts |= {"best_test": test, "train_at_best": train}
        elif test < best - OVERFIT_DB and train > train_at_best and not self.counts["warned"]:
            self.counts["warned"] = True
            self.report.message(
                f"warning: over-fitting at step {self.state.step}: held-out PSNR fell from {best:.2f} to "
                f"{test:.2f} dB while training PSNR rose from {train_at_best:.2f} to {train:.2f}; "
                "fewer splats or steps may help"
            )


@contextmanager
def _signals() -> Iterator[list[int]]:
    """A list that Ctrl-C, SIGTERM and a terminal that is closed (SIGHUP, unless nohup has it ignored) add to;
    a second one does what the first would have done before.
    """
    received: list[int] = []

    def note(number: int, frame: Any) -> None:
        if received:
            signal.signal(number, previous[number])
            signal.raise_signal(number)
        received.append(number)

    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    previous: dict[int, Any] = {number: signal.signal(number, note) for number in numbers}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
