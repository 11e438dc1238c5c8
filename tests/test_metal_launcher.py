# SPDX-License-Identifier: Apache-2.0
"""The emulation itself: it computes what Metal would, and notices what a GPU would not."""

import mlx.core as mx
import numpy as np
import pytest
from metal.fixtures import clang  # noqa: F401
from metal.launcher import ORDERS, KernelError, Launcher

pytestmark = pytest.mark.usefixtures("clang")


@pytest.fixture(params=ORDERS)
def launcher(request):
    return Launcher(request.param)


def run(
    launcher, source, inputs, outputs, grid, threads, *, template=(), init_value=None, atomic=False, header=""
):
    """Outputs as NumPy arrays; inputs: name -> array, outputs: name -> (shape, dtype)."""
    kernel = launcher.metal_kernel(
        name="sample",
        input_names=list(inputs),
        output_names=list(outputs),
        source=source,
        header=header,
        atomic_outputs=atomic,
    )
    found = kernel(
        inputs=list(inputs.values()),
        template=template,
        grid=grid,
        threadgroup=threads,
        init_value=init_value,
        output_shapes=[shape for shape, _ in outputs.values()],
        output_dtypes=[dtype for _, dtype in outputs.values()],
    )
    return [np.asarray(array) for array in found]


# ---- it computes what Metal would ----

SIMD = {  # of x [2, 32], a SIMD group a row
    "simd_sum(x)": lambda x: np.repeat(x.sum(1, keepdims=True), 32, 1),
    "simd_min(x)": lambda x: np.repeat(x.min(1, keepdims=True), 32, 1),
    "simd_max(x)": lambda x: np.repeat(x.max(1, keepdims=True), 32, 1),
    "simd_or(x)": lambda x: np.repeat(np.bitwise_or.reduce(x, 1)[:, None], 32, 1),
    "simd_prefix_exclusive_sum(x)": lambda x: x.cumsum(1) - x,
    "simd_prefix_inclusive_sum(x)": lambda x: x.cumsum(1),
    "simd_shuffle(x, 31u - lane)": lambda x: x[:, ::-1],
    "simd_shuffle_xor(x, 5u)": lambda x: x[:, np.arange(32) ^ 5],
    "simd_shuffle_down(x, 3u)": lambda x: np.hstack([x[:, 3:], x[:, 29:]]),
    "simd_shuffle_up(x, 3u)": lambda x: np.hstack([x[:, :3], x[:, :29]]),
    "simd_broadcast(x, 7u)": lambda x: np.repeat(x[:, 7:8], 32, 1),
    "simd_broadcast_first(x)": lambda x: np.repeat(x[:, :1], 32, 1),
    "uint(simd_vote::vote_t(simd_ballot(x > 50u)))": lambda x: np.repeat(
        ((x > 50) << np.arange(32)).sum(1)[:, None], 32, 1
    ),
    "(simd_any(x > 99u) ? 1u : 0u) + (simd_all(x < 100u) ? 2u : 0u)": lambda x: np.repeat(
        (x > 99).any(1)[:, None] + 2 * (x < 100).all(1)[:, None], 32, 1
    ),
}


def test_simd_groups(launcher):
    x = np.random.default_rng(0).integers(0, 101, (2, 32)).astype(np.uint32)
    x[0] %= 100  # one group with all below 100, one not
    x[1, 3] = 100
    lines = "".join(f"out[{64 * k}u + i] = {call};\n" for k, call in enumerate(SIMD))
    source = "const uint i = thread_position_in_grid.x, lane = thread_index_in_simdgroup, x = a[i];\n" + lines
    found = run(
        launcher,
        source,
        {"a": mx.array(x.ravel())},
        {"out": ((len(SIMD), 2, 32), mx.uint32)},
        (64, 1, 1),
        (64, 1, 1),
    )[0]
    for k, (call, expected) in enumerate(SIMD.items()):
        np.testing.assert_array_equal(found[k], expected(x), call)


def test_where_a_thread_is(launcher):
    """A grid of 5x3x2 in groups of 2x2x1: those at the edge are smaller, as Metal's."""
    source = """
        const uint3 at = thread_position_in_grid, grid = threads_per_grid;
        const uint3 in = thread_position_in_threadgroup, size = threads_per_threadgroup;
        const uint3 group = threadgroup_position_in_grid, groups = threadgroups_per_grid;
        const uint k = 12u * ((at.z * grid.y + at.y) * grid.x + at.x);
        out[k] = at.x, out[k + 1u] = at.y, out[k + 2u] = at.z;
        out[k + 3u] = in.x, out[k + 4u] = in.y, out[k + 5u] = thread_index_in_threadgroup;
        out[k + 6u] = group.x, out[k + 7u] = group.y, out[k + 8u] = group.z;
        out[k + 9u] = size.x, out[k + 10u] = size.y, out[k + 11u] = groups.x;
    """
    found = run(launcher, source, {}, {"out": ((2, 3, 5, 12), mx.uint32)}, (5, 3, 2), (2, 2, 1))[0]
    for z, y, x in np.ndindex(2, 3, 5):
        size = (1 if x == 4 else 2, 1 if y == 2 else 2)
        index = y % 2 * size[0] + x % 2
        expected = [x, y, z, x % 2, y % 2, index, x // 2, y // 2, z, *size, 3]
        assert found[z, y, x].tolist() == expected


def test_arguments_and_types(launcher):
    """A scalar, shapes, small and large inputs, bytes, bools, a template, vectors, integers of 64 bits."""
    source = """
        const uint i = thread_position_in_grid.x;
        const float3 v = float3(float2(scale), few[1]) * 2.0f;
        const ulong wide = (ulong(many[i]) << 40) | ulong(W);
        out[i] = T(v.x + v.z) + T(few_shape[0]) + T(many_strides[0]) + T(uint(wide >> 40));
        if (flags[i]) out[i] += T(100);
        last[i] = short(many[i]) - short(2);
    """
    many, flags = np.arange(10, dtype=np.uint8).reshape(5, 2), np.arange(10) % 3 == 0
    inputs = {
        "scale": 1.5,
        "few": mx.array([0.0, 4.0, 0.0]),
        "many": mx.array(many),
        "flags": mx.array(flags),
    }
    outputs = {"out": ((10,), mx.int32), "last": ((10,), mx.int16)}
    template = [("T", mx.int32), ("W", 7)]
    out, last = run(launcher, source, inputs, outputs, (10, 1, 1), (4, 1, 1), template=template)
    np.testing.assert_array_equal(out, 11 + 3 + 2 + np.arange(10) + 100 * flags)
    np.testing.assert_array_equal(last, np.arange(10) - 2)


def test_atomics(launcher):
    source = """
        threadgroup atomic_uint here[1];
        const uint i = thread_position_in_grid.x, tid = thread_index_in_threadgroup;
        if (tid == 0u) atomic_store_explicit(&here[0], 0u, memory_order_relaxed);
        threadgroup_barrier(mem_flags::mem_threadgroup);
        atomic_fetch_add_explicit(&here[0], i, memory_order_relaxed);
        atomic_fetch_max_explicit(&out[1], i, memory_order_relaxed);
        threadgroup_barrier(mem_flags::mem_threadgroup);
        const uint sum = atomic_load_explicit(&here[0], memory_order_relaxed);
        if (tid == 0u) atomic_fetch_add_explicit(&out[0], sum, memory_order_relaxed);
    """
    found = run(
        launcher, source, {}, {"out": ((2,), mx.uint32)}, (150, 1, 1), (64, 1, 1), init_value=0, atomic=True
    )[0]
    assert found.tolist() == [150 * 149 // 2, 149]


def test_what_nobody_wrote_is_garbage(launcher):
    found = run(launcher, "out[1] = 2.0f;", {}, {"out": ((3,), mx.float32)}, (1, 1, 1), (1, 1, 1))[0]
    assert found[1] == 2 and np.isnan(found[[0, 2]]).all()
    found = run(
        launcher, "out[1] = 2.0f;", {}, {"out": ((3,), mx.float32)}, (1, 1, 1), (1, 1, 1), init_value=5
    )[0]
    assert found.tolist() == [5, 2, 5]


# ---- it notices what a GPU would not ----

RIGHT = """
    threadgroup float tile[64];
    threadgroup uint sums[2];
    const uint i = thread_position_in_grid.x, tid = thread_index_in_threadgroup;
    const uint simd = simdgroup_index_in_threadgroup, lane = thread_index_in_simdgroup;
    tile[tid] = a[i] * 2.0f;
    const uint sum = simd_sum(tid);
    if (lane == 0u) sums[simd] = sum;
    simdgroup_barrier(mem_flags::mem_threadgroup);
    float x = tile[tid ^ 1u];
    threadgroup_barrier(mem_flags::mem_threadgroup);
    x += tile[63u - tid] + float(sums[0] + sums[1]);
    out[i] = x;
"""
WHOLE = "threadgroup_barrier(mem_flags::mem_threadgroup);"
PART = "simdgroup_barrier(mem_flags::mem_threadgroup);"
FAULTS = {
    "read beyond an input": ("a[i]", "a[i + 1u]", r"reads beyond a at byte 512 of 512"),
    "read before an input": ("a[i]", "a[i - 1u]", r"reads"),
    "read far away": ("a[i]", "a[i + 100000000u]", r"reads memory that belongs to no buffer"),
    "write beyond an output": ("out[i] =", "out[i + 1u] =", r"writes beyond out"),
    "write to an input": ("out[i] =", "const_cast<device float*>(a)[i] =", r"writes to the input a"),
    "index beyond a threadgroup array": (
        "tile[tid] =",
        "tile[tid + 64u] =",
        r"indexes an array beyond its end",
    ),
    "pointer beyond a threadgroup array": (
        "tile[tid] =",
        "threadgroup float* p = tile; p[tid + 64u] =",
        r"writes beyond tile",
    ),
    "index beyond a thread's array": (
        "out[i] = x",
        "float l[4] = {x, x, x, x}; out[i] = l[i & 7u]",
        r"indexes an array beyond",
    ),
    "no barrier": (WHOLE, "", r"unordered with a write in (tile|sums)|nobody wrote in (tile|sums)"),
    "barrier of other memory": (
        WHOLE,
        WHOLE.replace("mem_threadgroup)", "mem_device)"),
        r"unordered with a write",
    ),
    "barrier of a SIMD group only": (WHOLE, PART, r"unordered with a write|nobody wrote"),
    "no barrier in a SIMD group": (PART, "", r"unordered with a write in tile"),
    "write after others read": (
        "out[i] = x",
        "tile[0] = x; out[i] = x",
        r"writes unordered with a (read|write) in tile",
    ),
    "read of what nobody wrote": (
        "if (lane == 0u) sums[simd] = sum;",
        "",
        r"reads what nobody wrote in sums",
    ),
    "read of an output nobody wrote": (
        "out[i] = x",
        "out[i] = x + out[i ^ 64u]",
        r"reads what nobody wrote in out|unordered",
    ),
    "two groups write a word": (
        "out[i] =",
        "out[tid] =",
        r"writes unordered with a write in out .* another threadgroup",
    ),
    "early return before a barrier": (
        "float x =",
        "if (tid == 5u) return; float x =",
        r"thread 5 has returned",
    ),
    "not all come to a barrier": (
        "out[i] = x",
        "if (tid < 40u) threadgroup_barrier(mem_flags::mem_none); out[i] = x",
        r"not all come",
    ),
    "not all lanes come to a sum": (
        "const uint sum =",
        "uint sum = 0; if (lane < 9u) sum =",
        r"not all come",
    ),
    "shuffle from no lane": ("out[i] = x", "out[i] = simd_shuffle(x, 32)", r"a lane that is not there"),
    "an integer that does not fit": (
        "out[i] = x",
        "out[i] = float(int(x * 1e30f))",
        r"an integer of a float",
    ),
    "division by zero": ("out[i] = x", "out[i] = float(i / (tid - i))", r"divides an integer by zero"),
    "shift too far": ("out[i] = x", "out[i] = float(1u << (tid + 1u))", r"shifts by more bits"),
    "too much threadgroup memory": ("tile[64]", "tile[8192]", r"32776 bytes of threadgroup memory"),
}


def run_sample(launcher, source):
    a = mx.arange(128).astype(mx.float32)
    return run(launcher, source, {"a": a}, {"out": ((128,), mx.float32)}, (128, 1, 1), (64, 1, 1))[0]


def test_the_right_kernel_is_right(launcher):
    i = np.arange(128)
    expected = 2 * (i ^ 1) + 2 * (i // 64 * 64 + 63 - i % 64) + 63 * 32
    np.testing.assert_array_equal(run_sample(launcher, RIGHT), expected)


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_is_noticed(launcher, fault):
    right, wrong, message = FAULTS[fault]
    assert RIGHT.count(right) == 1
    with pytest.raises(KernelError, match=f"sample: .*({message})"):
        run_sample(launcher, RIGHT.replace(right, wrong))


def test_a_kernel_runs_after_a_fault(launcher):
    with pytest.raises(KernelError):
        run_sample(launcher, RIGHT.replace(WHOLE, ""))
    assert np.isfinite(run_sample(launcher, RIGHT)).all()


STRUCTS = """
    const uint i = thread_position_in_grid.x;
    ((device Large*)out)[i + FROM] = ((const device Large*)a)[i];
"""


def test_constants_are_no_buffers_and_may_be_read(launcher):
    header = "constant constexpr float kA[4] = {1.0f, 2.0f, 3.0f, 4.0f}, kB[4] = {5.0f, 6.0f, 7.0f, 8.0f};\n"
    source = """
        const uint i = thread_position_in_grid.x;
        constant const float* table = a[i] > 3.0f ? kB : kA;
        out[i] = table[i & 3u];
    """
    outputs = {"out": ((8,), mx.float32)}
    inputs = {"a": mx.arange(8).astype(mx.float32)}
    found = run(launcher, source, inputs, outputs, (8, 1, 1), (8, 1, 1), header=header)[0]
    assert found.tolist() == [1, 2, 3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize("beyond", [0, 1])
def test_copies_of_structs_are_judged(launcher, beyond):
    header = "struct Large { float values[40]; };\n"
    a, source = mx.arange(320).astype(mx.float32), STRUCTS.replace("FROM", str(beyond))
    outputs = {"out": ((320,), mx.float32)}
    if beyond:
        with pytest.raises(KernelError, match="writes beyond out"):
            run(launcher, source, {"a": a}, outputs, (8, 1, 1), (8, 1, 1), header=header)
    else:
        found = run(launcher, source, {"a": a}, outputs, (8, 1, 1), (8, 1, 1), header=header)[0]
        np.testing.assert_array_equal(found, a)


def test_a_load_that_no_barrier_settles_is_noticed(launcher):
    source = """
        const uint before = atomic_fetch_add_explicit(&out[0], 1u, memory_order_relaxed);
        const uint now = before == 3u ? atomic_load_explicit(&out[0], memory_order_relaxed) : 0u;
        atomic_fetch_add_explicit(&out[1], now, memory_order_relaxed);
    """
    with pytest.raises(KernelError, match="unordered"):
        run(
            launcher,
            source,
            {},
            {"out": ((2,), mx.uint32)},
            (64, 1, 1),
            (64, 1, 1),
            init_value=0,
            atomic=True,
        )


def test_an_input_may_be_counted_up_in_place(launcher):
    source = """
        device atomic_uint* count = (device atomic_uint*)counters;
        out[thread_position_in_grid.x] = atomic_fetch_add_explicit(&count[1], 2u, memory_order_relaxed);
    """
    counters = mx.zeros(8, mx.uint32)
    mx.eval(counters)
    found = run(launcher, source, {"counters": counters}, {"out": ((5,), mx.uint32)}, (5, 1, 1), (5, 1, 1))[0]
    assert sorted(found.tolist()) == [0, 2, 4, 6, 8]
    assert counters.tolist() == [0, 10, 0, 0, 0, 0, 0, 0]
