# SPDX-License-Identifier: Apache-2.0
"""Splats: what a file of splats holds, as NumPy arrays. The formats speak of these, and need no MLX."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

MAX_DEGREE = 3  # of spherical harmonics, as model/sh.py
REST = (0, 3, 8, 15, 24)  # coefficients a channel without the constant, by degree; 4 is read and cut
C0 = 0.28209479177387814  # of the constant harmonic: colour = C0 sh0 + 0.5


class Splats(NamedTuple):
    """Float32 arrays by the names and shapes of `Gaussians`, and what else a file says of them."""

    arrays: dict[str, np.ndarray]
    antialiased: bool  # the mode that they were trained for
    up: tuple[float, float, float] | None = None  # which way is up in their frame, where it is known
    notes: tuple[str, ...] = ()  # what the reader left out, changed or found odd, a line each

    @property
    def n(self) -> int:
        return len(self.arrays["means"])

    @property
    def sh_degree(self) -> int:
        """The degree that shN has room for."""
        return REST.index(self.arrays["shN"].shape[1])

    def take(self, which: np.ndarray) -> Splats:
        """Those splats that `which` [N] (bool) or [M] (indices) names, in its order."""
        return self._replace(arrays={name: array[which] for name, array in self.arrays.items()})

    def cut(self, degree: int) -> Splats:
        """With no harmonics above `degree`; the rest as they are."""
        if degree >= self.sh_degree:
            return self
        arrays = {**self.arrays, "shN": np.ascontiguousarray(self.arrays["shN"][:, : REST[degree]])}
        return self._replace(arrays=arrays)

    def padded(self, degree: int) -> Splats:
        """With zeros for the harmonics up to `degree` that are not there."""
        more = np.zeros((self.n, max(REST[degree] - REST[self.sh_degree], 0), 3), np.float32)
        return self._replace(
            arrays={**self.arrays, "shN": np.concatenate([self.arrays["shN"], more], axis=1)}
        )

    def cut_note(self, path: object) -> Splats:
        """With a note that a file's harmonics of degree 4 were cut."""
        return self.noted(f"{path} has harmonics of degree 4: cut to degree 3")

    def noted(self, *notes: str) -> Splats:
        """With more notes."""
        return self._replace(notes=(*self.notes, *notes))


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)), float32, without overflow."""
    return (0.5 + 0.5 * np.tanh(0.5 * logits.astype(np.float32))).astype(np.float32)


def logit(opacities: np.ndarray) -> np.ndarray:
    """Inverse of `sigmoid`, float32; opacities are kept 1e-6 off 0 and 1 (where 8 bits put many)."""
    clamped = np.clip(np.asarray(opacities, np.float64), 1e-6, 1 - 1e-6)
    return np.log(clamped / (1 - clamped)).astype(np.float32)


def unit(quats: np.ndarray) -> np.ndarray:
    """[N, 4] quaternions of length 1, float32; what has no length becomes 1 0 0 0."""
    length = np.linalg.norm(quats.astype(np.float64), axis=1, keepdims=True)
    good = length > 1e-30
    return np.where(good, quats / np.where(good, length, 1.0), [1.0, 0.0, 0.0, 0.0]).astype(np.float32)
