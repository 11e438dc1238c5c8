# SPDX-License-Identifier: Apache-2.0
"""Density control by what a Gaussian carries of the training photos: sum over views and pixels of its blending weight
alpha T. What hides behind a surface carries nothing, however opaque it is (Fan et al. 2024, "LightGaussian", and
Niemeyer et al. 2024, "RadSplat", prune by such sums).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .. import draws
from ..rows import Edit
from ..scores import ScoredPopulation, ones
from . import keep_rows
from .copies import FAINTEST, shared

DEAD = -20.0  # a logit whose opacity is below any `min_opacity`
LEAST = 1e-12
SCREEN_VIEWS = 12  # in which widths are measured
MOST_AT_ONCE = 0.1
WIDE_SPLIT = 0.8  # `split` of what is too wide: its halves are 0.6 as long


def carried(population: ScoredPopulation, step: int) -> Any:
    """[N] pixels that each Gaussian fills in all training views together."""
    total: Any = 0
    for sums in population.pixel_sums(step, population.view_count, ones):
        total = total + sums[:, 0]
    return total


def least(population: ScoredPopulation, step: int, count: int) -> Any:
    """[N] bool, `count` times true: those that carry least."""
    xp = population.xp
    return draws.strongest(xp, 1 / (carried(population, step) + LEAST), count)


def lay_down(population: ScoredPopulation, step: int, share: float) -> int:
    """Makes that share of the Gaussians, those that carry least, as faint as the dead; how many."""
    xp, count = population.xp, int(share * population.n)
    if count:
        logits = population.column("logit_opacities")
        logits = xp.where(least(population, step, count), xp.minimum(logits, DEAD), logits)
        population.apply(Edit(columns={"logit_opacities": logits}))
    return count


def keep_most(population: ScoredPopulation, step: int, count: int) -> int:
    """Leaves the `count` Gaussians that carry most; how many went."""
    gone = population.n - count
    if gone > 0:
        keep_rows(population, ~least(population, step, gone))
    return max(gone, 0)


def widest(population: ScoredPopulation, step: int, views: int) -> Any:
    """[N] the largest width in some views, of the longer side of the photo."""
    xp = population.xp
    first, *more = population.screen_sizes(step, views)
    for sizes in more:
        first = xp.maximum(first, sizes)
    return first


def halve_wide(population: ScoredPopulation, step: int, share: float, cap: int, min_opacity: float) -> int:
    """Makes two of each Gaussian that is wider than this share of a photo's longer side, the widest first and at most
    MOST_AT_ONCE of all; how many rows came of it. Where the cap leaves no room the faintest of the others give theirs.
    """
    xp, n = population.xp, population.n
    widths = widest(population, step, SCREEN_VIEWS)
    count = min(int((widths > share).sum()), int(MOST_AT_ONCE * n))
    if not count:
        return 0
    room = max(cap - n, 0)
    opacity = 1 / (1 + xp.exp(-population.column("logit_opacities")))
    wide = draws.strongest(xp, widths, count)
    drawn = draws.positions(xp, wide, count)
    rows = xp.arange(n + min(room, count)).astype(xp.int32)
    copies = rows[n:]
    if count > room:
        taken = draws.strongest(xp, xp.where(wide, 0, 1 / (opacity + FAINTEST)), count - room)
        copies = xp.concatenate([draws.positions(xp, taken, count - room), copies])
    source = draws.with_rows(xp, rows + 0, copies, drawn)
    edit = shared(population, source, drawn, copies, min_opacity, WIDE_SPLIT)
    population.apply(replace(edit, most=max(cap, n)))
    return len(rows) - n
