# SPDX-License-Identifier: Apache-2.0
"""The first Gaussians: a round one for each point of a reconstruction (Kerbl et al. 2023, section 5.1)."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from ..errors import UserError
from . import sh
from .gaussians import Gaussians
from .neighbors import squared_distances_to_nearest

NEIGHBORS = 3  # as 3DGS
SMALLEST_SHARE = 1e-3  # of the median scale: copies of a point would otherwise start with scale 0
DARKEST = 8  # of 255: the clamp of colours at 0 lets no gradient through; half the points black, 600 steps: 18.9 dB for
# 18.2, and a third of the splats left black
LONELY_SCALE = 0.1  # where no two points differ; training's frame has its farthest camera at 1


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

    black = (colors < DARKEST).all(axis=1, keepdims=True)
    colors = np.where(black, DARKEST, colors)
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
