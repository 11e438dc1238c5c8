# SPDX-License-Identifier: Apache-2.0
"""Whether a backend computes here what the reference does: a few splats, forward and backward, in a second.

An error is not the only sign: MLX does not compare a threadgroup's size with what a pipeline allows, and too
large a one gave wrong numbers without a word (github.com/ml-explore/mlx/issues/2205).
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np

from ..model.gaussians import Gaussians
from . import Backend, load, verdict

SIZE = 40  # pixels
SPLATS = 8
TOLERANCE = 1e-3  # of the image, whose values are about 1, and of the gradients' largest


def verdict_on(name: str) -> str | None:
    """What is wrong with the backend `name` here: what was found before, otherwise what `wrong_with` finds. An error is
    not kept, as it may be the moment's.
    """
    recalled, reason = verdict.recall(name)
    if not recalled:
        reason = wrong_with(load(name))
        if reason is None or " is off by " in reason:
            verdict.keep(name, reason, by="the quick probe")
    return reason


def wrong_with(backend: Backend) -> str | None:
    """What is wrong with the backend, in words; None where it is right."""
    try:
        found = numbers(backend)
        with mx.stream(mx.cpu):  # on CUDA the reference's own kernels would be compiled for 40 s
            wanted = numbers(load("python"))
    except Exception as error:  # whatever a driver or a compiler raises
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    for name, value in wanted.items():
        scale = max(float(np.abs(value).max()), 1e-6)
        off = float(np.abs(found[name] - value).max()) / scale
        if not off < TOLERANCE:
            return f"{name} is off by {off:.1e} of its largest value"
    return None


def numbers(backend: Backend) -> dict[str, np.ndarray]:
    """The image of a few splats, and the gradients of a fixed function of it."""
    rng = np.random.default_rng(0)
    arrays = {
        "means": rng.uniform(-0.6, 0.6, (SPLATS, 3)) + np.array([0, 0, 3]),
        "quats": rng.standard_normal((SPLATS, 4)),
        "log_scales": rng.uniform(-2.5, -1.5, (SPLATS, 3)),
        "logit_opacities": rng.uniform(-1, 1, SPLATS),
        "sh0": rng.standard_normal((SPLATS, 1, 3)),
        "shN": 0.1 * rng.standard_normal((SPLATS, 3, 3)),
    }
    gaussians = Gaussians(**{name: mx.array(array.astype(np.float32)) for name, array in arrays.items()})
    K = np.array([[SIZE, 0, SIZE / 2], [0, SIZE, SIZE / 2], [0, 0, 1.0]])
    target = mx.array(rng.integers(0, 256, (SIZE, SIZE, 3), np.uint8))

    def loss(gaussians: Gaussians) -> tuple[mx.array, mx.array]:
        projected = backend.project(gaussians, np.eye(4), K, SIZE, SIZE, sh_degree=1, antialiased=False)
        tiles = backend.isect_tiles(projected, SIZE, SIZE)
        image, _ = backend.rasterize(projected, tiles, mx.zeros(3), SIZE, SIZE)
        return backend.photometric_loss(image, target, 0.2)[0], image

    (_, image), gradients = mx.value_and_grad(loss)(gaussians)
    mx.eval(image, gradients)
    named: Any = {"image": image, **{f"the gradient of {k}": v for k, v in gradients._asdict().items()}}
    return {name: np.asarray(array) for name, array in named.items()}
