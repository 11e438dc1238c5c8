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
from tiny import plan

from gsplat_train import backends
from gsplat_train.model.gaussians import Gaussians
from gsplat_train.renderer import render
from gsplat_train.scene import Photo
from gsplat_train.training import rows
from gsplat_train.training.objective import Objective
from gsplat_train.training.plan import Statistics
from gsplat_train.training.rows import TrainState
from gsplat_train.training.stepper import GenericStepper, add_noise, make_stepper, normals

NAMES = Gaussians._fields


def view():
    """The first photo, seen by a camera in front of tiny.random_state's Gaussians."""
    first = tiny.scene().views[0]
    return replace(first, camera=replace(first.camera, viewmat=np.eye(4)))


def start(n: int = 60) -> TrainState:
    return rows.start(tiny.random_gaussians(n))


def leaves(tree: Any) -> dict[str, np.ndarray]:
    return {name: leaf.copy() for name, leaf in rows.rows(tree).items()}


def fused(state: TrainState, name: str = "cpp") -> Any:
    return make_stepper(load_backend(name), state, Objective())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {
            "opacity_weight": 0.05, "scale_weight": 0.07, "noise": 10.0, "seed": 7,
            "background": (0.2, 0.5, 0.9), "statistics": Statistics.GRADIENTS,
        },
        {"antialiased": True, "statistics": Statistics.ABSGRADIENTS, "sh_degree": 0},
    ],
)  # fmt: skip
@pytest.mark.parametrize("masked", [False, True])
def test_the_fused_step_of_cpp_is_the_generic_step(changes: dict[str, Any], masked: bool) -> None:
    a, b = start(), start()
    quick, slow = fused(a), GenericStepper(backends.load("python"), b)
    assert type(quick) is not type(slow)
    seen = masked_view() if masked else view()
    for number in range(1, 6):
        ours, theirs = quick.take(seen, plan(number, **changes)), slow.take(seen, plan(number, **changes))
        assert tuple(ours) == pytest.approx(tuple(theirs), rel=1e-4)
    assert quick.step == slow.step == 5 and quick.look() is a
    for name in NAMES:
        ours, theirs = leaves(a.gaussians)[name], leaves(b.gaussians)[name]
        # Five steps of 1e-3. Adam divides by the gradient's size: where that is rounding error, signs differ.
        differs = np.abs(ours - theirs) > 1e-4
        assert differs.mean() < 0.01, name
        assert leaves(a.m)[name] == pytest.approx(leaves(b.m)[name], rel=1e-3, abs=1e-7), name
    assert set(a.sums) == set(b.sums) == (set(rows.SUMS) if "statistics" in changes else set())
    for name, sums in a.sums.items():
        assert sums == pytest.approx(b.sums[name], rel=1e-3, abs=1e-6), name


def masked_view():
    """The left half of the photo counts."""
    mask = np.zeros((36, 48), np.uint8)
    mask[:, :24] = 1
    return replace(view(), photo=Photo(view().pixels.image, mask))


def test_steps_bring_the_render_closer() -> None:
    stepper = fused(start(200), tiny.BACKEND)
    losses = [stepper.take(view(), plan(number, 0.02)).loss for number in range(1, 31)]
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("name", NAMES)
def test_a_rate_of_zero_keeps_its_leaf(name: str) -> None:
    state = start()
    before = leaves(state.gaussians)
    fused(state, tiny.BACKEND).take(view(), plan(rate=1e-2, rates={name: 0.0}))
    for other, leaf in leaves(state.gaussians).items():
        assert (leaf == before[other]).all() == (other == name), other


def test_regularizers_press_opacities_and_scales_down_by_their_means_gradient() -> None:
    plain, pressed = start(), start()
    a = fused(plain, tiny.BACKEND).take(view(), plan())
    b = fused(pressed, tiny.BACKEND).take(view(), plan(opacity_weight=3.0, scale_weight=5.0))
    assert a == b  # what is reported is the photometric loss
    opacity, scales = np.asarray(start().gaussians.opacities), np.asarray(start().gaussians.scales)
    added = {"logit_opacities": 3 * opacity * (1 - opacity) / 60, "log_scales": 5 * scales / 180}
    for name in NAMES:  # after one step m is a tenth of the gradient
        difference = 10 * (leaves(pressed.m)[name] - leaves(plain.m)[name])
        assert difference == pytest.approx(added.get(name, np.zeros_like(difference)), rel=1e-3, abs=1e-6), (
            name
        )


def test_statistics_count_what_was_seen_and_sum_its_gradient() -> None:
    backend, state = backends.load("python"), start()
    rows.rows(state.gaussians)["means"][::3, 2] -= 8  # behind the camera
    gaussians, target = state.gaussians, mx.array(view().image)

    def loss(probe: mx.array) -> mx.array:
        out = render(gaussians, view().camera, backend, 1, means2d_probe=probe)
        return backend.photometric_loss(out.image, target, 0.2)[0]

    gradient = np.asarray(mx.grad(loss)(mx.zeros((60, 2))))
    seen = (np.asarray(render(gaussians, view().camera, backend).projected.radii) > 0).all(axis=1)
    assert 0 < seen.sum() < 60
    stepper = GenericStepper(backend, state)
    for times in (1, 2):
        state.gaussians, state.step = gaussians, 0
        stepper.take(view(), plan(rate=0.0, statistics=Statistics.ABSGRADIENTS))
        assert state.sums["count"].tolist() == (times * seen).tolist()
        norms = times * np.hypot(gradient[:, 0] * 24, gradient[:, 1] * 18)  # half of 48x36
        assert state.sums["means2d_norm"] == pytest.approx(np.where(seen, norms, 0), rel=1e-4, abs=1e-7)
    assert (state.sums["absgrad_norm"] >= 0.999 * state.sums["means2d_norm"]).all()
    assert state.sums["absgrad_norm"].sum() > 1.1 * state.sums["means2d_norm"].sum()


def test_a_loss_that_is_not_finite_moves_nothing(backend: Any) -> None:
    state = start()
    before, moments = leaves(state.gaussians), leaves(state.m)
    stepper = make_stepper(backend, state, Objective())
    wanted = plan(background=(0.0, math.nan, 0.0), statistics=Statistics.GRADIENTS)
    result = stepper.take(view(), wanted)
    assert not result.is_finite and result.whole and stepper.step == 0
    for name, leaf in leaves(state.gaussians).items():
        assert (leaf == before[name]).all(), name
        assert (leaves(state.m)[name] == moments[name]).all(), name


def test_a_gradient_that_is_not_finite_is_no_whole_step_of_cpp() -> None:
    """There the other Gaussians may have moved by the time that one is found."""
    for backend, whole in (("cpp", False), ("python", True)):
        stepper = fused(start(), backend)
        result = stepper.take(view(), plan(opacity_weight=math.inf))
        assert not result.is_finite and result.whole == whole and stepper.step == 0


def test_a_mask_hides_pixels_from_the_step(backend: Any) -> None:
    spoilt = view().pixels.image.copy()
    spoilt[:, 24:] = 255 - spoilt[:, 24:]
    a, b = start(), start()
    make_stepper(backend, a, Objective()).take(masked_view(), plan())
    other = replace(view(), photo=Photo(spoilt, masked_view().mask))
    make_stepper(backend, b, Objective()).take(other, plan())
    assert all((leaf == leaves(b.gaussians)[name]).all() for name, leaf in leaves(a.gaussians).items())
    plain = start()
    make_stepper(backend, plain, Objective()).take(view(), plan())
    assert any((leaf != leaves(plain.gaussians)[name]).any() for name, leaf in leaves(a.gaussians).items())


# ---- terms and groups ----


def test_a_term_has_its_weight_and_its_gradient() -> None:
    config = tiny.settings(**{"alpha.weight": 2.0})
    opaque = replace(view(), photo=Photo(view().pixels.image, alpha=np.full((36, 48), 255, np.uint8)))
    objective = Objective.of(config, (opaque,))
    assert not objective.is_fused_by(backends.load(tiny.BACKEND))
    with_term, without = start(), start()
    a = make_stepper(backends.load(tiny.BACKEND), with_term, objective)
    assert isinstance(a, GenericStepper)
    a.take(opaque, plan(weights={"alpha": 2.0}))
    GenericStepper(backends.load(tiny.BACKEND), without).take(opaque, plan())
    pushed = leaves(with_term.m)["logit_opacities"] - leaves(without.m)["logit_opacities"]
    assert (pushed <= 1e-9).all() and pushed.min() < -1e-5  # down the loss is up the opacity


def test_exposure_learns_the_gain_of_a_photo_and_keeps_none_for_the_scene() -> None:
    """Two photos of one view, one a quarter brighter: the rates of the splats are 0, so only the rows can learn."""
    state, camera = start(200), view().camera
    clean = np.clip(np.asarray(render(state.gaussians, camera, "python", 1).image), 0, 1)
    photos = [np.round(255 * np.clip(clean * gain, 0, 1)).astype(np.uint8) for gain in (0.8, 1.25)]
    views = tuple(replace(view(), name=f"{i}", index=i, photo=Photo(p)) for i, p in enumerate(photos))
    objective = Objective.of(tiny.settings(exposure="gain"), views)
    stepper = make_stepper(backends.load(tiny.BACKEND), state, objective)
    for number in range(1, 121):
        stepper.take(views[number % 2], plan(number, 0.0, group_rates={"exposure": 0.01}))
    gains = np.exp(np.asarray(objective.groups["exposure"].values)[:, :3])
    assert gains[1] / gains[0] == pytest.approx(np.full(3, 1.25 / 0.8), rel=0.1)
    assert np.log(gains).mean(axis=0) == pytest.approx(np.zeros(3), abs=1e-5)


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
    logits = rows.rows(state.gaussians)["logit_opacities"]
    logits[:10], logits[10:15] = -5.3, -4  # opacity 0.005, 0.018; the rest is opaque
    before = leaves(state.gaussians)
    expected = np.array([scalar_noise(state, i, 50.0, 9) for i in range(20)])
    add_noise(state, 50.0, 9)
    moved = leaves(state.gaussians)["means"] - before["means"]
    assert moved == pytest.approx(expected, abs=2e-6)
    assert np.abs(moved[:10]).max() > 1e-2 and np.abs(moved[15:]).max() < 1e-3


def test_normals_are_standard_and_differ_by_step_and_seed() -> None:
    sample = normals(50_000, seed=1, step=1)
    assert sample.mean(axis=0) == pytest.approx(np.zeros(3), abs=0.02)  # 4.5 standard deviations
    assert np.cov(sample.T) == pytest.approx(np.eye(3), abs=0.03)
    for other in (normals(50_000, seed=1, step=2), normals(50_000, seed=2, step=1)):
        assert abs(np.corrcoef(sample.ravel(), other.ravel())[0, 1]) < 0.015
