# SPDX-License-Identifier: Apache-2.0
"""Splats with some of their axes the other way round: between the frames of file formats.

A PLY is right-down-forward (as OpenCV), SPZ by its authors right-up-back, glTF left-up-forward. A mirror
image of a splat is again a splat: its covariance is that of a turned ellipsoid, its harmonics change signs.
"""

from __future__ import annotations

import numpy as np

from ..splats import Splats

# Of each harmonic from degree 1 on, which of x, y, z it is odd in (Sloan 2013, the table of real harmonics).
ODD = [
    "y",
    "z",
    "x",
    "xy",
    "yz",
    "-",
    "xz",
    "-",
    "y",
    "xyz",
    "y",
    "z",
    "x",
    "z",
    "x",
    "xy",
    "yz",
    "xy",
    "yz",
    "-",
    "xz",
    "-",
    "xz",
    "-",
]


def flipped(splats: Splats, signs: tuple[int, int, int]) -> Splats:
    """Splats whose x, y and z are multiplied by `signs` of 1 and -1."""
    if signs == (1, 1, 1):
        return splats
    x, y, z = signs
    by_name = {"x": x, "y": y, "z": z, "-": 1}
    harmonics = np.array([np.prod([by_name[axis] for axis in odd]) for odd in ODD], np.float32)
    arrays = dict(splats.arrays)
    arrays["means"] = arrays["means"] * np.array(signs, np.float32)
    arrays["quats"] = arrays["quats"] * np.array([1, y * z, x * z, x * y], np.float32)
    arrays["shN"] = arrays["shN"] * harmonics[: arrays["shN"].shape[1], None]
    up = splats.up
    if up is not None:
        up = (up[0] * x, up[1] * y, up[2] * z)
    return splats._replace(arrays=arrays, up=up)
