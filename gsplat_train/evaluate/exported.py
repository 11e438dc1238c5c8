# SPDX-License-Identifier: Apache-2.0
"""What an exported file is worth: the PSNR that it loses on views with a photo; and which splats those views need."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

import mlx.core as mx
import numpy as np

from ..model.gaussians import Gaussians
from ..model.io import Model
from ..renderer import pixel_sums
from ..scene import Camera, View
from .measure import measure

if TYPE_CHECKING:
    from ..backends import Backend


class Loss(NamedTuple):
    psnr_before: float  # dB, mean over the views
    psnr_after: float
    views: int

    def __str__(self) -> str:
        return (
            f"PSNR {self.psnr_before:.2f} dB as trained, {self.psnr_after:.2f} dB as written "
            f"({round(self.psnr_after - self.psnr_before, 2) + 0.0:+.2f}) on {self.views} held-out views"
        )


def loss_of(
    before: Model,
    after: Model,
    views: Iterable[View],
    backend: Backend,
    *,
    background: str,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Loss | None:
    """The PSNR of `before` and of `after` on views of their scene; None where no view has a photo. progress gets the
    renders that are done, and all.
    """
    views = [view for view in views if view.photo is not None]
    if not views:
        return None
    done, before = count(1), before.to_render([view.camera for view in views])
    psnr = [
        measure(
            model.gaussians,
            views,
            backend,
            background=model.sky or background,
            antialiased=model.antialiased,
            place=model.camera,
            each=lambda view, picture: progress(next(done), 2 * len(views)),
        )["psnr"]
        for model in (before, after.at(before.frame))
    ]
    return Loss(psnr[0], psnr[1], len(views))


def contributions(
    gaussians: Gaussians,
    cameras: Sequence[Camera],
    backend: Backend,
    antialiased: bool,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> np.ndarray:
    """[N] the sum over all pixels of the weight with which each Gaussian is blended. progress gets the views that
    are done, and all.
    """
    total = np.zeros(gaussians.means.shape[0])
    for number, camera in enumerate(cameras, start=1):
        sums = pixel_sums(gaussians, camera, backend, mx.ones_like, antialiased=antialiased)
        total += np.asarray(sums)[:, 0].astype(np.float64)
        progress(number, len(cameras))
    return total
