# SPDX-License-Identifier: Apache-2.0
"""Poses that are learnt: their gradient, what is taken out of them, and what they are worth."""

from dataclasses import replace
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import tiny
from plans import plan

from gsplat_train import backends, config
from gsplat_train.datasets.demo import make_demo
from gsplat_train.errors import UserError
from gsplat_train.renderer import render
from gsplat_train.scene import Camera, Scene
from gsplat_train.training import poses, rows
from gsplat_train.training.objective import Objective
from gsplat_train.training.stepper import GenericStepper, make_stepper
from gsplat_train.training.trainer import Trainer


def looking(width: int = 64, height: int = 48) -> Camera:
    K = [[60.0, 0, width / 2], [0, 60, height / 2], [0, 0, 1]]
    return Camera(np.eye(4), np.array(K), width, height)


@pytest.mark.parametrize("degree", [0, 1])
def test_the_gradient_is_that_of_the_picture(degree: int) -> None:
    """Against differences: to a tenth of its length, for splats end where they are fainter than 1/255, and those edges
    move with the camera too. Without the splats' own turning, or with the colours', it is off by more.
    """
    gaussians, backend = tiny.random_gaussians(40, seed=3), backends.load("python")
    long = gaussians.log_scales + mx.array([0.7, -1.5, -1.5])
    gaussians = gaussians._replace(shN=5 * gaussians.shN, log_scales=long)
    at = poses.camera(np.array([0.05, -0.1, 0.08, 0.1, 0.2, -0.1]), looking())
    y, x = np.mgrid[:48, :64].astype(np.float32)
    smooth = np.stack([np.sin(x / 9 + y / 13), np.cos(x / 11 - y / 8), np.sin(x / 15 + 1)], axis=2)
    weights = mx.array(smooth * (np.hanning(48)[:, None] * np.hanning(64))[:, :, None].astype(np.float32))

    def loss(gaussians: Any, camera: Camera) -> mx.array:
        return (render(gaussians, camera, backend, degree).image * weights).sum()

    moves = mx.grad(lambda g: loss(g, at))(gaussians)
    found = poses.gradient(gaussians, moves, at, degree)
    wanted, step = np.zeros(6), 1e-2
    for i in range(6):
        row = np.zeros(6)
        row[i] = step
        ahead, behind = (loss(gaussians, poses.camera(sign * row, at)).item() for sign in (1, -1))
        wanted[i] = (ahead - behind) / (2 * step)
    assert np.linalg.norm(found[:3] - wanted[:3]) < 0.1 * np.linalg.norm(wanted[:3])
    assert np.linalg.norm(found[3:] - wanted[3:]) < 0.1 * np.linalg.norm(wanted[3:])


def test_what_moves_all_cameras_as_one_is_taken_out() -> None:
    views = tiny.scene().normalized()[0].views
    settle, centres = poses.settling(views), np.stack([view.camera.position for view in views])
    w, t, scale = np.array([0.01, -0.02, 0.03]), np.array([0.1, 0.2, -0.1]), 0.05
    together = np.concatenate(
        [np.tile(w, (len(views), 1)), t + np.cross(w, centres) + scale * centres], axis=1
    )
    assert np.abs(settle(together)).max() < 1e-6
    alone = settle(np.random.default_rng(0).normal(size=together.shape))
    assert settle(alone + together) == pytest.approx(alone, abs=1e-6) and np.abs(alone).max() > 0.5


def test_few_views_cannot_hold_one_another() -> None:
    scene = replace(tiny.scene(), views=tiny.scene().views[:3])
    with pytest.raises(UserError, match="poses=refine needs 4 views to train on, and there are 2"):
        Trainer(tiny.settings(poses="refine"), scene)


@pytest.mark.parametrize("batch", [1, 2])
def test_the_fused_step_is_the_generic_one(batch: int) -> None:
    if tiny.BACKEND != "cpp":
        pytest.skip("cpp is not compiled here")
    views, both = tiny.scene().normalized()[0].views[:4], []
    views = tuple(replace(v, camera=replace(v.camera, viewmat=np.eye(4))) for v in views)
    for kind in (make_stepper, GenericStepper):
        objective = Objective.of(tiny.settings(poses="refine", exposure="affine"), views)
        objective.groups["poses"].values[:] = np.random.default_rng(1).normal(0, 0.02, (4, 6))
        state = rows.start(tiny.random_gaussians(300))
        stepper = kind(backends.load("cpp"), state, objective)
        for number in range(batch, 4 * batch + 1, batch):
            seen = [views[(number + i) % 4] for i in range(batch)]
            rates = {"exposure": 0.01, "poses": 1e-3}
            stepper.take(seen[0], plan(number, sh_degree=1, group_rates=rates, views=batch), *seen[1:])
        assert isinstance(stepper, GenericStepper) == (kind is GenericStepper)
        stepper.look()
        both.append(objective.groups["poses"])
    own, other = both
    assert np.abs(own.m - other.m).max() < 2e-3 * np.abs(other.m).max()
    assert own.values == pytest.approx(
        other.values, abs=2e-4
    )  # a fifth of one step, where Adam goes by signs


# ---- what it is worth ----


def displaced(scene: Scene) -> Scene:
    """The scene with each pose off by half a degree, and half a per cent of the cameras' radius."""
    rng, centres = np.random.default_rng(0), np.stack([view.camera.position for view in scene.views])
    radius = np.linalg.norm(centres - centres.mean(axis=0), axis=1).max()
    lengths, moved = np.array([np.radians(0.5), 0.005 * radius]), []
    for view in scene.views:
        row = rng.normal(size=(2, 3))
        row *= (lengths / np.linalg.norm(row, axis=1))[:, None]
        moved.append(replace(view, camera=poses.camera(row.reshape(6), view.camera)))
    return replace(scene, views=tuple(moved))


def test_poses_that_are_off_train_almost_as_exact_ones() -> None:
    """Held-out poses are off too, and are fitted on left halves: 27.2 dB on the right ones, exact 27.1; as they
    are, 22.4. Training views: 29.4 dB, 24.5 with the poses fixed.
    """
    if tiny.BACKEND != "cpp":
        pytest.skip("cpp is not compiled here")
    exact, found = make_demo(n_views=32, width=96, height=72, n_points=2000), {}
    off = displaced(exact)
    for name, scene, mode in (("exact", exact, "refine"), ("refined", off, "refine"), ("off", off, "fixed")):
        settings = {"backend": "cpp", "steps": 1500, "max_splats": 3000, "poses": mode, "eval_every": 1500}
        found[name] = Trainer(config.configure("demo", settings), scene).train()
    assert found["refined"]["test"]["psnr_posed"] > found["exact"]["test"]["psnr_posed"] - 0.5
    assert found["off"]["train"]["psnr"] < found["refined"]["train"]["psnr"] - 1.5
