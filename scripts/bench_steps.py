# SPDX-License-Identifier: Apache-2.0
"""Training steps to be timed: without density control, at SH degree 3."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import mlx.core as mx
import numpy as np

from gsplat_train import backends
from gsplat_train.config import Config
from gsplat_train.model.gaussians import Gaussians
from gsplat_train.scene import View
from gsplat_train.training.objective import Objective
from gsplat_train.training.plan import StepPlan, learning_rates
from gsplat_train.training.protocol import Stepper
from gsplat_train.training.rows import TrainState, start
from gsplat_train.training.stepper import make_stepper


class Training:
    """A backend's training of one state, which can start again where `warm_up` steps had brought it."""

    def __init__(
        self, name: str, gaussians: Gaussians, views: Any, seed: int, warm_up: int, restarts: bool = True
    ) -> None:
        self.backend: Any = backends.load(name)
        self.views, self.seed = views, seed
        self.stepper = make_stepper(self.backend, start(gaussians), Objective())
        self.counted: dict[str, list[float]] = {}
        self.step = one_step(self.stepper, endless(views, seed))
        for _ in range(warm_up):
            self.step()
        state = self.state
        trees = (state.gaussians, state.m, state.v) if restarts else ()
        self.kept = state.step, [[np.array(leaf) for leaf in tree] for tree in trees]
        self.clear()

    @property
    def state(self) -> TrainState:
        """As it is now."""
        return self.stepper.look()

    def restart(self) -> None:
        """Puts the kept state in place of the present one; what the stepper knows of the photos stays."""
        state = self.state
        state.step, trees = self.kept
        state.gaussians, state.m, state.v = (Gaussians(*map(mx.array, tree)) for tree in trees)
        mx.eval(state.gaussians, state.m, state.v)
        self.step = one_step(self.stepper, endless(self.views, self.seed + 1))
        self.clear()

    def clear(self) -> None:
        if hasattr(self.backend, "statistics"):
            self.backend.statistics(reset=True)

    def count(self) -> None:
        """After a step: keeps what the backend counted in it."""
        if hasattr(self.backend, "statistics"):
            for name, value in self.backend.statistics(reset=True).items():
                self.counted.setdefault(name, []).append(value)

    def counts(self) -> dict[str, float]:
        """Medians over the steps that were counted; of intersections the mean."""
        centre = {name: statistics.median(values) for name, values in self.counted.items()}
        if "intersections" in centre:
            centre["intersections"] = statistics.fmean(self.counted["intersections"])
        return centre


def one_step(stepper: Stepper, views: Iterator[View]) -> Callable[[], None]:
    """One training step a call, waited for."""
    config = Config()

    def step() -> None:
        stepper.take(next(views), plain_plan(config, stepper.step + 1))
        stepper.result()

    return step


def plain_plan(config: Config, number: int) -> StepPlan:
    """Step `number` at the rates of `config`, before a black background: no noise, no regularisers, no sums."""
    rates = tuple(learning_rates(config, number - 1).values())
    return StepPlan(number, rates, sh_degree=3, ssim_lambda=config.ssim_lambda)


def time_in_turn(
    steps: dict[str, Callable[[], None]],
    warm_up: int,
    count: int,
    after: Callable[[str], None] = lambda name: None,
) -> dict[str, list[float]]:
    """Milliseconds of `count` calls of each after `warm_up` calls, ten of one and ten of the other in turn.
    `after` is called after each and not timed."""
    for step in steps.values():
        for _ in range(warm_up):
            step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    while min(map(len, times.values())) < count:
        for name, step in steps.items():
            for _ in range(min(10, count - len(times[name]))):
                start = time.perf_counter()
                step()
                times[name].append(1e3 * (time.perf_counter() - start))
                after(name)
    return times


def endless(views: Any, seed: int) -> Iterator[View]:
    rng = np.random.default_rng(seed)
    while True:
        for i in rng.permutation(len(views)):
            yield views[i]
