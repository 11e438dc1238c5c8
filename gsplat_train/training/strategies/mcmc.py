# SPDX-License-Identifier: Apache-2.0
"""MCMC density control: Gaussians as samples (Kheradmand et al. 2024, "3D Gaussian Splatting as Markov Chain
Monte Carlo").

Dead Gaussians move onto living ones, drawn by opacity, and the number grows by a rate up to a cap. When a
Gaussian of opacity o becomes n in one place, each gets (equation 9 of the paper)
    o_new = 1 - (1 - o)^(1/n)                                    so that together they are as opaque as it was
    s_new = s * o / sum_{k=1..n} C(n, k) (-1)^(k-1) o_new^k / sqrt(k)     so that together they are as large
(the paper's double sum over binomials, summed over its outer index). The third part, noise on the means, is
in train_step.py, because it acts at every step.
"""

from __future__ import annotations

import math

import numpy as np

from ...config import Config
from ..optimizer import GROUPS, TrainState, append_rows, copy_rows, reset_moments, rows
from . import GradStats, due, logits, opacities

MOST_COPIES = 51  # n never counts more (n_max of the paper's code): the sum's terms stay exact in float64
NEARLY_OPAQUE = 1.0 - 1e-6  # an opacity of 1 has no logit


class MCMC:
    """Strategy: relocate the dead, grow to the cap."""

    stats: GradStats | None = None

    def __init__(self, config: Config) -> None:
        self.config = config

    def refine(self, state: TrainState, rng: np.random.Generator) -> dict[str, int]:
        """Relocates and grows when the step is due."""
        if not due(self.config, state.step):
            return {}
        return {"relocated": relocate(state, self.config, rng), "added": grow(state, self.config, rng)}


def relocate(state: TrainState, config: Config, rng: np.random.Generator) -> int:
    """Moves each dead Gaussian onto a living one drawn by opacity; how many. Moments of both become zero."""
    weights = opacities(rows(state.gaussians)["logit_opacities"])
    dead = np.flatnonzero(weights <= config.min_opacity)
    weights[dead] = 0
    if not len(dead) or not weights.any():
        return 0
    sources = sample(weights, len(dead), rng)
    share(state, sources, config.min_opacity)
    copy_rows(state, sources, dead)
    reset_moments(state, dead)
    return len(dead)


def grow(state: TrainState, config: Config, rng: np.random.Generator) -> int:
    """Appends copies of Gaussians drawn by opacity, as many as the rate and the cap allow; how many."""
    target = min(config.max_splats, state.n_splats + math.ceil(config.grow_rate * state.n_splats))
    n = target - state.n_splats
    if n <= 0:
        return 0
    weights = opacities(rows(state.gaussians)["logit_opacities"])
    if not weights.any():  # nothing to draw from
        return 0
    sources = sample(weights, n, rng)
    share(state, sources, config.min_opacity)
    views = rows(state.gaussians)
    append_rows(state, {name: views[name][sources] for name in GROUPS})
    return n


def sample(weights: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """[n] indices drawn with replacement in proportion to `weights` [N]; one of weight 0 is never drawn."""
    cumulative = np.cumsum(weights)
    # Below the total, or rounding could point past the last positive weight.
    draws = np.minimum(rng.random(n) * cumulative[-1], np.nextafter(cumulative[-1], 0))
    return np.searchsorted(cumulative, draws, side="right")


def share(state: TrainState, sources: np.ndarray, min_opacity: float) -> None:
    """Prepares the rows `sources` for one more copy per mention: opacity and scale divided among them,
    moments zero.
    """
    index, mentions = np.unique(sources, return_counts=True)
    views = rows(state.gaussians)
    new, shrink = divide(opacities(views["logit_opacities"][index]), mentions + 1)
    views["logit_opacities"][index] = logits(np.clip(new, min_opacity, NEARLY_OPAQUE))
    views["log_scales"][index] += np.log(shrink)[:, None]
    reset_moments(state, index)


def divide(opacity: np.ndarray, n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Opacity [S] and factor of the scales [S] of each of `n` [S] Gaussians that replace one of `opacity`
    [S].
    """
    n = np.minimum(n, MOST_COPIES)
    opacity = np.minimum(opacity, NEARLY_OPAQUE)
    new = -np.expm1(np.log1p(-opacity) / n)
    total, binomial, power = np.zeros_like(new), np.ones_like(new), np.ones_like(new)
    for k in range(1, int(n.max(initial=0)) + 1):
        binomial *= (n - k + 1) / k  # C(n, k), which is 0 from k = n + 1 on
        power *= new
        total += (-1) ** (k - 1) * binomial * power / np.sqrt(k)
    return new, opacity / total
