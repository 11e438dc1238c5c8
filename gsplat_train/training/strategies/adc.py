# SPDX-License-Identifier: Apache-2.0
"""Adaptive density control: Gaussians grow where the loss pulls at them (Kerbl et al. 2023, section 5.2).

Where the mean screen-space gradient exceeds a threshold a small Gaussian is duplicated and a large one is
split into two. Transparent Gaussians, and huge ones once an opacity reset has passed, are pruned. A reset
lowers all opacities now and then, so that what is not needed fades away. With `absgrad` the sum of the
pixels' absolute gradients is compared instead of the gradient, in which opposite pulls cancel (Ye et al.
2024, "AbsGS").
"""

from __future__ import annotations

import numpy as np

from ...config import Config
from ...errors import TrainingDiverged
from ..optimizer import EXTENT, GROUPS, TrainState, append_rows, keep_rows, reset_moments, rows
from . import GradStats, due, logits, opacities, rotate

PARTS = 2  # a split Gaussian becomes this many


class ADC:
    """Strategy: duplicate, split, prune, reset."""

    def __init__(self, config: Config, n_splats: int) -> None:
        self.config = config
        self.stats: GradStats | None = GradStats.zeros(n_splats)

    def refine(self, state: TrainState, rng: np.random.Generator) -> dict[str, int]:
        """Grows and prunes when the step is due, and starts new sums; resets when that is due."""
        config, counts = self.config, {}
        if due(config, state.step):
            counts = grow(state, self.mean_gradients(), config, rng)
            self.stats = GradStats.zeros(state.n_splats)  # fits the state that is saved if prune ends the run
            counts |= prune(state, config)
            self.stats = GradStats.zeros(state.n_splats)
        if state.step % config.reset_every == 0 and state.step < config.refine_stop * config.horizon:
            reset_opacities(state, config.reset_opacity)
        return counts

    def mean_gradients(self) -> np.ndarray:
        """[N] the statistic over its threshold, as the mean over the steps that saw the Gaussian."""
        config, stats = self.config, self.stats
        assert stats is not None
        seen = np.maximum(stats.count, 1)
        if config.absgrad:
            return stats.absgrad_norm / seen / max(config.grow_absgradient, 1e-30)
        return stats.means2d_norm / seen / max(config.grow_gradient, 1e-30)


def grow(state: TrainState, pull: np.ndarray, config: Config, rng: np.random.Generator) -> dict[str, int]:
    """Duplicates or splits where `pull` [N] exceeds 1, the strongest first where the cap leaves room for some
    only.
    """
    chosen = np.flatnonzero(pull > 1)
    room = max(config.max_splats - state.n_splats, 0)
    if len(chosen) > room:  # each adds one row
        chosen = np.sort(chosen[np.argsort(-pull[chosen], kind="stable")[:room]])
    views = rows(state.gaussians)
    large = np.exp(views["log_scales"][chosen].max(axis=1)) > config.split_scale * EXTENT
    copied, parents = chosen[~large], chosen[large]
    parts = split(views, parents, config.split_shrink, rng)
    new = {name: np.concatenate([views[name][copied], parts[name]]) for name in GROUPS}
    if len(chosen):
        keep = np.ones(state.n_splats, bool)
        keep[parents] = False
        keep_rows(state, keep)
        append_rows(state, new)
    return {"duplicated": len(copied), "split": len(parents)}


def split(
    views: dict[str, np.ndarray], parents: np.ndarray, shrink: float, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Two smaller Gaussians for each of the rows `parents`, their means drawn from the parent."""
    parts = {name: np.repeat(views[name][parents], PARTS, axis=0) for name in GROUPS}
    axes = rng.standard_normal(parts["means"].shape) * np.exp(parts["log_scales"])
    parts["means"] += rotate(parts["quats"], axes)
    parts["log_scales"] -= np.log(shrink)
    return parts


def prune(state: TrainState, config: Config) -> dict[str, int]:
    """Removes transparent Gaussians, and after the first reset huge ones; TrainingDiverged if none would
    stay.
    """
    views = rows(state.gaussians)
    keep = opacities(views["logit_opacities"]) >= config.min_opacity
    if state.step > config.reset_every:
        keep &= np.exp(views["log_scales"].max(axis=1)) <= config.prune_scale * EXTENT
    pruned = len(keep) - int(keep.sum())
    if pruned == len(keep):
        raise TrainingDiverged(
            "every splat became transparent or huge; lower the learning rates or min_opacity"
        )
    if pruned:
        keep_rows(state, keep)
    return {"pruned": pruned}


def reset_opacities(state: TrainState, highest: float) -> None:
    """Lowers every opacity to at most `highest`, and forgets the opacities' moments."""
    leaf = rows(state.gaussians)["logit_opacities"]
    np.minimum(leaf, logits(np.array(highest)), out=leaf)
    reset_moments(state, slice(None), ("logit_opacities",))
