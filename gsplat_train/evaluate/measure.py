# SPDX-License-Identifier: Apache-2.0
"""How well Gaussians show the views of a scene: usable on any model.

The backend scores as evaluate/metrics.py defines it, the render rounded to 8 bits against the uint8 photo; the
means are over views, at all SH degrees. A photo that is see-through lies over the render's background. A view of
whose mask no pixel counts has no score.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np

from ..model.gaussians import Gaussians
from ..model.sky import BLACK, WHITE, Ground, Sky, colour_of
from ..renderer import render
from ..scene import Camera, View
from .corrected import corrected, half_fitted
from .perceptual import ms_ssim
from .pictures import Writers

if TYPE_CHECKING:
    from ..backends import Backend

PLAIN = ("psnr", "ssim")
MOST = 100.0  # dB, of a picture that equals its photo
FULLY = (*PLAIN, "ms_ssim", "psnr_half", "psnr_corrected")
BACKGROUNDS = {
    "auto": BLACK,
    "black": BLACK,
    "white": WHITE,
    "random": BLACK,
    "random-first": BLACK,
    "sh": BLACK,  # of photos: renders have the sky of the model
}  # of the settings: to measure on


def measure(
    gaussians: Gaussians,
    views: Iterable[View],
    backend: Backend,
    *,
    background: str | Ground = "black",
    antialiased: bool = False,
    fully: bool = False,
    place: Callable[[Camera], Camera] = lambda camera: camera,
    writers: Writers | None = None,
    each: Callable[[View, np.ndarray], None] = lambda view, picture: None,
) -> dict[str, Any]:
    """Renders the views: {"psnr", "ssim", "views": {name: {"psnr", "ssim"}}} over those with a photo.

    fully: also what `more_scores` says. `each` gets every view with its render [H, W, 3] uint8. place: from the
    views' frame to that of the Gaussians. writers: threads for more scores, where there are some already: to start
    one where memory is short may take for ever.
    """
    scores, more = {}, {}
    ground = BACKGROUNDS[background] if isinstance(background, str) else background
    show = None if isinstance(ground, Sky) else backend.show(gaussians, ground, antialiased)
    with nullcontext(writers) if writers else Writers() as beside:
        for view in views:
            camera = place(view.camera)
            photo = None if view.photo is None else view.photo.decode()
            pixels, mask = (None, None) if photo is None else (photo.shown(colour_of(ground)), photo.mask)
            if show is None:
                out = render(gaussians, camera, backend, background=ground, antialiased=antialiased)
                score = backend.score(out.image, pixels, mask)
            else:
                score = show(camera.viewmat, camera.K, camera.width, camera.height, pixels, mask)
            if not np.isnan(score.psnr):
                scores[view.name] = {"psnr": score.psnr, "ssim": score.ssim}
                if fully and pixels is not None:
                    more[view.name] = beside.add(more_scores, score.picture, pixels, mask)
            each(view, score.picture)
        for name, found in more.items():
            scores[name] |= found.result()
    return means_of(scores, FULLY if fully else PLAIN)


def more_scores(picture: np.ndarray, photo: np.ndarray, mask: np.ndarray | None) -> dict[str, float]:
    """{"ms_ssim", "psnr_half", "psnr_corrected"} of a render in 8 bits: see perceptual.py and corrected.py."""
    return {
        "ms_ssim": ms_ssim(picture, photo, mask),
        "psnr_half": half_fitted(picture, photo, mask),
        "psnr_corrected": corrected(picture, photo, mask),
    }


def means_of(scores: Mapping[str, Mapping[str, float]], names: Sequence[str]) -> dict[str, Any]:
    """The means of the named scores over the views that have them, and "views": all.

    A render that equals its photo, as of nothing before black, counts MOST: infinity would be the mean of all.
    """
    found = {name: [min(s[name], MOST) for s in scores.values() if not np.isnan(s[name])] for name in names}
    means = {name: float(np.mean(values)) if values else float("nan") for name, values in found.items()}
    return {**means, "views": dict(scores)}
