# SPDX-License-Identifier: Apache-2.0
"""MCMC density control: Gaussians as samples (Kheradmand et al. 2024, "3D Gaussian Splatting as Markov Chain
Monte Carlo").

Dead Gaussians move onto living ones, drawn by opacity, and the number grows by a rate up to a cap; what is divided
among a Gaussian and its copies is in copies.py. The third part, noise on the means, acts at every step:
stepper.add_noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ...config import Config
from ...settings import number
from .. import draws
from ..draws import Key
from ..plan import Statistics, halvings_at
from ..rows import Edit, Population
from ..scores import ScoredPopulation, errors
from . import contribution, in_parts, in_window
from .copies import FAINTEST, NEARLY_OPAQUE, draw, shared

BRINGS: Mapping[str, Any] = {}  # Config's defaults are MCMC's


@dataclass(frozen=True)
class Settings:
    opacity_reg: float = number(0.01, 0.0)  # times the mean opacity, added to the loss [MCMC]
    scale_reg: float = number(0.01, 0.0)  # times the mean scale, added to the loss [MCMC]
    noise_lr: float = number(5e5, 0.0)  # exploration noise, times the means' learning rate [MCMC]
    reg_stop: float = number(1.0, 0.0, 1.0)  # of the horizon, where the regularisers end
    noise_stop: float = number(1.0, 0.0, 1.0)  # of the horizon, where the noise ends
    refine_start: int = number(500, 0)  # the first step that may refine comes after this [3DGS]
    refine_every: int = number(100, 1)  # steps [3DGS]
    refine_stop: float = number(0.8333, 0.0, 1.0)  # of the schedule's horizon: 25,000 of 30,000 [MCMC]
    min_opacity: float = number(0.005, 0.0, 0.5)  # below: dead, relocated [MCMC]
    grow_rate: float = number(0.05, 0.0)  # new Gaussians a refinement, of those there are [MCMC]
    stage_cap: float = number(
        1.0, 0.01, 1.0
    )  # of max_splats, for each halving that photos still have [Spirula]
    # In place of the regularisers: taken from the opacities (and their logarithm from the scales) at each
    # refinement, less and less towards the end of the schedule [Brush: 0.002 for every 100 steps]
    opacity_decay: float = number(0.0, 0.0, 0.1)
    scale_decay: float = number(0.0, 0.0, 0.1)
    error_views: int = number(
        0, 0
    )  # in which a Gaussian's share of the error is summed; 0: opacity alone decides
    error_floor: float = number(0.2, 0.0)  # of the mean share, added to each
    # Standard deviations that a copy and its original move apart along the longest axis, each to one side, and get
    # shorter along it, so that together they are as long as the original was; 0: they stay in one place [MCMC].
    # BENCHMARKS.md: half of one brings 0.2 dB
    split: float = number(0.5, 0.0, 0.99)

    # Each weigh_every of the horizon, within refinement: of the Gaussians this share, which carries least of the
    # training photos, counts as dead [RadSplat, LightGaussian]; 0: none. All photos are looked at, so where they are
    # many for so few steps it is done less often: weigh_cost photos a step
    least_share: float = number(0.1, 0.0, 0.5)
    weigh_every: float = number(0.1, 0.005, 1.0)
    weigh_cost: float = number(0.15, 0.001, 10.0)
    # Gaussians wider than this share of a photo's longer side become two; 1: none do [Brush: 0.5]
    screen_split: float = number(1.0, 0.05, 1.0)
    # Of max_splats at the end: what carries least goes, in equal parts, between refine_stop and select_stop of the
    # horizon [GNS, by what is carried]; 1: all stay
    final_share: float = number(1.0, 0.05, 1.0)
    select_stop: float = number(0.92, 0.0, 1.0)


SELECTIONS = 5  # times that `final_share` takes some away


class Strategy:
    """Relocates the dead, grows to the cap; see strategies.Strategy."""

    statistics = Statistics.NONE

    def __init__(self, config: Config) -> None:
        self.config, self.own = config, config.own

    def weights(self, number: int) -> tuple[float, float]:
        over = number > self.own.reg_stop * self.config.horizon
        return (0.0, 0.0) if over else (self.own.opacity_reg, self.own.scale_reg)

    def noise(self, number: int, rate: float) -> float:
        """Proportional to the means' rate."""
        over = number > self.own.noise_stop * self.config.horizon
        return 0.0 if over else float(self.own.noise_lr * rate)

    def due(self, step: int) -> bool:
        return in_window(self.own, self.config, step) or self._selects(step) > 0

    def weighs(self, step: int, views: int) -> bool:
        """Whether what carries least of so many photos is looked for after `step`: the first refinement of a period."""
        own = self.own
        period = max(own.weigh_every * self.config.horizon, views / own.weigh_cost, own.refine_every)
        return bool(own.least_share > 0 and step >= period and step % period < own.refine_every)

    def _selects(self, step: int) -> int:
        """The number of the selection after `step`, from 1; 0: none."""
        own, horizon = self.own, self.config.horizon
        if own.final_share == 1:
            return 0
        first = own.refine_stop * horizon
        each = max(own.select_stop * horizon - first, 0) / SELECTIONS
        due = [math.ceil(first + i * each) for i in range(SELECTIONS)]
        # Several may meet in one step: the last counts.
        return max((i for i, end in enumerate(due, 1) if end == step), default=0)

    def refine(self, population: ScoredPopulation, step: int) -> dict[str, int]:
        own = self.own
        if selection := self._selects(step):
            last = own.final_share * self.config.max_splats
            left = self.config.max_splats + (last - self.config.max_splats) * selection / SELECTIONS
            return {"pruned": contribution.keep_most(population, step, math.ceil(left))}
        left = 1 - min(step / self.config.horizon, 1.0)
        parts: dict[str, Callable[[], Any]] = {}
        if own.least_share and self.weighs(step, population.view_count):
            parts["weighed"] = lambda: contribution.lay_down(population, step, own.least_share)
        if own.opacity_decay or own.scale_decay:
            parts["decayed"] = lambda: decay(population, left * own.opacity_decay, left * own.scale_decay)
        if own.error_views:  # one part, because relocation changes what the shares are summed over
            parts["relocated and added"] = lambda: self._by_error(population, step)
        else:
            parts["relocated"] = lambda: self._relocate(population, step)
            parts["added"] = lambda: self._grow(population, step)
        if own.screen_split < 1:
            parts["halved"] = lambda: contribution.halve_wide(
                population, step, own.screen_split, self.cap(step), own.min_opacity
            )
        done = in_parts(population, parts)
        relocated, added = done.get("relocated and added") or (done.get("relocated", 0), done.get("added", 0))
        return {"relocated": relocated, "added": added + done.get("halved", 0)}

    def _by_error(self, population: ScoredPopulation, step: int) -> tuple[int, int]:
        shares = error_shares(population, step, self.own.error_views, self.own.error_floor)
        return self._relocate(population, step, shares), self._grow(population, step, shares)

    def _relocate(self, population: Population, step: int, shares: Any = None) -> int:
        key = Key(self.config.seed, step, draws.RELOCATION)
        return relocate(population, self.own.min_opacity, key, shares, self.own.split)

    def _grow(self, population: Population, step: int, shares: Any = None) -> int:
        own, key = self.own, Key(self.config.seed, step, draws.GROWTH)
        return grow(population, own.grow_rate, self.cap(step), own.min_opacity, key, shares, own.split)

    def cap(self, step: int) -> int:
        """Splats that there may be after step `step`: small photos do not tell enough for all (Spirula's notes)."""
        config = self.config
        halvings = halvings_at(step, config.downscales, config.downscale_every)
        return math.ceil(config.max_splats * self.own.stage_cap**halvings)


def decay(population: Population, opacity: float, log_scale: float) -> None:
    """Makes all Gaussians fainter and smaller by these; what the photos need grows again."""
    xp, logits = population.xp, population.column("logit_opacities")
    faint = xp.clip(1 / (1 + xp.exp(-logits)) - opacity, FAINTEST, NEARLY_OPAQUE)
    lowered = xp.minimum(xp.log(faint) - xp.log1p(-faint), logits)
    population.apply(
        Edit(columns={"logit_opacities": lowered, "log_scales": population.column("log_scales") - log_scale})
    )


def error_shares(population: ScoredPopulation, step: int, views: int, floor: float) -> Any:
    """[N] uint32 weights: the error that a Gaussian carries in some views, in 64ths of the mean."""
    xp = population.xp
    total: Any = 0
    for sums in population.pixel_sums(step, views, errors):
        total = total + sums[:, 0]
    share = floor + total / xp.maximum(total.mean(), 1e-12)
    return xp.clip(xp.round(64 * share), 1, 4096).astype(xp.uint32)


def relocate(
    population: Population, min_opacity: float, key: Key, shares: Any = None, split: float = 0
) -> int:
    """Moves each dead Gaussian onto a living one drawn by opacity; how many. Moments of both become zero."""
    xp = population.xp
    weights = draws.weights(xp, population.column("logit_opacities"), min_opacity)
    if shares is not None:
        weights = weights * shares
    n = int((weights == 0).sum())
    if n in (0, population.n):
        return 0
    drawn = draw(xp, weights, n, key, split)
    dead = draws.positions(xp, weights == 0, n)[: len(drawn)]
    source = xp.arange(population.n).astype(xp.int32)
    source = draws.with_rows(xp, source, dead, drawn)
    population.apply(shared(population, source, drawn, dead, min_opacity, split))
    if shares is not None:
        shares[:] = draws.with_rows(xp, shares, dead, draws.rows_of(xp, shares, drawn))
    return len(drawn)


def grow(
    population: Population,
    rate: float,
    cap: int,
    min_opacity: float,
    key: Key,
    shares: Any = None,
    split: float = 0,
) -> int:
    """Appends copies of Gaussians drawn by opacity, as many as the rate and the cap allow; how many."""
    xp, old = population.xp, population.n
    n = min(cap, old + math.ceil(rate * old)) - old
    if n <= 0:
        return 0
    weights = draws.weights(xp, population.column("logit_opacities"), min_opacity)
    if shares is not None:
        weights = weights * shares
    drawn = draw(xp, weights, n, key, split)
    n = len(drawn)
    if not n:  # nothing to draw from
        return 0
    rows = xp.arange(old + n).astype(xp.int32)
    source = xp.concatenate([rows[:old], drawn])
    edit = shared(population, source, drawn, rows[old:], min_opacity, split)
    population.apply(replace(edit, most=cap))
    return n
