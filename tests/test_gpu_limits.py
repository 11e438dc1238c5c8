# SPDX-License-Identifier: Apache-2.0
"""What the GPU engine does where there is too much: sizes beyond 32 bits, too little memory, a size for each photo."""

import math
from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest
from metal.emulated import backend as emulated
from metal.fixtures import clang  # noqa: F401
from plans import take
from scenes import camera, scene, to_mlx

from gsplat_train.backends.gpu import engine as engines
from gsplat_train.backends.gpu import limits
from gsplat_train.backends.gpu.engine import START, Engine, no_flags
from gsplat_train.backends.gpu.kernels import KERNELS, Sizes, arguments
from gsplat_train.backends.gpu.limits import Budget
from gsplat_train.backends.kept import Kept
from gsplat_train.errors import OutOfMemory, UserError
from gsplat_train.scene import Photo, View
from gsplat_train.training import rows
from gsplat_train.training.protocol import Bounds

CAMERA = camera(40, 36)
DIMENSION = 2**31  # MLX counts a dimension in int32


@pytest.fixture
def output(monkeypatch):
    """An engine whose kernels are not run, and whose sizes stay on the host."""
    monkeypatch.setattr(engines, "on_device", lambda array: array)
    traced = []

    def compile(function):
        traced.append(function)
        return function

    return SimpleNamespace(engine=Engine(lambda spec: lambda **call: [], compile), traced=traced)


# ---- counting ----


@pytest.mark.parametrize(
    "sizes",
    [Sizes(1_000_000, 15, 800, 533, 150_000_000), Sizes(12_000_000, 15, 8000, 6000, 300_000_000)],
    ids=["a hundred million intersections", "twelve million splats"],
)
def test_arrays_of_more_than_an_int_have_rows(sizes):
    for name, spec in KERNELS.items():
        call = arguments(name, sizes)
        assert max(call["grid"]) < DIMENSION, name
        for array, shape in zip(spec.outputs, call["output_shapes"], strict=True):
            assert max(shape) < DIMENSION and math.prod(shape) >= array.count(sizes.names), (name, array.name)
            mx.zeros(()).reshape([1] * len(shape))  # MLX takes as many dimensions


def test_what_the_kernels_cannot_count_is_said(output):
    output.engine.sizes(Sizes(50_000_000, 15, 8000, 6000, 8))
    with pytest.raises(UserError, match=r"477,218,588 pixels, got 30000x20000; .*--max-size"):
        output.engine.sizes(Sizes(10, 0, 30000, 20000, 8))
    with pytest.raises(UserError, match=r"95,443,717 splats .* got 100,000,000; .*--max-splats"):
        output.engine.sizes(Sizes(100_000_000, 15, 800, 600, 8))


@pytest.mark.usefixtures("clang")
@pytest.mark.parametrize("before", [0x7FFFFFF0, 0xFFFFFFF0])
def test_a_count_beyond_32_bits_does_not_begin_again(before):
    """As if other groups had counted so many intersections already."""
    backend = emulated()
    gaussians = to_mlx(scene(CAMERA, 600, size=4.0))
    projected = backend.project(gaussians, CAMERA.viewmat, CAMERA.K, 40, 36, sh_degree=0, antialiased=False)
    sizes = Sizes(600, 0, 40, 36, 4096)
    counters = np.zeros(8 * sizes.names["tiles"] + 8, np.uint32)
    counters[8 * sizes.names["tiles"]] = before
    records = engines._records(projected.means2d, projected.conics, projected.depths, projected.opacities)
    lists = backend.engine.bins(
        sizes, backend.engine.sizes(sizes), records, projected.radii.reshape(-1), mx.array(counters), START,
        no_flags(sizes),
    )  # fmt: skip
    state, needed = np.asarray(lists["status"])[:2].tolist()
    assert state == 1 and needed >= 2**31
    with pytest.raises(OutOfMemory, match=r"touch over 2\^31 tiles"):
        backend.engine.grow(40, 36, needed)


# ---- room ----


def memory_for(intersections, monkeypatch):
    """A device with room for so many."""
    device_bytes = limits.LISTS_SHARE * limits._intersection_bytes() * intersections
    monkeypatch.setattr(limits, "device_memory", lambda: device_bytes)


def test_an_intersection_takes_what_the_table_says():
    """Entries 16 bytes, keys and two copies 24, three lists of indices 12, a checkpoint's share 128, a slot 48."""
    assert 228 <= limits._intersection_bytes() <= 229


def test_headroom_ends_at_the_memory(output, monkeypatch):
    memory_for(100_000, monkeypatch)
    assert output.engine.grow(800, 600, 60_000) == 90_112
    assert output.engine.grow(800, 600, 90_000) == 100_000
    with pytest.raises(
        OutOfMemory, match=r"touch 100,001 tiles of 16x16 .* 100,000 fit on this GPU; .*--max-splats"
    ):
        output.engine.grow(800, 600, 100_001)


def test_a_size_that_was_not_seen_gets_room_by_its_pixels(output):
    output.engine.first_capacity = 4096
    assert output.engine.capacity(100, 100) == 4096
    output.engine.grow(100, 100, 8192)
    assert output.engine.capacity(200, 200) == 4 * 12288 and output.engine.capacity(10, 10) == 4096
    output.engine.forget()
    assert output.engine.capacity(200, 200) == 4096


@pytest.mark.usefixtures("clang")
def test_without_room_the_steps_that_were_done_stay(monkeypatch):
    """The second view needs more than there is: the first one's step is kept, and can be saved."""
    backend = emulated()
    views = [
        View(
            name,
            small_view,
            Photo(np.zeros((small_view.height, small_view.width, 3), np.uint8), None),
            index=i,
        )
        for i, (name, small_view) in enumerate((("near", CAMERA), ("wide", camera(160, 144, 160.0))))
    ]
    alone = emulated().stepper(rows.start(to_mlx(scene(CAMERA, 150, size=4.0))))
    take(alone, views[0])
    expected = rows.rows(alone.look().gaussians)

    backend.engine.first_capacity = 1024
    stepper = backend.stepper(rows.start(to_mlx(scene(CAMERA, 150, size=4.0))))
    memory_for(1024, monkeypatch)
    take(stepper, views[0])
    with pytest.raises(OutOfMemory, match="1,024 fit on this GPU"):
        take(stepper, views[1], steps=3)
    assert stepper.step == 1 and stepper.result().whole
    state = stepper.look()
    assert state.step == 1
    for name, values in rows.rows(state.gaussians).items():
        np.testing.assert_array_equal(values, expected[name])


# ---- a bound given ----

FULL_HD = Sizes(1_000_000, 15, 1920, 1080, 6_750_000)


@pytest.fixture
def h100(monkeypatch):
    """A device of 80 GB, and MLX's limits as they were at the end."""
    monkeypatch.setattr(limits, "device_memory", lambda: 80_000_000_000)
    yield
    Budget().hold(FULL_HD)


def held(budget, sizes):
    """What a run holds at most, where MLX frees nothing early."""
    under_way = max(1, 2 * budget.window(sizes)) * limits.step_bytes(sizes)
    return limits.state_bytes(sizes.n, sizes.rest) + budget.photos(sizes) + under_way


@pytest.mark.parametrize("sizes", [FULL_HD, Sizes(200_000, 15, 504, 378, 1_000_000)])
@pytest.mark.parametrize("bound", [4e9, 8e9, 0.2, 0.5])
def test_what_is_given_holds_all(h100, bound, sizes):
    budget = Budget(Bounds(bound, sizes.n, (sizes.width, sizes.height)))
    budget.check(sizes.n, sizes.rest)
    assert held(budget, sizes) <= budget.total
    assert limits.state_bytes(sizes.n, 15) + limits.step_bytes(sizes) + budget.photos(sizes) <= budget.total
    budget.hold(sizes)
    assert budget.total / 2 <= mx.set_memory_limit(1 << 40) <= budget.total


def test_four_gigabytes_are_enough_for_a_million_at_full_hd(h100):
    budget = Budget(Bounds(4e9, 1_000_000, (1920, 1080)))
    budget.check(1_000_000, 15)
    assert budget.window(FULL_HD) == 0 and budget.photos(FULL_HD) > 50 * 3 * 1920 * 1080
    assert budget.most_intersections() > 6_750_000 and budget.headroom(5_400_000) == 1.25


def test_by_default_long_steps_are_few(h100):
    budget = Budget()
    assert budget.window(FULL_HD) == limits.LEAST_WINDOW
    assert budget.window(Sizes(10_000, 15, 504, 378, 100_000)) == limits.WINDOW
    assert held(budget, FULL_HD) - budget.photos(FULL_HD) < 13e9


def test_what_cannot_fit_is_said(h100):
    budget = Budget(Bounds(1e9, 1_000_000, (1920, 1080)))
    with pytest.raises(UserError, match=r"1,000,000 splats and photos of 1920x1080 take at least 1.9 GB of the GPU's "
                       r"memory, gpu_memory allows 1.0 GB; --max-splats (\d+) fits") as caught:  # fmt: skip
        budget.check(1_000_000, 15)
    assert caught.value.exit_code == 2
    fits = int(str(caught.value).split("--max-splats ")[1].split()[0])
    budget.check(fits, 15)
    with pytest.raises(UserError):
        budget.check(fits + 2000, 15)
    with pytest.raises(UserError, match=r" 1 MB; smaller photos"):
        Budget(Bounds(1e6, 100, (1920, 1080))).check(100, 15)


def test_photos_make_room_for_splats():
    kept = Kept(100)
    for i in range(4):
        kept.get((i, 0), lambda i=i: (i, 30))
    kept.shrink(65)
    assert kept.bytes == 60
    assert [kept.get((i, 0), lambda: (9, 30)) for i in range(4)] == [0, 1, 9, 9]


@pytest.mark.usefixtures("clang", "h100")
def test_a_bound_changes_no_byte():
    view = View("near", CAMERA, Photo(np.zeros((36, 40, 3), np.uint8), None), index=0)
    found = []
    for args, window in ((0.0, limits.WINDOW), (1.2e6, 0)):
        backend = emulated()
        backend.engine.first_capacity = 128 if args else 4096  # too little: steps are repeated
        bounds = Bounds(args, 150, (40, 36))
        stepper = backend.stepper(rows.start(to_mlx(scene(CAMERA, 150, size=4.0))), bounds)
        take(stepper, view, steps=4)
        sizes = Sizes(150, 15, 40, 36, backend.engine.capacity(40, 36))
        assert backend.engine.budget.window(sizes) == window and sizes.capacity > 128
        found.append(rows.rows(stepper.look().gaussians))
    for name, values in found[0].items():
        np.testing.assert_array_equal(values, found[1][name])


# ---- a size for each photo ----


def test_a_thousand_sizes_are_not_traced_again_and_again(output):
    sizes = [Sizes(7, 0, 100 + i, 80, 64) for i in range(1000)]
    for _ in range(2):
        for one in sizes:
            output.engine.compiled(len, one)
            output.engine.sizes(one)
    assert len(output.traced) == engines.MOST_COMPILED == len(output.engine._compiled)
    assert len(output.engine._sizes) == 1000
    output.engine.compiled(len, Sizes(8, 0, 100, 80, 64))  # after a refinement the old ones go
    assert len(output.engine._compiled) == 1


def test_what_is_kept_is_bounded(output):
    for n in range(3):
        for i in range(6000):
            output.engine.sizes(Sizes(n, 0, 100 + i, 80, 64))
    assert len(output.engine._sizes) <= engines.MOST_SIZES
    assert arguments.cache_info().maxsize is not None
