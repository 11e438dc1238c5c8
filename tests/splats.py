# SPDX-License-Identifier: Apache-2.0
"""Splats to test files with, and how near two sets of splats are."""

from typing import NamedTuple

import numpy as np

from gsplat_train.model import frame
from gsplat_train.model.splats import REST, Splats, sigmoid, unit


def random_splats(n: int = 600, degree: int = 3, antialiased: bool = True, seed: int = 0) -> Splats:
    """Splats like trained ones: in a box of 8 units, small, some faint, colours mostly within range."""
    rng = np.random.default_rng(seed)
    arrays = {
        "means": rng.uniform(-4, 4, (n, 3)),
        "quats": rng.standard_normal((n, 4)),
        "log_scales": rng.normal(-4, 1, (n, 3)),
        "logit_opacities": rng.normal(0, 2, n),
        "sh0": rng.normal(0, 0.6, (n, 1, 3)),
        "shN": rng.normal(0, 0.1, (n, REST[degree], 3)),
    }
    return Splats({name: array.astype(np.float32) for name, array in arrays.items()}, antialiased)


class Distance(NamedTuple):
    """The largest difference of each, over all splats; of harmonics NaN where one side has none."""

    means: float
    log_scales: float
    opacities: float
    rotations: float  # radians
    sh0: float
    shN: float


def distance(a: Splats, b: Splats, sh0_limit: float = np.inf) -> Distance:
    """How far `b` is from `a`; splats are paired by position, the order is free.

    Colours are clipped to `sh0_limit` first, and compared where a splat can be seen (opacity above 1/100).
    """
    assert a.n == b.n
    squares = ((a.arrays["means"][:, None] - b.arrays["means"][None]) ** 2).sum(axis=2)
    pair = squares.argmin(axis=1)
    assert len(set(pair)) == a.n, "positions do not pair"
    b = b.take(pair)
    opacities = sigmoid(a.arrays["logit_opacities"]), sigmoid(b.arrays["logit_opacities"])
    seen = opacities[0] > 0.01
    cosines = np.abs((unit(a.arrays["quats"]).astype("f8") * unit(b.arrays["quats"])).sum(axis=1))

    def worst(x: np.ndarray, y: np.ndarray) -> float:
        return float(np.abs(x.astype("f8") - y).max(initial=0))

    sh0 = [np.clip(s.arrays["sh0"][seen], -sh0_limit, sh0_limit) for s in (a, b)]
    harmonics = [s.arrays["shN"] for s in (a, b)]
    return Distance(
        worst(a.arrays["means"], b.arrays["means"]),
        worst(a.arrays["log_scales"], b.arrays["log_scales"]),
        worst(*opacities),
        float(2 * np.arccos(np.minimum(cosines, 1)).max()),
        worst(*sh0),
        worst(*harmonics) if harmonics[0].shape == harmonics[1].shape else float("nan"),
    )


def covariances(splats: Splats) -> np.ndarray:
    """[N, 3, 3] of each splat, in the frame of its means."""
    turns = np.stack([frame.matrix(quat) for quat in splats.arrays["quats"]])
    half = turns * np.exp(splats.arrays["log_scales"].astype("f8"))[:, None]
    return half @ half.transpose(0, 2, 1)
