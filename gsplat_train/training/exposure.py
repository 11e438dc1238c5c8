# SPDX-License-Identifier: Apache-2.0
"""Exposure of a photo: a gain and an offset for each channel, learnt beside the splats.

    C' = exp(gain) C + offset

After each step both are shifted to zero mean over the photos, so that no cast enters the splats: what all photos
share belongs to the scene.
"""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx

from ..settings import choice, number

WIDTH = 6  # log gain of red, green, blue, then their offsets
START = (0.0,) * WIDTH


@dataclass(frozen=True)
class Settings:
    mode: str = choice("off", "gain", "affine")  # gain: no offsets
    lr: float = number(1e-3, 0.0)  # of Adam, at the first step ...
    lr_end: float = number(1e-4, 0.0)  # ... falls exponentially to this at the last

    def rate_at(self, step: int, horizon: int) -> float:
        """The rate of step `step` (from 1)."""
        if self.lr <= 0:
            return 0.0
        return float(self.lr * (max(self.lr_end, 1e-12) / self.lr) ** min((step - 1) / horizon, 1.0))


def image(row: mx.array, image: mx.array, mode: str) -> mx.array:
    """[H, W, 3] as the photo of this row would show it."""
    brighter = image * mx.exp(row[:3])
    return brighter if mode == "gain" else brighter + row[3:]


def settle(values: mx.array, mode: str) -> mx.array:
    """[views, 6] with zero mean over the views."""
    return values - values.mean(axis=0, keepdims=True)
