# SPDX-License-Identifier: Apache-2.0
"""From a photo with lens distortion to the photo a pinhole camera would have taken.

Notation: `distortion` = (k1, k2, p1, p2) of COLMAP's OPENCV model, of which SIMPLE_RADIAL and RADIAL are
cases. The new camera has the photo's size and principal point; fx and fy grow by the smallest `zoom` >= 1 at
which all pixel centres of the new border fall inside the photo, so that no pixel has to be invented.
"""

from __future__ import annotations

import numpy as np

from ..errors import UserError

Distortion = tuple[float, float, float, float]

MAX_ZOOM = 8.0  # beyond it less than 2 % of the photo is left: such a model is wrong
ZOOM_STEP = 1.002  # of the search: insideness need not be monotone in zoom where the model folds over
BLOCK_PIXELS = 1 << 13  # resampled at a time: temporaries stay in the processor's cache (measured)


def distort(x: np.ndarray, y: np.ndarray, distortion: Distortion) -> tuple[np.ndarray, np.ndarray]:
    """Where the lens puts the ray (x, y, 1): COLMAP's OPENCV model, in units of the focal length."""
    k1, k2, p1, p2 = distortion
    r2 = x * x + y * y
    radial = 1 + r2 * (k1 + r2 * k2)
    tangential_x = 2 * p1 * x * y + p2 * (r2 + 2 * x * x)
    tangential_y = 2 * p2 * x * y + p1 * (r2 + 2 * y * y)
    return x * radial + tangential_x, y * radial + tangential_y


def photo_positions(
    u: np.ndarray, v: np.ndarray, K: np.ndarray, distortion: Distortion, zoom: float
) -> tuple[np.ndarray, np.ndarray]:
    """Where the positions (u, v) of the pinhole picture lie in the photo; pixels with centres at +0.5."""
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    x, y = distort((u - cx) / (zoom * fx), (v - cy) / (zoom * fy), distortion)
    return x * fx + cx, y * fy + cy


def find_zoom(K: np.ndarray, width: int, height: int, distortion: Distortion) -> float:
    """The smallest zoom >= 1 at which the pinhole picture's border maps inside [0, width] x [0, height]."""
    u, v = np.arange(width) + 0.5, np.arange(height) + 0.5
    border_u = np.concatenate([u, u, np.full(height, 0.5), np.full(height, width - 0.5)])
    border_v = np.concatenate([np.full(width, 0.5), np.full(width, height - 0.5), v, v])

    def inside(zoom: float) -> bool:
        x, y = photo_positions(border_u, border_v, K, distortion, zoom)
        return bool(((x >= 0) & (x <= width) & (y >= 0) & (y <= height)).all())

    low = high = 1.0
    while not inside(high):
        low, high = high, high * ZOOM_STEP
        if high > MAX_ZOOM:
            raise UserError(
                f"the distortion k1, k2, p1, p2 = {distortion} leaves nothing of the {width}x{height} photo; "
                "correct the camera, or set undistort=false"
            )
    for _ in range(40):  # to the last bit of the step
        middle = 0.5 * (low + high)
        low, high = (low, middle) if inside(middle) else (middle, high)
    return high


def undistort(image: np.ndarray, K: np.ndarray, distortion: Distortion, zoom: float) -> np.ndarray:
    """The pinhole picture of a photo, both [H, W, 3] uint8: bicubic (Catmull-Rom), edges clamped."""
    height, width, _ = image.shape
    planes = np.ascontiguousarray(image.reshape(-1, 3).T, np.float32)  # gathers by channel are the fastest
    result = np.empty_like(image)
    u = np.arange(width) + 0.5
    rows = max(1, BLOCK_PIXELS // width)
    for top in range(0, height, rows):
        v = np.arange(top, min(top + rows, height))[:, None] + 0.5
        x, y = photo_positions(u, v, K, distortion, zoom)
        block = _sample(planes, width, height, x.ravel() - 0.5, y.ravel() - 0.5)
        result[top : top + rows] = block.T.reshape(len(v), width, 3)
    return result


def _sample(planes: np.ndarray, width: int, height: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """uint8 [3, n]: planes [3, H * W] at the positions (x, y), where whole numbers are pixel centres."""
    column, row = np.floor(x), np.floor(y)
    weights_x = _catmull_rom((x - column).astype(np.float32))
    weights_y = _catmull_rom((y - row).astype(np.float32))
    columns = [np.clip(column + k, 0, width - 1).astype(np.int64) for k in (-1, 0, 1, 2)]
    rows = [np.clip(row + k, 0, height - 1).astype(np.int64) * width for k in (-1, 0, 1, 2)]
    total = np.zeros((3, len(x)), np.float32)
    for start, weight_y in zip(rows, weights_y, strict=True):
        line = np.zeros_like(total)
        for offset, weight_x in zip(columns, weights_x, strict=True):
            line += planes.take(start + offset, axis=1) * weight_x
        total += line * weight_y
    return np.rint(np.clip(total, 0, 255)).astype(np.uint8)


def _catmull_rom(t: np.ndarray) -> tuple[np.ndarray, ...]:
    """Weights of the samples at -1, 0, 1, 2 for the fraction t: Keys' cubic convolution with a = -0.5."""
    t2, t3 = t * t, t * t * t
    return (
        -0.5 * t3 + t2 - 0.5 * t,
        1.5 * t3 - 2.5 * t2 + 1,
        -1.5 * t3 + 2 * t2 + 0.5 * t,
        0.5 * t3 - 0.5 * t2,
    )
