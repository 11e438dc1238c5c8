# SPDX-License-Identifier: Apache-2.0
"""PSNR and SSIM of a render against its photo, in NumPy float64: the definition that faster ones are held to.

The render is rounded to 8 bits first, as it is written to disk. Images are [H, W, 3]; a mask [H, W] says
which pixels count. SSIM as in losses.py.
"""

from __future__ import annotations

from typing import NamedTuple

import mlx.core as mx
import numpy as np

from ..errors import UserError
from ..losses import SSIM_RADIUS, WINDOW, check_mask, ssim_of_moments


class Score(NamedTuple):
    """How a render does beside its photo; NaN without a photo, and where no pixel counts."""

    psnr: float  # dB
    ssim: float
    picture: np.ndarray  # [H, W, 3] uint8: the render as it is written to disk


def score(image: mx.array | np.ndarray, photo: np.ndarray | None, mask: np.ndarray | None = None) -> Score:
    """PSNR and SSIM of a render, rounded to 8 bits, against the uint8 photo, over the pixels in `mask`.

    UserError if the shapes differ.
    """
    picture = to_uint8(image)
    if photo is None:
        return Score(float("nan"), float("nan"), picture)
    check(image, photo, mask)
    if mask is not None and not (np.asarray(mask) > 0).any():
        return Score(float("nan"), float("nan"), picture)
    return Score(psnr(picture, photo, mask), ssim(picture, photo, mask), picture)


def score_of_sums(squares: int, ssim_sum: float, counting: int, picture: np.ndarray) -> Score:
    """From sums over the pixels that count, of whom there are `counting`, and three channels.

    squares: of the differences in 8 bits.
    """
    if counting == 0:
        return Score(float("nan"), float("nan"), picture)
    mean = squares / (3 * counting * 255**2)
    return Score(
        float("inf") if mean == 0 else float(-10 * np.log10(mean)), ssim_sum / (3 * counting), picture
    )


def to_uint8(image: mx.array | np.ndarray) -> np.ndarray:
    """A float render as it is written to disk: floor(255 clip(x, 0, 1) + 0.5); NaN is black."""
    values = np.nan_to_num(np.asarray(image, np.float64), nan=0.0)
    return np.floor(255 * np.clip(values, 0, 1) + 0.5).astype(np.uint8)


def psnr(image: mx.array | np.ndarray, photo: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Peak signal-to-noise ratio in dB of a render, rounded to 8 bits, against the uint8 photo; inf if equal.

    The mean square error is over all pixels (those in `mask`) and channels; NaN in the render gives NaN.
    """
    error = (_as_metric(image, photo) - photo / 255.0) ** 2
    mean = error.mean() if mask is None else error[np.asarray(mask) > 0].mean()
    return float("inf") if mean == 0 else float(-10 * np.log10(mean))


def ssim(image: mx.array | np.ndarray, photo: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Mean SSIM over pixels (in `mask`) and channels of a render, in 8 bits, against the uint8 photo."""
    render, target = _as_metric(image, photo), photo / 255.0
    values = np.empty_like(render)
    for channel in range(render.shape[2]):  # one at a time stays in the cache: half the time
        x, y = np.ascontiguousarray(render[..., channel]), np.ascontiguousarray(target[..., channel])
        values[..., channel] = ssim_of_moments(*map(_blur_numpy, (x, y, x * x + y * y, x * y)))
    return float(values.mean() if mask is None else values[np.asarray(mask) > 0].mean())


def check(image: mx.array | np.ndarray, photo: np.ndarray, mask: np.ndarray | None = None) -> None:
    """UserError unless the photo is uint8 of the render's shape, and the mask of its size."""
    if photo.dtype != np.uint8 or tuple(image.shape) != photo.shape:
        raise UserError(
            f"the photo must be uint8 {tuple(image.shape)} as the render, got {photo.dtype} {photo.shape}"
        )
    if mask is not None:
        check_mask(mask, image)


def _as_metric(image: mx.array | np.ndarray, photo: np.ndarray) -> np.ndarray:
    """The render as float64 in [0, 1], in steps of 1/255."""
    check(image, photo)
    values = np.asarray(image)
    if values.dtype == np.uint8:
        return values / 255.0
    return np.floor(255 * np.clip(values.astype(np.float64), 0, 1) + 0.5) / 255


def _blur_numpy(plane: np.ndarray) -> np.ndarray:
    """[H, W] float64 under the window, zeros outside."""
    for axis in (0, 1):
        size = plane.shape[axis]
        padded = np.pad(plane, [(SSIM_RADIUS, SSIM_RADIUS) if a == axis else (0, 0) for a in range(2)])
        shifted = [
            padded[i : i + size] if axis == 0 else padded[:, i : i + size] for i in range(2 * SSIM_RADIUS + 1)
        ]
        plane = WINDOW[0] * shifted[SSIM_RADIUS]
        pair = np.empty_like(plane)
        for i in range(1, SSIM_RADIUS + 1):
            np.add(shifted[SSIM_RADIUS - i], shifted[SSIM_RADIUS + i], out=pair)
            pair *= WINDOW[i]
            plane += pair
    return plane
