# SPDX-License-Identifier: Apache-2.0
"""Splats: what a file of splats holds, as NumPy arrays, so that the formats need no MLX."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Splats(NamedTuple):
    """Float32 arrays by the names and shapes of `Gaussians`, and the mode that they were trained for."""

    arrays: dict[str, np.ndarray]
    antialiased: bool

    @property
    def n(self) -> int:
        return len(self.arrays["means"])
