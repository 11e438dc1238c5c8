# SPDX-License-Identifier: Apache-2.0
"""The parameter tree: what is trained and how it is activated; how it starts is in initialize.py.

Stored values are unconstrained, so that Adam may move them freely: scales = exp(log_scales), opacities =
sigmoid(logit_opacities), quats are normalised where they are used (Kerbl et al. 2023, section 5.1).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from ..errors import UserError
from ..scene import Similarity
from . import sh


class Gaussians(NamedTuple):
    """N Gaussians as float32 arrays; a tree that mx.grad takes. K = (sh degree + 1)^2."""

    means: mx.array  # [N, 3] world units
    quats: mx.array  # [N, 4] wxyz, not normalised
    log_scales: mx.array  # [N, 3]
    logit_opacities: mx.array  # [N]
    sh0: mx.array  # [N, 1, 3]
    shN: mx.array  # [N, K-1, 3]; degree 0: [N, 0, 3]

    @property
    def scales(self) -> mx.array:
        """[N, 3] standard deviations along the axes, world units."""
        return mx.exp(self.log_scales)

    @property
    def opacities(self) -> mx.array:
        """[N] in (0, 1)."""
        return mx.sigmoid(self.logit_opacities)

    @property
    def sh_degree(self) -> int:
        """The degree that shN has room for."""
        return round((self.shN.shape[1] + 1) ** 0.5) - 1


def as_gaussians(value: Gaussians | Mapping[str, mx.array]) -> Gaussians:
    """`value`, a Gaussians or a mapping of its names, with types and shapes checked; UserError says what is
    wrong.

    Values are not looked at: that would wait for the graph, and the renderer survives any.
    """
    if isinstance(value, Mapping):
        if set(value) != set(Gaussians._fields):
            got = ", ".join(map(str, value)) or "none"
            raise UserError(f"gaussians need exactly {', '.join(Gaussians._fields)}, got {got}")
        value = Gaussians(**value)
    for name, leaf in zip(Gaussians._fields, value, strict=True):
        if not isinstance(leaf, mx.array) or leaf.dtype != mx.float32:
            kind = f"mx.array of {leaf.dtype}" if isinstance(leaf, mx.array) else type(leaf).__name__
            raise UserError(f"{name} must be an mx.array of float32, got {kind}")
    if value.means.ndim != 2 or value.means.shape[1] != 3:
        raise UserError(f"means must be [N, 3], got {value.means.shape}")
    n = value.means.shape[0]
    for name, rest in (("quats", (4,)), ("log_scales", (3,)), ("logit_opacities", ()), ("sh0", (1, 3))):
        leaf = getattr(value, name)
        if leaf.shape != (n, *rest):
            wanted = ", ".join(["N", *map(str, rest)])
            raise UserError(f"{name} must be [{wanted}] with N = {n} (as means), got {leaf.shape}")
    rooms = [sh.num_coefficients(degree) - 1 for degree in range(sh.MAX_DEGREE + 1)]
    if value.shN.shape not in [(n, room, 3) for room in rooms]:
        raise UserError(
            f"shN must be [N, K-1, 3] with N = {n} (as means) and K-1 in {rooms}, got {value.shN.shape}"
        )
    return value


def scene_frame(gaussians: Gaussians, similarity: Similarity) -> Gaussians:
    """Gaussians of training's frame in the scene's own, where files and metrics live."""
    means = similarity.to_scene(np.asarray(gaussians.means).astype(np.float64))
    return gaussians._replace(
        means=mx.array(means.astype(np.float32)),
        log_scales=gaussians.log_scales + float(np.log(similarity.scale)),
    )
