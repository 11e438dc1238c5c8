# SPDX-License-Identifier: Apache-2.0
"""A loss term for photos with an alpha channel: the render shall be as opaque as the photo.

mean |alpha - photo's alpha|        over the pixels; nothing where the photo has none
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx

from ..errors import UserError
from ..scene import View
from ..settings import number
from .objective import Seen


@dataclass(frozen=True)
class Settings:
    weight: float = number(0.0, 0.0)  # 0: off [Brush: 0.1]


def check(views: Sequence[View]) -> None:
    """UserError where no photo has alpha."""
    if all(view.photo is None or view.pixels.alpha is None for view in views):
        raise UserError(
            "alpha.weight needs photos with alpha, and none of these has any (alpha_mode=mask and ignore take it "
            "away); leave it out"
        )


def term(seen: Seen) -> mx.array:
    """See objective: a scalar."""
    if seen.photo.alpha is None:
        return mx.array(0.0)
    wanted = mx.array(seen.photo.alpha).astype(mx.float32) / 255
    return mx.abs(seen.out.alpha[..., 0] - wanted).mean()
