# SPDX-License-Identifier: Apache-2.0
"""PSNR where exposure is not the model's to know: a gain and an offset for each channel are fitted to the photo.

    raw         nothing is fitted: what a viewer shows (evaluate/metrics.py)
    half        fitted on the left half of the photo, scored on the right: what was fitted has not been scored
    corrected   fitted and scored on the same pixels: flatters a little

Least squares over pixels that count and are saturated in neither picture.
"""

from __future__ import annotations

import numpy as np

FEWEST = 16  # pixels to fit to


def half_fitted(picture: np.ndarray, photo: np.ndarray, mask: np.ndarray | None = None) -> float:
    """PSNR of the right half, of pictures [H, W, 3] uint8; NaN where a half has too few pixels that count."""
    left = np.zeros(photo.shape[:2], bool)
    left[:, : photo.shape[1] // 2] = True
    return _fitted(picture, photo, mask, left, ~left)


def corrected(picture: np.ndarray, photo: np.ndarray, mask: np.ndarray | None = None) -> float:
    """PSNR of the whole picture, fitted on itself."""
    whole = np.ones(photo.shape[:2], bool)
    return _fitted(picture, photo, mask, whole, whole)


def _fitted(
    picture: np.ndarray, photo: np.ndarray, mask: np.ndarray | None, fit: np.ndarray, score: np.ndarray
) -> float:
    if mask is not None:
        fit, score = fit & (mask > 0), score & (mask > 0)
    if not score.any():
        return float("nan")
    squares = 0.0
    for channel in range(3):
        x, y = picture[..., channel].astype(np.float64), photo[..., channel].astype(np.float64)
        fine = fit & (x > 0) & (x < 255) & (y > 0) & (y < 255)
        if fine.sum() < FEWEST:
            gain, offset = 1.0, 0.0
        else:
            xs, ys = x[fine], y[fine]
            spread = ((xs - xs.mean()) ** 2).mean()
            gain = ((xs - xs.mean()) * (ys - ys.mean())).mean() / spread if spread > 0 else 1.0
            offset = ys.mean() - gain * xs.mean()
        squares += ((np.clip(gain * x[score] + offset, 0, 255) - y[score]) ** 2).mean() / 3
    return float("inf") if squares == 0 else float(10 * np.log10(255**2 / squares))
