# SPDX-License-Identifier: Apache-2.0
"""The sky behind the splats, learnt beside them (`background=sh`): one row for all views; see model/sky.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from ..config import Config
from ..model.sky import NUMBERS, Sky, colours, sky_of
from ..scene import Camera
from ..settings import number
from .groups import Group
from .plan import decayed

WIDTH = 3 * NUMBERS
START = (0.0,) * WIDTH  # grey
SHARED = True


@dataclass(frozen=True)
class Settings:
    lr: float = number(1e-2, 0.0)  # of Adam, at the first step ...
    lr_end: float = number(1e-3, 0.0)  # ... falls exponentially to this at the last

    def rate_at(self, step: int, horizon: int) -> float:
        """The rate of step `step` (from 1)."""
        return decayed(self.lr, max(self.lr_end, 1e-12), min((step - 1) / horizon, 1.0))


def is_on(config: Config) -> bool:
    """Whether the settings ask for it."""
    return config.background == "sh"


def behind(row: mx.array, camera: Camera) -> mx.array:
    """[H, W, 3] behind all splats."""
    return colours(row.reshape(NUMBERS, 3), camera)


def image(row: mx.array, image: mx.array, mode: str) -> mx.array:
    """Nothing more happens to the render."""
    return image


def settle(values: np.ndarray, mode: str) -> np.ndarray:
    """As they are."""
    return values


def learnt(groups: Mapping[str, Group]) -> Sky | None:
    """The sky as it is now; None where none is learnt."""
    return sky_of(groups["sky"].values) if "sky" in groups else None
