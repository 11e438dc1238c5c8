# SPDX-License-Identifier: Apache-2.0
"""A refinement as a run keeps account of it: how far it came, should it be cut short."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..errors import Torn
from .rows import Edit, Population
from .scores import Maps, Scores

SILENT = (
    "means",
    "quats",
    "log_scales",
    "logit_opacities",
)  # leaves whose odd rows no view shows: no loss tells


class Refinement:
    """A Population that notes when it is edited, with the scores of its Gaussians. parts: whole ones of the refinement,
    now or before it was cut short; torn: rows were edited since the last of them, so that nobody may save the state.
    """

    def __init__(self, population: Population, scores: Scores, parts: int = 0) -> None:
        self._population, self._scores = population, scores
        self.parts, self.torn = parts, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._population, name)

    def apply(self, edit: Edit) -> None:
        """See Population.apply."""
        try:
            self._population.apply(edit)
        except Torn:
            self.torn = True
            raise
        self.torn = True

    def whole(self, parts: int) -> None:
        """So many parts are done, and nothing of the next."""
        self.parts, self.torn = parts, False

    def not_finite(self) -> list[str]:
        """Leaves that hold a number that is not finite, of those that no loss tells."""
        xp = self._population.xp
        whole = np.asarray(xp.stack([xp.isfinite(self._population.column(name)).all() for name in SILENT]))
        return [name for name, finite in zip(SILENT, whole, strict=True) if not finite]

    @property
    def view_count(self) -> int:
        """See scores.ScoredPopulation."""
        return len(self._scores.views)

    def pixel_sums(self, step: int, count: int, maps: Maps) -> Iterator[Any]:
        """See scores.ScoredPopulation."""
        return self._scores.sums(self._population, step, count, maps)

    def screen_sizes(self, step: int, count: int) -> list[Any]:
        """See scores.ScoredPopulation."""
        return self._scores.screen_sizes(self._population, step, count)
