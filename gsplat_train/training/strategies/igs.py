# SPDX-License-Identifier: Apache-2.0
"""Density control that looks at edges (Deng et al. 2025, "Improving Densification in 3D Gaussian Splatting for
High-Fidelity Rendering"; https://arxiv.org/abs/2508.12313).

Gaussians that the loss pulls at are candidates; how many of them grow follows a square root up to the cap; which
of them, is drawn in proportion to the edges of the photos that they carry (scores.edges). One that grows is split
in two along its longest axis. Opacities are reset now and then, and what has not recovered some steps later goes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ...config import Config
from ...model.quaternions import rotate
from ...settings import number
from .. import draws
from ..draws import Key
from ..plan import Statistics
from ..rows import Edit, Population
from ..scores import ScoredPopulation, edges
from . import adc, in_parts, in_window, keep_rows, taken

BRINGS: Mapping[str, Any] = {
    "init_opacity": 0.1,
    "init_scale": 1.0,
    "lr_rest_end": 1.0,
}
# A split along the longest axis at `reach` = 0.45 of three standard deviations to either side.
REACH = 0.45
OFFSET = 3 * REACH
LONG, SHORT = math.log(1 - REACH), 0.5 * math.log(1 - REACH**2)
FAINTER = 0.6


@dataclass(frozen=True)
class Settings:
    opacity_reg: float = number(0.0, 0.0)  # times the mean opacity, added to the loss
    scale_reg: float = number(0.0, 0.0)  # times the mean scale, added to the loss
    noise_lr: float = number(0.0, 0.0)  # exploration noise, times the means' learning rate
    refine_start: int = number(500, 0)  # the first step that may refine comes after this
    refine_every: int = number(100, 1)  # steps
    refine_stop: float = number(0.5, 0.0, 1.0)  # of the schedule's horizon
    min_opacity: float = number(0.005, 0.0, 0.5)  # below: pruned
    grow_absgradient: float = number(3e-4, 0.0)  # mean sum of absolute screen gradients above which to grow
    edge_views: int = number(
        10, 0
    )  # whose edges are summed at a refinement; 0: none, all candidates are alike
    reset_every: float = number(0.1, 0.001)  # of the horizon: from one opacity reset to the next
    reset_stop: float = number(0.3, 0.0, 1.0)  # of the horizon: none after it
    reset_opacity: float = number(0.05, 1e-4, 0.999)  # a reset lowers all opacities to this
    recover: int = number(300, 1)  # steps after a reset when the faintest go
    recover_share: float = number(0.2, 0.0, 0.9)  # of the Gaussians: so many go then


class Strategy:
    """Split along edges, prune, reset; see strategies.Strategy."""

    statistics = Statistics.ABSGRADIENTS

    def __init__(self, config: Config) -> None:
        self.config, self.own = config, config.own
        self.period = max(1, round(self.own.reset_every * config.horizon))

    def weights(self, number: int) -> tuple[float, float]:
        return self.own.opacity_reg, self.own.scale_reg

    def noise(self, number: int, rate: float) -> float:
        return float(self.own.noise_lr * rate)

    def due(self, step: int) -> bool:
        return in_window(self.own, self.config, step) or self._resets(step) or self._culls(step)

    def _resets(self, step: int) -> bool:
        return step % self.period == 0 and 0 < step <= self.own.reset_stop * self.config.horizon

    def _culls(self, step: int) -> bool:
        before = step - self.own.recover
        return before > 0 and self._resets(before)

    def budget(self, step: int) -> int:
        """How many Gaussians there may be after step `step`."""
        own, config = self.own, self.config
        last = own.refine_stop * config.horizon - own.refine_every
        share = (step - own.refine_start) / max(last - own.refine_start, 1)
        return round(config.max_splats * math.sqrt(min(max(share, 0.0), 1.0)))

    def refine(self, population: ScoredPopulation, step: int) -> dict[str, int]:
        own = self.own
        parts: dict[str, Callable[[], Any]] = {}
        if in_window(own, self.config, step):
            parts["split"] = lambda: self.grow(population, step)
            parts["pruned"] = lambda: cull(population, own.min_opacity, 0)
        if self._culls(step):
            parts["culled"] = lambda: cull(population, 0.0, int(own.recover_share * population.n))
        if self._resets(step):
            parts["reset"] = lambda: adc.reset_opacities(population, own.reset_opacity)
        done = in_parts(population, parts)
        return {"split": done.get("split", 0), "pruned": done.get("pruned", 0) + done.get("culled", 0)}

    def grow(self, population: ScoredPopulation, step: int) -> int:
        """Splits candidates; how many."""
        xp, n, own = population.xp, population.n, self.own
        pull = population.sums("absgrad_norm") / xp.maximum(population.sums("count"), 1)
        wanted = pull > own.grow_absgradient
        count = min(self.budget(step) - n, int(wanted.sum()))
        if count <= 0:
            return 0
        score = xp.ones_like(pull)
        if own.edge_views:
            score = edge_scores(population, step, own.edge_views)
        key = Key(self.config.seed, step, draws.GROWTH)
        chosen = draws.without_return(xp, xp.where(wanted, xp.maximum(score, 1e-6), 0), count, key)
        parents = draws.positions(xp, chosen, count)
        population.apply(split(population, parents, self.config.max_splats))
        return count


def edge_scores(population: ScoredPopulation, step: int, views: int) -> Any:
    """[N] the edges that a Gaussian carries in some views, each over the mean of those that carry any."""
    xp = population.xp
    total: Any = 0
    for sums in population.pixel_sums(step, views, edges):
        edge = sums[:, 0]
        some = (edge > 0).sum()
        total = total + edge * (some / xp.maximum(edge.sum(), 1e-12))
    return total


def split(population: Population, parents: Any, cap: int) -> Edit:
    """The edit that makes two of each of `parents`, one to either side along its longest axis."""
    xp, n, count = population.xp, population.n, len(parents)
    log_scales = taken(population, "log_scales", parents)
    longest = adc.largest(xp, log_scales)[:, None]
    axis = xp.argmax(log_scales, axis=1)
    unit = (xp.arange(3)[None] == axis[:, None]).astype(xp.float32)
    offset = rotate(taken(population, "quats", parents), OFFSET * xp.exp(longest) * unit, xp)
    means = taken(population, "means", parents)
    smaller = log_scales + unit * LONG + (1 - unit) * SHORT
    opacity = FAINTER / (1 + xp.exp(-taken(population, "logit_opacities", parents)))
    logits = xp.log(opacity) - xp.log1p(-opacity)
    rows = xp.arange(n + count).astype(xp.int32)
    columns = {
        "means": xp.concatenate([means - offset, means + offset]),
        "log_scales": xp.concatenate([smaller, smaller]),
        "logit_opacities": xp.concatenate([logits, logits]),
    }
    source = xp.concatenate([rows[:n], parents])
    return Edit(source, xp.concatenate([parents, rows[n:]]), columns, most=cap)


def cull(population: Population, min_opacity: float, faintest: int) -> int:
    """Removes what is below `min_opacity`, or the `faintest` Gaussians; how many went."""
    xp, n = population.xp, population.n
    logits = population.column("logit_opacities")
    if faintest:
        keep = ~draws.strongest(xp, 1 / (1 + xp.exp(logits)), faintest)
    else:
        keep = logits >= draws.logit_of(min_opacity)
    if bool(keep.any()) and not bool(keep.all()):
        keep_rows(population, keep)
    return n - population.n
