# SPDX-License-Identifier: Apache-2.0
"""Exposure of a photo: a gain and an offset for each channel, learnt beside the splats.

    C' = exp(gain) C + offset

They begin where brightness.py and rehearsal.py measure them. After each step both are shifted to zero mean over the
photos, so that no cast enters the splats: what all photos share belongs to the scene. A pixel that the photo shows
saturated says only "at least": what lies above 1 there counts as 1. Where the photo is see-through it exposes the
splats alone, and not the background behind them.
"""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from ..errors import UserError
from ..settings import choice, number
from . import brightness
from .groups import Material
from .plan import decayed

WIDTH = 6  # log gain of red, green, blue, then their offsets
START = (0.0,) * WIDTH
# Photos are said to differ where the points say so, by this standard deviation of log gain and if gains explain so
# many times as much; and where a rehearsal does. Photos of one exposure (demo, Fern, lego): below 0.015, 1.02, 0.02;
# a room with a door before the camera (plush), which misleads points: 0.13, 1.3, 0.043; made to differ by 0.2: 0.2,
# 1.2, 0.06 to 0.2. What differs by less the bands of SH learn.
SPREAD, BETTER, REHEARSED = 0.04, 1.06, 0.055
AGREE = 0.2  # of log gains: up to this the points are believed, which are exact, otherwise the rehearsal


@dataclass(frozen=True)
class Settings:
    mode: str = choice("auto", "off", "gain", "affine")  # gain: no offsets; auto: affine where photos differ
    lr: float = number(1e-3, 0.0)  # of Adam, at the first step ...
    lr_end: float = number(1e-4, 0.0)  # ... falls exponentially to this at the last

    def rate_at(self, step: int, horizon: int) -> float:
        """The rate of step `step` (from 1)."""
        return decayed(self.lr, max(self.lr_end, 1e-12), min((step - 1) / horizon, 1.0))


def image(row: mx.array, image: mx.array, mode: str) -> mx.array:
    """[H, W, 3] as the photo of this row would show it."""
    brighter = image * mx.exp(row[:3])
    return brighter if mode == "gain" else brighter + row[3:]


def beside(image: mx.array, photo: mx.array) -> mx.array:
    """[H, W, 3] as it is held to the photo, uint8."""
    return mx.where((photo == 255) & (image >= 1), 1.0, image)


def decide(mode: str, material: Material, fused: bool) -> tuple[str, str]:
    """(the mode for what is to be trained on, what to say of it). UserError where it makes no sense.

    fused: whether the backend learns it at full speed; otherwise `auto` only tells.
    """
    views = material.views
    if mode != "auto":
        if mode != "off" and len(views) < 2:
            raise UserError(
                f"exposure={mode} compares photos, and there is {len(views)} to train on; leave it out"
            )
        return mode, ""
    some, most = brightness.some(views), brightness.FEW_POINTS
    measured = brightness.measure(some, material.points, most=most)
    if measured.spread < SPREAD or measured.better < BETTER:
        return "off", ""
    low, high = np.percentile(material.rehearse(), [16, 84], axis=0)  # some photos may go wrong
    spread = float((high - low).max() / 2)
    if spread < REHEARSED:
        return "off", ""
    differ = (
        f"the photos differ in exposure (by {100 * max(spread, measured.spread):.0f} %, a standard deviation)"
    )
    if not fused:
        return "off", f"{differ}; --set exposure=affine levels them, but makes steps slower on this backend"
    return (
        "affine",
        f"{differ}: gain and offset of each are learnt; --set exposure=off leaves them as they are",
    )


def begin(material: Material) -> np.ndarray:
    """[views, 6] float32: the rows to start from."""
    rehearsed = material.rehearse()
    measured = brightness.measure(material.views, material.points)
    agree = measured.measurable[:, None] & (np.abs(measured.gains - rehearsed) <= AGREE)
    gains = np.where(agree, measured.gains, rehearsed)
    return np.concatenate([gains - gains.mean(axis=0), np.zeros_like(gains)], axis=1).astype(np.float32)


def settle(values: np.ndarray, mode: str) -> np.ndarray:
    """[views, 6] with zero mean over the views."""
    return values - values.mean(axis=0, keepdims=True)
