# SPDX-License-Identifier: Apache-2.0
"""Small random scenes for the tests, as dicts of float64 arrays whose values float32 holds exactly."""

import mlx.core as mx
import numpy as np

from gsplat_train.model.gaussians import Gaussians
from gsplat_train.scene import Camera


def camera(width=40, height=28, focal=40.0):
    """A camera that is turned, moved and off centre, so that no sign or transpose can hide."""
    cos, sin = np.cos(0.3), np.sin(0.3)
    turn_y = np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])
    turn_x = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    viewmat = np.eye(4)
    viewmat[:3, :3] = turn_x @ turn_y
    viewmat[:3, 3] = [0.2, -0.1, 0.5]
    K = [[focal, 0, 0.47 * width], [0, 1.1 * focal, 0.55 * height], [0, 0, 1]]
    return Camera(viewmat, K, width, height)


def scene(view, n, seed=0, degree=3, size=3.0, opacity=0.0, spread=1.0, depth=(1.0, 4.0)):
    """`n` Gaussians before the camera `view`, centres spread over `spread` times the picture, about `size`
    pixels wide.

    opacity: the mean logit.
    """
    rng = np.random.default_rng(seed)
    z = rng.uniform(*depth, n)
    corner = np.array([view.width, view.height])
    pixels = corner * (0.5 + spread * (rng.uniform(size=(n, 2)) - 0.5))
    on_plane = (pixels - view.K[:2, 2]) / np.diag(view.K)[:2]
    points = np.concatenate([on_plane * z[:, None], z[:, None]], axis=1)
    means = (points - view.viewmat[:3, 3]) @ view.viewmat[:3, :3]
    gaussians = {
        "means": means,
        "quats": rng.normal(size=(n, 4)),
        "log_scales": np.log(size * z / view.K[0, 0])[:, None] + 0.5 * rng.normal(size=(n, 3)),
        "logit_opacities": opacity + rng.normal(size=n),
        "sh0": rng.normal(size=(n, 1, 3)) * 0.5 + 0.8,
        "shN": rng.normal(size=(n, (degree + 1) ** 2 - 1, 3)) * 0.2,
    }
    return {name: values.astype(np.float32).astype(np.float64) for name, values in gaussians.items()}


def needles(width, height, n, shortest, longest, seed=0):
    """(gaussians, view): `n` lines across the picture, in all directions, a quarter of them nearly upright or
    level.

    shortest, longest: their standard deviations in pixels; centres are up to two of these outside. The
    low-pass leaves 0.55 pixels in the other direction.
    """
    rng = np.random.default_rng(seed)
    view = Camera(np.eye(4), [[1000, 0, width / 2], [0, 1000, height / 2], [0, 0, 1]], width, height)
    z, length = rng.uniform(1, 3, n), np.exp(rng.uniform(np.log(shortest), np.log(longest), n))
    angle = rng.uniform(0, np.pi, n)
    angle[: n // 4] = rng.choice([0, np.pi / 2], n // 4) + 1e-3 * rng.normal(size=n // 4)
    along = np.stack([np.cos(angle), np.sin(angle)], axis=1) * (rng.uniform(-2, 2, n) * length)[:, None]
    means2d = rng.uniform(size=(n, 2)) * [width, height] + along
    opacities = rng.uniform(0.05, 0.99, n)
    gaussians = {
        "means": np.column_stack([(means2d - view.K[:2, 2]) / 1000 * z[:, None], z]),
        "quats": np.stack([np.cos(angle / 2), 0 * z, 0 * z, np.sin(angle / 2)], axis=1),
        "log_scales": np.log(np.stack([length, 0 * z + 0.01, 0 * z + 0.01], axis=1) * z[:, None] / 1000),
        "logit_opacities": np.log(opacities / (1 - opacities)),
        "sh0": np.zeros((n, 1, 3)),
        "shN": np.zeros((n, 0, 3)),
    }
    rounded = {name: values.astype(np.float32).astype(np.float64) for name, values in gaussians.items()}
    return rounded, view


def to_mlx(gaussians):
    """The dict as the Gaussians that the package takes."""
    return Gaussians(**{name: mx.array(np.asarray(values, np.float32)) for name, values in gaussians.items()})
