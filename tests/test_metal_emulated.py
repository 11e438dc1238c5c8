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
from plans import EVERYTHING, plan, take
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

from gsplat_train.backends import python
from gsplat_train.backends.gpu import arrays
from gsplat_train.backends.gpu.kernels import KERNELS
from gsplat_train.backends.gpu.text import body
from gsplat_train.datasets.decode import dim
from gsplat_train.model.gaussians import Gaussians
from gsplat_train.renderer import render
from gsplat_train.scene import Photo, View
from gsplat_train.training import draws, rows
from gsplat_train.training.stepper import GenericStepper

pytestmark = pytest.mark.usefixtures("clang")


@pytest.fixture(params=ORDERS)
def backend(request):
    """The Metal backend in each order of threads."""
    return emulated(request.param)


# ---- the training step ----

CAMERA = camera(40, 36)


def photo(width, height):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)


def seen(mask=None, alpha=None):
    """What CAMERA photographed."""
    image = photo(40, 36) if alpha is None else dim(photo(40, 36), alpha)
    return View("view", CAMERA, Photo(image, mask, alpha), index=0)


def begun(n=150, size=4.0):
    """The state before the first step, on a scene of its own."""
    return rows.start(to_mlx(scene(CAMERA, n, seed=4, size=size)))


def train(backend, steps=3, mask=None, alpha=None, **changes):
    """(arrays by name, sums, result) of the fused stepper, which runs ahead of the host."""
    stepper = backend.stepper(begun())
    result = take(stepper, seen(mask, alpha), steps, **changes)
    state = stepper.look()
    moments = {f"m {name}": leaf for name, leaf in rows.rows(state.m).items()}
    return rows.rows(state.gaussians) | moments, state.sums, result


def assert_generic(backend, mask=None, alpha=None, **changes):
    """Three steps as the generic stepper takes them."""
    found, sums, result = train(backend, mask=mask, alpha=alpha, **changes)
    generic = GenericStepper(python, begun())
    assert result == pytest.approx(take(generic, seen(mask, alpha), 3, **changes), rel=1e-4)
    state = generic.look()
    for name in Gaussians._fields:
        # Three steps of 1e-3. Adam divides by the gradient's size: where that is rounding, signs differ.
        differs = np.abs(found[name] - rows.rows(state.gaussians)[name]) > 1e-4
        assert differs.mean() < 0.01, name
        assert relative(found[f"m {name}"], rows.rows(state.m)[name]) < 1e-3, name
    np.testing.assert_array_equal(sums["count"], state.sums["count"])
    assert sums["means2d_norm"] == pytest.approx(state.sums["means2d_norm"], rel=1e-3, abs=1e-6)
    if "statistics" in changes:
        assert sums["absgrad_norm"] == pytest.approx(state.sums["absgrad_norm"], rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("changes", [{}, EVERYTHING], ids=["plain", "everything"])
def test_the_step_is_the_generic_one(backend, changes):
    assert_generic(backend, **changes)


@pytest.mark.parametrize("kind", ["some pixels", "no pixel"])
def test_the_step_of_a_masked_view_is_the_generic_one(backend, kind):
    mask = np.random.default_rng(1).integers(0, 3, (36, 40), dtype=np.uint8)
    mask[:, 25:] = 0
    assert_generic(backend, mask if kind == "some pixels" else 0 * mask)


@pytest.mark.parametrize("masked", [False, True])
def test_the_step_of_a_see_through_view_is_the_generic_one(backend, masked):
    rng = np.random.default_rng(2)
    mask = rng.integers(0, 3, (36, 40), dtype=np.uint8) if masked else None
    alpha = rng.integers(0, 256, (36, 40), dtype=np.uint8)
    alpha[:, :10], alpha[:, 30:] = 255, 0
    assert_generic(backend, mask, alpha, **EVERYTHING)


def test_a_see_through_view_before_white_is_the_converted_one(backend):
    alpha = np.random.default_rng(2).integers(0, 256, (36, 40), dtype=np.uint8)
    view = seen(alpha=alpha)
    results = []
    for photo in (view.pixels, Photo(view.pixels.shown((1.0, 1.0, 1.0)))):
        stepper = backend.stepper(begun())
        result = take(stepper, replace(view, photo=photo), 2, background=(1.0, 1.0, 1.0))
        results.append((result, {name: leaf.copy() for name, leaf in rows.rows(stepper.look().m).items()}))
    assert results[0][0] == results[1][0]
    for name, leaf in results[0][1].items():
        np.testing.assert_array_equal(leaf, results[1][1][name])


def test_any_order_of_threads_gives_the_same_bytes():
    (found, _, loss), (others, _, other_loss) = (train(emulated(o), **EVERYTHING) for o in ORDERS)
    assert loss == other_loss and np.isfinite(loss).all()
    for name, values in found.items():
        assert values.tobytes() == others[name].tobytes(), name


def test_too_little_room_changes_no_byte(backend):
    expected, sums, loss = train(emulated(), steps=6)
    backend.engine.first_capacity = 64
    found, found_sums, found_loss = train(backend, steps=6)
    assert backend.engine.capacity(40, 36) > 64, "the first room was too little"
    assert backend.launcher.launched["update"] > 6, "steps were repeated"
    assert np.isfinite(loss).all() and found_loss == loss
    np.testing.assert_array_equal(found_sums["count"], sums["count"])
    for name, values in found.items():
        assert values.tobytes() == expected[name].tobytes(), name


def test_sums_are_the_same_whoever_looks_between(backend):
    _, sums, _ = train(backend, steps=4, **EVERYTHING)
    stepper = backend.stepper(begun())
    for between in (
        stepper.result,
        stepper.look,
        lambda: stepper.refine(lambda population: None),
        stepper.look,
    ):
        take(stepper, seen(), **EVERYTHING)
        between()
    for name, values in sums.items():
        assert values.tobytes() == stepper.look().sums[name].tobytes(), name
    assert sums["count"].max() == 4


@pytest.mark.parametrize("more", [0, 2], ids=["last", "others after it"])
def test_a_loss_that_is_not_finite_moves_nothing(backend, more):
    state = begun(30)
    before = {name: leaf.copy() for name, leaf in rows.rows(state.gaussians).items()}
    stepper = backend.stepper(state)
    result = take(stepper, seen(), 1 + more, background=(0.0, np.nan, 0.0))
    assert np.isnan(result.loss) and result.whole and stepper.step == 0
    for name, leaf in rows.rows(stepper.look().gaussians).items():
        np.testing.assert_array_equal(leaf, before[name])


@pytest.mark.parametrize("more", [0, 2], ids=["last", "others after it"])
def test_a_gradient_that_is_not_finite_leaves_a_step_that_is_not_whole(backend, more):
    """The scale of a Gaussian that nobody sees: its loss is a number, its gradient is none, the others move."""
    state = begun(30)
    leaves = rows.rows(state.gaussians)
    leaves["means"][7] = -20 * CAMERA.viewmat[2, :3]  # behind the camera
    leaves["log_scales"][7] = 88.0
    before = {name: leaf.copy() for name, leaf in leaves.items()}
    stepper = backend.stepper(state)
    result = take(stepper, seen(), 1 + more, scale_weight=3e38)
    assert np.isnan(result.loss) and not result.whole and stepper.step == 0
    moved = [(leaf != before[name]).any() for name, leaf in rows.rows(stepper.look().gaussians).items()]
    assert any(moved)


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
    """Steps over one view and over two, other rows, draws, gradients, a tile whose list is sorted in pieces."""
    train(backend, steps=1)
    stepper = backend.stepper(begun())
    stepper.take(seen(), plan(2, views=2), seen())
    stepper.refine(lambda population: population.apply(rows.Edit(mx.arange(140))))
    stepper.look()
    gaussians = to_mlx(scene(CAMERA, 140, size=2))
    mx.eval(mx.grad(lambda g: render(g, CAMERA, backend).image.sum())(gaussians))
    gaussians, view = crowd(3000)
    image = render(to_mlx(gaussians), view, backend).image
    mx.eval(image)
    backend.score(image, photo(16, 16), np.eye(16))
    xp, key = arrays.module(backend.engine), draws.Key(0, 10, draws.GROWTH)
    weights = draws.weights(xp, mx.linspace(-9, 3, 9_000), 0.01)  # three groups that sum
    found = draws.distinct(xp, weights, 40, key)
    mx.eval(draws.multinomial(xp, weights, 40, key), draws.with_rows(xp, weights, found, 0))
    how = (0.5, -0.1, 0.01, 0.9)
    mx.eval(
        arrays.halve(backend.engine, mx.ones(14 * 20), mx.arange(9), 20, how),
        draws.rows_of(xp, weights, found),
    )


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
        train(backend, steps=1)


def test_every_kernel_runs_somewhere():
    backend = emulated()
    run_every_kernel(backend)
    assert set(backend.launcher.launched) == set(KERNELS)
