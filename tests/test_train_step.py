# SPDX-License-Identifier: Apache-2.0
"""The step: fused and generic do the same, the noise is the one defined, bad numbers move nothing."""

import math
from dataclasses import replace
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import tiny
from conftest import load_backend
from gsplat_train.training.optimizer import GROUPS, TrainState
from gsplat_train.training.train_step import Noise, Regularizers, add_noise, generic_step, normals, train_step

from gsplat_train import backends
from gsplat_train.renderer import render
from gsplat_train.training import optimizer
from gsplat_train.training.strategies import GradStats

QUIET = Noise(0.0, 0)


def arguments(**changes: Any) -> dict[str, Any]:
    rates = dict.fromkeys(GROUPS, 1e-3)
    return {
        "lrs": rates, "sh_degree": 1, "ssim_lambda": 0.2, "background": np.zeros(3, np.float32),
        "antialiased": False, "regularizers": Regularizers(0.0, 0.0), "noise": QUIET, "stats": None,
        "absgrad": False,
    } | changes  # fmt: skip


def view():
    """The first photo, seen by a camera in front of tiny.random_state's Gaussians."""
    first = tiny.scene().views[0]
    return replace(first, camera=replace(first.camera, viewmat=np.eye(4)))


def start(n: int = 60) -> TrainState:
    return optimizer.start(tiny.random_gaussians(n))


def leaves(tree: Any) -> dict[str, np.ndarray]:
    return {name: leaf.copy() for name, leaf in optimizer.rows(tree).items()}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {
            "regularizers": Regularizers(0.05, 0.07), "noise": Noise(10.0, 7),
            "background": np.array([0.2, 0.5, 0.9], np.float32),
        },
        {"antialiased": True, "absgrad": True, "sh_degree": 0},
    ],
)  # fmt: skip
def test_the_fused_step_of_cpp_is_the_generic_step(changes: dict[str, Any]) -> None:
    cpp, python = load_backend("cpp"), backends.load("python")
    fused, generic = start(), start()
    sums = [GradStats.zeros(60) for _ in range(2)]
    for _ in range(5):
        a = train_step(cpp, fused, view(), **arguments(**changes, stats=sums[0]))
        b = generic_step(python, generic, view(), **arguments(**changes, stats=sums[1]))
        assert tuple(a) == pytest.approx(tuple(b), rel=1e-4)
    assert fused.step == generic.step == 5
    for name in GROUPS:
        ours, theirs = leaves(fused.gaussians)[name], leaves(generic.gaussians)[name]
        # Five steps of 1e-3. Adam divides by the gradient's size: where that is rounding error, signs differ.
        differs = np.abs(ours - theirs) > 1e-4
        assert differs.mean() < 0.01, name
        assert leaves(fused.m)[name] == pytest.approx(leaves(generic.m)[name], rel=1e-3, abs=1e-7), name
    assert sums[0].count.tolist() == sums[1].count.tolist()
    assert sums[0].means2d_norm == pytest.approx(sums[1].means2d_norm, rel=1e-3, abs=1e-6)
    if changes.get("absgrad"):
        assert sums[0].absgrad_norm == pytest.approx(sums[1].absgrad_norm, rel=1e-3, abs=1e-6)


def test_steps_bring_the_render_closer() -> None:
    backend, state = backends.load(tiny.BACKEND), start(200)
    losses = [
        train_step(backend, state, view(), **arguments(lrs=dict.fromkeys(GROUPS, 0.02))).loss
        for _ in range(30)
    ]
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("group", GROUPS)
def test_a_rate_of_zero_keeps_its_group(group: str) -> None:
    state = start()
    before = leaves(state.gaussians)
    train_step(
        backends.load(tiny.BACKEND),
        state,
        view(),
        **arguments(lrs=dict.fromkeys(GROUPS, 1e-2) | {group: 0.0}),
    )
    for name, leaf in leaves(state.gaussians).items():
        assert (leaf == before[name]).all() == (name == group), name


def test_regularizers_press_opacities_and_scales_down_by_their_means_gradient() -> None:
    backend, plain, pressed = backends.load(tiny.BACKEND), start(), start()
    a = train_step(backend, plain, view(), **arguments())
    b = train_step(backend, pressed, view(), **arguments(regularizers=Regularizers(3.0, 5.0)))
    assert a == b  # what is reported is the photometric loss
    opacity, scales = np.asarray(start().gaussians.opacities), np.asarray(start().gaussians.scales)
    added = {"logit_opacities": 3 * opacity * (1 - opacity) / 60, "log_scales": 5 * scales / 180}
    for name in GROUPS:  # after one step m is a tenth of the gradient
        difference = 10 * (leaves(pressed.m)[name] - leaves(plain.m)[name])
        assert difference == pytest.approx(added.get(name, np.zeros_like(difference)), rel=1e-3, abs=1e-6), (
            name
        )


def test_statistics_count_what_was_seen_and_sum_its_gradient() -> None:
    backend, state, stats = backends.load("python"), start(), GradStats.zeros(60)
    optimizer.rows(state.gaussians)["means"][::3, 2] -= 8  # behind the camera
    gaussians, target = state.gaussians, mx.array(view().image)

    def loss(probe: mx.array) -> mx.array:
        out = render(gaussians, view().camera, backend, 1, means2d_probe=probe)
        return backend.photometric_loss(out.image, target, 0.2)[0]

    gradient = np.asarray(mx.grad(loss)(mx.zeros((60, 2))))
    seen = (np.asarray(render(gaussians, view().camera, backend).projected.radii) > 0).all(axis=1)
    assert 0 < seen.sum() < 60
    for times in (1, 2):
        state.gaussians, state.step = gaussians, 0
        generic_step(
            backend, state, view(), **arguments(lrs=dict.fromkeys(GROUPS, 0.0), stats=stats, absgrad=True)
        )
        assert stats.count.tolist() == (times * seen).tolist()
        norms = times * np.hypot(gradient[:, 0] * 24, gradient[:, 1] * 18)  # half of 48x36
        assert stats.means2d_norm == pytest.approx(np.where(seen, norms, 0), rel=1e-4, abs=1e-7)
    assert (stats.absgrad_norm >= 0.999 * stats.means2d_norm).all()
    assert stats.absgrad_norm.sum() > 1.1 * stats.means2d_norm.sum()


def test_a_loss_that_is_not_finite_moves_nothing(backend: Any) -> None:
    state, stats = start(), GradStats.zeros(60)
    before, moments = leaves(state.gaussians), leaves(state.m)
    bad = np.array([0, np.nan, 0], np.float32)
    result = train_step(backend, state, view(), **arguments(background=bad, stats=stats))
    assert not math.isfinite(result.loss) and state.step == 0
    for name, leaf in leaves(state.gaussians).items():
        assert (leaf == before[name]).all(), name
        assert (leaves(state.m)[name] == moments[name]).all(), name


def test_a_mask_hides_pixels_from_the_step() -> None:
    backend = backends.load(tiny.BACKEND)
    mask = np.zeros((36, 48), np.uint8)
    mask[:, :24] = 1
    spoilt = view().image.copy()
    spoilt[:, 24:] = 255 - spoilt[:, 24:]
    a, b = start(), start()
    train_step(backend, a, replace(view(), mask=mask), **arguments())
    train_step(backend, b, replace(view(), mask=mask, image=spoilt), **arguments())
    assert all((leaf == leaves(b.gaussians)[name]).all() for name, leaf in leaves(a.gaussians).items())


def scalar_noise(state: TrainState, i: int, scale: float, seed: int) -> np.ndarray:
    """MCMC's displacement of Gaussian `i`, in plain integers and floats."""
    n = []
    for c in range(3):
        u = []
        for j in (0, 1):
            x = (
                (3 * i + c) * 0x9E3779B1 + state.step * 0x85EBCA77 + seed * 0xC2B2AE3D + j * 0x27D4EB2F
            ) % 2**32
            x = ((x ^ (x >> 16)) * 0x7FEB352D) % 2**32
            x = ((x ^ (x >> 15)) * 0x846CA68B) % 2**32
            u.append((((x ^ (x >> 16)) >> 8) + 0.5) / 2**24)
        n.append(math.sqrt(-2 * math.log(u[0])) * math.cos(2 * math.pi * u[1]))
    w, x, y, z = np.asarray(state.gaussians.quats)[i] / np.linalg.norm(np.asarray(state.gaussians.quats)[i])
    R = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
    covariance = R @ np.diag(np.exp(2 * np.asarray(state.gaussians.log_scales)[i])) @ R.T
    opacity = float(np.asarray(state.gaussians.opacities)[i])
    return covariance @ n / (1 + math.exp(100 * (opacity - 0.005))) * scale


def test_noise_is_the_one_defined_and_spares_the_opaque() -> None:
    state = start(20)
    state.step = 123
    logits = optimizer.rows(state.gaussians)["logit_opacities"]
    logits[:10], logits[10:15] = -5.3, -4  # opacity 0.005, 0.018; the rest is opaque
    before = leaves(state.gaussians)
    expected = np.array([scalar_noise(state, i, 50.0, 9) for i in range(20)])
    add_noise(state, Noise(50.0, 9))
    moved = leaves(state.gaussians)["means"] - before["means"]
    assert moved == pytest.approx(expected, abs=2e-6)
    assert np.abs(moved[:10]).max() > 1e-2 and np.abs(moved[15:]).max() < 1e-3


def test_normals_are_standard_and_differ_by_step_and_seed() -> None:
    sample = normals(50_000, seed=1, step=1)
    assert sample.mean(axis=0) == pytest.approx(np.zeros(3), abs=0.02)  # 4.5 standard deviations
    assert np.cov(sample.T) == pytest.approx(np.eye(3), abs=0.03)
    for other in (normals(50_000, seed=1, step=2), normals(50_000, seed=2, step=1)):
        assert abs(np.corrcoef(sample.ravel(), other.ravel())[0, 1]) < 0.015
