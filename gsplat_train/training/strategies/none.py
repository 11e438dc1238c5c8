# SPDX-License-Identifier: Apache-2.0
"""No density control: nothing moves but what Adam moves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...config import Config
from ..plan import Statistics
from ..rows import Population

BRINGS: Mapping[str, Any] = {}


@dataclass(frozen=True)
class Settings:
    """It has none."""


class Strategy:
    """See strategies.Strategy."""

    statistics = Statistics.NONE

    def __init__(self, config: Config) -> None:
        pass

    def weights(self, number: int) -> tuple[float, float]:
        return 0.0, 0.0

    def noise(self, number: int, rate: float) -> float:
        return 0.0

    def due(self, step: int) -> bool:
        return False

    def refine(self, population: Population, step: int) -> dict[str, int]:
        return {}
