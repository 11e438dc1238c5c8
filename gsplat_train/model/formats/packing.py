# SPDX-License-Identifier: Apache-2.0
"""What several formats pack alike: whole numbers of a range, three of a quaternion, orders along a curve."""

from __future__ import annotations

import numpy as np

from ..splats import unit

_OTHERS = np.array(
    [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]
)  # the components beside the largest, in order

BITS = 16  # of a place along one axis of a Hilbert curve
WITHIN = 90  # per cent of the points: what lies twice as far out as these is ordered apart


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


def tight_order(means: np.ndarray) -> np.ndarray:
    """[N] indices of points [N, 3] whose runs lie close together: along a Hilbert curve, and shell by shell outside.

    The first shell ends at twice the distance from the middle within which nine in ten points are, each further one
    at twice the last: a few points far out widen the runs of one another alone.
    """
    if not len(means):
        return np.arange(0)
    means = means.astype(np.float64)  # squares of places far out leave float32
    away = np.linalg.norm(means - np.median(means, axis=0), axis=1)
    usual = max(float(np.percentile(away, WITHIN)), 1e-30)
    shell = np.maximum(np.floor(np.log2(np.maximum(away / usual, 1))), 0)
    order = np.empty(0, np.int64)
    for level in np.unique(shell):
        rows = np.flatnonzero(shell == level)
        order = np.append(order, rows[np.argsort(_hilbert(means[rows]), kind="stable")])
    return order


def _hilbert(means: np.ndarray) -> np.ndarray:
    """[N] places of points along a Hilbert curve through their box (Skilling 2004, "Programming the Hilbert curve")."""
    low = means.min(axis=0)
    size = np.maximum(means.max(axis=0) - low, 1e-30)
    x = ((means - low) / size * (2**BITS - 1)).astype(np.uint64).T.copy()
    for bit in range(BITS - 1, 0, -1):
        here, below = np.uint64(1 << bit), np.uint64((1 << bit) - 1)
        for axis in range(3):
            swapped = np.where(x[axis] & here, np.uint64(0), (x[0] ^ x[axis]) & below)
            x[0] ^= np.where(x[axis] & here, below, swapped)
            x[axis] ^= swapped
    x[1] ^= x[0]
    x[2] ^= x[1]
    turn = np.zeros_like(x[0])
    for bit in range(BITS - 1, 0, -1):
        turn ^= np.where(x[2] & np.uint64(1 << bit), np.uint64((1 << bit) - 1), np.uint64(0))
    x ^= turn
    return _spread(x[0]) << np.uint64(2) | _spread(x[1]) << np.uint64(1) | _spread(x[2])


def _spread(bits: np.ndarray) -> np.ndarray:
    """21 bits with two zeros between each two (Morton 1966)."""
    for shift, mask in (
        (32, 0x1F00000000FFFF), (16, 0x1F0000FF0000FF), (8, 0x100F00F00F00F00F), (4, 0x10C30C30C30C30C3),
        (2, 0x1249249249249249),
    ):  # fmt: skip
        bits = (bits | bits << np.uint64(shift)) & np.uint64(mask)
    return bits
