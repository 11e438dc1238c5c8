# SPDX-License-Identifier: Apache-2.0
"""MCMC density control: Gaussians as samples (Kheradmand et al. 2024, "3D Gaussian Splatting as Markov Chain
Monte Carlo").

Dead Gaussians move onto living ones, drawn by opacity, and the number grows by a rate up to a cap. When a
Gaussian of opacity o becomes n in one place, each gets (equation 9 of the paper)
    o_new = 1 - (1 - o)^(1/n)                                    so that together they are as opaque as it was
    s_new = s * o / sum_{k=1..n} C(n, k) (-1)^(k-1) o_new^k / sqrt(k)     so that together they are as large
(the paper's double sum over binomials, summed over its outer index). The third part, noise on the means, acts at
every step: stepper.add_noise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...config import Config
from ...model.quaternions import logits, opacities
from ...settings import number
from ..plan import Statistics
from ..rows import Edit, Population
from . import in_window

MOST_COPIES = 51  # n never counts more (n_max of the paper's code): the sum's terms stay exact in float64
NEARLY_OPAQUE = 1.0 - 1e-6  # an opacity of 1 has no logit
BRINGS: Mapping[str, Any] = {}  # Config's defaults are MCMC's


@dataclass(frozen=True)
class Settings:
    opacity_reg: float = number(0.01, 0.0)  # times the mean opacity, added to the loss [MCMC]
    scale_reg: float = number(0.01, 0.0)  # times the mean scale, added to the loss [MCMC]
    noise_lr: float = number(5e5, 0.0)  # exploration noise, times the means' learning rate [MCMC]
    refine_start: int = number(500, 0)  # the first step that may refine comes after this [3DGS]
    refine_every: int = number(100, 1)  # steps [3DGS]
    refine_stop: float = number(0.8333, 0.0, 1.0)  # of the schedule's horizon: 25,000 of 30,000 [MCMC]
    min_opacity: float = number(0.005, 0.0, 0.5)  # below: dead, relocated [MCMC]
    grow_rate: float = number(0.05, 0.0)  # new Gaussians a refinement, of those there are [MCMC]


class Strategy:
    """Relocates the dead, grows to the cap; see strategies.Strategy."""

    statistics = Statistics.NONE

    def __init__(self, config: Config) -> None:
        self.config, self.own = config, config.own
        self.opacity_weight, self.scale_weight = self.own.opacity_reg, self.own.scale_reg

    def noise(self, number: int, rate: float) -> float:
        """Proportional to the means' rate."""
        return float(self.own.noise_lr * rate)

    def due(self, step: int) -> bool:
        return in_window(self.own, self.config, step)

    def refine(self, population: Population, step: int, rng: np.random.Generator) -> dict[str, int]:
        relocated = relocate(population, self.own.min_opacity, rng)
        added = grow(population, self.own.grow_rate, self.config.max_splats, self.own.min_opacity, rng)
        return {"relocated": relocated, "added": added}


def relocate(population: Population, min_opacity: float, rng: np.random.Generator) -> int:
    """Moves each dead Gaussian onto a living one drawn by opacity; how many. Moments of both become zero."""
    weights = opacities(population.column("logit_opacities"))
    dead = np.flatnonzero(weights <= min_opacity)
    weights[dead] = 0
    if not len(dead) or not weights.any():
        return 0
    source = np.arange(population.n)
    source[dead] = drawn = sample(weights, len(dead), rng)
    population.apply(shared(population, source, drawn, dead, min_opacity))
    return len(dead)


def grow(population: Population, rate: float, cap: int, min_opacity: float, rng: np.random.Generator) -> int:
    """Appends copies of Gaussians drawn by opacity, as many as the rate and the cap allow; how many."""
    target = min(cap, population.n + math.ceil(rate * population.n))
    n = target - population.n
    if n <= 0:
        return 0
    weights = opacities(population.column("logit_opacities"))
    if not weights.any():  # nothing to draw from
        return 0
    drawn = sample(weights, n, rng)
    source = np.concatenate([np.arange(population.n), drawn])
    population.apply(shared(population, source, drawn, np.arange(population.n, target), min_opacity))
    return n


def sample(weights: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """[n] indices drawn with replacement in proportion to `weights` [N]; one of weight 0 is never drawn."""
    cumulative = np.cumsum(weights)
    # Below the total, or rounding could point past the last positive weight.
    draws = np.minimum(rng.random(n) * cumulative[-1], np.nextafter(cumulative[-1], 0))
    return np.searchsorted(cumulative, draws, side="right")


def shared(
    population: Population, source: np.ndarray, drawn: np.ndarray, copies: np.ndarray, min_opacity: float
) -> Edit:
    """The edit that makes the rows `copies` of the rows `drawn`: opacity and scale are divided among the
    copies of one and itself, and the moments of all become zero.
    """
    index, mentions = np.unique(drawn, return_counts=True)
    logit, log_scales = population.column("logit_opacities").copy(), population.column("log_scales").copy()
    new, shrink = divide(opacities(logit[index]), mentions + 1)
    logit[index] = logits(np.clip(new, min_opacity, NEARLY_OPAQUE))
    log_scales[index] += np.log(shrink)[:, None]
    fresh = np.zeros(len(source), bool)
    fresh[index] = fresh[copies] = True
    return Edit(source, fresh, {"logit_opacities": logit[source], "log_scales": log_scales[source]})


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
