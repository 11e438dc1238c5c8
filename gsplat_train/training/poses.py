# SPDX-License-Identifier: Apache-2.0
"""Poses of the cameras, learnt beside the splats: for each view a small rotation and a shift, in training's frame.

    rotation camera -> world  R' = exp([w]x) R,     centre  c' = c + t

A picture depends on where splats lie relative to the camera, so the camera's gradient is that of the splats moved
as one rigid body, the other way round (sums over splats, v the gradient of the loss):

    dL/dt = -sum v_mean        dL/dw = -sum (mean - c) x v_mean' + 1/2 (v_quat . (e_k q))_k

where v_mean' leaves out what the direction of view does to the colours, which turning a camera does not change.
All cameras together may shift, turn and scale with the scene: these seven directions are taken out after each step,
so that what is learnt stays in the frame of the poses that were given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import mlx.core as mx
import numpy as np

from ..backends import Backend
from ..errors import UserError
from ..model import sh
from ..model.gaussians import Gaussians
from ..model.sky import Ground, colour_of
from ..renderer import render
from ..scene import Camera, View
from ..settings import choice, number
from .groups import Material
from .plan import decayed

WIDTH = 6  # w [3] rad, t [3] in units of training's frame
START = (0.0,) * WIDTH
FEWEST = 4  # views
FIT_STEPS, FIT_RATE = 120, 2e-3  # of Adam, to the pose of a photo that was held out


@dataclass(frozen=True)
class Settings:
    mode: str = choice("fixed", "refine")  # refine: learnt where the views hold one another
    lr: float = number(7e-4, 0.0)  # of Adam, at the first step ...
    lr_end: float = number(7e-6, 0.0)  # ... falls exponentially to this at the last

    def rate_at(self, step: int, horizon: int) -> float:
        """The rate of step `step` (from 1)."""
        return decayed(self.lr, max(self.lr_end, 1e-12), min((step - 1) / horizon, 1.0))


def image(row: mx.array, image: mx.array, mode: str) -> mx.array:
    """The picture is as it is: the camera has moved."""
    return image


def camera(row: np.ndarray, camera: Camera) -> Camera:
    """The camera as this row [6] moves it."""
    rotation = camera.viewmat[:3, :3] @ turn(row[:3]).T
    viewmat = np.eye(4)
    viewmat[:3, :3] = rotation
    viewmat[:3, 3] = -rotation @ (camera.position + row[3:])
    return replace(camera, viewmat=viewmat)


def decide(mode: str, material: Material, fused: bool) -> tuple[str, str]:
    """See groups; UserError where there are too few views to hold one another."""
    if mode == "refine" and len(material.views) < FEWEST:
        raise UserError(
            f"poses=refine needs {FEWEST} views to train on, and there are {len(material.views)}; leave it out"
        )
    return mode, ""


def gradient(gaussians: Gaussians, moves: Gaussians, camera: Camera, degree: int) -> np.ndarray:
    """[6] of a row, from the gradients of the splats that this camera shows; degree: the colour bands in use."""
    offsets = gaussians.means - mx.array(camera.position.astype(np.float32))
    v_means = moves.means
    if degree > 0:
        v_means = v_means - _by_direction(gaussians, moves, offsets, degree)
    (ox, oy, oz), (vx, vy, vz) = ([array[:, i] for i in range(3)] for array in (offsets, v_means))
    turned = mx.stack([(oy * vz - oz * vy).sum(), (oz * vx - ox * vz).sum(), (ox * vy - oy * vx).sum()])
    w, x, y, z = (gaussians.quats[:, i] for i in range(4))
    products = [[-x, w, -z, y], [-y, z, w, -x], [-z, -y, x, w]]  # e_k q
    spun = mx.stack([(moves.quats * mx.stack(product, axis=1)).sum() for product in products])
    total = mx.concatenate([turned + 0.5 * spun, moves.means.sum(axis=0)])
    return -np.asarray(total)


def fitted(
    gaussians: Gaussians,
    view: View,
    backend: Backend,
    antialiased: bool,
    background: Ground,
) -> Camera:
    """The camera of a view that training has not seen, moved so that the left half of its photo fits; all in
    training's frame. The splats stay.
    """
    photo, row = view.pixels, np.zeros(WIDTH)
    width = photo.image.shape[1]
    counts: np.ndarray = np.ones((len(photo.image), width)) if photo.mask is None else np.array(photo.mask)
    counts[:, width // 2 :] = 0
    target, mask = (
        mx.array(photo.shown(colour_of(background))),
        mx.array(counts),
    )
    m, v = np.zeros((2, WIDTH))
    for k in range(1, FIT_STEPS + 1):
        at = camera(row, view.camera)

        def loss(gaussians: Gaussians, at: Camera = at) -> mx.array:
            shown = render(gaussians, at, backend, background=background, antialiased=antialiased).image
            return backend.photometric_loss(shown, target, 0.2, mask)[0]

        found = gradient(gaussians, mx.grad(loss)(gaussians), at, gaussians.sh_degree)
        m, v = 0.9 * m + 0.1 * found, 0.99 * v + 0.01 * found * found
        rate = FIT_RATE * 0.02 ** (k / FIT_STEPS)
        row = row - rate * m / (1 - 0.9**k) / (np.sqrt(v / (1 - 0.99**k)) + 1e-12)
    return camera(row, view.camera)


def settling(views: Sequence[View]) -> Callable[[np.ndarray], np.ndarray]:
    """What takes out of all rows [views, 6] the part that moves all cameras as one: rotation, shift, scale."""
    directions = np.zeros((len(views), WIDTH, 7))
    for i, view in enumerate(views):
        c = view.camera.position
        directions[i, :3, :3] = np.eye(3)
        directions[i, 3:, :3] = [[0, c[2], -c[1]], [-c[2], 0, c[0]], [c[1], -c[0], 0]]  # w x c
        directions[i, 3:, 3:6] = np.eye(3)
        directions[i, 3:, 6] = c
    basis, sizes, _ = np.linalg.svd(directions.reshape(-1, 7), full_matrices=False)
    basis = basis[:, sizes > 1e-6 * sizes[0]]

    def settle(values: np.ndarray) -> np.ndarray:
        flat = values.reshape(-1)
        return (flat - basis @ (basis.T @ flat)).reshape(values.shape).astype(np.float32)

    return settle


def turn(vector: np.ndarray) -> np.ndarray:
    """The rotation [3, 3] by a vector's length about its direction (Rodrigues)."""
    angle = float(np.linalg.norm(vector))
    x, y, z = np.asarray(vector, np.float64) / max(angle, 1e-12)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def _by_direction(gaussians: Gaussians, moves: Gaussians, offsets: mx.array, degree: int) -> mx.array:
    """[N, 3] the part of the means' gradient that comes from the direction in which colours are seen. The gradient
    of a colour is that of its constant coefficient, which is 0 where the colour was cut at 0.
    """
    v_colors = moves.sh0[:, 0] / sh.C0

    def weighed(offsets: mx.array) -> mx.array:
        directions = offsets / mx.linalg.norm(offsets, axis=1, keepdims=True)
        bands = sh.basis(directions, degree)[:, 1:]
        return ((bands[:, :, None] * gaussians.shN[:, : bands.shape[1]]).sum(axis=1) * v_colors).sum()

    v_offsets: mx.array = mx.grad(weighed)(offsets)
    return v_offsets
