# SPDX-License-Identifier: Apache-2.0
"""The GPU backends on their GPU: fused step, late overflow, bad numbers, same bytes, long tiles."""

import math
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import test_losses
from conftest import load_backend
from plans import OFF_THE_DEFAULTS, plan, take
from test_losses import masks, pictures
from test_score import compare
from tiny import settings

from gsplat_train.backends.gpu import kernels as _kernels
from gsplat_train.backends.gpu import nvrtc
from gsplat_train.backends.gpu import text as _kernel_text
from gsplat_train.datasets.decode import dim
from gsplat_train.model.gaussians import Gaussians
from gsplat_train.renderer import render
from gsplat_train.scene import Camera, Photo, View
from gsplat_train.training import rows, strategies
from gsplat_train.training.rows import HostPopulation
from gsplat_train.training.stepper import GenericStepper


@pytest.fixture(params=["metal", "cuda"])
def gpu(request):
    return load_backend(request.param)


def scene(n, width, height, seed=0):
    """Splats all over the picture, and a photo of noise."""
    rng = np.random.default_rng(seed)
    z = rng.uniform(2, 10, n)
    pixels = rng.uniform(-0.55, 0.55, (n, 2)) * (width, height)
    leaves = (
        np.concatenate([pixels * z[:, None] / width, z[:, None]], axis=1),
        rng.normal(size=(n, 4)),
        np.log(rng.lognormal(0, 0.5, (n, 3)) * 2.5 * z[:, None] / width),
        rng.normal(size=n),
        rng.normal(size=(n, 1, 3)) * 0.5,
        rng.normal(size=(n, 15, 3)) * 0.1,
    )
    camera = Camera(np.eye(4), [[width, 0, width / 2], [0, width, height / 2], [0, 0, 1]], width, height)
    photo = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Gaussians(*(mx.array(leaf.astype(np.float32)) for leaf in leaves)), View("noise", camera, photo)


def copy(gaussians):
    return Gaussians(*(leaf + 0 for leaf in gaussians))


def numbers(state):
    return [np.array(leaf) for tree in (state.gaussians, state.m, state.v) for leaf in tree]


@pytest.mark.parametrize("shape", [(1, 1), (37, 45), (600, 801)])
@pytest.mark.parametrize("masked", [False, True])
def test_score_is_the_definition(gpu, shape, masked):
    image, photo = pictures(*shape)
    compare(gpu, image, photo, masks(*shape)["scattered"] if masked else None)
    compare(gpu, image, None)


@pytest.mark.parametrize("shape", [(37, 45), (600, 801)])
def test_a_view_is_shown_as_by_the_stages(gpu, shape, monkeypatch):
    height, width = shape
    gaussians, view = scene(3000, width, height)
    see, mask = view.camera, masks(*shape)["scattered"]
    show, image = gpu.show(gaussians, (0.0, 0.5, 0.0), False), None
    monkeypatch.setattr(gpu.engine, "first_capacity", 64)  # too little room at first
    gpu.engine.forget()
    for beside in ((view.pixels.image, None), (view.pixels.image, mask), (None, None)):
        found = show(see.viewmat, see.K, width, height, *beside)
        if image is None:
            image = render(gaussians, see, gpu, background=(0.0, 0.5, 0.0)).image
        expected = gpu.score(image, *beside)
        np.testing.assert_array_equal(found[:2], expected[:2])
        np.testing.assert_array_equal(found.picture, expected.picture)
    assert gpu.engine.capacity(width, height) > 64


def test_no_code_goes_along_with_launches():
    """MLX hashes what goes along; should a version of it no more read what is put into its cache, this says so."""
    cuda = load_backend("cuda")
    assert nvrtc.reads_files() or not cuda.OURS


@pytest.mark.parametrize("shape", [(1, 1), (37, 45)])
def test_masked_loss_is_the_references(gpu, shape):
    test_losses.test_masked_loss_is_the_references(gpu, shape)


@pytest.mark.parametrize("n", [0, 1, 2, 300])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        *OFF_THE_DEFAULTS,
    ],
)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("see_through", [False, True])
def test_the_fused_step_is_the_generic_step(gpu, n, changes, masked, see_through):
    gaussians, view = scene(max(n, 1), 123, 77)
    if masked:
        counts = np.random.default_rng(1).integers(0, 2, (77, 123), dtype=np.uint8)
        view = replace(view, photo=Photo(view.pixels.image, counts))
    if see_through:
        alpha = np.random.default_rng(2).integers(0, 256, (77, 123), dtype=np.uint8)
        alpha[:, :30], alpha[:, 90:] = 255, 0
        view = replace(view, photo=replace(view.pixels, image=dim(view.pixels.image, alpha), alpha=alpha))
    gaussians = Gaussians(*(leaf[:n] for leaf in gaussians))
    fused = gpu.stepper(rows.start(copy(gaussians)))
    generic = GenericStepper(gpu, rows.start(copy(gaussians)))
    for _ in range(3):
        found = take(fused, view, **changes)
        if n:
            expected = take(generic, view, **changes)
            np.testing.assert_allclose(found[:3], expected[:3], rtol=1e-5)
    assert fused.step == 3 and found.whole
    assert all(map(math.isfinite, found))
    ours, theirs = fused.look(), generic.look()
    for a, b in zip(numbers(ours), numbers(theirs), strict=True):
        # Sums of hundreds of pixels, added up in another order.
        assert np.linalg.norm(a - b) <= 2e-4 * np.linalg.norm(b) + 5e-7
    for name in ("means2d_norm", "count") + (("absgrad_norm",) if "statistics" in changes else ()):
        if n:
            a, b = ours.sums[name], theirs.sums[name]
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3 * b.max())


def test_a_see_through_photo_before_white_is_the_converted_one(gpu):
    """Over white the sum is a whole number, so the conversion loses nothing; the two kernels' sums are fused otherwise
    by the compiler, so that a step differs in the last digits.
    """
    gaussians, view = scene(3000, 300, 200)
    alpha = np.random.default_rng(2).integers(0, 256, (200, 300), dtype=np.uint8)
    photo, white = Photo(dim(view.pixels.image, alpha), alpha=alpha), (1.0, 1.0, 1.0)
    results = []
    for made in (photo, Photo(photo.shown(white))):
        stepper = gpu.stepper(rows.start(copy(gaussians)))
        result = take(stepper, replace(view, photo=made), 2, background=white)
        results.append([*numbers(stepper.look()), np.array(result)])
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * max(float(np.abs(b).max()), 1e-9))


def test_each_step_has_its_own_background(gpu):
    gaussians, view = scene(300, 123, 77)
    alpha = np.random.default_rng(2).integers(0, 256, (77, 123), dtype=np.uint8)
    view = replace(view, photo=Photo(dim(view.pixels.image, alpha), alpha=alpha))
    fused, generic = (
        gpu.stepper(rows.start(copy(gaussians))),
        GenericStepper(gpu, rows.start(copy(gaussians))),
    )
    for number, ground in enumerate(
        [(0.2, 0.5, 0.9), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (0.9, 0.1, 0.0)] * 3, 1
    ):
        for stepper in (fused, generic):
            stepper.take(view, plan(number, background=ground))
    np.testing.assert_allclose(fused.result()[:3], generic.result()[:3], rtol=1e-4)
    for a, b in zip(numbers(fused.look()), numbers(generic.look()), strict=True):
        assert np.linalg.norm(a - b) <= 2e-3 * np.linalg.norm(b) + 5e-6


def test_any_first_capacity_gives_the_same_bytes(gpu):
    gaussians, view = scene(5000, 300, 200)
    results = []
    for first in (1 << 16, 1000, 9000):
        gpu.engine.first_capacity = first
        gpu.engine.forget()
        stepper = gpu.stepper(rows.start(copy(gaussians)))
        result = take(stepper, view, 70, noise=1.0, seed=3)
        assert stepper.step == 70
        state = stepper.look()
        results.append([*numbers(state), *state.sums.values(), np.array(result)])
    gpu.engine.first_capacity = 1 << 16
    for other in results[1:]:
        assert all((a == b).all() for a, b in zip(results[0], other, strict=True))


def test_the_same_seed_gives_the_same_bytes(gpu):
    results = []
    for _ in range(2):
        gaussians, view = scene(20_000, 504, 378)
        stepper = gpu.stepper(rows.start(gaussians))
        take(stepper, view, 20)
        results.append(numbers(stepper.look()))
    assert all((a == b).all() for a, b in zip(*results, strict=True))


def test_what_is_not_finite_stops_the_steps(gpu):
    gaussians, view = scene(500, 300, 200)
    stepper = gpu.stepper(rows.start(gaussians))
    reported = None
    for k in range(100):
        result = stepper.take(view, plan(stepper.step + 1, rate=1e30 if k == 20 else 1e-3))
        if not math.isfinite(result.loss):
            reported = k
            break
    assert reported is not None, "no step told of the loss that is none"
    assert reported < 20 + 70
    assert 20 <= stepper.step <= 22
    assert rows.is_finite(stepper.look())


def test_a_loss_that_is_none_moves_nothing_and_a_gradient_that_is_none_is_told(gpu):
    for spoilt, whole in (("loss", True), ("gradient", False)):
        gaussians, view = scene(300, 123, 77)
        if spoilt == "gradient":  # scale_weight * exp(88) is still a number, times 3e38 no more
            rows.rows(gaussians)["log_scales"][7] = 88.0
            rows.rows(gaussians)["means"][7, 2] = -5  # behind the camera: the loss does not see it
            bad = {"scale_weight": 3e38}
        else:
            bad = {"background": (0.0, math.nan, 0.0)}
        stepper = gpu.stepper(rows.start(copy(gaussians)))
        take(stepper, view, 2)
        before = [leaf.copy() for leaf in numbers(stepper.look())]
        result = take(stepper, view, 3, **bad)
        assert math.isnan(result.loss) and result.whole == whole and stepper.step == 2, spoilt
        after = numbers(stepper.look())
        assert all((a == b).all() for a, b in zip(after, before, strict=True)) == whole, spoilt


@pytest.mark.parametrize("n", [3000, 10_000])
def test_a_long_tile_is_as_the_reference(gpu, n):
    python = load_backend("python")
    rng = np.random.default_rng(0)
    z = rng.uniform(2, 10, n)
    leaves = [
        np.stack([rng.uniform(-0.01, 0.01, n) * z, rng.uniform(-0.01, 0.01, n) * z, z], axis=1),
        rng.normal(size=(n, 4)), np.log(np.full((n, 3), 0.01) * z[:, None]), np.full(n, -4.0),
        rng.normal(size=(n, 1, 3)), rng.normal(size=(n, 15, 3)) * 0.1,
    ]  # fmt: skip
    camera = Camera(np.eye(4), [[200, 0, 24], [0, 200, 24], [0, 0, 1]], 48, 48)
    arrays = [np.asarray(leaf, np.float32) for leaf in leaves]
    output = render(Gaussians(*map(mx.array, arrays)), camera, gpu)
    tiles = gpu.isect_tiles(output.projected, 48, 48)
    mx.eval(output.image, tiles)
    assert np.diff(np.asarray(tiles.offsets)).max() == n
    device = mx.default_device()
    mx.set_default_device(mx.cpu)
    try:
        expected = render(Gaussians(*map(mx.array, arrays)), camera, python)
        ordered = python.isect_tiles(expected.projected, 48, 48)
        mx.eval(expected.image, ordered)
    finally:
        mx.set_default_device(device)
    np.testing.assert_array_equal(np.asarray(tiles.ids), np.asarray(ordered.ids))
    assert np.abs(np.asarray(output.image) - np.asarray(expected.image)).max() < 1e-4


# ---- on any machine ----


def test_every_kernel_has_its_text_and_no_text_is_left_over():
    texts = {path.stem for path in (_kernel_text.source_folder() / "kernels").glob("*.metal")}
    assert texts == set(_kernels.KERNELS)


@pytest.mark.parametrize("name", _kernels.KERNELS)
def test_texts_name_their_arguments(name):
    spec = _kernels.KERNELS[name]
    text = _kernel_text.body(name)
    for array in (*spec.inputs, *spec.outputs):
        assert array.name in text, array.name
    assert len(spec.inputs) + len(spec.outputs) <= 31, "Metal binds 31 buffers"


def test_numbers_of_the_texts_and_of_the_table_are_the_same():
    text = (Path(_kernel_text.source_folder()) / "kernels/gpu.h").read_text()
    for name, value in (
        ("kBucket", _kernels.BUCKET),
        ("kIntersectGroup", _kernels.INTERSECT_GROUP),
        ("kCountBlock", _kernels.COUNT_BLOCK),
    ):
        assert f"{name} = {value};" in text


def test_a_changed_text_changes_the_name_that_mlx_keeps():
    names = {_kernel_text.fingerprint(name) for name in _kernels.KERNELS}
    assert len(names) == len(_kernels.KERNELS)


@pytest.mark.parametrize("changes", [{"least_share": 0.0}, {"strategy": "adc", "reset_every": 10}])
def test_a_refinement_between_steps_is_the_hosts(gpu, changes):
    """Without unpacking; what follows trains the rows that were made."""
    config = settings(max_splats=400, refine_start=0, refine_every=5, **changes)
    gaussians, view = scene(300, 64, 48)
    strategy = strategies.load(config)
    steppers = [gpu.stepper(rows.start(copy(gaussians))) for _ in range(2)]
    for number in range(1, 13):
        for i, stepper in enumerate(steppers):
            stepper.take(view, plan(number, rate=1e-3, statistics=strategy.statistics))
            if strategy.due(number) and i:
                strategy.refine(HostPopulation(stepper.look()), number)
            elif strategy.due(number):
                stepper.refine(lambda population, number=number: strategy.refine(population, number))
    first, second = (stepper.look() for stepper in steppers)
    assert first.n_splats == second.n_splats > 300 and first.step == second.step == 12
    for a, b in zip(numbers(first), numbers(second), strict=True):
        assert np.linalg.norm(a - b) <= 1e-3 * np.linalg.norm(b) + 1e-6
