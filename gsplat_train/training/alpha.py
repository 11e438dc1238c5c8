# SPDX-License-Identifier: Apache-2.0
"""A loss term for photos with an alpha channel: the render shall be as opaque as the photo.

mean |alpha - photo's alpha|        over the pixels; nothing where the photo has none
"""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx

from ..settings import number
from .objective import Seen


@dataclass(frozen=True)
class Settings:
    weight: float = number(0.0, 0.0)  # 0: off [Brush: 0.1]


def term(seen: Seen) -> mx.array:
    """See objective: a scalar."""
    if seen.photo.alpha is None:
        return mx.array(0.0)
    wanted = mx.array(seen.photo.alpha).astype(mx.float32) / 255
    return mx.abs(seen.out.alpha[..., 0] - wanted).mean()
