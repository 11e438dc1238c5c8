# SPDX-License-Identifier: Apache-2.0
"""Turns a reconstruction's arbitrary frame upright, centres and scales it.

Enters: world-to-camera rotations R [V, 3, 3] (OpenCV axes), camera positions [V, 3], points [P, 3], and for
some views the direction of gravity in the camera's axes. Leaves: a similarity x -> scale * rotation @ x +
translation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

UPS = {
    "-y": (0.0, -1.0, 0.0),
    "y": (0.0, 1.0, 0.0),
    "z": (0.0, 0.0, 1.0),
    "-z": (0.0, 0.0, -1.0),
    "x": (1.0, 0.0, 0.0),
    "-x": (-1.0, 0.0, 0.0),
}
VIEWERS_UP = "-y"  # what viewers of splats show as up
CAMERA_DISTANCE = 4.0  # the median one from the centre: the scale of the synthetic scenes of NeRF
LEVEL_WEIGHT = 0.01  # of the mean up against level horizons, which say more where they turn
AGREE = np.cos(np.radians(12))  # of measured gravity with its mean
ENOUGH_AGREE = 0.6  # of the views that measured it
IN_FRONT = 0.8  # of the cameras that must see the point they look at


class Similarity(NamedTuple):
    """x -> scale * rotation @ x + translation."""

    scale: float
    rotation: np.ndarray  # [3, 3]
    translation: np.ndarray  # [3]

    def apply(self, points: np.ndarray) -> np.ndarray:
        """Points [P, 3] in the new frame."""
        return self.scale * points @ self.rotation.T + self.translation

    def inverse(self) -> Similarity:
        turned = self.rotation.T
        return Similarity(1 / self.scale, turned, -(turned @ self.translation) / self.scale)

    def after(self, first: Similarity) -> Similarity:
        """`first`, then this."""
        return Similarity(
            self.scale * first.scale,
            self.rotation @ first.rotation,
            self.scale * self.rotation @ first.translation + self.translation,
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "scale": self.scale,
            "rotation": self.rotation.tolist(),
            "translation": self.translation.tolist(),
        }

    @staticmethod
    def from_json(stored: dict[str, Any]) -> Similarity:
        """KeyError, TypeError or ValueError where it is none."""
        rotation, translation = np.array(stored["rotation"], float), np.array(stored["translation"], float)
        if rotation.shape != (3, 3) or translation.shape != (3,) or not float(stored["scale"]) > 0:
            raise ValueError("no similarity")
        return Similarity(float(stored["scale"]), rotation, translation)


IDENTITY = Similarity(1.0, np.eye(3), np.zeros(3))


def upright(
    R: np.ndarray,
    positions: np.ndarray,
    points: np.ndarray,
    downs: Sequence[tuple[float, float, float] | None],
    up_axis: str = VIEWERS_UP,
) -> tuple[Similarity, str]:
    """The similarity that makes `up_axis` up, the middle of what is seen the origin, and the median
    distance of the cameras from it 4; and whether up comes from "gravity" or "cameras".
    """
    up, source = measured_up(R, downs), "gravity"
    if up is None:
        up, source = cameras_up(R), "cameras"
    rotation = _turn(up, R, np.array(UPS[up_axis]))
    centre = middle(R, positions, points)
    distance = float(np.median(np.linalg.norm(positions - centre, axis=1)))
    scale = CAMERA_DISTANCE / distance if distance > 1e-9 else 1.0
    return Similarity(scale, rotation, -scale * rotation @ centre), source


def measured_up(R: np.ndarray, downs: Sequence[tuple[float, float, float] | None]) -> np.ndarray | None:
    """The direction against gravity, where three or more views measured it and most of them agree."""
    with_gravity = [i for i, down in enumerate(downs) if down is not None]
    if len(with_gravity) < 3:
        return None
    world = np.stack([R[i].T @ np.array(downs[i]) for i in with_gravity])
    world /= np.linalg.norm(world, axis=1, keepdims=True)
    mean = np.median(world, axis=0)
    size = np.linalg.norm(mean)
    if size < 0.5:
        return None
    agree = world @ (mean / size) > AGREE
    if agree.mean() < ENOUGH_AGREE:
        return None
    mean = world[agree].mean(axis=0)
    return -mean / np.linalg.norm(mean)


def cameras_up(R: np.ndarray) -> np.ndarray:
    """The direction that is level with no camera's horizon: people hold cameras without roll.

    Minimises the mean of (right . up)^2, less a little of (mean up . up)^2, which decides where all cameras
    look the same way. Looking down, as from a drone, the mean of the cameras' up would be far off.
    """
    rights, ups = R[:, 0], -R[:, 1]
    mean = ups.mean(axis=0)
    size = np.linalg.norm(mean)
    mean = mean / size if size > 1e-9 else np.array([0.0, -1.0, 0.0])
    level = rights.T @ rights / len(R) - LEVEL_WEIGHT * np.outer(mean, mean)
    up = np.linalg.eigh(level)[1][:, 0]
    return up if up @ mean >= 0 else -up


def _turn(up: np.ndarray, R: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The rotation that brings `up` to `target`, and the first camera's view to a fixed direction."""
    level = R[0, 2] - (R[0, 2] @ up) * up
    if np.linalg.norm(level) < 1e-6:  # it looks straight up or down
        level = R[0, 1] - (R[0, 1] @ up) * up
    ahead = level / np.linalg.norm(level)
    axis = int(np.argmax(np.abs(target)))
    onward = np.roll([0.0, 1.0, 0.0] if axis != 1 else [0.0, 0.0, 1.0], 1 if axis == 0 else 0)
    if axis == 1:
        onward = np.array([0.0, 0.0, 1.0])
    source = np.stack([up, ahead, np.cross(up, ahead)], axis=1)
    aim = np.stack([target, onward, np.cross(target, onward)], axis=1)
    return aim @ source.T


def middle(R: np.ndarray, positions: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The point nearest to all optical axes where the cameras look at it from around, otherwise the
    median point.
    """
    fallback = np.median(points, axis=0) if len(points) else positions.mean(axis=0)
    forward = R[:, 2]
    across = np.eye(3) - forward[:, :, None] * forward[:, None, :]
    if np.linalg.eigvalsh(across.mean(axis=0))[0] < 0.02:  # nearly parallel: their meeting point is noise
        return fallback
    centre = np.linalg.solve(across.sum(axis=0), (across @ positions[:, :, None]).sum(axis=0)[:, 0])
    ahead = ((centre - positions) * forward).sum(axis=1) > 0
    return centre if ahead.mean() >= IN_FRONT else fallback
