# SPDX-License-Identifier: Apache-2.0
"""How long a run will still take, while its splats grow and its photos do.

A step costs seconds in proportion to pixels + r * splats, where r depends on the machine; both numbers are known
or can be foretold for the steps to come. What lies between the steps (evaluations, checkpoints) is added as it was.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ..config import Config
from .strategies import Strategy

# r: what a splat costs, in pixels. Processors are near 4, GPUs near 1; the run itself tells which, once it has grown.
RATIOS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
USUAL = 3.0
DOUBT = 0.004  # how much of the error a ratio must explain for each doubling away from USUAL
RECENT = 0.08  # of the steps done: the speed of these counts
LEAST = 3  # records before anything is foretold
SAMPLES = 200  # steps ahead that are looked at


class _Seen(NamedTuple):
    step: int
    seconds: float  # of training, to this step
    n: int


class Forecast:
    """Gets every record of the log; tells what is left.

    pixels: of a training photo, the mean.
    """

    def __init__(self, config: Config, strategy: Strategy, pixels: float) -> None:
        self.config, self.strategy, self.pixels = config, strategy, pixels
        self.seen: list[_Seen] = []
        self.dues = np.array([step for step in range(1, config.steps + 1) if strategy.due(step)], int)
        self.other = 0.0  # seconds between steps, so far
        self.rests = 0  # evaluations they belong to

    def add(self, step: int, seconds: float, n: int, wall: float, measured: bool) -> None:
        """seconds of training to `step`, which has `n` splats; wall: all seconds since the first step."""
        if self.seen and self.seen[-1].step >= step:
            return
        self.seen.append(_Seen(step, seconds, n))
        self.other = max(wall - seconds, 0.0)
        self.rests += measured

    def left(self) -> float | None:
        """Seconds to the end; None while too little is known."""
        if len(self.seen) < LEAST:
            return None
        now = self.seen[-1]
        steps = self.config.steps
        if now.step >= steps:
            return 0.0
        ratio = self._ratio()
        ahead = np.unique(np.linspace(now.step, steps, SAMPLES).astype(int))
        work = self._work(ahead, self.splats(ahead), ratio)
        total = float(np.sum((work[1:] + work[:-1]) / 2 * np.diff(ahead)))
        rests = math.ceil(steps / self.config.eval_every) - math.ceil(now.step / self.config.eval_every)
        each = self.other / self.rests if self.rests else 0.0
        return total * self._speed(ratio) + each * max(rests, 0)

    def splats(self, steps: np.ndarray) -> np.ndarray:
        """How many there will be after each of `steps`, which rise."""
        now, own = self.seen[-1], self.config.own
        dues = self._dues(now.step, int(steps[-1]))
        counts, n = np.empty(len(dues)), float(now.n)
        grown = self._growth()
        for i in range(len(dues)):
            n = n * (1 + own.grow_rate) if hasattr(own, "grow_rate") else n + grown
            n = counts[i] = min(max(n, 1.0), max(self.config.max_splats, now.n))
        return np.concatenate([[now.n], counts])[np.searchsorted(dues, steps, side="right")]

    def _growth(self) -> float:
        """Splats that a refinement has added of late, where the settings do not say."""
        since = self.seen[-1].step * (1 - 2 * RECENT)
        window = [seen for seen in self.seen if seen.step >= since]
        first, last = window[0], window[-1]
        dues = len(self._dues(first.step, last.step))
        return (last.n - first.n) / dues if dues else 0.0

    def _dues(self, after: int, last: int) -> np.ndarray:
        """The steps after `after`, to `last`, that a refinement follows."""
        begin, end = np.searchsorted(self.dues, [after, last], side="right")
        return self.dues[begin:end]

    def _work(self, steps: np.ndarray, n: np.ndarray, ratio: float | np.ndarray) -> np.ndarray:
        """What steps cost, in pixels; of ratios [R, 1] a row each."""
        level = np.maximum(self.config.downscales - steps // self.config.downscale_every, 0)
        return (
            self.pixels * 0.25**level + ratio * n * 0.5**level
        )  # a splat covers fewer tiles of a small photo

    def _parts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """(first step, steps, seconds, splats) between records; the first, which compiles, is left out."""
        steps = np.array([seen.step for seen in self.seen[1:]])
        seconds = np.array([seen.seconds for seen in self.seen[1:]])
        n = np.array([seen.n for seen in self.seen[1:]], np.float64)
        if len(steps) < 2:
            steps = np.array([seen.step for seen in self.seen])
            seconds = np.array([seen.seconds for seen in self.seen])
            n = np.array([seen.n for seen in self.seen], np.float64)
        return steps[:-1], np.diff(steps), np.diff(seconds), (n[1:] + n[:-1]) / 2

    def _speed(self, ratio: float) -> float:
        """Seconds a pixel of work, of late."""
        first, count, seconds, n = self._parts()
        recent = first >= (1 - RECENT) * self.seen[-1].step
        recent[-min(len(recent), LEAST) :] = True
        work = self._work(first, n, ratio) * count
        return float(seconds[recent].sum() / work[recent].sum())

    def _ratio(self) -> float:
        """The ratio that explains the seconds best, in sixteen groups of the run so far."""
        first, count, seconds, n = self._parts()
        groups = min(16, len(first))
        begins = (np.arange(groups) * len(first)) // groups
        ratios = np.array(RATIOS)[:, None]
        work = np.add.reduceat(self._work(first, n, ratios) * count, begins, axis=1)
        rates = np.log(np.maximum(np.add.reduceat(seconds, begins), 1e-9) / work)
        errors = rates.var(axis=1) + DOUBT * np.log2(ratios[:, 0] / USUAL) ** 2
        return RATIOS[int(np.argmin(errors))]
