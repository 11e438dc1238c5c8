# SPDX-License-Identifier: Apache-2.0
"""The native module: its boundary, instruction sets, threads, and scenes hard on memory and time."""

import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from conftest import load_backend
from plans import plan
from scenes import camera, scene, to_mlx
from tiny import random_state

import gsplat_train
from gsplat_train import backends
from gsplat_train.errors import UserError
from gsplat_train.model.gaussians import Gaussians
from gsplat_train.renderer import render
from gsplat_train.scene import Camera, Photo, View
from gsplat_train.training import rows
from gsplat_train.training.plan import Statistics
from gsplat_train.training.rows import Edit, HostPopulation, Room

ROOT = Path(__file__).parents[1]
TESTS = Path(__file__).parent
PATH = str(Path(gsplat_train.__file__).parents[1])  # for subprocesses: the package that is tested here
# The same sums in another order, with or without FMA. Adam divides by the size of gradients that may be
# rounding errors, so over ten steps a few Gaussians drift apart, the loss hardly.
SIMD_IMAGE, SIMD_GRADIENT, SIMD_LOSS = 5e-5, 5e-5, 1e-3


@pytest.fixture(scope="module")
def cpp():
    return load_backend("cpp")


@pytest.fixture(scope="module")
def native(cpp):
    from gsplat_train import _csrc

    return _csrc


# ---- what the subprocess below computes ----


def a_step(stepper, view, **changes):
    """A step in which all happens but sums."""
    supplied = {"rate": 5e-3, "opacity_weight": 0.01, "scale_weight": 0.01, "noise": 1.0, "seed": 5}
    supplied |= {"statistics": Statistics.NONE}
    return stepper.take(view, plan(stepper.step + 1, **(supplied | changes)))


def photo(width, height):
    y, x = np.mgrid[:height, :width]
    return np.stack([(x * (c + 2)) ^ (y * 3) for c in range(3)], axis=2).astype(np.uint8)


def short_training(path):
    """A picture, its gradients, and ten steps, into an .npz."""
    backend, view = backends.load("cpp"), camera(72, 50, 60.0)
    gaussians = to_mlx(scene(view, 500, seed=3, spread=1.5, size=4.0))
    image = render(gaussians, view, backend).image
    weights = mx.array(np.random.default_rng(0).standard_normal((50, 72, 3)).astype(np.float32))
    gradients = mx.grad(lambda g: (render(g, view, backend).image * weights).sum())(gaussians)
    stepper = backend.stepper(rows.start(gaussians))
    seen = View("photo", view, photo(72, 50))
    losses = [a_step(stepper, seen).loss for _ in range(10)]
    trained = np.concatenate([leaf.ravel() for leaf in rows.rows(stepper.look().gaussians).values()])
    gradients = {f"v_{name}": np.asarray(leaf) for name, leaf in gradients._asdict().items()}
    np.savez(path, image=np.asarray(image), losses=losses, trained=trained, **gradients)


def python(code, **environment):
    """`code` in a process of its own, which the native module reads its environment in."""
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=TESTS,
        env=os.environ | {"PYTHONPATH": PATH} | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture(scope="module")
def results(cpp, tmp_path_factory):
    """short_training in a process of its own, once for each environment."""
    folder, kept = tmp_path_factory.mktemp("native"), {}

    def run(**environment):
        key = "_".join(f"{name}{value}" for name, value in environment.items())
        if key not in kept:
            path = folder / f"{key}.npz"
            code = f"import test_cpp_module; test_cpp_module.short_training({str(path)!r})"
            done = python(code, **environment)
            assert done.returncode == 0, done.stderr
            kept[key] = dict(np.load(path))
        return kept[key]

    return run


# ---- instruction sets and threads ----


def test_the_best_instruction_set_is_taken(native):
    sets = native.instruction_sets()
    assert sets[-1] == "scalar" and set(sets) <= {"avx512", "avx2", "neon", "scalar"}
    if "GS_SIMD" not in os.environ:
        assert native.simd() == sets[0]
    if platform.machine() == "x86_64" and Path("/proc/cpuinfo").exists():
        flags = set(re.search(r"^flags\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.M)[1].split())
        assert ("avx2" in sets) == ({"avx2", "fma"} <= flags)
        assert ("avx512" in sets) <= ({"avx512f", "avx512bw", "avx512dq", "avx512vl"} <= flags)


def test_an_unknown_instruction_set_is_refused(cpp):
    code = "from gsplat_train import _csrc; _csrc.simd()"
    done = python(code, GS_SIMD="mmx")
    assert done.returncode != 0 and "GS_SIMD=mmx is not available here; choose one of" in done.stderr


@pytest.mark.parametrize("simd", ["avx512", "avx2", "neon"])
def test_instruction_sets_agree(simd, native, results):
    if simd not in native.instruction_sets():
        pytest.skip(f"this processor has no {simd}")
    ours, plain = results(GS_SIMD=simd), results(GS_SIMD="scalar")
    assert np.abs(plain["image"]).max() > 0.5
    # A pixel may fall on the other side of a threshold (1/255, the stop at 1e-4) by the last bit.
    error = np.sort(np.abs(ours["image"] - plain["image"]).max(axis=2).ravel())
    assert error[-2] < SIMD_IMAGE and error[-1] < 5e-3
    for name in (f"v_{group}" for group in Gaussians._fields):
        difference = np.linalg.norm(ours[name] - plain[name]) / np.linalg.norm(plain[name])
        assert difference < SIMD_GRADIENT, name
    assert ours["losses"] == pytest.approx(plain["losses"], rel=SIMD_LOSS)
    assert plain["losses"][-1] < plain["losses"][0]


@pytest.mark.parametrize("threads", ["2", "3"])
def test_threads_give_the_same_bytes(threads, results):
    one, more = results(GS_THREADS="1"), results(GS_THREADS=threads)
    for name, values in one.items():
        assert values.tobytes() == more[name].tobytes(), name


def test_threads_are_as_many_as_asked_for(cpp):
    code = "from gsplat_train import _csrc; print(_csrc.threads())"
    for wanted in ("1", "3"):
        done = python(code, GS_THREADS=wanted)
        assert done.stdout.strip() == wanted


@pytest.mark.skipif(sys.platform != "linux", reason="a limit on address space, which only Linux keeps")
def test_more_threads_than_there_is_room_for_are_one_line(cpp):
    code = """
import resource
import numpy as np
from gsplat_train import _csrc, errors
_csrc.simd()
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))  # 1,000 threads' stacks need 8
leaf = np.zeros(1 << 22, np.float32)
try:
    _csrc.adam(leaf, leaf, leaf, leaf, 1e-3, 1)
except errors.UserError as error:
    print(error)
"""
    done = python(code, GS_THREADS="1000")
    assert re.fullmatch(
        r"the system allows no more than \d+ of 1000 threads; set GS_THREADS to fewer.*\n", done.stdout
    )


# ---- what the compiler made ----

KERNELS = "CMakeFiles/gs_{}.dir/csrc/cpu/kernels.cpp.o"
# 512-bit and mask registers, and registers 16 to 31, exist in AVX-512 alone.
AVX512 = re.compile(r"%zmm|%k[0-7]\b|%[xy]mm(1[6-9]|2\d|3[01])\b")
AVX = re.compile(r"%[yz]mm|\tv[a-z]")


def kernel_object(name):
    """The newest object file of an instruction set that pip or CMake left in build/, beside the module."""
    tool = shutil.which("objdump")
    if tool is None or platform.machine() != "x86_64":
        pytest.skip("needs objdump and an x86-64")
    folders = {module.parent for module in (ROOT / "build").glob("*/_csrc*.so")}
    found = [path for folder in folders if (path := folder / KERNELS.format(name)).exists()]
    if not found:
        pytest.skip(f"no {KERNELS.format(name)} in build/: the package was not built from this checkout")
    return max(found, key=lambda path: path.stat().st_mtime)


def instructions(path):
    text = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", path], capture_output=True, text=True
    ).stdout
    assert text.count("\n") > 1000
    return text


def test_only_the_avx512_kernels_hold_avx512(cpp):
    assert AVX512.search(instructions(kernel_object("avx512")))
    avx2 = instructions(kernel_object("avx2"))
    assert not AVX512.search(avx2) and AVX.search(avx2)
    assert not AVX.search(instructions(kernel_object("scalar")))


@pytest.mark.parametrize("name", ["avx512", "avx2", "scalar"])
def test_kernels_share_no_inline_function(name, cpp):
    """A function of the same name in two objects would be kept once by the linker, perhaps as AVX-512."""
    path = kernel_object(name)
    table = subprocess.run(["nm", "--defined-only", "-C", path], capture_output=True, text=True).stdout
    shared = [line for line in table.splitlines() if re.match(r"\S+ [A-TV-Zuvw] (?!DW.ref)", line)]
    assert shared and all(f"gs::{name}::" in line for line in shared), shared


def test_no_mlx_library_is_linked(native):
    if sys.platform == "darwin":
        command = ["otool", "-L", native.__file__]
    elif shutil.which("ldd"):
        command = ["ldd", native.__file__]
    else:
        pytest.skip("needs ldd")
    linked = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "libc" in linked and "mlx" not in linked.replace(native.__file__, "")


# ---- the boundary ----


def arrays(n=4, degree=3):
    shapes = {
        "means": (n, 3), "quats": (n, 4), "log_scales": (n, 3), "logit_opacities": (n,),
        "sh0": (n, 1, 3), "shN": (n, (degree + 1) ** 2 - 1, 3),
    }  # fmt: skip
    return {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}


def project(native, leaves, n=4, viewmat=None, K=None, width=32, height=16, degree=3, **outputs):
    out = {
        "means2d": np.zeros((n, 2), np.float32), "conics": np.zeros((n, 3), np.float32),
        "depths": np.zeros(n, np.float32), "radii": np.zeros((n, 2), np.int32),
        "colors": np.zeros((n, 3), np.float32), "opacities": np.zeros(n, np.float32),
    } | outputs  # fmt: skip
    viewmat = np.eye(4, dtype=np.float32) if viewmat is None else viewmat
    K = np.array([[32, 0, 16], [0, 32, 8], [0, 0, 1]], np.float32) if K is None else K
    native.Pipeline().project(list(leaves), viewmat, K, width, height, degree, False, *out.values())


def test_the_boundary_takes_what_fits(native):
    project(native, arrays().values())
    project(native, arrays(0).values(), n=0)


@pytest.mark.parametrize("name", Gaussians._fields)
@pytest.mark.parametrize(
    "spoil",
    [
        lambda a: a.astype(np.float64),
        lambda a: a.astype(np.float16),
        lambda a: np.zeros((*a.shape[:-1], 2 * a.shape[-1]), np.float32)[..., ::2],  # not contiguous
        lambda a: a.tolist(),
        lambda a: None,
    ],
    ids=["float64", "float16", "strided", "list", "None"],
)
def test_leaves_of_the_wrong_kind_are_type_errors(name, spoil, native):
    leaves = arrays()
    leaves[name] = spoil(leaves[name])
    with pytest.raises(TypeError, match=f"gaussians.{name} must be"):
        project(native, leaves.values())


@pytest.mark.parametrize("name", Gaussians._fields)
def test_leaves_of_the_wrong_shape_are_value_errors(name, native):
    leaves = arrays()
    leaves[name] = np.zeros((leaves[name].shape[0] + 1, *leaves[name].shape[1:]), np.float32)
    with pytest.raises(ValueError, match="must hold"):
        project(native, leaves.values())


def test_other_arguments_of_the_wrong_kind_or_shape(native):
    leaves = list(arrays().values())
    with pytest.raises(ValueError, match="six arrays"):
        project(native, leaves[:5])
    with pytest.raises(ValueError, match="viewmat must hold 16"):
        project(native, leaves, viewmat=np.eye(3, dtype=np.float32))
    with pytest.raises(TypeError):
        project(native, leaves, viewmat=np.eye(4))
    with pytest.raises(ValueError, match="sh_degree"):
        project(native, leaves, degree=4)
    with pytest.raises(ValueError, match="sh_degree"):
        project(native, arrays(degree=1).values(), degree=2)
    with pytest.raises(ValueError, match="0, 3, 8 or 15 rows"):
        project(native, [*leaves[:5], np.zeros((4, 5, 3), np.float32)])
    with pytest.raises(ValueError, match="means2d must hold 8"):
        project(native, leaves, means2d=np.zeros((3, 2), np.float32))
    with pytest.raises(TypeError):
        project(native, leaves, radii=np.zeros((4, 2), np.float32))
    frozen = np.zeros(4, np.float32)
    frozen.flags.writeable = False
    with pytest.raises(TypeError):
        project(native, leaves, depths=frozen)


@pytest.mark.parametrize(
    ("ids", "offsets", "message"),
    [
        ([0, 1], [0, 1, 3], "must end at"),
        ([0, 1], [0, 3, 2], "must rise"),
        ([0, 4], [0, 1, 2], r"\[0, N\)"),
        ([0, -1], [0, 1, 2], r"\[0, N\)"),
        ([0, 1], [-1, 1, 2], "must rise"),
        ([0, 1], [0, 2], "must hold 3"),
    ],
)
def test_tiles_that_would_read_outside_are_refused(ids, offsets, message, native):
    pipeline = native.Pipeline()
    leaves = [np.zeros((4, k) if k > 1 else 4, np.float32) for k in (2, 3, 1, 3, 1)]
    means2d, conics, depths, colors, opacities = leaves
    pipeline.load_splats(32, 16, means2d, conics, depths, np.zeros((4, 2), np.int32), colors, opacities)
    with pytest.raises(ValueError, match=message):
        pipeline.load_tiles(np.array(ids, np.int32), np.array(offsets, np.int32), 4)


def test_the_module_is_never_given_an_mlx_array(cpp, native, monkeypatch):
    """Everything that crosses the boundary in a render, its gradient, a loss, Adam and a training step."""
    crossed = []

    def look(value, where):
        if isinstance(value, list | tuple):
            for item in value:
                look(item, where)
        assert not isinstance(value, mx.array), f"{where} was given an mx.array"
        crossed.append(where)

    class Watched:
        def __init__(self, inner):
            self._inner = inner

        def __getattr__(self, name):
            value = getattr(self._inner, name)

            def call(*args, **kwargs):
                look([*args, *kwargs.values()], name)
                return value(*args, **kwargs)

            return call if callable(value) else value

    monkeypatch.setattr(cpp._own, "pipeline", Watched(cpp._own.pipeline))
    monkeypatch.setattr(cpp, "_csrc", Watched(native))
    view = camera()
    gaussians = to_mlx(scene(view, 20))
    target = mx.array(photo(view.width, view.height))

    def loss(g, probe):
        image = render(g, view, cpp, absgrad_probe=probe).image
        return cpp.photometric_loss(image, target, 0.2)[0]

    gradients = mx.grad(loss, argnums=(0, 1))(gaussians, mx.zeros((20, 2)))
    mx.eval(gradients)
    state = rows.start(gaussians)
    cpp.adam(state.gaussians, gradients[0], state.m, state.v, dict.fromkeys(Gaussians._fields, 1e-3), 1)
    seen = View(
        "photo", view, Photo(photo(view.width, view.height), np.ones((view.height, view.width), np.uint8))
    )
    a_step(cpp.stepper(state), seen)
    needed = {
        "project",
        "project_vjp",
        "load_splats",
        "bin",
        "store_tiles",
        "forward",
        "backward",
        "loss",
        "adam",
    }
    assert needed | {"load_tiles", "train_step"} <= set(crossed)


# ---- too much of it: one line, see cli ----


@pytest.mark.parametrize(
    ("width", "height"),
    [(0, 16), (16, 0), (-1, 16), (65535 * 16 + 1, 1), (1, 2**40), (800_000, 800_000)],
)
def test_a_size_that_cannot_be_is_said(width, height, native):
    with pytest.raises(UserError, match=rf"from 1 to 1048560 .* got {width}x{height}; take a smaller"):
        project(native, arrays().values(), width=width, height=height)
    two, three, one = (np.zeros(shape, np.float32) for shape in ((4, 2), (4, 3), 4))
    with pytest.raises(UserError, match="from 1 to 1048560"):
        native.Pipeline().load_splats(width, height, two, three, one, np.zeros((4, 2), np.int32), three, one)


@pytest.mark.parametrize("upright", [False, True])
def test_the_longest_side_is_filled_to_its_end(upright, cpp):
    size = (16, 65535 * 16) if upright else (65535 * 16, 16)
    view = Camera(np.eye(4), [[1e4, 0, size[0] - 8], [0, 1e4, size[1] - 8], [0, 0, 1]], *size)
    gaussians = to_mlx(hard_at([[0, 0, 2.0]], size=1e-4))
    projected = cpp.project(gaussians, view.viewmat, view.K, *size, sh_degree=0, antialiased=False)
    offsets = np.asarray(cpp.isect_tiles(projected, *size).offsets)
    np.testing.assert_array_equal(np.flatnonzero(np.diff(offsets)), [65534])


def test_more_intersections_than_can_be_counted_are_said(cpp):
    """Refused before there is memory for them: 2,300 splats on each of 950,625 tiles."""
    view = Camera(np.eye(4), [[1000, 0, 7800], [0, 1000, 7800], [0, 0, 1]], 15600, 15600)
    gaussians = to_mlx(hard_at([[0, 0, 2.0]] * 2300, size=100.0))
    with pytest.raises(UserError, match=r"touch 2186437500 tiles .* less than 2\^31 .*--max-splats"):
        render(gaussians, view, cpp)


def hard_at(means, *, size):
    """Opaque Gaussians, round, of `size` world units."""
    leaves = arrays(len(means), degree=0)
    leaves["means"][:], leaves["quats"][:, 0] = means, 1
    leaves["log_scales"][:], leaves["logit_opacities"][:] = np.log(size), 6
    return leaves


# ---- hard scenes ----


def peak_bytes():
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def hard(n, view, *, size, opacity, spread=1.0, behind=False):
    gaussians = scene(view, n, degree=0, size=size, opacity=opacity, depth=(2.0, 3.0), spread=spread)
    gaussians["means"][:, 2] -= 5.0 * behind
    return to_mlx(gaussians)


def step_and_render(cpp, gaussians, view, limit_s, limit_mb):
    """A picture and a step, in a time that even a busy machine keeps and within a growth of peak memory."""
    before, start = peak_bytes(), time.monotonic()
    image = np.asarray(render(gaussians, view, cpp).image)
    stepper = cpp.stepper(rows.start(gaussians))
    result = a_step(stepper, View("photo", view, photo(view.width, view.height)), sh_degree=0)
    state = stepper.look()
    assert time.monotonic() - start < limit_s
    assert peak_bytes() - before < limit_mb * 1e6
    assert np.isfinite(image).all() and np.isfinite(result.loss) and state.step == 1
    for name, leaf in rows.rows(state.gaussians).items():
        assert np.isfinite(leaf).all(), name
    return image


@pytest.mark.parametrize("opacity", [6.0, -3.0], ids=["opaque", "transparent"])
def test_ten_thousand_splats_on_one_tile(opacity, cpp):
    view = Camera(np.eye(4), [[100, 0, 8], [0, 100, 8], [0, 0, 1]], 64, 48)
    gaussians = hard(10_000, view, size=1.0, opacity=opacity, spread=0.02)
    tiles = np.asarray(cpp.isect_tiles(
        cpp.project(gaussians, view.viewmat, view.K, 64, 48, sh_degree=0, antialiased=False), 64, 48
    ).offsets)  # fmt: skip
    assert np.diff(tiles).max() > 2000
    image = step_and_render(cpp, gaussians, view, limit_s=10, limit_mb=300)
    assert image.max() > 0.2


def test_one_splat_covers_the_image(cpp):
    view = Camera(np.eye(4), [[500, 0, 400], [0, 500, 300], [0, 0, 1]], 800, 600)
    gaussians = hard(1, view, size=5000.0, opacity=2.0, spread=0.0)
    image = step_and_render(cpp, gaussians, view, limit_s=10, limit_mb=300)
    assert (image.max(axis=2) > 0.1).all()


def test_all_behind_the_camera(cpp):
    view = Camera(np.eye(4), [[100, 0, 32], [0, 100, 24], [0, 0, 1]], 64, 48)
    gaussians = hard(5000, view, size=3.0, opacity=0.0, behind=True)
    assert not step_and_render(cpp, gaussians, view, limit_s=10, limit_mb=100).any()


@pytest.mark.parametrize("n", [0, 1, 2])
def test_few_splats(n, cpp):
    view = Camera(np.eye(4), [[100, 0, 32], [0, 100, 24], [0, 0, 1]], 64, 48)
    image = step_and_render(
        cpp, hard(n, view, size=4.0, opacity=1.0, spread=0.3), view, limit_s=10, limit_mb=100
    )
    assert image.any() == (n > 0)


def test_a_picture_of_twelve_million_pixels(cpp):
    view = Camera(np.eye(4), [[3000, 0, 2000], [0, 3000, 1500], [0, 0, 1]], 4000, 3000)
    gaussians = hard(2000, view, size=20.0, opacity=0.0)
    image = step_and_render(cpp, gaussians, view, limit_s=60, limit_mb=3000)
    assert image.shape == (3000, 4000, 3) and image.any()


# ---- rows ----


@pytest.mark.parametrize("whole", [False, True])
def test_rows_are_moved_as_numpy_moves_them(native, whole):
    """More, fewer and the same rows, such as overlap and such as do not; new ones, leaves whose moments go."""
    rng = np.random.default_rng(0)
    n = 5000  # more than two tasks
    plain, quick = random_state(n), random_state(n)
    room = Room(0.5, 9000, native, whole)
    for count, overlapping in ((6500, False), (6500, True), (4200, False), (8000, True), (8800, False)):
        now = plain.n_splats
        source = np.arange(count, dtype=np.int32)
        source[now:] = rng.integers(0, now // 2, max(count - now, 0))
        moved = rng.choice(np.arange(min(now, count) // 2, min(now, count)), 700, replace=False)
        source[moved] = rng.integers(0, now if overlapping else now // 2, 700)
        new = np.concatenate([moved[:300], source[moved[:300]], moved[:10]]) % count
        columns = {"means": np.repeat(new[:, None], 3, axis=1).astype(np.float32)}
        edit = Edit(source, new, columns, forget=("quats",), most=9000)
        for state, where in ((plain, None), (quick, room)):
            HostPopulation(state, where).apply(edit)
        for tree in ("gaussians", "m", "v"):
            for name, leaf in rows.rows(getattr(plain, tree)).items():
                np.testing.assert_array_equal(rows.rows(getattr(quick, tree))[name], leaf, f"{tree} {name}")


def test_room_for_all_rows_is_made_once(native):
    state, room = random_state(10), Room(0.5, 100_000, native, whole=True)
    room.reserve(state, 10)
    address = rows.rows(state.gaussians)["means"].ctypes.data
    for count in (11, 70_000, 100_000):
        HostPopulation(state, room).apply(Edit(np.arange(count, dtype=np.int32) % state.n_splats))
    assert rows.rows(state.gaussians)["means"].ctypes.data == address
    assert np.asarray(state.m.logit_opacities)[[3, 10, 99_999]].tolist() == [
        3,
        0,
        0 + 99_999 % 70_000 % 11 % 10,
    ]


def test_rows_that_are_not_there_are_refused(native):
    leaves = [np.zeros((4, 3), np.float32), np.zeros((4, 0, 3), np.float32)]
    for wrong in ([0, 4], [-1, 0]):
        wrong = np.array(wrong, np.int32)
        with pytest.raises(IndexError, match="there are 4 rows"):
            native.clear_rows(leaves, wrong)
        with pytest.raises(IndexError, match="there are 4 rows"):
            native.copy_rows(leaves, np.array([0, 1], np.int32), wrong)
    with pytest.raises(ValueError, match="from must hold 2 elements"):
        native.copy_rows(leaves, np.array([0, 1], np.int32), np.array([2], np.int32))
