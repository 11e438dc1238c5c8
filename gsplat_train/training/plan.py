# SPDX-License-Identifier: Apache-2.0
"""StepPlan: what one step does, said once. `Schedule.at` is the only place that makes one, from the configuration,
the strategy and the step; the trainer, the steppers of all backends and the native code read it by name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from .. import registry
from ..config import Config
from ..model.gaussians import Gaussians
from ..model.sky import BLACK, Colour
from .background import ground_at

if TYPE_CHECKING:
    from .strategies import Strategy

NAMES = Gaussians._fields  # the order of the rates
# Of training's frame: 1.1 times the distance of its farthest camera, which is 1 (3DGS, getNerfppNorm).
EXTENT = 1.1


class Statistics(Enum):
    """Which sums a step adds to, for the Gaussians that its view shows."""

    NONE = 0
    GRADIENTS = 1  # norms of the screen-space gradients, and how often a Gaussian was seen
    ABSGRADIENTS = 2  # these, and of the sums of absolute per-pixel gradients (Ye et al. 2024, AbsGS)


@dataclass(frozen=True)
class StepPlan:
    """One step. Rates are per step of Adam, in training's frame; a weight multiplies a term of the loss.

    Of a step over B views the loss is the mean of theirs. Rates come times sqrt(B), Adam's betas become beta^B, its
    epsilon divided by sqrt(B): with B times fewer steps as much moves a view (Grendel-GS, Zhao et al. 2024).
    """

    number: int  # of the step's last view, from 1
    rates: tuple[float, ...]  # one for each leaf of Gaussians, in their order
    sh_degree: int  # the colour bands in use
    ssim_lambda: float = 0.2  # photometric = (1 - lambda) L1 + lambda (1 - SSIM)
    opacity_weight: float = 0.0  # times mean(opacities)
    scale_weight: float = 0.0  # times mean(scales)
    weights: Mapping[str, float] = field(default_factory=dict)  # of the terms in registry.TERMS
    group_rates: Mapping[str, float] = field(default_factory=dict)  # of the groups in registry.GROUPS
    background: Colour = BLACK
    antialiased: bool = False
    noise: float = 0.0  # scale of the exploration noise on the means (3DGS-MCMC, equation 8); 0: none
    seed: int = 0  # of the noise
    statistics: Statistics = Statistics.NONE
    views: int = 1  # that the step is over


class Schedule:
    """The plans of a run."""

    def __init__(self, config: Config, strategy: Strategy) -> None:
        self.config, self.strategy = config, strategy
        self.weights = {name: config.sections[name].weight for name in active_terms(config)}
        self.groups = active_groups(config)

    def at(self, number: int, views: int = 1) -> StepPlan:
        """The plan of the step over `views` views whose last is number `number` (from 1)."""
        config, strategy, before = self.config, self.strategy, number - views
        faster, rates = 1.0, learning_rates(config, before)
        if views > 1:
            faster = math.sqrt(views)
            rates = {name: faster * rate for name, rate in rates.items()}
        opacity_weight, scale_weight = strategy.weights(number)
        return StepPlan(
            number=number,
            rates=tuple(map(rates.__getitem__, NAMES)),
            sh_degree=sh_degree_at(config, before),
            ssim_lambda=config.ssim_lambda,
            opacity_weight=opacity_weight,
            scale_weight=scale_weight,
            weights=self.weights,
            group_rates={
                name: faster * config.sections[name].rate_at(before + 1, config.horizon)
                for name in self.groups
            },
            background=ground_at(config.background, config.seed, number, config.horizon),
            antialiased=config.antialiased,
            noise=strategy.noise(number, rates["means"]),
            seed=config.seed,
            statistics=strategy.statistics,
            views=views,
        )


def active_terms(config: Config) -> list[str]:
    """The terms of registry.TERMS that the settings give a weight."""
    return [
        name for name, section in config.sections.items() if name in registry.TERMS and section.weight > 0
    ]


def active_groups(config: Config) -> list[str]:
    """The groups of registry.GROUPS that the settings turn on; `auto` is off until `groups.decided`."""
    return [name for name in config.sections if name in registry.GROUPS and _is_on(name, config)]


def _is_on(name: str, config: Config) -> bool:
    module = registry.module(registry.GROUPS[name])
    if hasattr(module, "is_on"):
        return bool(module.is_on(config))
    return config.sections[name].mode not in ("off", "auto", "fixed")


def decayed(first: float, last: float, progress: float) -> float:
    """A rate that falls exponentially from `first` to `last` as progress goes from 0 to 1."""
    return first * (last / first) ** progress if first > 0 else 0.0


def learning_rates(config: Config, step: int) -> dict[str, float]:
    """The rate of each leaf for the step after `step` steps; that of means decays exponentially (3DGS)."""
    progress = min(step / config.horizon, 1.0)
    first, last = config.lr_means, min(config.lr_means_end, config.lr_means)  # it never rises
    means = decayed(first, last, progress)
    rest = rest_at(config, progress)
    return {
        "means": EXTENT * means,
        "quats": rest * config.lr_quats,
        "log_scales": rest * config.lr_scales,
        "logit_opacities": rest * config.lr_opacities,
        "sh0": rest * config.lr_sh0,
        "shN": rest * config.lr_shN,
    }


def rest_at(config: Config, progress: float) -> float:
    """What is left of the other rates: 1 until lr_rest_from, then falling to lr_rest_end."""
    start = config.lr_rest_from
    late = (progress - start) / (1 - start) if start < 1 else 0.0
    return float(config.lr_rest_end ** min(max(late, 0.0), 1.0))


def views_at(config: Config, step: int) -> int:
    """How many views the step after `step` steps is over."""
    late = config.batch == 1 and step >= config.late_from * config.horizon
    return config.late_batch if late else config.batch


def sh_degree_at(config: Config, step: int) -> int:
    """The degree in use in the step after `step` steps: it rises by one each `sh_interval` (3DGS)."""
    return min(config.sh_degree, step // config.sh_interval) if config.sh_interval else config.sh_degree


def halvings_at(step: int, downscales: int, downscale_every: int) -> int:
    """How often photos are halved in the step after `step` steps: once less each `downscale_every` (splatfacto)."""
    return max(downscales - step // downscale_every, 0)
