# SPDX-License-Identifier: Apache-2.0
"""Density control: which Gaussians to duplicate, split, relocate, prune, and when. One file a strategy;
`registry.STRATEGIES` lists them.

A strategy's module has

    Settings      a dataclass of the settings that it owns (in TOML a table of its name)
    BRINGS        what it needs of the general settings, when it is chosen
    Strategy      the class, made from a Config

A strategy decides which rows there shall be; a stepper moves them (`rows.Edit`). What it wants of every step, its
regularisers, its noise and its statistics, goes into the step's plan.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from ... import registry
from ...config import Config
from .. import draws
from ..plan import Statistics
from ..rows import Edit, Population
from ..scores import ScoredPopulation


class Strategy(Protocol):
    """What a strategy offers."""

    statistics: Statistics  # what each step sums for it

    def weights(self, number: int) -> tuple[float, float]:
        """Of the regularisers in step `number`: times mean(opacities), times mean(scales)."""
        ...

    def noise(self, number: int, rate: float) -> float:
        """Scale of the exploration noise in step `number`, whose rate for the means is `rate`."""
        ...

    def due(self, step: int) -> bool:
        """Whether `refine` has something to do after step `step`."""
        ...

    def refine(self, population: ScoredPopulation, step: int) -> dict[str, int]:
        """Edits the rows; how many were duplicated, split, ..., for the log. What is drawn depends on the seed and the
        step alone.
        """
        ...


def load(config: Config) -> Strategy:
    """The strategy that `config` names."""
    strategy: Strategy = registry.module(registry.STRATEGIES[config.strategy]).Strategy(config)
    return strategy


def in_window(settings: Any, config: Config, step: int) -> bool:
    """Whether a refinement follows step `step`: every `refine_every`, after `refine_start`, before
    `refine_stop` of the horizon. `settings` has these three.
    """
    if step % settings.refine_every:
        return False
    return bool(settings.refine_start < step < settings.refine_stop * config.horizon)


def in_parts(population: Any, parts: Mapping[str, Callable[[], Any]]) -> dict[str, Any]:
    """Does the parts of a refinement in order; what each returned. Each edits the rows once at most, and asks for
    nothing that those before it have changed. One that was cut short (refinement.Refinement) goes on after the last
    part that was whole.
    """
    done = {}
    for number, (name, part) in enumerate(parts.items(), 1):
        if number > getattr(population, "parts", 0):
            done[name] = part()
            if (note := getattr(population, "whole", None)) is not None:
                note(number)
    return done


def taken(population: Population, name: str, index: Any) -> Any:
    """Rows `index` [n] int32 of a leaf of the parameters, [n, ...]."""
    return draws.rows_of(population.xp, population.column(name), index)


def keep_rows(population: Population, keep: Any) -> None:
    """Leaves the rows where `keep` [n] is true, of which there are some. The last rows take the places of those that
    go.
    """
    xp, left = population.xp, int(keep.sum())
    source = xp.arange(left).astype(xp.int32)
    if holes := left - int(keep[:left].sum()):
        last = left + draws.positions(xp, keep[left:], holes)
        source = draws.with_rows(xp, source, draws.positions(xp, ~keep[:left], holes), last)
    population.apply(Edit(source))
