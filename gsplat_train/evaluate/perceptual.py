# SPDX-License-Identifier: Apache-2.0
"""A measure nearer to what eyes see than PSNR and SSIM, without weights to download: multi-scale SSIM.

    MS-SSIM = luminance_5^w5 * product over 5 scales j of (contrast and structure)_j^wj

of brightness (Rec. 601), each scale half the one before (Wang, Simoncelli, Bovik 2003, with their weights). Errors
of all sizes count, fine ones for less; 1 is the photo itself. Windows that reach over the border do not count.
"""

from __future__ import annotations

import numpy as np

from ..losses import SSIM_C1, SSIM_C2, SSIM_RADIUS, WINDOW

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
LUMA = np.array([0.299, 0.587, 0.114], np.float32) / 255


def ms_ssim(picture: np.ndarray, photo: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Of two pictures [H, W, 3] uint8, over the pixels that count; NaN where nothing can be measured.

    A side below 176 pixels has fewer scales, the coarse ones left out and the weights of the others made to sum
    to 1.
    """
    x, y = (image.astype(np.float32) @ LUMA for image in (picture, photo))
    counts = np.ones(x.shape, bool) if mask is None else np.asarray(mask) > 0
    x, y = np.where(counts, x, 0), np.where(counts, y, 0)
    scales = sum(min(x.shape) >> j > 2 * SSIM_RADIUS for j in range(len(WEIGHTS)))
    weights = np.array(WEIGHTS[:scales]) / max(sum(WEIGHTS[:scales]), 1e-9)
    value = 1.0 if scales else float("nan")
    for j, weight in enumerate(weights):
        if j:
            x, y, counts = _halved(x), _halved(y), _halved(counts.astype(np.float32)) == 1
        luminance, structure = _parts(x, y)
        here = counts[SSIM_RADIUS:-SSIM_RADIUS, SSIM_RADIUS:-SSIM_RADIUS]
        if not here.any():
            return float("nan")
        share = luminance * structure if j == scales - 1 else structure
        value *= max(float(share[here].mean(dtype=np.float64)), 0.0) ** float(weight)
    return value


def _parts(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(luminance, contrast and structure) of SSIM around each pixel whose window lies inside."""
    mean_x, mean_y, xx, yy, xy = (_blurred(a) for a in (x, y, x * x, y * y, x * y))
    product, squares = mean_x * mean_y, mean_x * mean_x + mean_y * mean_y
    luminance = (2 * product + SSIM_C1) / (squares + SSIM_C1)
    return luminance, (2 * (xy - product) + SSIM_C2) / (xx + yy - squares + SSIM_C2)


def _blurred(plane: np.ndarray) -> np.ndarray:
    """[H - 10, W - 10] under the window."""
    taps = np.concatenate([WINDOW[:0:-1], WINDOW]).astype(np.float32)
    for axis in (0, 1):
        n = plane.shape[axis] - 2 * SSIM_RADIUS
        total = np.zeros_like(plane, shape=(n, plane.shape[1]) if axis == 0 else (plane.shape[0], n))
        for i, tap in enumerate(taps):
            total += tap * (plane[i : i + n] if axis == 0 else plane[:, i : i + n])
        plane = total
    return plane


def _halved(plane: np.ndarray) -> np.ndarray:
    """Means of squares of 2x2; an odd last row or column is left out."""
    height, width = (side // 2 * 2 for side in plane.shape)
    return plane[:height, :width].reshape(height // 2, 2, width // 2, 2).mean(axis=(1, 3))
