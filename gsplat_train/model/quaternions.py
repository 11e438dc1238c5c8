# SPDX-License-Identifier: Apache-2.0
"""Rotations by quaternions wxyz, and the opacities behind stored logits."""

from __future__ import annotations

from typing import Any

import numpy as np


def rotate(quats: Any, vectors: Any, xp: Any = np) -> Any:
    """[n, 3] `vectors` turned by `quats` [n, 4] wxyz of any length: v + 2 w (q x v) + 2 q x (q x v). xp: the
    module of the arrays, numpy or mlx.core.
    """
    unit = quats / xp.maximum(xp.linalg.norm(quats, axis=1, keepdims=True), 1e-12)
    w, axis = unit[:, :1], unit[:, 1:]
    across = _cross(axis, vectors, xp)
    return vectors + 2 * (w * across + _cross(axis, across, xp))


def _cross(a: Any, b: Any, xp: Any) -> Any:
    """The cross products of [n, 3]."""
    (ax, ay, az), (bx, by, bz) = ([c[:, i] for i in range(3)] for c in (a, b))
    return xp.stack([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx], axis=1)


def opacities(logits: np.ndarray) -> np.ndarray:
    """[N] float64 sigmoid of the stored logits."""
    return 0.5 + 0.5 * np.tanh(0.5 * logits.astype(np.float64))


def logits(opacities: np.ndarray) -> np.ndarray:
    """What is stored for opacities in (0, 1); the inverse of `opacities`."""
    return np.log(opacities) - np.log1p(-opacities)
