# SPDX-License-Identifier: Apache-2.0
"""The blocks of an SPZ, one after another: positions, alphas, colours, scales, rotations, harmonics.

Notation: blocks are bytes, each of all splats; arrays are those of Splats. Source: nianticlabs/spz, its
README and splat-types.h, for the layout.
"""

from __future__ import annotations

import numpy as np

from ...errors import UserError
from ..splats import REST, logit, sigmoid, unit
from .packing import from_smallest_three, smallest_three, to_bytes

MOST_BITS = 20  # behind the binary point of a position; 24 bits in all, with the sign
COLOUR_SCALE = 0.15  # of f_dc, so that a byte covers -3.3 to 3.3
SCALE_SHIFT, SCALE_STEPS = 10, 16  # a byte is (log scale + 10) * 16
ROOT_HALF = 0.5**0.5
# Bytes of harmonics are rounded to multiples of this, so that they compress. With 16, 8 and 4 a trained Fern loses
# 0.34, 0.16 and 0.11 dB at 19, 23 and 27 bytes a splat, the built-in scene 1.24, 0.44 and 0.13 dB. Niantic's own
# writer takes 8 for degree 1 and 16 above.
SH_STEP = 4
WXYZ, XYZW = [3, 0, 1, 2], [1, 2, 3, 0]


def sizes(n: int, degree: int, version: int) -> list[int]:
    """Bytes of each block."""
    return [
        n * (6 if version == 1 else 9),
        n,
        3 * n,
        3 * n,
        n * (3 if version < 3 else 4),
        3 * n * REST[degree],
    ]


def fractional_bits(means: np.ndarray) -> int:
    """The most bits behind the binary point with which all positions fit; UserError where none do."""
    largest = float(np.abs(means).max(initial=0))
    for bits in range(MOST_BITS, -1, -1):
        if round(largest * 2**bits) < 2**23:
            return bits
    raise UserError(
        f"SPZ holds positions below {2**23:,}, here is one at {largest:.3g}; --scale reduces them"
    )


def encode(arrays: dict[str, np.ndarray], bits: int) -> list[bytes]:
    """The blocks of version 3 and later."""
    fixed = np.rint(arrays["means"].astype(np.float64) * 2**bits).astype("<i4")
    positions = np.ascontiguousarray(fixed).view(np.uint8).reshape(-1, 4)[:, :3]
    alphas = to_bytes(sigmoid(arrays["logit_opacities"]) * 255)
    colours = to_bytes(arrays["sh0"][:, 0] * (COLOUR_SCALE * 255) + 127.5)
    scales = to_bytes((arrays["log_scales"] + SCALE_SHIFT) * SCALE_STEPS)
    largest, others = smallest_three(unit(arrays["quats"])[:, XYZW])
    magnitudes = np.minimum(np.floor(511 * np.abs(others) / ROOT_HALF + 0.5), 511).astype("<u4")
    magnitudes |= (others < 0).astype("<u4") << np.uint32(9)
    a, b, c = magnitudes.T
    rotations = largest.astype("<u4") << np.uint32(30) | a << np.uint32(20) | b << np.uint32(10) | c
    harmonics = np.rint(arrays["shN"] * 128) + 128 + SH_STEP // 2
    harmonics = np.clip(np.floor_divide(harmonics, SH_STEP) * SH_STEP, 0, 255).astype(np.uint8)
    blocks = [positions, alphas, colours, scales, rotations.astype("<u4"), harmonics]
    return [block.tobytes() for block in blocks]


def decode(blocks: list[bytes], n: int, degree: int, version: int, bits: int) -> dict[str, np.ndarray]:
    """The arrays that blocks of the right sizes hold; harmonics above degree 3 are left out."""
    positions, alphas, colours, scales, rotations, harmonics = (
        np.frombuffer(block, np.uint8) for block in blocks
    )
    if version == 1:
        means = positions.view("<f2").reshape(n, 3).astype(np.float32)
    else:
        whole = np.zeros((n, 3, 4), np.uint8)
        whole[:, :, 1:] = positions.reshape(n, 3, 3)
        means = ((whole.view("<i4")[:, :, 0] >> 8) / 2.0**bits).astype(np.float32)
    coefficients = (harmonics.reshape(n, REST[degree], 3).astype(np.float32) - 128) / 128
    return {
        "means": means,
        "quats": _quats(rotations, n, version)[:, WXYZ],
        "log_scales": scales.reshape(n, 3).astype(np.float32) / SCALE_STEPS - SCALE_SHIFT,
        "logit_opacities": logit(alphas / np.float32(255)),
        "sh0": ((colours.reshape(n, 1, 3) - np.float32(127.5)) / np.float32(COLOUR_SCALE * 255)),
        "shN": coefficients[:, : REST[3]],
    }


def _quats(rotations: np.ndarray, n: int, version: int) -> np.ndarray:
    """[N, 4] as x y z w."""
    if version < 3:
        xyz = rotations.reshape(n, 3).astype(np.float32) / 127.5 - 1
        w = np.sqrt(np.maximum(1 - (xyz**2).sum(axis=1, keepdims=True), 0))
        return np.concatenate([xyz, w], axis=1)
    packed = rotations.view("<u4")
    parts = np.stack([packed >> np.uint32(shift) & np.uint32(1023) for shift in (20, 10, 0)], axis=1)
    others = (parts & 511) * np.float32(ROOT_HALF / 511) * np.where(parts & 512, -1, 1).astype(np.float32)
    return from_smallest_three(packed >> np.uint32(30), others)
