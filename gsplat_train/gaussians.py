# SPDX-License-Identifier: Apache-2.0
"""The parameter tree: what is trained, how it is activated, how it starts.

Stored values are unconstrained, so that Adam may move them freely: scales = exp(log_scales), opacities =
sigmoid(logit_opacities), quats are normalised where they are used (Kerbl et al. 2023, section 5.1).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from . import sh
from .errors import UserError
from .neighbors import squared_distances_to_nearest

NEIGHBORS = 3  # as 3DGS
SMALLEST_SHARE = 1e-3  # of the median scale: copies of a point would else start with scale 0, logarithm -inf
LONELY_SCALE = 0.1  # where no two points differ; training's frame has its farthest camera at 1


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
            given = ", ".join(map(str, value)) or "none"
            raise UserError(f"gaussians need exactly {', '.join(Gaussians._fields)}, got {given}")
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


def gaussians_from_points(
    points: np.ndarray,
    colors: np.ndarray,
    *,
    sh_degree: int = 3,
    init_opacity: float = 0.1,
    init_scale: float = 1.0,
) -> Gaussians:
    """One round Gaussian a point: `points` [P, 3], `colors` [P, 3] uint8; the same colour from all sides.

    Its scale is `init_scale` times the root mean square distance to its 3 nearest neighbours (fewer where
    there are fewer points), as gsplat does. UserError where there is no point, a point is not finite, or a
    number is out of its range.
    """
    points, colors = np.asarray(points, np.float64), np.asarray(colors)
    n = len(points)
    if n == 0 or points.shape != (n, 3) or colors.shape != (n, 3):
        raise UserError(f"points and colors must be [P, 3], P from 1, got {points.shape} and {colors.shape}")
    if colors.dtype != np.uint8:
        raise UserError(f"colors must be uint8, got {colors.dtype}")
    broken = n - np.isfinite(points).all(axis=1).sum()
    if broken:
        raise UserError(f"points must be finite, got {broken} of {n} that are not")
    if not 0 <= sh_degree <= sh.MAX_DEGREE:
        raise UserError(f"sh_degree must be 0 to {sh.MAX_DEGREE}, got {sh_degree}")
    if not (0 < init_opacity < 1 and init_scale > 0):
        raise UserError(
            f"init_opacity must be in (0, 1), init_scale above 0, got {init_opacity} and {init_scale}"
        )

    log_scales = np.log(init_scale * _spacing(points))
    return Gaussians(
        means=mx.array(points.astype(np.float32)),
        quats=mx.array(np.tile(np.array([1, 0, 0, 0], np.float32), (n, 1))),
        log_scales=mx.array(np.tile(log_scales[:, None], (1, 3)).astype(np.float32)),
        logit_opacities=mx.full((n,), float(np.log(init_opacity / (1 - init_opacity)))),
        sh0=mx.array(sh.rgb_to_sh0(colors / 255.0).astype(np.float32)[:, None, :]),
        shN=mx.zeros((n, sh.num_coefficients(sh_degree) - 1, 3)),
    )


def _spacing(points: np.ndarray) -> np.ndarray:
    """[P] root mean square distance to the 3 nearest others; positive whatever the points."""
    neighbors = min(NEIGHBORS, len(points) - 1)
    if neighbors == 0:
        return np.full(1, LONELY_SCALE)
    spacing = np.sqrt(squared_distances_to_nearest(points, neighbors).mean(axis=1))
    if not spacing.any():
        return np.full(len(points), LONELY_SCALE)
    return np.maximum(spacing, SMALLEST_SHARE * np.median(spacing[spacing > 0]))
