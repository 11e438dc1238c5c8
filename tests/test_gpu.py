# SPDX-License-Identifier: Apache-2.0
"""The GPU backends on their GPU: fused step, late overflow, bad numbers, same bytes, long tiles."""

import math
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from conftest import load_backend

from gsplat_train.backends.gpu import kernels as _kernels
from gsplat_train.backends.gpu import text as _kernel_text
from gsplat_train.model.gaussians import Gaussians
from gsplat_train.renderer import render
from gsplat_train.scene import Camera, View
from gsplat_train.training import optimizer
from gsplat_train.training.strategies import GradStats
from gsplat_train.training.train_step import Noise, Regularizers, generic_step, train_step


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


def settings(**changes):
    return {
        "lrs": dict.fromkeys(Gaussians._fields, 1e-3), "sh_degree": 3, "ssim_lambda": 0.2,
        "background": np.zeros(3, np.float32), "antialiased": False, "regularizers": Regularizers(0.0, 0.0),
        "noise": Noise(0.0, 0), "stats": None, "absgrad": False,
    } | changes  # fmt: skip


def copy(gaussians):
    return Gaussians(*(leaf + 0 for leaf in gaussians))


def numbers(state):
    return [np.array(leaf) for tree in (state.gaussians, state.m, state.v) for leaf in tree]


@pytest.mark.parametrize("n", [0, 1, 2, 300])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {
            "regularizers": Regularizers(0.05, 0.07),
            "noise": Noise(10.0, 7),
            "background": np.float32([0.2, 0.5, 0.9]),
        },
        {"antialiased": True, "absgrad": True, "sh_degree": 0},
    ],
)
def test_the_fused_step_is_the_generic_step(gpu, n, changes):
    gaussians, view = scene(max(n, 1), 123, 77)
    gaussians = Gaussians(*(leaf[:n] for leaf in gaussians))
    fused, generic = optimizer.start(copy(gaussians)), optimizer.start(copy(gaussians))
    sums = [GradStats.zeros(n), GradStats.zeros(n)]
    for _ in range(3):
        train_step(gpu, fused, view, **settings(**changes, stats=sums[0]))
        found = gpu.settle(fused)
        if n:
            expected = generic_step(gpu, generic, view, **settings(**changes, stats=sums[1]))
            np.testing.assert_allclose(found, expected[:3], rtol=1e-5)
    assert fused.step == 3
    assert all(map(math.isfinite, found))
    for a, b in zip(numbers(fused), numbers(generic), strict=True):
        assert np.linalg.norm(a - b) <= 2e-4 * np.linalg.norm(b) + 1e-7
    for name in ("means2d_norm", "count") + (("absgrad_norm",) if changes.get("absgrad") else ()):
        np.testing.assert_allclose(getattr(sums[0], name), getattr(sums[1], name), rtol=1e-3, atol=1e-6)


def test_any_first_capacity_gives_the_same_bytes(gpu):
    gaussians, view = scene(5000, 300, 200)
    results = []
    for first in (1 << 16, 1000, 9000):
        gpu.engine.first_capacity = first
        gpu.engine.forget()
        state = optimizer.start(copy(gaussians))
        for _ in range(70):
            train_step(gpu, state, view, **settings(noise=Noise(1.0, 3)))
        loss = gpu.settle(state)
        assert state.step == 70
        results.append([*numbers(state), np.array(loss)])
    gpu.engine.first_capacity = 1 << 16
    for other in results[1:]:
        assert all((a == b).all() for a, b in zip(results[0], other, strict=True))


def test_the_same_seed_gives_the_same_bytes(gpu):
    results = []
    for _ in range(2):
        gaussians, view = scene(20_000, 504, 378)
        state = optimizer.start(gaussians)
        for _ in range(20):
            train_step(gpu, state, view, **settings())
        results.append(numbers(state))
    assert all((a == b).all() for a, b in zip(*results, strict=True))


def test_what_is_not_finite_stops_the_steps(gpu):
    gaussians, view = scene(500, 300, 200)
    state = optimizer.start(gaussians)
    reported = None
    for k in range(100):
        rate = 1e30 if k == 20 else 1e-3
        result = train_step(gpu, state, view, **settings(lrs=dict.fromkeys(Gaussians._fields, rate)))
        if not math.isfinite(result.loss):
            reported = k
            break
    assert reported is not None, "no step told of the loss that is none"
    assert reported < 20 + 70
    assert 20 <= state.step <= 22
    assert optimizer.is_finite(state)


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
    for name, value in (("kBucket", _kernels.BUCKET), ("kIntersectGroup", _kernels.INTERSECT_GROUP)):
        assert f"{name} = {value};" in text


def test_a_changed_text_changes_the_name_that_mlx_keeps():
    names = {_kernel_text.fingerprint(name) for name in _kernels.KERNELS}
    assert len(names) == len(_kernels.KERNELS)
