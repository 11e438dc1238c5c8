# SPDX-License-Identifier: Apache-2.0
"""The speed of a machine, measured on a training that is thrown away: some steps with the splats of the start, some
with as many as the end will have, an evaluation, refinements, a file written.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from .. import lengths
from ..config import Config, value_of
from ..errors import TrainingDiverged
from ..scene import Scene
from ..storage import storage
from . import draws, strategies
from .forecast import USUAL
from .photos import ViewSampler
from .report import Report
from .run_costs import MOST_STEPS, Costs, growth, steps_within
from .run_folder import RunFolder
from .strategies import mcmc
from .trainer import Trainer

SHARE = 0.03  # of the budget, for the trial at the first of its two sizes; twice that at the second
TRAINED = 300  # steps after which splats have about the size that they keep, and steps their cost
CHUNK = 48  # steps between two looks at the clock: each costs a GPU its lead
VIEWS = 16  # looked at, again and again
REFINED = 2  # refinements of a kind that are timed
DOUBLE = 1.0  # growth of the trial, a refinement
WRITTEN = 32 << 20  # bytes, to time the disk


def follows(config: Config) -> dict[str, Any]:
    """The settings that follow the number of steps."""
    values = {name: value_of(config, name) for name in lengths.NAMES}
    return {name: value for name, value in values.items() if value is not None}


class _Still:
    """A strategy that is never due."""

    def __init__(self, strategy: strategies.Strategy) -> None:
        self.strategy = strategy

    def __getattr__(self, name: str) -> Any:
        return getattr(self.strategy, name)

    def due(self, step: int) -> bool:
        return False


class Trial:
    """A training that is thrown away. Its steps are a run's, with all that goes along with them: where splats are few,
    a GPU waits for that. fitting: the settings of a run of so many steps.
    """

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
        self.dues = self.trainer.forecast.dues
        self._keep_going(config)

    def _keep_going(self, config: Config) -> None:
        """Nothing is to happen between the steps but lines of the log, and all are at full size and degree."""
        trainer = self.trainer
        never = MOST_STEPS
        trainer.config = replace(
            trainer.config, steps=never, schedule_steps=never, eval_every=never, checkpoint_every=never
        )
        trainer.strategy = _Still(trainer.strategy)
        trainer.sampler = ViewSampler(self.views, config.seed, batch=min(config.batch, len(self.views)))
        plan = trainer.schedule.at
        trainer.schedule.at = lambda number, views=1: replace(  # type: ignore[method-assign]
            plan(number, views), sh_degree=config.sh_degree
        )
        if trainer.ahead is not None:
            trainer.ahead.close()
            trainer.ahead = None

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
        evaluation, refinements = self._evaluation(), self._refinements()
        costs = Costs((float(n), first), last, touch, evaluation, byte, self.start, **refinements)
        self.tell("measuring speed", 3, 3)
        return costs, n, self.pixels, self._row_bytes()

    def _steps(self, count: int) -> float:
        """Seconds that so many views take."""
        trainer, before = self.trainer, self.trainer.step
        began = time.monotonic()
        try:
            while trainer.step < before + count:
                trainer._one_step()
            finite = trainer.stepper.result().is_finite
        except TrainingDiverged:
            finite = False
        if not finite:
            raise TrainingDiverged(
                "training diverged: loss, gradient or state not finite while the speed was measured for the time "
                f"budget; try --set lr_means={self.config.lr_means / 4:g}"
            )
        return (time.monotonic() - began) * count / (trainer.step - before)

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

    def _refinements(self) -> dict[str, Any]:
        """Seconds of a refinement, and of one that looks at photos before: the mean of a few each, that lie evenly; the
        first compiles.
        """
        views = len(self.trainer.views)
        weighs = getattr(self.trainer.strategy, "weighs", lambda step, views: False)
        kinds: dict[bool, list[int]] = {False: [], True: []}
        for due in map(int, self.dues):
            kinds[bool(weighs(due, views))].append(due)
        self._refined(kinds[False][:1])
        plain, weighing = (
            self._refined(dues[:: max(len(dues) // REFINED, 1)][:REFINED]) for dues in kinds.values()
        )
        return {"refinement": plain, "weighing": weighing or plain, "views": views}

    def _refined(self, dues: list[int]) -> float:
        """Seconds of a refinement, the mean over those due after these steps; of the first alone where it is long."""
        took: list[float] = []
        for number in dues:
            began = time.monotonic()
            self.trainer.counts["refinements_due"] = [number]
            self.trainer._refine_due()
            took.append(time.monotonic() - began)
            if sum(took) > SHARE * self.budget:
                break
        return sum(took) / max(len(took), 1)

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
