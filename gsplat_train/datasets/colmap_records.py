# SPDX-License-Identifier: Apache-2.0
"""What a COLMAP model file says, before it is believed: records that the binary and the text reader share.

Format: https://colmap.github.io/format.html, camera models: https://colmap.github.io/cameras.html.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..errors import UserError
from .lenses import PANORAMA, PARAMETERS, Lens, colmap_lens

PANORAMA_MODEL = "EQUIRECTANGULAR"
MAX_SIDE = 1 << 20  # pixels; a camera larger than that is a broken file


class CameraRecord(NamedTuple):
    """A line of cameras.txt."""

    model: str
    width: int
    height: int
    params: tuple[float, ...]


class ImageRecord(NamedTuple):
    """A line of images.txt: the rotation (quaternion wxyz) and translation from world to camera."""

    name: str
    camera_id: int
    quat: tuple[float, float, float, float]
    translation: tuple[float, float, float]


class Points(NamedTuple):
    """points3D: positions [P, 3] float64 and colors [P, 3] uint8, in the order of the file."""

    positions: np.ndarray
    colors: np.ndarray


def intrinsics(record: CameraRecord, what: str) -> tuple[np.ndarray, Lens]:
    """K [3, 3] and the lens of a camera; UserError, naming it as `what`, where it is unusable."""
    if record.model not in PARAMETERS:
        raise UserError(
            f"{what} has the camera model {record.model}; known are {', '.join(PARAMETERS)}: "
            "run COLMAP's image_undistorter on it first"
        )
    if len(record.params) != PARAMETERS[record.model]:
        expected = PARAMETERS[record.model]
        raise UserError(
            f"{what} must have {expected} parameters for {record.model}, got {len(record.params)}"
        )
    if not np.isfinite(record.params).all():
        raise UserError(f"{what} has a parameter that is not a finite number: {record.params}")
    if not (1 <= record.width <= MAX_SIDE and 1 <= record.height <= MAX_SIDE):
        raise UserError(f"{what} claims {record.width}x{record.height} pixels; the file is broken")
    if record.model == PANORAMA_MODEL:
        return np.array([[1.0, 0, record.width / 2], [0, 1, record.height / 2], [0, 0, 1]]), PANORAMA
    return colmap_lens(record.model, record.params, what)


def rotation_matrix(quat: tuple[float, float, float, float]) -> np.ndarray:
    """[3, 3] of a quaternion wxyz of any length but 0."""
    w, x, y, z = np.asarray(quat) / np.linalg.norm(quat)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def quaternion(rotation: np.ndarray) -> tuple[float, float, float, float]:
    """wxyz of a rotation matrix [3, 3], w >= 0."""
    # The four squares of the components, then signs relative to the largest: no division by a small number.
    diagonal = np.diag(rotation)
    squares = np.array([1 + diagonal.sum(), *(1 + 2 * diagonal - diagonal.sum())])
    r = rotation
    products = np.array(
        [
            [squares[0], r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1]],
            [r[2, 1] - r[1, 2], squares[1], r[1, 0] + r[0, 1], r[0, 2] + r[2, 0]],
            [r[0, 2] - r[2, 0], r[1, 0] + r[0, 1], squares[2], r[2, 1] + r[1, 2]],
            [r[1, 0] - r[0, 1], r[0, 2] + r[2, 0], r[2, 1] + r[1, 2], squares[3]],
        ]
    )
    quat = products[np.argmax(squares)]
    quat = quat / np.linalg.norm(quat) * (1 if quat[0] >= 0 else -1)
    return tuple(quat.tolist())
