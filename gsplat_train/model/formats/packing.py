# SPDX-License-Identifier: Apache-2.0
"""What several formats pack alike: whole numbers of a range, three of a quaternion, Morton order."""

from __future__ import annotations

import numpy as np

from ..splats import unit

_OTHERS = np.array(
    [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]
)  # the components beside the largest, in order


def to_whole(values: np.ndarray, top: int) -> np.ndarray:
    """Values of [0, 1] as whole numbers of [0, top], rounded; uint32."""
    return np.floor(np.clip(values, 0.0, 1.0) * top + 0.5).astype(np.uint32)


def to_bytes(values: np.ndarray) -> np.ndarray:
    """Values rounded and clipped to uint8."""
    return np.clip(np.floor(values + 0.5), 0, 255).astype(np.uint8)


def smallest_three(quats: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(index of the largest component [N], the other three in order [N, 3]) of quaternions [N, 4].

    They are normalised, with the sign that makes the largest positive; the others are within sqrt(1/2) of 0.
    """
    quats = unit(quats)
    rows = np.arange(len(quats))
    largest = np.argmax(np.abs(quats), axis=1)
    sign = np.where(quats[rows, largest] < 0, np.float32(-1), np.float32(1))
    return largest, quats[rows[:, None], _OTHERS[largest]] * sign[:, None]


def from_smallest_three(largest: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Inverse of `smallest_three`: [N, 4] float32."""
    rows = np.arange(len(largest))
    quats = np.empty((len(largest), 4), np.float32)
    quats[rows[:, None], _OTHERS[largest]] = others
    quats[rows, largest] = np.sqrt(np.maximum(1 - (others.astype(np.float64) ** 2).sum(axis=1), 0))
    return quats


def morton_order(means: np.ndarray) -> np.ndarray:
    """[N] indices of points [N, 3] along a Z-order curve, so that neighbours in space become neighbours."""
    low = means.min(axis=0, initial=np.inf)
    size = np.maximum(means.max(axis=0, initial=-np.inf) - low, 1e-30)
    cells = ((means - low) / size * (2**21 - 1)).astype(np.uint64)
    code = np.zeros(len(means), np.uint64)
    for axis in range(3):
        code |= _spread(cells[:, axis]) << np.uint64(axis)
    return np.argsort(code, kind="stable")


def _spread(bits: np.ndarray) -> np.ndarray:
    """21 bits with two zeros between each two (Morton 1966)."""
    for shift, mask in (
        (32, 0x1F00000000FFFF), (16, 0x1F0000FF0000FF), (8, 0x100F00F00F00F00F), (4, 0x10C30C30C30C30C3),
        (2, 0x1249249249249249),
    ):  # fmt: skip
        bits = (bits | bits << np.uint64(shift)) & np.uint64(mask)
    return bits
