# SPDX-License-Identifier: Apache-2.0
"""How well Gaussians show the views of a scene: usable on any model.

The backend scores as evaluate/metrics.py defines it, the render rounded to 8 bits against the uint8 photo; the
means are over views, at all SH degrees. A photo that is see-through lies over the render's background. A view of
whose mask no pixel counts has no score.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..model.gaussians import Gaussians
from ..renderer import render
from ..scene import View

if TYPE_CHECKING:
    from ..backends import Backend

BACKGROUNDS = {"black": (0.0, 0.0, 0.0), "white": (1.0, 1.0, 1.0), "random": (0.0, 0.0, 0.0)}  # to measure on


def measure(
    gaussians: Gaussians,
    views: Iterable[View],
    backend: Backend,
    *,
    background: str = "black",
    antialiased: bool = False,
    each: Callable[[View, np.ndarray], None] = lambda view, picture: None,
) -> dict[str, Any]:
    """Renders the views: {"psnr", "ssim", "views": {name: {"psnr", "ssim"}}} over those with a photo.

    `each` gets every view with its render [H, W, 3] uint8. gaussians and views are in one frame.
    """
    scores, ground = {}, BACKGROUNDS[background]
    for view in views:
        out = render(gaussians, view.camera, backend, background=ground, antialiased=antialiased)
        photo = None if view.photo is None else view.photo.decode()
        pixels, mask = (None, None) if photo is None else (photo.shown(ground), photo.mask)
        score = backend.score(out.image, pixels, mask)
        if not np.isnan(score.psnr):
            scores[view.name] = {"psnr": score.psnr, "ssim": score.ssim}
        each(view, score.picture)
    means = {
        name: float(np.mean([score[name] for score in scores.values()])) if scores else float("nan")
        for name in ("psnr", "ssim")
    }
    return {**means, "views": scores}
