# SPDX-License-Identifier: Apache-2.0
"""Whether a camera that took photos has moved, or only turned on the spot, which shows no depth.

Two photos of a camera that turned differ by the homography K R K^-1 (Hartley and Zisserman 2004, 8.4); those of a flat
scene differ by another one. The focal length is looked for, for nothing else can tell it in such photos.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

FOCALS = np.geomspace(0.4, 4.0, 60)  # of the longer side
TURNED = 0.02  # a homography is a rotation where its singular values differ by less
MOST = 0.75  # of the pairs


def turned_only(homographies: Sequence[np.ndarray], width: int, height: int) -> bool:
    """Whether most of the homographies [3, 3], from pixels to pixels of photos of that size, are rotations seen by one
    camera.
    """
    sound = [H for H in homographies if np.isfinite(H).all() and np.linalg.det(H) != 0]
    return bool(sound) and from_rotation(sound, width, height) < TURNED


def from_rotation(homographies: Sequence[np.ndarray], width: int, height: int) -> float:
    """How far most of them are from rotations, with the focal length that suits them best."""
    H = np.stack(homographies)
    H = H / np.cbrt(np.linalg.det(H))[:, None, None]
    best = np.inf
    for focal in FOCALS * max(width, height):
        K = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
        stretch = np.linalg.svd(np.linalg.inv(K) @ H @ K, compute_uv=False)
        best = min(best, float(np.quantile(stretch[:, 0] - stretch[:, 2], MOST)))
    return best
