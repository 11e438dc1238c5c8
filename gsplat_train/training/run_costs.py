# SPDX-License-Identifier: Apache-2.0
"""What a run costs on this machine, and how many steps a time allows: costs of its parts, times how often each is."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from ..config import Config
from . import strategies
from .forecast import USUAL, Forecast

# Splats that grew in a run cost more than those of the trial: 0.1 to 0.2 on the built-in scene and Fern, 0.4 on plush.
LATER = 0.25
MOST_STEPS = 100_000_000
END = 4 / 3  # of a checkpoint's bytes: what the end of a run writes, the last one and the model


@dataclass(frozen=True)
class Costs:
    """What things cost on this machine, in seconds."""

    first: tuple[float, float]  # splats, and a step with so many, at full size
    last: tuple[float, float]
    touch: float = 0.0  # all views, each for the first time
    evaluation: float = 0.0
    byte: float = 0.0  # written
    start: float = 0.0  # from the photos to the first step
    refinement: float = 0.0
    weighing: float = 0.0  # a refinement before which photos are looked at
    views: int = 0  # to train on

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
    ahead, counts, dues = growth(config, steps, n, pixels)
    refinements = refining(replace(config, steps=steps, schedule_steps=steps), costs, dues)
    halvings = np.maximum(config.downscales - ahead // config.downscale_every, 0)
    each = costs.steps(pixels, counts, halvings)
    evaluations = math.ceil(steps / config.eval_every) if config.eval else 1
    saved = counts[np.searchsorted(ahead, np.arange(config.checkpoint_every, steps, config.checkpoint_every))]
    written = costs.byte * row_bytes * (float(saved.sum()) + END * float(counts[-1]))
    going = float(np.sum((each[1:] + each[:-1]) / 2 * np.diff(ahead))) if steps > 1 else float(each[0])
    between = evaluations * costs.evaluation + refinements + written
    return costs.start + costs.touch + going + between


def refining(config: Config, costs: Costs, dues: np.ndarray) -> float:
    """Seconds of the refinements after these steps."""
    weighs = getattr(strategies.load(config), "weighs", None)
    weighings = sum(weighs(int(step), costs.views) for step in dues) if weighs is not None else 0
    return (len(dues) - weighings) * costs.refinement + weighings * costs.weighing


def growth(config: Config, steps: int, n: int, pixels: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(steps, splats after each, steps before refinements) along a run of so many steps. A strategy whose growth its
    settings do not tell is taken to reach the cap when it ends refining: the run ends early rather than late.
    """
    config = replace(config, steps=steps, schedule_steps=steps)
    forecast = Forecast(config, strategies.load(config), pixels)
    forecast.add(0, 0.0, n, 0.0, False)
    ahead = np.unique(np.linspace(0, steps, 400).astype(int))
    if hasattr(config.own, "grow_rate"):
        counts = forecast.splats(ahead)
    elif not hasattr(config.own, "refine_stop"):
        counts = np.full(len(ahead), float(n))
    else:
        done = np.minimum(ahead / max(config.own.refine_stop * steps, 1), 1)
        counts = n + done * max(config.max_splats - n, 0)
    return ahead, counts, forecast.dues
