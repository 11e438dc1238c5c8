# SPDX-License-Identifier: Apache-2.0
"""The Metal backend executed on the CPU, thread by thread in two orders, every access judged.

Stages, gradients and the whole training step against the oracle; the imported tests are every backend's.
"""

import re
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
import reference
from compare import TOLERANCES, assert_image, relative
from metal.emulated import ORDERS
from metal.emulated import backend as emulated
from metal.fixtures import clang  # noqa: F401
from metal.launcher import KernelError
from scenes import camera, scene, to_mlx
from test_backends import (  # noqa: F401
    test_a_pixel_ends_before_its_transmittance_would_fall_too_low,
    test_isect_tiles,
    test_near_plane,
    test_needles_lose_no_tile,
    test_odd_input_gives_nothing_odd,
    test_project,
    test_rasterize,
    test_render,
    test_tile_lists_are_tight,
)
from test_golden import case, golden, test_golden  # noqa: F401
from test_gradients import (  # noqa: F401
    test_gradients_of_project,
    test_gradients_of_rasterize,
    test_gradients_of_the_renderer,
    test_gradients_pass_through_more_than_a_sum,
    test_no_gradient_through_the_cap,
)
from test_train_step import arguments

from gsplat_train.backends import python
from gsplat_train.backends.gpu.kernels import KERNELS
from gsplat_train.backends.gpu.text import body
from gsplat_train.model.gaussians import Gaussians
from gsplat_train.renderer import render
from gsplat_train.scene import View
from gsplat_train.training import optimizer
from gsplat_train.training.strategies import GradStats
from gsplat_train.training.train_step import Noise, Regularizers, generic_step

pytestmark = pytest.mark.usefixtures("clang")


@pytest.fixture(params=ORDERS)
def backend(request):
    """The Metal backend in each order of threads."""
    return emulated(request.param)


# ---- the training step ----

CAMERA = camera(40, 36)
EVERYTHING = {  # at once
    "regularizers": Regularizers(0.05, 0.07),
    "noise": Noise(10.0, 7),
    "background": np.array([0.2, 0.5, 0.9], np.float32),
    "antialiased": True,
    "absgrad": True,
    "sh_degree": 2,
}


def photo(width, height):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)


def train(step, n=150, steps=3, size=4.0, **changes):
    """(state, sums, loss) after `steps` calls of `step` on a scene of its own."""
    state = optimizer.start(to_mlx(scene(CAMERA, n, seed=4, size=size)))
    view, sums = View("view", CAMERA, photo(40, 36), None), GradStats.zeros(n)
    for _ in range(steps):
        loss = step(state, view, **arguments(**changes, stats=sums))
    return state, sums, loss


def train_emulated(backend, **changes):
    """The same by the fused step, which runs ahead of the host."""
    state, sums, _ = train(backend.train_step, **changes)
    loss = backend.settle(state)
    moments = {f"m {name}": leaf for name, leaf in optimizer.rows(state.m).items()}
    return optimizer.rows(state.gaussians) | moments, sums, loss


@pytest.mark.parametrize("changes", [{"sh_degree": 3}, EVERYTHING], ids=["plain", "everything"])
def test_the_step_is_the_generic_one(backend, changes):
    found, sums, loss = train_emulated(backend, **changes)
    state, expected_sums, expected_loss = train(lambda *a, **k: generic_step(python, *a, **k), **changes)
    assert loss == pytest.approx(tuple(expected_loss), rel=1e-4)
    for name in Gaussians._fields:
        # Three steps of 1e-3. Adam divides by the gradient's size: where that is rounding, signs differ.
        differs = np.abs(found[name] - optimizer.rows(state.gaussians)[name]) > 1e-4
        assert differs.mean() < 0.01, name
        assert relative(found[f"m {name}"], optimizer.rows(state.m)[name]) < 1e-3, name
    np.testing.assert_array_equal(sums.count, expected_sums.count)
    assert sums.means2d_norm == pytest.approx(expected_sums.means2d_norm, rel=1e-3, abs=1e-6)
    if changes.get("absgrad"):
        assert sums.absgrad_norm == pytest.approx(expected_sums.absgrad_norm, rel=1e-3, abs=1e-6)


def test_any_order_of_threads_gives_the_same_bytes():
    (found, _, loss), (others, _, other_loss) = (train_emulated(emulated(o), **EVERYTHING) for o in ORDERS)
    assert loss == other_loss and np.isfinite(loss).all()
    for name, values in found.items():
        assert values.tobytes() == others[name].tobytes(), name


def test_too_little_room_changes_no_byte(backend):
    expected, sums, loss = train_emulated(emulated(), steps=6, sh_degree=3)
    backend.engine.first_capacity = 64
    found, found_sums, found_loss = train_emulated(backend, steps=6, sh_degree=3)
    assert backend.engine.capacity(40, 36) > 64, "the first room was too little"
    assert backend.launcher.launched["update"] > 6, "steps were repeated"
    assert np.isfinite(loss).all() and found_loss == loss
    np.testing.assert_array_equal(found_sums.count, sums.count)
    for name, values in found.items():
        assert values.tobytes() == expected[name].tobytes(), name


def test_a_step_that_is_not_finite_moves_nothing(backend):
    state = optimizer.start(to_mlx(scene(CAMERA, 30, seed=4)))
    before = {name: leaf.copy() for name, leaf in optimizer.rows(state.gaussians).items()}
    bad = np.array([0, np.nan, 0], np.float32)
    view = View("view", CAMERA, photo(40, 36), None)
    backend.train_step(state, view, **arguments(background=bad, sh_degree=3))
    assert np.isnan(backend.settle(state)[0])
    for name, leaf in optimizer.rows(state.gaussians).items():
        np.testing.assert_array_equal(leaf, before[name])


# ---- long lists ----


def crowd(n):
    """`n` splats on one tile, nearly transparent, so that all of them count."""
    view = camera(16, 16)
    gaussians = scene(view, n, seed=5, degree=0, size=2, opacity=-4, spread=0.9)
    return gaussians, view


def test_ten_thousand_splats_on_a_tile(backend):
    gaussians, view = crowd(10_000)
    output = render(to_mlx(gaussians), view, backend)
    image, alpha = reference.render(gaussians, view)
    assert_image(output.image, image)
    assert_image(output.alpha, alpha)


def test_gradients_of_a_long_list(backend):
    gaussians, view = crowd(3000)
    weight = mx.array(np.random.default_rng(1).normal(size=(16, 16, 3)), mx.float32)

    def gradient(renderer):
        return mx.grad(lambda g: (render(g, view, renderer).image * weight).sum())(to_mlx(gaussians))

    found, expected = gradient(backend), gradient(python)
    for name in Gaussians._fields:
        assert relative(getattr(found, name), getattr(expected, name)) < TOLERANCES["gradient_opaque"], name


# ---- a kernel with a fault in it ----

BARRIER = re.compile(r"(threadgroup|simdgroup)_barrier\([^;]*\);")
BARRIERS = [(name, i) for name in KERNELS for i in range(len(BARRIER.findall(body(name))))]
BEYOND = {  # what keeps a kernel inside its arrays -> too much of it
    "project": ("if (i < uint(n)) {", "if (i <= uint(n)) {"),
    "forward": ("const bool inside = px < width && py < height;", "const bool inside = px < width;"),
    "update": ("const bool valid = i < n,", "const bool valid = i <= n,"),
}


def run_every_kernel(backend):
    """A step, gradients by autograd, and a tile whose list is sorted in pieces."""
    train_emulated(backend, steps=1, sh_degree=3)
    gaussians = to_mlx(scene(CAMERA, 140, size=2))
    mx.eval(mx.grad(lambda g: render(g, CAMERA, backend).image.sum())(gaussians))
    gaussians, view = crowd(3000)
    image = render(to_mlx(gaussians), view, backend).image
    mx.eval(image)
    backend.engine.score(image, photo(16, 16), np.eye(16))


def changed(name, change):
    """For `emulated`: kernel `name` with another text."""
    return lambda kernel: replace(kernel, source=change(kernel.source)) if kernel.name == name else kernel


@pytest.mark.parametrize(("name", "index"), BARRIERS, ids=lambda value: str(value))
def test_a_barrier_taken_out_is_noticed(name, index):
    def without(source):
        begin, end = list(BARRIER.finditer(source))[index].span()
        return source[:begin] + source[end:]

    backend = emulated(change=changed(name, without))
    with pytest.raises(KernelError, match=f"{name}: .*(unordered|nobody wrote)"):
        run_every_kernel(backend)


@pytest.mark.parametrize("name", BEYOND)
def test_an_access_out_of_bounds_is_noticed(name):
    right, wrong = BEYOND[name]
    assert body(name).count(right) == 1
    backend = emulated(change=changed(name, lambda source: source.replace(right, wrong)))
    with pytest.raises(KernelError, match=f"{name}: .*(beyond|belongs to no buffer)"):
        train_emulated(backend, steps=1, sh_degree=3)


def test_every_kernel_runs_somewhere():
    backend = emulated()
    run_every_kernel(backend)
    assert set(backend.launcher.launched) == set(KERNELS)
