# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks train: a fixed number of Gaussians from a scene's points, or drawn at random."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from gsplat_train.model.gaussians import Gaussians
from gsplat_train.model.initialize import gaussians_from_points
from gsplat_train.scene import Camera


def start_of(points: np.ndarray, colors: np.ndarray, n: int, seed: int) -> Gaussians:
    """One Gaussian a point; fewer: a seeded subset; more: the largest split in two along their longest axis
    until there are n."""
    if n < len(points):
        chosen = np.sort(np.random.default_rng(seed).choice(len(points), n, replace=False))
        points, colors = points[chosen], colors[chosen]
    g = gaussians_from_points(points, colors, sh_degree=3, init_opacity=0.1, init_scale=1.0)
    leaves = [np.array(leaf) for leaf in g]
    while len(leaves[0]) < n:
        means, quats, log_scales, *_ = leaves
        largest = np.argsort(-log_scales.max(axis=1), kind="stable")[: n - len(means)]
        axis = log_scales[largest].argmax(axis=1)
        w, x, y, z = (quats[largest] / np.linalg.norm(quats[largest], axis=1, keepdims=True)).T
        columns = np.stack(
            [
                [1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y)],
                [2 * (x * y - w * z), 1 - 2 * (x * x + z * z), 2 * (y * z + w * x)],
                [2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)],
            ]
        )  # [axis, xyz, splat]
        offset = columns[axis, :, np.arange(len(largest))] * np.exp(log_scales[largest, axis])[:, None] * 0.5
        log_scales[largest] -= np.log(1.6)
        twins = [leaf[largest].copy() for leaf in leaves]
        twins[0] = means[largest] + offset
        means[largest] -= offset
        leaves = [np.concatenate([leaf, twin]) for leaf, twin in zip(leaves, twins, strict=True)]
    return Gaussians(*(mx.array(leaf.astype(np.float32)) for leaf in leaves))


def random_scene(n: int, width: int, height: int, seed: int) -> tuple[Gaussians, Camera, np.ndarray]:
    """z uniform in 2..10, centres uniform over 1.1x the image, scales log-normal(0, 0.5) times 2.5 px (2 px
    from 3 million on); the photo is noise."""
    rng = np.random.default_rng(seed)
    focal = float(width)
    z = rng.uniform(2, 10, n)
    pixels = (rng.uniform(-0.55, 0.55, (n, 2))) * (width, height)
    size = rng.lognormal(0, 0.5, (n, 3)) * (2.0 if n >= 3_000_000 else 2.5)
    leaves = (
        np.concatenate([pixels * z[:, None] / focal, z[:, None]], axis=1),
        rng.normal(size=(n, 4)),
        np.log(size * z[:, None] / focal),
        rng.normal(size=n),
        rng.normal(size=(n, 1, 3)) * 0.5,
    )
    shN = mx.zeros((n, 15, 3))  # filled in place: the process's peak memory is to be that of training
    mx.eval(shN)
    filled = np.asarray(shN)
    rng.standard_normal(dtype=np.float32, out=filled)
    filled *= np.float32(0.1)
    camera = Camera(np.eye(4), [[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], width, height)
    photo = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Gaussians(*(mx.array(leaf.astype(np.float32)) for leaf in leaves), shN), camera, photo
