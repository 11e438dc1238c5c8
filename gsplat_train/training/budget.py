# SPDX-License-Identifier: Apache-2.0
"""A time budget becomes a number of steps, once, before the first step: the run is then one of `--steps N`.

The speed is measured on a trial that is thrown away: some steps with the splats of the start, some with as many as
the end will have, an evaluation, a file written. The steps are those whose cost, with the growth that the settings
foretell, fills what is left of the budget. A run that its machine slows down ends before them; resumed, it takes all.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx
import numpy as np

from .. import lengths
from ..config import Config, changed, value_of
from ..errors import TrainingDiverged
from ..scene import Scene
from ..storage import storage
from . import draws, strategies
from .forecast import USUAL, Forecast
from .report import Report
from .run_folder import RunFolder
from .strategies import mcmc
from .trainer import Trainer

SHARE = 0.03  # of the budget, for the trial at the first of its two sizes; twice that at the second
TRAINED = 300  # steps after which splats have about the size that they keep, and steps their cost
LATER = 0.15  # splats that grew in a run cost more than those of the trial: 0.1 to 0.2 on the built-in scene and Fern
CHUNK = 48  # steps between two looks at the clock: each costs a GPU its lead
VIEWS = 16  # looked at, again and again
LEAST_STEPS = 100  # a run of fewer is none; the budget is then broken, and that is said
MOST_STEPS = 100_000_000
DOUBLE = 1.0  # growth of the trial, a refinement
END = 4 / 3  # of a checkpoint's bytes: what the end of a run writes, the last one and the model
WRITTEN = 32 << 20  # bytes, to time the disk
MISSED = 0.1  # of the budget: a run that would miss it by more ends before its last step, and says so


@dataclass(frozen=True)
class Costs:
    """What things cost on this machine, in seconds."""

    first: tuple[float, float]  # splats, and a step with so many, at full size
    last: tuple[float, float]
    touch: float = 0.0  # all views, each for the first time
    evaluation: float = 0.0
    byte: float = 0.0  # written
    start: float = 0.0  # from the photos to the first step

    def steps(self, pixels: float, n: np.ndarray, halvings: np.ndarray) -> np.ndarray:
        """Steps with `n` splats at photos halved so often: what pixels cost, and what splats cost."""
        (n0, s0), (n1, s1) = self.first, self.last
        if n1 > 1.2 * n0:
            splat = min(max((s1 - s0) / (n1 - n0), 0.0), s1 / n1)
            s1, splat = s1 + LATER * splat * n1, (1 + LATER) * splat
        else:
            splat = USUAL * s0 / (pixels + USUAL * n0)
        rest = max(s1 - splat * n1, 0.0)
        return rest * 0.25**halvings + splat * n * 0.5**halvings


def steps_within(config: Config, costs: Costs, n: int, pixels: float, row_bytes: int, left: float) -> int:
    """The steps that `left` seconds allow, from `n` splats; at least 1."""
    fits, over, steps = 1, MOST_STEPS, min(config.steps, 1000)
    while over - fits > max(fits // 250, 1):
        cost = total(config, costs, steps, n, pixels, row_bytes)
        fits, over = (steps, over) if cost <= left else (fits, steps)
        if over == MOST_STEPS or fits == 1:  # on one side as yet: by the rule of three, a little beyond
            ratio = left / max(cost, 1e-9)
            steps = int(steps * min(max(ratio * (1.1 if ratio > 1 else 0.9), 0.05), 20))
            steps = min(max(steps, fits + 1), over - 1)
        else:
            steps = (fits + over) // 2
    return fits


def total(config: Config, costs: Costs, steps: int, n: int, pixels: float, row_bytes: int) -> float:
    """Seconds that a run of so many steps takes, from `n` splats, after its photos are loaded."""
    ahead, counts = growth(config, steps, n, pixels)
    halvings = np.maximum(config.downscales - ahead // config.downscale_every, 0)
    each = costs.steps(pixels, counts, halvings)
    evaluations = math.ceil(steps / config.eval_every) if config.eval else 1
    saved = counts[np.searchsorted(ahead, np.arange(config.checkpoint_every, steps, config.checkpoint_every))]
    written = costs.byte * row_bytes * (float(saved.sum()) + END * float(counts[-1]))
    going = float(np.sum((each[1:] + each[:-1]) / 2 * np.diff(ahead))) if steps > 1 else float(each[0])
    return costs.start + costs.touch + going + evaluations * costs.evaluation + written


def growth(config: Config, steps: int, n: int, pixels: float) -> tuple[np.ndarray, np.ndarray]:
    """(steps, splats after each) along a run of so many steps. A strategy whose growth its settings do not tell
    is taken to reach the cap when it ends refining: the run ends early rather than late.
    """
    config = replace(config, steps=steps, schedule_steps=steps)
    forecast = Forecast(config, strategies.load(config), pixels)
    forecast.add(0, 0.0, n, 0.0, False)
    ahead = np.unique(np.linspace(0, steps, 400).astype(int))
    if hasattr(config.own, "grow_rate"):
        return ahead, forecast.splats(ahead)
    if not hasattr(config.own, "refine_stop"):
        return ahead, np.full(len(ahead), float(n))
    done = np.minimum(ahead / max(config.own.refine_stop * steps, 1), 1)
    return ahead, n + done * max(config.max_splats - n, 0)


def settled(
    config: Config,
    scene: Scene,
    run: RunFolder | None,
    started: float,
    say: Callable[[str], None],
    tell: Callable[[str, int, int], None] = lambda what, done, total: None,
    of_steps: Callable[[int], Config] | None = None,
) -> tuple[Config, float]:
    """(`config` with the steps, and the horizon of the schedules, that fit config.time_budget, by when the steps are to
    be done, on time.monotonic()); (itself, infinity) where there is no budget, or where they are settled.

    started: time.monotonic() when the time began to count. of_steps: the settings of a run of so many steps, where
    some follow their number (lengths.NAMES). config.backend names a backend.
    """
    budget = config.time_budget
    if not budget or config.schedule_steps:
        return config, math.inf

    def fitting(steps: int) -> Config:
        made = config if of_steps is None else changed(config, follows(of_steps(steps)))
        return replace(made, steps=steps, schedule_steps=steps)

    trial = _Trial(config, scene, budget, tell, fitting)
    costs, n, pixels, row_bytes = trial.measured(run, budget - (time.monotonic() - started))
    trial.end()
    del trial
    mx.clear_cache()
    spent = time.monotonic() - started
    steps = steps_within(config, costs, n, pixels, row_bytes, budget - spent)
    fast = f"{1e3 * costs.first[1]:.1f} ms a step with {n:,} splats"
    if costs.last[0] > n:
        fast += f", {1e3 * costs.last[1]:.1f} ms with {round(costs.last[0]):,}"
    if steps < LEAST_STEPS:
        steps = LEAST_STEPS
        more = spent + total(config, costs, steps, n, pixels, row_bytes)
        say(
            f"warning: a time budget of {budget:g} s is too short here ({fast}; loading and measuring took "
            f"{spent:.1f} s): {steps} steps are taken, in about {more:.0f} s"
        )
        return fitting(steps), math.inf
    say(f"time budget {budget:g} s: {fast}; {steps:,} steps")
    last = float(growth(config, steps, n, pixels)[1][-1])
    end = costs.evaluation + costs.byte * row_bytes * END * last  # after the last step
    return fitting(steps), started + (1 + MISSED) * budget - end


def follows(config: Config) -> dict[str, Any]:
    """The settings that follow the number of steps."""
    values = {name: value_of(config, name) for name in lengths.NAMES}
    return {name: value for name, value in values.items() if value is not None}


class _Trial:
    """A training that is thrown away."""

    def __init__(
        self,
        config: Config,
        scene: Scene,
        budget: float,
        tell: Callable[[str, int, int], None],
        fitting: Callable[[int], Config],
    ) -> None:
        self.scene, self.budget, self.tell, self.fitting = scene, budget, tell, fitting
        self._begin(fitting(config.steps))

    def _begin(self, config: Config) -> None:
        began = time.monotonic()
        self.config = config
        self.trainer = Trainer(config, self.scene, None, [Report()])
        self.start = time.monotonic() - began
        self.pixels = self.trainer.forecast.pixels
        self.views = self.trainer.views[:: math.ceil(len(self.trainer.views) / VIEWS)]
        self.number = 0

    def end(self) -> None:
        """Ends its threads."""
        self.trainer.close()

    def measured(self, run: RunFolder | None, left: float) -> tuple[Costs, int, float, int]:
        """(costs, splats at the start, pixels of a photo, bytes of a splat in a checkpoint)."""
        n = self.trainer.n_splats
        self.tell("measuring speed", 0, 3)
        self._steps(1)  # compiles
        touched = self._steps(len(self.views))
        first = self._steps(len(self.views)) / len(self.views)
        guess = Costs((n, first), (n, first))
        steps = steps_within(self.config, guess, n, self.pixels, 0, max(left, 1.0))
        if follows(fitted := self.fitting(steps)) != follows(self.config):  # larger splats, for example
            self.end()
            self._begin(fitted)
            self._steps(len(self.views))
        trainer = self.trainer
        first = self._speed(SHARE, TRAINED, first)
        touch = max(touched - len(self.views) * first, 0.0) * len(trainer.views) / len(self.views)
        self.tell("measuring speed", 1, 3)
        likely = Costs((n, first), (n, first), touch)
        end = float(n)
        for _ in range(2):  # as many as there will be at the end
            steps = steps_within(self.config, likely, n, self.pixels, 0, max(left, 1.0))
            end = float(growth(self.config, steps, n, self.pixels)[1][-1])
            likely = Costs((n, first), (end, first * (self.pixels + USUAL * end) / (self.pixels + USUAL * n)))
        last = (float(n), first)
        if end > 1.2 * n:
            self._grow(math.ceil(end))
            each = likely.last[1]
            last = (float(trainer.n_splats), self._speed(2 * SHARE, TRAINED, each))
        else:
            first = self._speed(2 * SHARE, TRAINED, first)
            last = (float(n), first)
        self.tell("measuring speed", 2, 3)
        byte = 0.0 if run is None else _byte(run)
        costs = Costs((float(n), first), last, touch, self._evaluation(), byte, self.start)
        self.tell("measuring speed", 3, 3)
        return costs, n, self.pixels, self._row_bytes()

    def _steps(self, count: int) -> float:
        """Seconds that so many views take."""
        trainer, batch, done = self.trainer, self.config.batch, 0
        began = time.monotonic()
        while done < count:
            first, *more = (self.views[(self.number + i) % len(self.views)] for i in range(batch))
            plan = trainer.schedule.at(trainer.step + batch, batch)
            trainer.stepper.take(first, replace(plan, sh_degree=self.config.sh_degree), *more)
            self.number, done = self.number + batch, done + batch
        if not trainer.stepper.result().is_finite:
            raise TrainingDiverged(
                "training diverged: loss, gradient or state not finite while the speed was measured for the time "
                f"budget; try --set lr_means={self.config.lr_means / 4:g}"
            )
        return (time.monotonic() - began) * count / done

    def _speed(self, share: float, most: int, each: float) -> float:
        """Seconds a step, the mean over the last of so many steps or of that share of the budget, whichever ends
        first: splats that were hardly trained are smaller, and cheaper. each: what a step may cost.
        """
        seconds = share * self.budget
        chunk = int(min(max(seconds / 8 / max(each, 1e-9), 2), CHUNK))
        took: list[float] = []
        while len(took) < 2 or (sum(took) < seconds and len(took) * chunk < most):
            took.append(self._steps(chunk))
        last = took[-max(len(took) // 3, 1) :]
        return sum(last) / (len(last) * chunk)

    def _grow(self, n: int) -> None:
        """To `n` splats, with a few steps at each size so that the new ones move apart."""
        trainer = self.trainer
        while trainer.n_splats < n:
            key = draws.Key(self.config.seed, trainer.step, draws.GROWTH)
            before = trainer.n_splats
            trainer.stepper.refine(lambda rows, key=key: mcmc.grow(rows, DOUBLE, n, 0.005, key))  # type: ignore[misc]
            if trainer.n_splats == before:
                return
            self._steps(len(self.views))

    def _evaluation(self) -> float:
        """Seconds of an evaluation, from that of a few of its views."""
        trainer = self.trainer
        test, train = trainer.test_views, trainer.train_views
        wanted = self.config.eval_train_views or len(train)
        whole = len(test) + min(wanted, len(train))
        trainer.test_views, trainer.train_views = test[:4], train[:4]
        part = len(test[:4]) + min(wanted, len(train[:4]))
        trainer.evaluation.run()  # decodes, compiles
        began = time.monotonic()
        trainer.evaluation.run()
        return (time.monotonic() - began) * whole / max(part, 1)

    def _row_bytes(self) -> int:
        """Of a splat: parameters, and both moments."""
        look = self.trainer.stepper.look().gaussians
        return int(3 * sum(leaf.nbytes for leaf in look) / max(self.trainer.n_splats, 1))


def _byte(run: RunFolder) -> float:
    """Seconds that a byte of a file takes to be on the run's disk."""
    run.make()
    path = run.root / f".speed.{os.getpid()}.tmp"
    began = time.monotonic()
    with storage(path):
        try:
            with open(path, "wb") as file:
                file.write(bytes(WRITTEN))
                file.flush()
                os.fsync(file.fileno())
        finally:
            path.unlink(missing_ok=True)
    return (time.monotonic() - began) / WRITTEN
