# SPDX-License-Identifier: Apache-2.0
"""A time budget becomes a number of steps, once, before the first step: the run is then one of `--steps N`.

The speed is measured on a trial (trial.py). The steps are those whose cost, with the growth that the settings foretell,
fills what is left of the budget (run_costs.py). A run that its machine slows down ends before them; resumed, it takes
all.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace

import mlx.core as mx

from ..config import Config, changed
from ..scene import Scene
from .run_costs import END, growth, steps_within, total
from .run_folder import RunFolder
from .trial import Trial, follows

LEAST_STEPS = 100  # a run of fewer is none; the budget is then broken, and that is said
MISSED = 0.1  # of the budget: a run that would miss it by more ends before its last step, and says so


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

    trial = Trial(config, scene, budget, tell, fitting)
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
