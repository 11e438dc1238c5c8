# SPDX-License-Identifier: Apache-2.0
"""What a COLMAP model file says, before it is believed: records that the binary and the text reader share.

Format: https://colmap.github.io/format.html, camera models: https://colmap.github.io/cameras.html.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..errors import UserError
from .undistort import Distortion

CAMERA_MODELS = {  # name: number of parameters, in the order of COLMAP's model ids from 0
    "SIMPLE_PINHOLE": 3,
    "PINHOLE": 4,
    "SIMPLE_RADIAL": 4,
    "RADIAL": 5,
    "OPENCV": 8,
    "OPENCV_FISHEYE": 8,
    "FULL_OPENCV": 12,
    "FOV": 5,
    "SIMPLE_RADIAL_FISHEYE": 4,
    "RADIAL_FISHEYE": 5,
    "THIN_PRISM_FISHEYE": 12,
}
SUPPORTED_MODELS = tuple(CAMERA_MODELS)[:5]
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


def intrinsics(record: CameraRecord, what: str) -> tuple[np.ndarray, Distortion]:
    """K [3, 3] and (k1, k2, p1, p2) of a camera; UserError, naming it as `what`, where it is unusable."""
    if record.model not in SUPPORTED_MODELS:
        raise UserError(
            f"{what} has the camera model {record.model}; supported are {', '.join(SUPPORTED_MODELS)}: "
            "run COLMAP's image_undistorter on it first"
        )
    if len(record.params) != CAMERA_MODELS[record.model]:
        expected = CAMERA_MODELS[record.model]
        raise UserError(
            f"{what} must have {expected} parameters for {record.model}, got {len(record.params)}"
        )
    if not np.isfinite(record.params).all():
        raise UserError(f"{what} has a parameter that is not a finite number: {record.params}")
    if not (1 <= record.width <= MAX_SIDE and 1 <= record.height <= MAX_SIDE):
        raise UserError(f"{what} claims {record.width}x{record.height} pixels; the file is broken")
    params = list(record.params)
    if record.model.startswith("SIMPLE_") or record.model == "RADIAL":
        params.insert(0, params[0])  # one focal length for both axes
    fx, fy, cx, cy, *lens = params
    if not (fx > 0 and fy > 0):
        raise UserError(f"{what} must have a positive focal length, got {fx}, {fy}")
    k1, k2, p1, p2 = lens + [0.0] * (4 - len(lens))
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]), (k1, k2, p1, p2)


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
