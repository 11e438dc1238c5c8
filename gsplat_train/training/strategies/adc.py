# SPDX-License-Identifier: Apache-2.0
"""Adaptive density control: Gaussians grow where the loss pulls at them (Kerbl et al. 2023, section 5.2).

Where the mean screen-space gradient exceeds a threshold a small Gaussian is duplicated and a large one is
split into two. Transparent Gaussians, and huge ones once an opacity reset has passed, are pruned. A reset
lowers all opacities now and then, so that what is not needed fades away. With `absgrad` the sum of the
pixels' absolute gradients is compared instead of the gradient, in which opposite pulls cancel (Ye et al.
2024, "AbsGS").
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...config import Config
from ...errors import TrainingDiverged
from ...model.quaternions import logits, opacities, rotate
from ...settings import number
from ..plan import EXTENT, Statistics
from ..rows import Edit, Population
from . import in_window

PARTS = 2  # a split Gaussian becomes this many
BRINGS: Mapping[str, Any] = {
    "init_opacity": 0.1,  # 3DGS: splats start faint, and grow where the gradient asks for it
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
        self.opacity_weight, self.scale_weight = self.own.opacity_reg, self.own.scale_reg
        self.statistics = Statistics.ABSGRADIENTS if self.own.absgrad else Statistics.GRADIENTS

    def noise(self, number: int, rate: float) -> float:
        return float(self.own.noise_lr * rate)

    def due(self, step: int) -> bool:
        return in_window(self.own, self.config, step) or self._resets(step)

    def _resets(self, step: int) -> bool:
        return step % self.own.reset_every == 0 and step < self.own.refine_stop * self.config.horizon

    def refine(self, population: Population, step: int, rng: np.random.Generator) -> dict[str, int]:
        """Grows and prunes when the step is due; resets when that is due."""
        counts = {}
        if in_window(self.own, self.config, step):
            counts = grow(population, self.mean_gradients(population), self.own, self.config.max_splats, rng)
            counts |= prune(population, self.own, step)
        if self._resets(step):
            reset_opacities(population, self.own.reset_opacity)
        return counts

    def mean_gradients(self, population: Population) -> np.ndarray:
        """[N] the statistic over its threshold, as the mean over the steps that saw the Gaussian."""
        seen = np.maximum(population.sums("count"), 1)
        if self.own.absgrad:
            return population.sums("absgrad_norm") / seen / max(self.own.grow_absgradient, 1e-30)
        return population.sums("means2d_norm") / seen / max(self.own.grow_gradient, 1e-30)


def grow(
    population: Population, pull: np.ndarray, own: Settings, cap: int, rng: np.random.Generator
) -> dict[str, int]:
    """Duplicates or splits where `pull` [N] exceeds 1, the strongest first where the cap leaves room for some
    only. A split Gaussian makes room for its parts, whose means are drawn from it.
    """
    chosen = np.flatnonzero(pull > 1)
    room = max(cap - population.n, 0)
    if len(chosen) > room:  # each adds one row
        chosen = np.sort(chosen[np.argsort(-pull[chosen], kind="stable")[:room]])
    log_scales = population.column("log_scales")
    large = np.exp(log_scales[chosen].max(axis=1)) > own.split_scale * EXTENT
    copied, parents = chosen[~large], np.repeat(chosen[large], PARTS)
    kept = np.setdiff1d(np.arange(population.n), parents)
    source = np.concatenate([kept, copied, parents])
    means, scales = population.column("means")[source], log_scales[source]
    parts = slice(len(source) - len(parents), None)
    axes = rng.standard_normal((len(parents), 3)) * np.exp(scales[parts])
    means[parts] += rotate(population.column("quats")[parents], axes)
    scales[parts] -= np.log(own.split_shrink)
    if len(chosen):
        fresh = np.arange(len(source)) >= len(kept)
        population.apply(Edit(source, fresh, {"means": means, "log_scales": scales}))
    return {"duplicated": len(copied), "split": len(parents) // PARTS}


def prune(population: Population, own: Settings, step: int) -> dict[str, int]:
    """Removes transparent Gaussians, and after the first reset huge ones; TrainingDiverged if none would
    stay.
    """
    keep = opacities(population.column("logit_opacities")) >= own.min_opacity
    if step > own.reset_every:
        keep &= np.exp(population.column("log_scales").max(axis=1)) <= own.prune_scale * EXTENT
    if not keep.any():
        raise TrainingDiverged(
            "every splat became transparent or huge; lower the learning rates or min_opacity"
        )
    population.apply(Edit(np.flatnonzero(keep)))
    return {"pruned": len(keep) - int(keep.sum())}


def reset_opacities(population: Population, highest: float) -> None:
    """Lowers every opacity to at most `highest`, and forgets the opacities' moments."""
    lowered = np.minimum(population.column("logit_opacities"), logits(np.array(highest)))
    column = {"logit_opacities": lowered.astype(np.float32)}
    population.apply(Edit(columns=column, forget=("logit_opacities",)))
