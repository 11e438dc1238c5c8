# SPDX-License-Identifier: Apache-2.0
"""Every stage of the renderer in plain MLX, on any device: to be read first, and what the others must match.

Mathematics: Kerbl et al. 2023 (3D Gaussian Splatting), Zwicker et al. 2001 (EWA splatting, the projection's
Jacobian). Notation as in backends/__init__.py. The blending, with a VJP of its own, is in
python_rasterize.py.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np

from ..evaluate.metrics import score
from ..losses import photometric_loss
from ..model import sh
from ..model.gaussians import Gaussians
from . import Projected, Tiles
from .python_rasterize import ALPHA_MIN, TILE, rasterize, scan

__all__ = [
    "FUSED_GROUPS",
    "adam",
    "deterministic",
    "isect_tiles",
    "photometric_loss",
    "project",
    "rasterize",
    "score",
    "show",
    "stepper",
]

# On a GPU MLX adds up what is scattered in no fixed order.
deterministic = mx.default_device() == mx.cpu
FUSED_GROUPS: frozenset[str] = frozenset()  # it has no stepper of its own

# Thresholds, with their reasons in csrc/constants.h; tests/test_constants.py holds the two together.
NEAR_PLANE = 0.01
LOW_PASS = 0.3  # px^2
MAX_EXTENT = 3.33  # standard deviations
JACOBIAN_MARGIN = 0.3
ADAM_BETA1, ADAM_BETA2, ADAM_EPS = 0.9, 0.999, 1e-15


# ---- project ----


def project(
    gaussians: Gaussians,
    viewmat: np.ndarray,
    K: np.ndarray,
    width: int,
    height: int,
    *,
    sh_degree: int,
    antialiased: bool,
) -> Projected:
    """Gaussians -> ellipses on the screen with depth, colour and opacity; differentiable by MLX itself.

    Two passes: the first only finds what is culled. The second, the differentiable one, sees harmless values
    in those rows, so that no gradient of theirs can be NaN.
    """
    radii = mx.stop_gradient(_ellipses(gaussians, viewmat, K, width, height, antialiased)[4])
    visible = radii[:, 0] > 0
    camtoworld = np.linalg.inv(viewmat)
    harmless = Gaussians(
        means=mx.array((camtoworld[:3, 3] + camtoworld[:3, 2]).astype(np.float32)),  # 1 before the camera
        quats=mx.array([1.0, 0.0, 0.0, 0.0]),
        log_scales=mx.array(-5.0),
        logit_opacities=mx.array(0.0),
        sh0=mx.array(0.0),
        shN=mx.array(0.0),
    )
    gaussians = Gaussians(
        *(
            mx.where(visible.reshape(-1, *[1] * (leaf.ndim - 1)), leaf, constant)
            for leaf, constant in zip(gaussians, harmless, strict=True)
        )
    )
    means2d, conics, depths, opacities, _ = _ellipses(gaussians, viewmat, K, width, height, antialiased)
    towards = gaussians.means - mx.array(camtoworld[:3, 3].astype(np.float32))
    directions = towards / mx.linalg.norm(towards, axis=1, keepdims=True)
    colors = sh.evaluate(gaussians.sh0, gaussians.shN, directions, sh_degree)
    return Projected(means2d, conics, depths, radii, colors, mx.where(visible, opacities, 0.0))


def _ellipses(
    gaussians: Gaussians, viewmat: np.ndarray, K: np.ndarray, width: int, height: int, antialiased: bool
) -> tuple[mx.array, mx.array, mx.array, mx.array, mx.array]:
    """means2d, conics, depths, opacities, radii (0 where culled: there the others may be anything)."""
    rotation = mx.array(viewmat[:3, :3].astype(np.float32))
    translation = mx.array(viewmat[:3, 3].astype(np.float32))
    fx, fy, cx, cy = float(K[0, 0]), float(K[1, 1]), float(K[0, 2]), float(K[1, 2])
    x, y, depths = mx.split(gaussians.means @ rotation.T + translation, 3, axis=1)  # each [N, 1]

    # The perspective's Jacobian, at a point moved to at most 0.3 half images beyond the border: the linear
    # approximation is far off there. What is clamped is a constant ratio.
    def clamped(ratio: mx.array, focal: float, centre: float, side: int) -> mx.array:
        margin = JACOBIAN_MARGIN * 0.5 * side / focal
        return mx.clip(ratio, -centre / focal - margin, (side - centre) / focal + margin)

    zero = mx.zeros_like(depths)
    jacobian = mx.stack(
        [
            mx.concatenate([fx / depths, zero, -fx / depths * clamped(x / depths, fx, cx, width)], axis=1),
            mx.concatenate([zero, fy / depths, -fy / depths * clamped(y / depths, fy, cy, height)], axis=1),
        ],
        axis=1,
    )  # [N, 2, 3]

    # cov2d = J W R S S R^T W^T J^T = rows rows^T, with rows = J W R S
    rows = jacobian @ (rotation @ (_rotations(gaussians.quats) * gaussians.scales[:, None, :]))  # [N, 2, 3]
    xx, xy, yy = (rows[:, 0] ** 2).sum(1), (rows[:, 0] * rows[:, 1]).sum(1), (rows[:, 1] ** 2).sum(1)
    cross = mx.linalg.cross(rows[:, 0], rows[:, 1])
    det_sharp = (cross * cross).sum(
        1
    )  # xx yy - xy^2 by Lagrange's identity: without cancellation, never negative
    det = det_sharp + LOW_PASS * (xx + yy) + LOW_PASS**2  # of cov2d + 0.3 I
    xx, yy = xx + LOW_PASS, yy + LOW_PASS
    conics = mx.stack([yy / det, -xy / det, xx / det], axis=1)
    means2d = mx.concatenate([fx * x / depths + cx, fy * y / depths + cy], axis=1)
    # The sigmoid, written out: the VJP of mx.sigmoid is o (1 - o), and near 1 the digits of 1 - o are lost.
    depths, opacities = depths[:, 0], 1 / (1 + mx.exp(-gaussians.logit_opacities))
    if antialiased:
        opacities = opacities * mx.sqrt(det_sharp / det)

    extent = mx.minimum(MAX_EXTENT, mx.sqrt(2 * mx.log(mx.maximum(opacities / ALPHA_MIN, 1))))
    radii = mx.minimum(mx.ceil(extent[:, None] * mx.sqrt(mx.stack([xx, yy], axis=1))), 2**30)  # an int32
    inside = ((means2d + radii > 0) & (means2d - radii < mx.array([width, height]))).all(axis=1)
    # The only gate of visibility; NaN and infinity fail it.
    visible = (depths >= NEAR_PLANE) & (opacities >= ALPHA_MIN) & inside & (det < mx.inf) & (depths < mx.inf)
    return means2d, conics, depths, opacities, mx.where(visible[:, None], radii, 0).astype(mx.int32)


def _rotations(quats: mx.array) -> mx.array:
    """Rotation matrices [N, 3, 3] of quats [N, 4] of any length; the identity for a zero one."""
    quats = quats * mx.rsqrt(mx.maximum((quats * quats).sum(axis=1, keepdims=True), 1e-24))
    w, x, y, z = (quats[:, i] for i in range(4))
    return mx.stack(
        [
            mx.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], axis=1),
            mx.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], axis=1),
            mx.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], axis=1),
        ],
        axis=1,
    )


# ---- isect_tiles ----


def isect_tiles(projected: Projected, width: int, height: int) -> Tiles:
    """For each tile the splats that reach alpha 1/255 at some point of it, by depth, then index.

    Waits for the graph: the number of intersections is data.
    """
    means2d, conics, depths, radii, _, opacities = (mx.stop_gradient(leaf) for leaf in projected)
    n, columns, rows = len(depths), -(-width // TILE), -(-height // TILE)
    # Candidates: the tiles of each splat's box.
    limits = mx.array([columns, rows])
    first = mx.clip(mx.floor((means2d - radii) / TILE), 0, limits).astype(mx.int32)
    last = mx.clip(mx.ceil((means2d + radii) / TILE), 0, limits).astype(mx.int32)
    sides = mx.where(radii > 0, last - first, 0)
    counts = sides[:, 0] * sides[:, 1]
    ends = scan(mx.cumsum, counts)
    total = int(ends[-1]) if n else 0
    if total == 0:
        return Tiles(mx.zeros(0, dtype=mx.int32), mx.zeros(columns * rows + 1, dtype=mx.int32))
    splat = mx.cumsum(mx.zeros(total + 1, dtype=mx.int32).at[ends].add(1))[:total]  # one more behind each end
    place = mx.arange(total) - (ends - counts)[splat]
    tile_x = first[splat, 0] + place % sides[splat, 0]
    tile_y = first[splat, 1] + place // sides[splat, 0]

    # Of them those where the nearest pixel centre's alpha, min over the tile's rectangle, can count.
    low = mx.stack([tile_x, tile_y], axis=1) * TILE + 0.5 - means2d[splat]  # [pairs, 2], relative to the mean
    power = _least_power(conics[splat], low, low + (TILE - 1))
    touches = power <= mx.log(opacities / ALPHA_MIN)[splat] + 1e-3  # a little more: rounding must lose none
    # Sort by tile, then depth (a positive float's bits rise with it), then index; what does not touch goes
    # last.
    bits = mx.where(radii[:, 0] > 0, depths, 0.0).view(mx.uint32).astype(mx.uint64)
    by_depth = mx.sort((bits << 32) | mx.arange(n).astype(mx.uint64)) & 0xFFFFFFFF
    rank = mx.zeros(n, dtype=mx.uint32)  # MLX on CUDA scatters nothing of 64 bits
    rank[by_depth] = mx.arange(n).astype(mx.uint32)
    tile = mx.where(touches, tile_y * columns + tile_x, columns * rows)
    keys = mx.sort((tile.astype(mx.uint64) << 32) | rank[splat].astype(mx.uint64))
    ids = by_depth[keys & 0xFFFFFFFF].astype(mx.int32)
    in_tile = mx.zeros(columns * rows + 1, dtype=mx.int32).at[tile].add(1)
    offsets = mx.cumsum(in_tile, inclusive=False)
    return Tiles(ids[: int(offsets[-1])], offsets)


def _least_power(conics: mx.array, low: mx.array, high: mx.array) -> mx.array:
    """[M] minimum of (A x^2 + 2 B x y + C y^2) / 2 over the rectangles low..high [M, 2].

    That of a convex form lies at 0, or else on one of the two sides that face it (Radl et al. 2024,
    StopThePop).
    """
    a, b, c = conics[:, 0], conics[:, 1], conics[:, 2]
    near_x, near_y = (
        mx.clip(mx.array(0.0), low[:, 0], high[:, 0]),
        mx.clip(mx.array(0.0), low[:, 1], high[:, 1]),
    )
    along_y = mx.clip(-b * near_x / c, low[:, 1], high[:, 1])
    along_x = mx.clip(-b * near_y / a, low[:, 0], high[:, 0])

    def power(x: mx.array, y: mx.array) -> mx.array:
        return 0.5 * (a * x * x + c * y * y) + b * x * y

    return mx.minimum(power(near_x, along_y), power(along_x, near_y))


# ---- adam ----


def adam(
    params: Gaussians,
    grads: Gaussians,
    m: Gaussians,
    v: Gaussians,
    lrs: dict[str, float],
    step: int,
    views: int = 1,
) -> tuple[Gaussians, Gaussians, Gaussians]:
    """One step of Adam (Kingma and Ba 2015), one learning rate a name of Gaussians; `step` counts views from 1, the
    step is over `views` of them (see training.plan.StepPlan).
    """
    beta1, beta2, eps = ADAM_BETA1**views, ADAM_BETA2**views, ADAM_EPS / views**0.5
    m = Gaussians(*(beta1 * a + (1 - beta1) * g for a, g in zip(m, grads, strict=True)))
    v = Gaussians(*(beta2 * a + (1 - beta2) * g * g for a, g in zip(v, grads, strict=True)))
    unbias_m, unbias_v = 1 / (1 - ADAM_BETA1**step), 1 / (1 - ADAM_BETA2**step)
    params = Gaussians(
        *(
            p - lrs[name] * unbias_m * a / (mx.sqrt(unbias_v * b) + eps)
            for name, p, a, b in zip(Gaussians._fields, params, m, v, strict=True)
        )
    )
    return params, m, v


# ---- stepper ----


def stepper(state: Any, bounds: Any = None) -> None:
    """See Backend.stepper: nothing is fused here."""
    return None


def show(gaussians: Any, background: Any, antialiased: bool) -> None:
    """See Backend.show: the stages do it."""
    return None
