# SPDX-License-Identifier: Apache-2.0
"""Rotations by quaternions wxyz, and the opacities behind stored logits, in NumPy."""

from __future__ import annotations

import numpy as np


def rotate(quats: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """[n, 3] `vectors` turned by `quats` [n, 4] wxyz of any length: v + 2 w (q x v) + 2 q x (q x v)."""
    unit = quats / np.maximum(np.linalg.norm(quats, axis=1, keepdims=True), 1e-12)
    w, axis = unit[:, :1], unit[:, 1:]
    across = np.cross(axis, vectors)
    return vectors + 2 * (w * across + np.cross(axis, across))


def opacities(logits: np.ndarray) -> np.ndarray:
    """[N] float64 sigmoid of the stored logits."""
    return 0.5 + 0.5 * np.tanh(0.5 * logits.astype(np.float64))


def logits(opacities: np.ndarray) -> np.ndarray:
    """What is stored for opacities in (0, 1); the inverse of `opacities`."""
    return np.log(opacities) - np.log1p(-opacities)
