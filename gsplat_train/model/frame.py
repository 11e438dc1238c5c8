# SPDX-License-Identifier: Apache-2.0
"""Splats in another frame: turned, scaled and moved, their harmonics with them. NumPy only.

A rotation mixes the harmonics of one band among themselves. The matrix of a band is found from the basis
itself: with Y(d) the band's functions at many directions d, the coefficients of the turned splat are those c'
with Y(d) c' = Y(R^T d) c for all d. Y comes from the recurrences of the associated Legendre functions, with
the signs of model/sh.py (a test compares the two).
"""

from __future__ import annotations

from dataclasses import replace
from math import factorial, pi, sqrt

import numpy as np

from ..errors import UserError
from ..scene import Camera
from .splats import REST, Splats, unit

DIRECTIONS = 64  # at which the basis is compared; a band of degree 3 has 7 functions


def moved(
    splats: Splats, rotation: np.ndarray, scale: float = 1.0, offset: np.ndarray | None = None
) -> Splats:
    """Splats at x' = scale rotation x + offset; rotation [3, 3] orthonormal, scale > 0, offset [3]."""
    arrays = dict(splats.arrays)
    shift = np.zeros(3) if offset is None else np.asarray(offset, np.float64)
    means = arrays["means"].astype(np.float64)
    if not np.array_equal(rotation, np.eye(3)):
        means = means @ rotation.T
        arrays["quats"] = _product(quaternion(rotation), unit(arrays["quats"]))
        arrays["shN"] = turned_harmonics(arrays["shN"], rotation)
    arrays["means"] = (means * scale + shift).astype(np.float32)
    arrays["log_scales"] = arrays["log_scales"] + np.float32(np.log(scale))
    up = splats.up
    if up is not None:
        up = tuple_of(rotation @ np.array(up))
    return splats._replace(arrays=arrays, up=up)


def moved_camera(camera: Camera, rotation: np.ndarray, scale: float, offset: np.ndarray) -> Camera:
    """The camera that sees of `moved` splats what `camera` sees of them as they were."""
    viewmat = np.eye(4)
    viewmat[:3, :3] = camera.viewmat[:3, :3] @ rotation.T
    viewmat[:3, 3] = -viewmat[:3, :3] @ (scale * rotation @ camera.position + offset)
    return replace(camera, viewmat=viewmat)


def turned_harmonics(shN: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """[N, K-1, 3] coefficients of the same colours seen along directions turned by `rotation`."""
    directions = _spread_directions()
    degree = REST.index(shN.shape[1])
    here, there = basis(directions, degree), basis(directions @ rotation, degree)
    result = np.empty_like(shN)
    for band in range(1, degree + 1):
        columns = slice(band**2, (band + 1) ** 2)
        matrix = np.linalg.lstsq(here[:, columns], there[:, columns], rcond=None)[0]
        part = slice(band**2 - 1, (band + 1) ** 2 - 1)
        result[:, part] = np.einsum("ij,njc->nic", matrix, shN[:, part], optimize=True)
    return result


def basis(directions: np.ndarray, degree: int) -> np.ndarray:
    """The harmonics [N, (degree + 1)^2] at unit `directions` [N, 3], as model/sh.py has them up to degree 3."""
    x, y, z = directions.T.astype(np.float64)
    functions: dict[tuple[int, int], np.ndarray] = {}
    around = np.ones(len(directions), complex)  # (x + iy)^m = sin(theta)^m e^(i m phi)
    first = np.ones(len(directions))  # Q_m^m = (2m - 1)!!, where P_l^m = (-sin theta)^m Q_l^m(z)
    for m in range(degree + 1):
        before, now = np.zeros_like(z), first
        for band in range(m, degree + 1):
            norm = sqrt((2 * band + 1) / (4 * pi) * factorial(band - m) / factorial(band + m))
            norm *= (-1) ** m * (sqrt(2) if m else 1)
            functions[band, m], functions[band, -m] = norm * now * around.real, norm * now * around.imag
            if m == 0:
                functions[band, 0] = norm * now
            before, now = now, ((2 * band + 1) * z * now - (band + m) * before) / (band - m + 1)
        around, first = around * (x + 1j * y), first * (2 * m + 1)
    return np.stack([functions[b, m] for b in range(degree + 1) for m in range(-b, b + 1)], axis=1)


def quaternion(rotation: np.ndarray) -> np.ndarray:
    """[4] wxyz of a rotation matrix, by its largest component (Shepperd 1978)."""
    r = np.asarray(rotation, np.float64)
    squares = np.array([1 + r[0, 0] + r[1, 1] + r[2, 2], 1 + r[0, 0] - r[1, 1] - r[2, 2],
                        1 - r[0, 0] + r[1, 1] - r[2, 2], 1 - r[0, 0] - r[1, 1] + r[2, 2]])  # fmt: skip
    w, x, y = r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1]
    xy, xz, yz = r[1, 0] + r[0, 1], r[2, 0] + r[0, 2], r[2, 1] + r[1, 2]
    largest = int(np.argmax(squares))
    rows = [[squares[0], w, x, y], [w, squares[1], xy, xz], [x, xy, squares[2], yz], [y, xz, yz, squares[3]]]
    found = np.array(rows[largest])
    return found / np.linalg.norm(found)


def matrix(quat: np.ndarray) -> np.ndarray:
    """[3, 3] of a quaternion wxyz of any length but 0."""
    w, x, y, z = np.asarray(quat, np.float64) / np.linalg.norm(quat)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def euler(degrees: tuple[float, float, float]) -> np.ndarray:
    """[3, 3] of turns about the fixed axes x, then y, then z."""
    result = np.eye(3)
    for axis, angle in enumerate(np.radians(degrees)):
        half = np.zeros(4)
        half[0], half[axis + 1] = np.cos(angle / 2), np.sin(angle / 2)
        result = matrix(half) @ result
    return result


def between(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """[3, 3] the smallest rotation that takes direction `start` [3] to direction `end` [3]."""
    a, b = (np.asarray(v, np.float64) / np.linalg.norm(v) for v in (start, end))
    quat = np.array([1 + a @ b, *np.cross(a, b)])
    if np.linalg.norm(quat) < 1e-6:  # opposite: half a turn about anything across
        quat = np.array([0.0, *np.cross(a, np.eye(3)[np.argmin(np.abs(a))])])
    return matrix(quat)


def tuple_of(vector: np.ndarray) -> tuple[float, float, float]:
    """A vector [3] as plain numbers; UserError where they are not finite or all 0."""
    x, y, z = (float(value) for value in vector)
    if not 0 < x * x + y * y + z * z < np.inf:
        raise UserError(f"a direction must be three numbers that are not all 0, got {x:g},{y:g},{z:g}")
    return x, y, z


def _product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Hamilton's product of a quaternion [4] and quaternions [N, 4], wxyz."""
    w, x, y, z = a
    left = np.array([[w, -x, -y, -z], [x, w, -z, y], [y, z, w, -x], [z, -y, x, w]])
    return (b.astype(np.float64) @ left.T).astype(np.float32)


def _spread_directions() -> np.ndarray:
    """[DIRECTIONS, 3] unit vectors, evenly over the sphere (a Fibonacci spiral)."""
    i = np.arange(DIRECTIONS) + 0.5
    z, angle = 1 - 2 * i / DIRECTIONS, i * pi * (3 - sqrt(5))
    ring = np.sqrt(1 - z * z)
    return np.stack([ring * np.cos(angle), ring * np.sin(angle), z], axis=1)
