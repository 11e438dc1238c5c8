# SPDX-License-Identifier: Apache-2.0
"""Equirectangular panoramas, cut into pinhole pictures: the six sides of a cube round the camera.

The place of a ray (x, y, z): longitude atan2(x, z) from the left to the right border, latitude from the top (-y)
to the bottom (COLMAP's EQUIRECTANGULAR).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..scene import Camera

FIELD = 90.0  # degrees of a side, where nobody chooses it

# From the panorama's camera to the side's: what is its right, down and forward.
SIDES = {
    "front": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "right": ((0, 0, -1), (0, 1, 0), (1, 0, 0)),
    "back": ((-1, 0, 0), (0, 1, 0), (0, 0, -1)),
    "left": ((0, 0, 1), (0, 1, 0), (-1, 0, 0)),
    "up": ((1, 0, 0), (0, 0, 1), (0, -1, 0)),
    "down": ((1, 0, 0), (0, 0, -1), (0, 1, 0)),
}


@dataclass(frozen=True)
class Side:
    """From a panorama of `width` x `height` to a square side of `size` pixels that spans `field` degrees."""

    name: str
    width: int
    height: int
    size: int
    field: float = FIELD
    wraps: bool = True

    @property
    def focal(self) -> float:
        """In pixels of the side."""
        return float(self.size / 2 / np.tan(np.radians(self.field) / 2))

    def positions(self, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions in the panorama of (u, v) in the side; see undistort.Warp."""
        u, v = np.broadcast_arrays(u, v)
        ray = np.stack([(u - self.size / 2) / self.focal, (v - self.size / 2) / self.focal, np.ones(u.shape)])
        x, y, z = np.tensordot(np.array(SIDES[self.name], np.float64).T, ray, axes=1)
        longitude, latitude = np.arctan2(x, z), np.arctan2(-y, np.hypot(x, z))
        return (longitude / (2 * np.pi) + 0.5) * self.width, (0.5 - latitude / np.pi) * self.height

    def camera(self, panorama: Camera) -> Camera:
        """The side's camera, of the panorama's pose."""
        viewmat = np.eye(4)
        viewmat[:3, :3] = np.array(SIDES[self.name], np.float64)
        K = np.array([[self.focal, 0, self.size / 2], [0, self.focal, self.size / 2], [0, 0, 1]])
        return Camera(viewmat @ panorama.viewmat, K, self.size, self.size)


def side_size(width: int, max_size: int, field: float) -> int:
    """Pixels of a side that has the panorama's resolution in its middle; at most `max_size` (0: no limit)."""
    size = round(width / (2 * np.pi) * 2 * np.tan(np.radians(field) / 2))
    return max(1, min(size, max_size) if max_size else size)
