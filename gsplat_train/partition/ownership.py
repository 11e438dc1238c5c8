# SPDX-License-Identifier: Apache-2.0
"""Which part a place in the scene belongs to: the part whose cameras see it best.

A camera that shows a place at distance d sees it with weight 1 / d^2, as many pixels fall on it; the weights of a
part's cameras add up. A place that no camera shows belongs to the part of the nearest camera. This is a function of
the cameras alone, so points, pixels and the splats of a trained model are divided by one rule.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..datasets.agreement import in_picture
from ..scene import Camera

MOST_CAMERAS = 200  # of a part, evenly chosen: more tell the same
BATCH = 1 << 16  # places at a time


def weights(places: np.ndarray, camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    """(index [m] of the places [n, 3] that the camera shows, 1 / d^2 [m] of each)."""
    index, _ = in_picture(camera, places)
    squares = ((places[index] - camera.position) ** 2).sum(axis=1)
    return index, 1 / np.maximum(squares, 1e-30)


def owners(places: np.ndarray, cameras: Sequence[Camera], parts: Sequence[int]) -> np.ndarray:
    """[n] the part, from 0, of each of the places [n, 3]; parts: that of each camera."""
    count = max(parts) + 1
    chosen: list[tuple[Camera, int]] = []
    for part in range(count):
        own = [camera for camera, of in zip(cameras, parts, strict=True) if of == part]
        chosen += [(camera, part) for camera in own[:: -(-len(own) // MOST_CAMERAS)]]
    result = np.empty(len(places), np.int64)
    for start in range(0, len(places), BATCH):
        batch = np.asarray(places[start : start + BATCH], np.float64)
        seen, near = np.zeros((len(batch), count)), np.full((len(batch), count), np.inf)
        for camera, part in chosen:
            index, weight = weights(batch, camera)
            seen[index, part] += weight
            squares = ((batch - camera.position) ** 2).sum(axis=1)
            near[:, part] = np.minimum(near[:, part], squares)
        some = seen.any(axis=1)
        result[start : start + BATCH] = np.where(some, seen.argmax(axis=1), near.argmin(axis=1))
    return result
