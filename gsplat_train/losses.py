# SPDX-License-Identifier: Apache-2.0
"""How far a render is from its photo: the training loss in plain MLX. The metrics are in evaluate/metrics.py.

Images are [H, W, 3] with values around [0, 1], or uint8; a mask [H, W] says which pixels count. SSIM (Wang et
al. 2004), per channel: Gaussian window of 11x11, sigma 1.5, zero padding ("same"), population variance, K1
0.01, K2 0.03, data range 1.
"""

from __future__ import annotations

from typing import Any, cast

import mlx.core as mx
import numpy as np

from .errors import UserError

SSIM_C1 = 0.01**2
SSIM_C2 = 0.03**2
SSIM_SIGMA = 1.5  # px
SSIM_RADIUS = 5  # px: 11 taps

_taps = np.exp(-0.5 * (np.arange(SSIM_RADIUS + 1) / SSIM_SIGMA) ** 2)
WINDOW = _taps / (2 * _taps.sum() - _taps[0])  # of offset 0, 1, .. 5; symmetric, sums to 1


def photometric_loss(
    image: mx.array,
    target: mx.array | np.ndarray,
    ssim_lambda: float,
    mask: mx.array | np.ndarray | None = None,
) -> tuple[mx.array, mx.array, mx.array]:
    """(loss, l1, ssim), scalars: loss = (1 - lambda) l1 + lambda (1 - ssim), as 3DGS; differentiable by
    `image`.

    With a mask, pixels that do not count (those not above 0) are 0 in both pictures and in no mean; where no
    pixel counts l1 and ssim are 0. UserError if the shapes differ.
    """
    target = _unit_range(target if isinstance(target, mx.array) else mx.array(target))
    if image.shape != target.shape:
        raise UserError(f"the photo must have the render's shape {image.shape}, got {target.shape}")
    if mask is None:
        l1, ssim = mx.abs(image - target).mean(), ssim_map(image, target).mean()
    else:
        check_mask(mask, image)
        counts = (mx.array(mask) > 0).astype(mx.float32)[..., None]
        share = mx.maximum(counts.mean(), 1 / counts.size)
        image, target = mx.where(counts > 0, image, 0), mx.where(counts > 0, target, 0)
        l1 = mx.abs(image - target).mean() / share
        ssim = (ssim_map(image, target) * counts).mean() / share
    return (1 - ssim_lambda) * l1 + ssim_lambda * (1 - ssim), l1, ssim


def check_mask(mask: mx.array | np.ndarray, image: mx.array | np.ndarray) -> None:
    """UserError unless the mask is [H, W] of an image [H, W, 3]."""
    if tuple(mask.shape) != tuple(image.shape[:2]):
        raise UserError(
            f"the mask must have the render's size {tuple(image.shape[:2])}, got {tuple(mask.shape)}"
        )


def ssim_map(image: mx.array, target: mx.array) -> mx.array:
    """SSIM [H, W, 3] around each pixel and channel of two float images; differentiable in `image`."""
    mean_t = cast(mx.array, _blur(target))
    blurred = cast(
        mx.array, _blur(mx.concatenate([image, image * image + target * target, image * target], axis=-1))
    )
    mean_i, squares, product = mx.split(blurred, 3, axis=-1)
    return ssim_of_moments(mean_i, mean_t, squares, product)


def ssim_of_moments(mean_x: Any, mean_y: Any, squares: Any, product: Any) -> Any:
    """SSIM from the window's E[x], E[y], E[x^2 + y^2] and E[xy]; arrays of either library."""
    means_product, means_squares = mean_x * mean_y, mean_x * mean_x + mean_y * mean_y
    luminance = (2 * means_product + SSIM_C1) / (means_squares + SSIM_C1)
    contrast = (2 * (product - means_product) + SSIM_C2) / (squares - means_squares + SSIM_C2)
    return luminance * contrast


@mx.custom_function
def _blur(maps: mx.array) -> mx.array:
    """[H, W, C] under the window, zeros outside: down, then across, each one product with a strided view."""
    height, width, depth = maps.shape
    taps = mx.array(np.concatenate([WINDOW[:0:-1], WINDOW]).astype(np.float32))[None]  # [1, 11]
    border, row = (SSIM_RADIUS, SSIM_RADIUS), width * depth
    padded = mx.pad(maps, [border, (0, 0), (0, 0)])
    maps = (taps @ mx.as_strided(padded, (height, taps.size, row), (row, row, 1))).reshape(maps.shape)
    padded, row = mx.pad(maps, [(0, 0), border, (0, 0)]), row + 2 * SSIM_RADIUS * depth
    view = mx.as_strided(padded, (height, width, taps.size, depth), (row, depth, depth, 1))
    return (taps @ view).reshape(maps.shape)


@_blur.vjp
def _blur_vjp(maps: mx.array, v_blurred: mx.array, blurred: mx.array) -> mx.array:
    """The window is symmetric and pads with zeros, so the blur is its own transpose."""
    return cast(mx.array, _blur(v_blurred))


def _unit_range(image: mx.array) -> mx.array:
    return image.astype(mx.float32) / 255 if image.dtype == mx.uint8 else image
