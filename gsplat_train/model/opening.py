# SPDX-License-Identifier: Apache-2.0
"""Where a viewer begins: at which camera, about what it turns, which way is up. NumPy only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..scene import Camera
from .splats import Splats, sigmoid

APART = 0.9  # cameras whose mean direction is shorter than this look at something from around
MOST_CAMERAS = 200  # that a page holds, evenly taken from more
NEAR_AXIS = 0.35  # tangent of the angle around a camera's axis in which its subject is looked for
FIELD = np.radians(50)  # of view, where no camera is known
PLY_UP = (0.0, -1.0, 0.0)  # of a frame whose y points down, where nothing else is known


class Opening(NamedTuple):
    """What a viewer needs beside the splats, in their frame."""

    cameras: tuple[Camera, ...]
    first: int  # which of them it opens at
    target: np.ndarray  # [3] what it turns about
    up: tuple[float, float, float]


def opening(splats: Splats, cameras: Sequence[Camera] = ()) -> Opening:
    """Opens at the training camera that looks most squarely at what all look at; without cameras, before the
    middle of the splats.
    """
    if not cameras:
        return _before(splats)
    chosen = [cameras[i] for i in np.unique(np.linspace(0, len(cameras) - 1, MOST_CAMERAS).astype(int))]
    positions = np.array([camera.position for camera in chosen])
    forwards = np.array([camera.viewmat[2, :3] for camera in chosen])
    up = splats.up or upright(chosen)
    if np.linalg.norm(forwards.mean(axis=0)) < APART:
        target = _crossing(positions, forwards)
        arms = target - positions
        first = int(np.argmax((arms * forwards).sum(axis=1) / np.linalg.norm(arms, axis=1)))
    else:
        first = int(np.argmin(np.linalg.norm(positions - positions.mean(axis=0), axis=1)))
        target = positions[first] + forwards[first] * _depth(splats, positions[first], forwards[first])
    return Opening(tuple(chosen), first, target, up)


def upright(cameras: Sequence[Camera]) -> tuple[float, float, float]:
    """[3] which way is up: across the right-hand sides of all cameras, where these differ; else their mean."""
    rights = np.array([camera.viewmat[0, :3] for camera in cameras])
    mean = -np.array([camera.viewmat[1, :3] for camera in cameras]).mean(axis=0)
    values, vectors = np.linalg.eigh(rights.T @ rights / len(rights))
    up = mean
    if values[1] > 0.05 and values[0] < 0.2 * values[1]:
        up = vectors[:, 0] * np.sign(vectors[:, 0] @ mean or 1)
    length = float(np.linalg.norm(up))
    return tuple((up / length).tolist()) if length > 1e-6 else PLY_UP


def _crossing(positions: np.ndarray, forwards: np.ndarray) -> np.ndarray:
    """[3] the point nearest to all optical axes, by least squares."""
    across = np.eye(3) - forwards[:, :, None] * forwards[:, None, :]
    return np.linalg.lstsq(across.sum(axis=0), np.einsum("nij,nj->i", across, positions), rcond=None)[0]


def _depth(splats: Splats, position: np.ndarray, forward: np.ndarray) -> float:
    """How far the subject of a camera is: the weighted median depth of the splats around its axis."""
    arms = splats.arrays["means"] - position
    depths = arms @ forward
    beside = np.linalg.norm(arms - depths[:, None] * forward, axis=1)
    seen = (depths > 1e-3) & (beside < NEAR_AXIS * depths)
    if not seen.any():
        return max(float(np.median(np.linalg.norm(arms, axis=1))), 1e-3)
    return _median(depths[seen], sigmoid(splats.arrays["logit_opacities"][seen]))


def _before(splats: Splats) -> Opening:
    weights = sigmoid(splats.arrays["logit_opacities"])
    centre = np.array([_median(column, weights) for column in splats.arrays["means"].T])
    arms = np.linalg.norm(splats.arrays["means"] - centre, axis=1)
    distance = max(2.5 * float(np.percentile(arms, 75)), 1e-3)
    up = np.array(splats.up or PLY_UP)
    down = -up / np.linalg.norm(up)
    # Forward is +z of a PLY, or what of it is level.
    level = np.array([0.0, 0.0, 1.0]) if abs(down[2]) < 0.9 else np.array([0.0, 1.0, 0.0])
    forward = level - (level @ down) * down
    forward /= np.linalg.norm(forward)
    rotation = np.array([np.cross(down, forward), down, forward])
    viewmat = np.eye(4)
    viewmat[:3, :3] = rotation
    viewmat[:3, 3] = -rotation @ (centre - distance * forward)
    focal = 500 / np.tan(FIELD / 2)
    camera = Camera(viewmat, np.array([[focal, 0, 500], [0, focal, 500], [0, 0, 1]]), 1000, 1000)
    return Opening((camera,), 0, centre, (float(-down[0]), float(-down[1]), float(-down[2])))


def _median(values: np.ndarray, weights: np.ndarray) -> float:
    order = np.argsort(values)
    total = np.cumsum(weights[order].astype(np.float64))
    return float(values[order][np.searchsorted(total, total[-1] / 2)])
