# SPDX-License-Identifier: Apache-2.0
"""Adaptive density control: Gaussians grow where the loss pulls at them (Kerbl et al. 2023, section 5.2).

Where the mean screen-space gradient exceeds a threshold a small Gaussian is duplicated and a large one is
split into two. Transparent Gaussians, and huge ones once an opacity reset has passed, are pruned. A reset
lowers all opacities now and then, so that what is not needed fades away. With `absgrad` the sum of the
pixels' absolute gradients is compared instead of the gradient, in which opposite pulls cancel (Ye et al.
2024, "AbsGS").
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ...config import Config
from ...errors import TrainingDiverged
from ...model.quaternions import rotate
from ...settings import number
from .. import draws
from ..draws import Key
from ..plan import EXTENT, Statistics
from ..rows import Edit, Population
from . import in_parts, in_window, keep_rows, taken

PARTS = 2  # a split Gaussian becomes this many
BRINGS: Mapping[str, Any] = {
    "init_opacity": 0.1,  # 3DGS: splats start faint, and grow where the gradient asks for it
    "lr_means_end": 1.6e-6,  # 3DGS
    "lr_rest_end": 1.0,  # 3DGS
    "init_scale": 1.0,  # 3DGS: splats start as large as the gaps between the points
}


@dataclass(frozen=True)
class Settings:
    opacity_reg: float = number(0.0, 0.0)  # 3DGS has none: resets keep opacities down
    scale_reg: float = number(0.0, 0.0)  # 3DGS has none: pruning removes what is huge
    noise_lr: float = number(0.0, 0.0)  # 3DGS explores by growing, not by noise
    refine_start: int = number(500, 0)  # the first step that may refine comes after this [3DGS]
    refine_every: int = number(100, 1)  # steps [3DGS]
    refine_stop: float = number(0.5, 0.0, 1.0)  # of the schedule's horizon: 15,000 of 30,000 [3DGS]
    min_opacity: float = number(0.005, 0.0, 0.5)  # below: pruned [3DGS]
    grow_gradient: float = number(2e-4, 0.0)  # mean screen-space gradient above which to grow [3DGS]
    absgrad: bool = False  # compare the sum of absolute per-pixel gradients instead [AbsGS]
    grow_absgradient: float = number(8e-4, 0.0)  # its threshold [gsplat]
    split_scale: float = number(0.01, 0.0)  # largest scale, of the extent, above which to split [3DGS]
    split_shrink: float = number(1.6, 1.0)  # the parts of a split have the scales divided by this [3DGS]
    prune_scale: float = number(0.1, 0.0)  # prune above this scale, of the extent, after a reset [3DGS]
    reset_every: int = number(3000, 1)  # steps from one opacity reset to the next [3DGS]
    reset_opacity: float = number(0.01, 1e-4, 0.999)  # a reset lowers all opacities to this [3DGS]


class Strategy:
    """Duplicate, split, prune, reset; see strategies.Strategy."""

    def __init__(self, config: Config) -> None:
        self.config, self.own = config, config.own
        self.statistics = Statistics.ABSGRADIENTS if self.own.absgrad else Statistics.GRADIENTS

    def weights(self, number: int) -> tuple[float, float]:
        return self.own.opacity_reg, self.own.scale_reg

    def noise(self, number: int, rate: float) -> float:
        return float(self.own.noise_lr * rate)

    def due(self, step: int) -> bool:
        return in_window(self.own, self.config, step) or self._resets(step)

    def _resets(self, step: int) -> bool:
        return step % self.own.reset_every == 0 and step < self.own.refine_stop * self.config.horizon

    def refine(self, population: Population, step: int) -> dict[str, int]:
        """Grows and prunes when the step is due; resets when that is due."""
        parts: dict[str, Callable[[], Any]] = {}
        if in_window(self.own, self.config, step):
            key, most = Key(self.config.seed, step, draws.SPLIT), self.config.max_splats
            parts["grown"] = lambda: grow(population, self.mean_gradients(population), self.own, most, key)
            parts["pruned"] = lambda: prune(population, self.own, step)
        if self._resets(step):
            parts["reset"] = lambda: reset_opacities(population, self.own.reset_opacity)
        done = in_parts(population, parts)
        return {**(done.get("grown") or {}), **(done.get("pruned") or {})}

    def mean_gradients(self, population: Population) -> Any:
        """[N] the statistic over its threshold, as the mean over the steps that saw the Gaussian."""
        seen = population.xp.maximum(population.sums("count"), 1)
        if self.own.absgrad:
            return population.sums("absgrad_norm") / seen / max(self.own.grow_absgradient, 1e-30)
        return population.sums("means2d_norm") / seen / max(self.own.grow_gradient, 1e-30)


def grow(population: Population, pull: Any, own: Settings, cap: int, key: Key) -> dict[str, int]:
    """Duplicates or splits where `pull` [N] exceeds 1, the strongest first where the cap leaves room for some
    only. Copies are appended; of a split Gaussian's parts, whose means are drawn from it, one takes its row.
    """
    xp, n = population.xp, population.n
    chosen = pull > 1
    count, room = int(chosen.sum()), max(cap - n, 0)
    if count > room:  # each adds one row
        chosen, count = draws.strongest(xp, pull, room), room
    if not count:
        return {"duplicated": 0, "split": 0}
    index = draws.positions(xp, chosen, count)
    large = largest(xp, taken(population, "log_scales", index)) > log_of(own.split_scale * EXTENT)
    split = int(large.sum())
    copied = draws.rows_of(xp, index, draws.positions(xp, ~large, count - split))
    parents = draws.rows_of(xp, index, draws.positions(xp, large, split))
    rows = xp.arange(n + count).astype(xp.int32)
    source = xp.concatenate([rows[:n], copied, parents])
    new = xp.concatenate([rows[n : n + count - split], parents, rows[n + count - split :]])
    origin = draws.rows_of(xp, source, new)
    means, log_scales = (taken(population, name, origin) for name in ("means", "log_scales"))
    if split:
        alone = count - split
        axes = draws.normals(xp, PARTS * split, key) * xp.exp(log_scales[alone:])
        parts = means[alone:] + rotate(taken(population, "quats", origin[alone:]), axes, xp)
        means = xp.concatenate([means[:alone], parts])
        small = log_scales[alone:] - math.log(own.split_shrink)
        log_scales = xp.concatenate([log_scales[:alone], small])
    population.apply(Edit(source, new, {"means": means, "log_scales": log_scales}, most=cap))
    return {"duplicated": count - split, "split": split}


def largest(xp: Any, log_scales: Any) -> Any:
    """[N] the largest of each row of three."""
    return xp.maximum(xp.maximum(log_scales[:, 0], log_scales[:, 1]), log_scales[:, 2])


def log_of(scale: float) -> float:
    """The logarithm, also of 0."""
    return math.log(scale) if scale > 0 else -math.inf


def prune(population: Population, own: Settings, step: int) -> dict[str, int]:
    """Removes transparent Gaussians, and after the first reset huge ones; TrainingDiverged if none would
    stay.
    """
    xp, n = population.xp, population.n
    keep = population.column("logit_opacities") >= draws.logit_of(own.min_opacity)
    if step > own.reset_every:
        keep = keep & (largest(xp, population.column("log_scales")) <= log_of(own.prune_scale * EXTENT))
    if not bool(keep.any()):
        raise TrainingDiverged(
            "every splat became transparent or huge; lower the learning rates or min_opacity"
        )
    keep_rows(population, keep)
    return {"pruned": n - population.n}


def reset_opacities(population: Population, highest: float) -> None:
    """Lowers every opacity to at most `highest`, and forgets the opacities' moments."""
    lowered = population.xp.minimum(population.column("logit_opacities"), draws.logit_of(highest))
    population.apply(Edit(columns={"logit_opacities": lowered}, forget=("logit_opacities",)))
