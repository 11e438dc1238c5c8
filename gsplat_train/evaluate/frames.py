# SPDX-License-Identifier: Apache-2.0
"""Frames: a render with its opacity and depth, as NumPy arrays that another thread may write to disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import mlx.core as mx
import numpy as np

from ..errors import UserError
from ..model.gaussians import Gaussians
from ..model.sky import BLACK, WHITE, Colour, Ground, Sky
from ..renderer import render
from ..scene import Camera
from .measure import BACKGROUNDS

if TYPE_CHECKING:
    from ..backends import Backend

NAMED = {"black": BLACK, "white": WHITE}


@dataclass(frozen=True)
class Look:
    """How frames are rendered."""

    background: Ground = BLACK
    antialiased: bool = False  # the mode that the model was trained for
    supersample: int = 1  # renders so many times larger, then averages
    depth: bool = False  # also the expected depth


@dataclass(frozen=True, eq=False)
class Frame:
    """One render."""

    image: mx.array  # [H, W, 3], background included, not clamped
    alpha: np.ndarray  # [H, W] how much of the background is hidden
    depth: np.ndarray | None  # [H, W] expected camera-space z, 0 where nothing is


DEPTH_ALPHA = 0.1  # where the splats hide less of the background than this there is no depth


def shoot(gaussians: Gaussians, camera: Camera, backend: Backend, look: Look, unit: float = 1.0) -> Frame:
    """Renders one frame. The depth is the mean over the splats that a pixel shows, by their weight in it, times
    `unit`.
    """
    n = look.supersample
    large = camera if n == 1 else camera.resized(camera.width * n, camera.height * n)
    out = render(gaussians, large, backend, background=look.background, antialiased=look.antialiased)
    image, alpha = _averaged(out.image, n), _averaged(out.alpha, n)
    depth = None
    if look.depth:
        z = out.projected.depths[:, None]
        carriers = out.projected._replace(
            colors=mx.concatenate([z, mx.ones_like(z), mx.zeros_like(z)], axis=1)
        )
        tiles = backend.isect_tiles(carriers, large.width, large.height)
        sums, _ = backend.rasterize(carriers, tiles, mx.zeros(3), large.width, large.height)
        weighted = np.asarray(_averaged(sums, n)[:, :, :2], np.float32)
        hidden = weighted[:, :, 1]
        depth = np.where(hidden >= DEPTH_ALPHA, unit * weighted[:, :, 0] / np.maximum(hidden, DEPTH_ALPHA), 0)
    mx.eval(image, alpha)
    return Frame(image, np.asarray(alpha)[:, :, 0], depth)


def ground_of(text: str | None, sky: Sky | None, trained: str = "black") -> Ground:
    """What --background asks for: a colour, or by `sh` the model's sky. None: the sky where the model has one, else
    the colour that a run with the setting background=`trained` is measured over.
    """
    if text is None:
        return sky or BACKGROUNDS[trained]
    if text != "sh":
        return background_of(text)
    if sky is None:
        raise UserError(
            "--background sh is the model's sky, and this model has none; give black, white, #rrggbb or R,G,B"
        )
    return sky


def background_of(text: str) -> Colour:
    """A colour by its name (black, white), as #rrggbb, or as R,G,B from 0 to 1; UserError otherwise."""
    if text in NAMED:
        return NAMED[text]
    try:
        if text.startswith("#") and len(text) == 7:
            values = [int(text[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        else:
            values = [float(part) for part in text.split(",")]
        if len(values) == 3 and all(0 <= value <= 1 for value in values):
            return values[0], values[1], values[2]
    except ValueError:
        pass
    raise UserError(
        "--background takes black, white, #rrggbb, three numbers from 0 to 1 as 1,0.5,0, or sh for the model's sky, "
        f"got {text!r}"
    )


def depth_range(gaussians: Gaussians, cameras: Sequence[Camera]) -> tuple[float, float]:
    """(near, far) that hold nearly all that some of the cameras see, in the unit of both."""
    mx.eval(gaussians)
    opaque = np.asarray(gaussians.opacities) > 0.1
    means = np.asarray(gaussians.means, np.float64)[opaque]
    chosen = [cameras[i] for i in np.unique(np.linspace(0, len(cameras) - 1, 16).astype(int))]
    seen = []
    for camera in chosen:
        local = means @ camera.viewmat[:3, :3].T + camera.viewmat[:3, 3]
        depth = local[:, 2]
        pixels = local[:, :2] * [camera.K[0, 0], camera.K[1, 1]] / np.maximum(depth, 1e-9)[:, None]
        pixels += camera.K[:2, 2]
        inside = (
            (depth > 0.01) & (pixels >= 0).all(axis=1) & (pixels <= [camera.width, camera.height]).all(axis=1)
        )
        seen.append(depth[inside])
    depths = np.concatenate(seen)
    if len(depths) == 0:
        return 1.0, 2.0
    near, far = np.percentile(depths, (1, 99.5))
    return float(near), float(max(far, near * 1.01))


def _averaged(image: mx.array, n: int) -> mx.array:
    """[nH, nW, C] -> [H, W, C]: the mean of each square of n x n pixels."""
    if n == 1:
        return image
    height, width, channels = image.shape
    return image.reshape(height // n, n, width // n, n, channels).mean(axis=(1, 3))
