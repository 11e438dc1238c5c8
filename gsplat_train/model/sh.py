# SPDX-License-Identifier: Apache-2.0
"""Real spherical harmonics up to degree 3: what a Gaussian's colour is in a direction.

Notation: K = (degree + 1)^2 coefficients a channel; sh0 [N, 1, 3] is the constant one, shN [N, K-1, 3] the
rest, band by band, m = -l..l. The signs are those of the usual table of real harmonics with the
Condon-Shortley phase (Sloan 2013, "Efficient Spherical Harmonic Evaluation"), as in 3DGS files. A colour is
max(sum + 0.5, 0) (Kerbl et al. 2023).
"""

from __future__ import annotations

from math import pi, sqrt
from typing import TypeVar

import mlx.core as mx
import numpy as np

MAX_DEGREE = 3

C0 = sqrt(1 / (4 * pi))
C1 = sqrt(3 / (4 * pi))
C2 = (sqrt(15 / (4 * pi)), sqrt(5 / (16 * pi)), sqrt(15 / (16 * pi)))  # |m| = 1 and xy; m = 0; m = 2
C3 = (
    sqrt(35 / (32 * pi)),
    sqrt(105 / (4 * pi)),
    sqrt(21 / (32 * pi)),
    sqrt(7 / (16 * pi)),
    sqrt(105 / (16 * pi)),
)

Array = TypeVar("Array", mx.array, np.ndarray)


def num_coefficients(degree: int) -> int:
    """K = (degree + 1)^2, the constant included."""
    return (degree + 1) ** 2


def rgb_to_sh0(rgb: Array) -> Array:
    """The constant coefficient that gives the colour `rgb` (any shape, values in [0, 1])."""
    return (rgb - 0.5) / C0


def sh0_to_rgb(sh0: Array) -> Array:
    """Inverse of `rgb_to_sh0`."""
    return sh0 * C0 + 0.5


def basis(directions: mx.array, degree: int) -> mx.array:
    """The basis functions [N, K] at unit `directions` [N, 3]."""
    x, y, z = directions[:, 0], directions[:, 1], directions[:, 2]
    functions = [mx.full(x.shape, C0)]
    if degree >= 1:
        functions += [-C1 * y, C1 * z, -C1 * x]
    if degree >= 2:
        xx, yy, zz = x * x, y * y, z * z
        functions += [
            C2[0] * x * y,
            -C2[0] * y * z,
            C2[1] * (2 * zz - xx - yy),
            -C2[0] * x * z,
            C2[2] * (xx - yy),
        ]
    if degree >= 3:
        functions += [
            -C3[0] * y * (3 * xx - yy),
            C3[1] * x * y * z,
            -C3[2] * y * (4 * zz - xx - yy),
            C3[3] * z * (2 * zz - 3 * xx - 3 * yy),
            -C3[2] * x * (4 * zz - xx - yy),
            C3[4] * z * (xx - yy),
            -C3[0] * x * (xx - 3 * yy),
        ]
    return mx.stack(functions, axis=1)


def evaluate(sh0: mx.array, shN: mx.array, directions: mx.array, degree: int) -> mx.array:
    """Colours [N, 3] seen along unit `directions` [N, 3], from the bands up to `degree` only; differentiable.

    Coefficients of higher bands may be there: they are not read, and get no gradient.
    """
    coefficients = mx.concatenate([sh0, shN[:, : num_coefficients(degree) - 1]], axis=1)  # [N, K, 3]
    return mx.maximum((basis(directions, degree)[:, :, None] * coefficients).sum(axis=1) + 0.5, 0.0)
