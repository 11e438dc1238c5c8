# SPDX-License-Identifier: Apache-2.0
"""The text that a Mac would compile: it is MLX's, clang finds no fault in it, and would find one."""

import mlx.core as mx
import pytest
from metal import compiler
from metal.fixtures import clang  # noqa: F401
from metal.mlx_text import Kernel, generate, printed_by_mlx, renamed
from metal.rules import broken_rules
from metal.table import SMALL, SMALLEST, launches

from gsplat_train.backends.gpu.kernels import KERNELS

pytestmark = pytest.mark.usefixtures("clang")


# ---- the kernels ----


@pytest.mark.parametrize("sizes", [SMALL, SMALLEST], ids=["small", "smallest"])
@pytest.mark.parametrize("name", KERNELS)
def test_kernel_compiles_without_a_warning(name, sizes):
    for launch in launches(name, sizes):
        compiler.check(launch.text.text)


@pytest.mark.parametrize("name", KERNELS)
def test_kernel_keeps_metals_rules(name):
    for launch in launches(name):
        assert broken_rules(launch.text.text) == []


@pytest.mark.parametrize("name", KERNELS)
def test_kernel_keeps_metals_limits(name):
    for launch in launches(name):
        assert len(compiler.buffers_of(launch.text)) <= 31
    assert KERNELS[name].threads <= 1024


# ---- our text is MLX's ----

BODY = (
    "uint i = thread_position_in_grid.x + a_ndim * thread_index_in_simdgroup; x[i] = a[i] + c_shape[0] + b;"
)


@pytest.mark.parametrize(
    "template", [(), (("T", mx.float16), ("W", 3), ("F", False))], ids=["plain", "template"]
)
@pytest.mark.parametrize("atomic", [False, True])
@pytest.mark.parametrize("n", [0, 7, 8])
def test_text_is_mlxs(template, atomic, n):
    kernel = Kernel("sample", ("a", "b", "c"), ("x", "y"), BODY, "// header\n", atomic)
    launch = (
        kernel,
        [mx.zeros((n,), mx.uint8), mx.array(2.0), mx.zeros((2, n))],
        [mx.float32, mx.int32],
        template,
    )
    theirs = printed_by_mlx(*launch)
    if theirs is None:
        pytest.skip("this version of MLX prints no text on a machine without Metal")
    assert renamed(generate(*launch).text) == renamed(theirs)


def test_text_of_every_kernel_is_mlxs():
    for name in KERNELS:
        for launch in launches(name):
            theirs = printed_by_mlx(*launch)
            if theirs is None:
                pytest.skip("this version of MLX prints no text on a machine without Metal")
            assert renamed(launch.text.text) == renamed(theirs), name


# ---- what is wrong is found ----

HEADER = """
inline float first(const device float* p) { return p[0]; }
inline float twice(thread float& x) { x *= 2.0f; return x; }
"""
RIGHT = """
threadgroup float shared[4];
threadgroup atomic_uint counter[1];
const uint i = thread_position_in_grid.x;
float x = first(many);
threadgroup float* here = shared;
here[i] = few[0] + twice(x) + many[i];
atomic_fetch_add_explicit(&counter[0], 1u, memory_order_relaxed);
threadgroup_barrier(mem_flags::mem_threadgroup);
out[i] = here[i] + simd_sum(x);
"""
WRONG = {
    "device pointer to threadgroup memory": ("threadgroup float* here", "device float* here"),
    "thread pointer to threadgroup memory": ("threadgroup float* here", "thread float* here"),
    "thread pointer to device memory": (
        "float x = first(many);",
        "float x = 0.0f; const thread float* p = many; x += p[0];",
    ),
    "constant pointer where device is asked": ("first(many)", "first(few)"),
    "threadgroup pointer where device is asked": ("first(many)", "first(shared)"),
    "thread reference to device memory": ("twice(x)", "twice(out[i])"),
    "write to an input": ("out[i] =", "many[i] ="),
    "atomic of a plain array": ("&counter[0]", "&shared[0]"),
    "atomic float in threadgroup memory": ("atomic_uint counter", "atomic_float counter"),
    "order that Metal has not": ("memory_order_relaxed", "memory_order_seq_cst"),
    "min of two types": ("float x = first(many);", "float x = min(first(many), 1);"),
    "variable nobody uses": ("float x = first(many);", "float x = first(many); float y = 1.0f;"),
    "variable nobody set": ("float x = first(many);", "float x; x += first(many);"),
    "signed against unsigned": (
        "const uint i",
        "const int j = 3; const bool b = j < thread_position_in_grid.x; const uint i",
    ),
    "a bit mask from a vote without a cast": (
        "const uint i =",
        "const uint v = simd_ballot(true); const uint i = v +",
    ),
}


def sample(source, header=HEADER):
    kernel = Kernel("sample", ("many", "few"), ("out",), source, header)
    return generate(kernel, [mx.zeros(64), mx.zeros(4)], [mx.float32]).text


def test_the_right_text_is_right():
    compiler.check(sample(RIGHT))
    assert broken_rules(sample(RIGHT)) == []


@pytest.mark.parametrize("fault", WRONG)
def test_wrong_text_fails(fault):
    right, wrong = WRONG[fault]
    assert right in RIGHT
    with pytest.raises(compiler.CompileError):
        compiler.check(sample(RIGHT.replace(right, wrong)))


def test_an_input_of_fewer_than_eight_elements_is_constant():
    kernel = Kernel("sample", ("p",), ("out",), "out[0] = first(p);", HEADER)
    compiler.check(generate(kernel, [mx.zeros(8)], [mx.float32]).text)
    with pytest.raises(compiler.CompileError, match="address space"):
        compiler.check(generate(kernel, [mx.zeros(7)], [mx.float32]).text)


RULES = {
    "inline float f(float* p) { return p[0]; }": "line 1: p points without an address space",
    "inline float f(const float& p) { return p; }": "line 1: p points without an address space",
    "inline float f(float p[3]) { return p[0]; }": "line 1: p points without an address space",
    "#define M float* p\nstruct S {\n    M;\n};": "line 3: p points without an address space",
    "constexpr float k = 1.0f;": "line 1: k lies outside functions and is not constant",
    "inline float f(float x) { return x * 0.5; }": "line 1: a number without f",
    "inline float f() { double x = 1.0f; return float(x); }": "line 1: x is double",
    "inline float f(float x) { const float half = 0.5f; return half * x; }": "line 1: half is a word of Metal's own",
    "inline float f(float half) { return half; }": "line 1: half is a word of Metal's own",
    "inline int f() { static int n = 0; return n++; }": "line 1: n is static",
    "inline int f() { return [](int x) { return x; }(1); }": "line 1: a lambda expression",
}


@pytest.mark.parametrize("header", RULES)
def test_broken_rule_is_named(header):
    assert broken_rules(sample(RIGHT, header + HEADER)) == [RULES[header]]


@pytest.mark.parametrize(
    "header",
    [
        "inline float f(const device float* p, thread float& q, thread float r[3]) { return *p * q + *r; }",
        "#define SPACE thread\ninline float f(const SPACE float& p) { float a[2] = {p, p}; return *a; }",
        "constant constexpr float k[2] = {1.0f, 2.0f}, l = k[0] * 2.0f;",
        "inline int f(int x, int y) { int a = x * y, b = x & y, c = (x) * (y); return a + b + c; }",
    ],
)
def test_kept_rules_are_not_complained_about(header):
    assert broken_rules(sample(RIGHT, header + HEADER)) == []
