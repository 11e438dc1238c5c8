# SPDX-License-Identifier: Apache-2.0
"""Floaters: splats near the cameras that hardly any view shows, and how much of the held-out error is theirs; and
plates, faint and larger than half a picture.

A splat fits one view's noise best where no other view sees it: close before the camera. What a splat is to a view is
sum_p w(p), the pixels' weights that it is blended with; near is told by the median depth of what the view shows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from ..backends import Backend
from ..model.gaussians import Gaussians
from ..renderer import projected_sums
from ..scene import Camera, View, evenly

SEEN = 1.0  # pixels' worth of weight: what a view shows
FEW = 2  # views that show what is no floater
NEAR = 0.25  # of a view's median depth
SOME = 8  # views whose error is dealt out
HUGE, FAINT = 0.5, 0.1  # radius (three deviations) over the picture's longer side; opacity


class Sightings(NamedTuple):
    """Of each Gaussian, arrays of MLX."""

    views: mx.array  # [N] int32, that show it
    nearest: mx.array  # [N] float32, its depth over the view's median depth, the least of those views; inf
    largest: mx.array  # [N] float32, its radius over the longer side of a view that shows it

    def unwanted(self, opacities: mx.array) -> mx.array:
        """[N] bool: floaters and plates. opacities [N]."""
        plates = (self.largest > HUGE) & (opacities < FAINT)
        return ((self.views < FEW) & (self.nearest < NEAR)) | plates


def sightings(
    gaussians: Gaussians, cameras: Iterable[Camera], backend: Backend, antialiased: bool = False
) -> Sightings:
    """What the views of `cameras` show, in their frame."""
    n = gaussians.means.shape[0]
    views, nearest, largest = mx.zeros(n, mx.int32), mx.full((n,), np.inf), mx.zeros(n)
    for camera in cameras:
        sums, projected = projected_sums(gaussians, camera, backend, mx.ones_like, antialiased=antialiased)
        shown = sums[:, 0] > SEEN
        depths = projected.depths / _median_depth(projected.depths, shown)
        views = views + shown
        nearest = mx.minimum(nearest, mx.where(shown, depths, np.inf))
        sizes = projected.radii.max(axis=1) / max(camera.width, camera.height)
        largest = mx.maximum(largest, mx.where(shown, sizes, 0.0))
        mx.eval(views, nearest, largest)
    return Sightings(views, nearest, largest)


def near_error(
    gaussians: Gaussians,
    views: Sequence[View],
    backend: Backend,
    antialiased: bool = False,
    place: Callable[[Camera], Camera] = lambda camera: camera,
    near: float = NEAR,
) -> float:
    """The share of the absolute error of these views (a few of them), dealt out to splats by the weights that they are
    blended with, that is of splats nearer than `near`; NaN without an error. place: a view's camera in their frame.
    """
    theirs = total = 0.0
    for view in evenly(views, SOME):
        photo = view.pixels

        def errors(image: mx.array, photo: Any = photo) -> mx.array:
            error = mx.abs(mx.clip(image, 0, 1) - mx.array(photo.shown((0.0, 0.0, 0.0))) / 255).mean(axis=2)
            if photo.mask is not None:
                error = error * (mx.array(photo.mask) > 0)
            return mx.stack([error, mx.ones_like(error), mx.zeros_like(error)], axis=2)

        sums, projected = projected_sums(
            gaussians, place(view.camera), backend, errors, gaussians.sh_degree, antialiased
        )
        close = projected.depths < near * _median_depth(projected.depths, sums[:, 1] > SEEN)
        theirs += float(mx.where(close, sums[:, 0], 0.0).sum())
        total += float(sums[:, 0].sum())
    return theirs / total if total else float("nan")


def _median_depth(depths: mx.array, shown: mx.array) -> mx.array:
    """[1] the median of the depths that are shown; 1 where none is."""
    count = int(shown.sum())
    ordered = mx.sort(mx.where(shown, depths, np.inf))
    return ordered[count // 2 : count // 2 + 1] if count else mx.ones(1)
