# SPDX-License-Identifier: Apache-2.0
"""How the cpp backend's memory and time grow: bytes a splat and a pixel, crowds, hundreds of steps."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from conftest import load_backend
from scenes import camera, needles, scene, to_mlx
from test_backends import tiles_listed, tiles_seen
from test_cpp_module import PATH, ROOT, a_step, peak_bytes, photo

from gsplat_train import backends
from gsplat_train.renderer import render
from gsplat_train.scene import Camera, View
from gsplat_train.training import rows


@pytest.fixture(scope="module")
def cpp():
    return load_backend("cpp")


def output_of(command, cwd=None):
    """Standard output of a process with the package that is tested here."""
    environment = os.environ | {"PYTHONPATH": PATH}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


# ---- memory ----


def peak_of_training(n, width, height):
    """Bytes, of a process that does four steps at degree 3 on bench.py's random scene."""
    options = {"n": n, "width": width, "height": height, "seconds": 0, "warm-up": 1, "backend": "cpp"}
    command = [sys.executable, ROOT / "scripts" / "bench.py", "cell"]
    for name, value in options.items():
        command += [f"--{name}", str(value)]
    return json.loads(output_of(command))["peak_bytes"]


def test_memory_a_splat(cpp):
    """Parameters and moments are 708 bytes; records, tile lists and gradients (3.6 tiles a splat here) may
    bring them to 1,200. A copy of the parameters (236 bytes) would be too much. Measured: 1,010."""
    few, many = (peak_of_training(n, 504, 378) for n in (20_000, 120_000))
    assert 708 < (many - few) / 100_000 < 1200


def test_memory_a_pixel(cpp):
    """Picture, transmittance and gradient take 28 bytes, the photo 3 and its planes 3 more. A copy of the
    picture (12 bytes) would be too much. Measured: 34.6."""
    small, large = peak_of_training(2000, 1200, 900), peak_of_training(2000, 4000, 3000)
    assert 31 < (large - small) / (12_000_000 - 1_080_000) < 42


def print_peaks():
    """Peak memory after 50 steps and after 250 more, on pictures of two sizes in turn, some with autograd."""
    backend = backends.load("cpp")
    sizes = ((128, 96), (100, 120))
    views = [View(str(i), camera(*size, 100.0), photo(*size), index=i) for i, size in enumerate(sizes)]
    stepper = backend.stepper(rows.start(to_mlx(scene(views[0].camera, 3000, size=4.0))))
    for i in range(300):
        view = views[i % 2]
        a_step(stepper, view)
        if i % 10 == 0:
            gaussians = stepper.look().gaussians
            mx.eval(mx.grad(lambda g, v=view: render(g, v.camera, backend).image.sum())(gaussians))
        if i + 1 in (50, 300):
            print(peak_bytes())


def test_no_memory_is_lost_over_steps(cpp):
    """A quarter of the parameters' 700 kB lost in every tenth step would be 4 MB."""
    command = [sys.executable, "-c", "import test_cpp_limits; test_cpp_limits.print_peaks()"]
    early, late = map(int, output_of(command, Path(__file__).parent).split())
    assert late - early < 2e6


# ---- tiles ----


@pytest.mark.parametrize(("width", "stage"), [(112, "bin"), (208, "bin"), (112, "isect_tiles")])
def test_needles_of_any_length_lose_no_tile(width, stage, cpp):
    """Ten thousand times as long as thick: the conic's ac - b^2 has no digit left. Boxes of 49 and 91 tiles:
    those up to 64 keep a mask, others spans."""
    gaussians, view = needles(width, 112, 200, 1000, 6000)
    leaves, pipeline = to_mlx(gaussians), cpp._csrc.Pipeline()
    projected = cpp.project(leaves, view.viewmat, view.K, width, 112, sh_degree=0, antialiased=False)
    if stage == "bin":  # as in a training step: straight after `project`, with what it knows
        matrices = [np.float32(view.viewmat), np.float32(view.K)]
        outputs = [np.array(leaf) for leaf in projected]
        pipeline.project([np.array(leaf) for leaf in leaves], *matrices, width, 112, 0, False, *outputs)
        ids, offsets = np.zeros(pipeline.bin(), np.int32), np.zeros(7 * width // 16 + 1, np.int32)
        pipeline.store_tiles(ids, offsets)
    else:
        ids, offsets = map(np.asarray, cpp.isect_tiles(projected, width, 112))
    listed, seen = tiles_listed(ids, offsets, 200), tiles_seen(gaussians, view, 1.01)
    assert seen.sum() > 1500 and not (seen & ~listed).any()
    assert listed.sum() < 1.02 * tiles_seen(gaussians, view, 0.95).sum()


# ---- time ----


def crowd(n, view, spread, opacity):
    """Splats of about four pixels, over `spread` times the picture."""
    return to_mlx(scene(view, n, degree=0, size=4.0, opacity=opacity, depth=(2.0, 3.0), spread=spread))


def cost_of_steps(cpp, states, view, rounds=12):
    """Least milliseconds, and evaluations, of a step that moves nothing; the states in turn."""
    seen = View("photo", view, photo(view.width, view.height))
    steppers = {name: cpp.stepper(state) for name, state in states.items()}
    times, evaluations = {name: [] for name in states}, {}
    for _ in range(rounds):
        for name, stepper in steppers.items():
            cpp.statistics(reset=True)
            start = time.perf_counter()
            a_step(stepper, seen, sh_degree=0, rate=0.0)
            times[name].append(1e3 * (time.perf_counter() - start))
            evaluations[name] = cpp.statistics()["evaluations"]
    return {name: min(some) for name, some in times.items()}, evaluations


def test_a_crowded_tile_costs_no_more_than_splats_apart(cpp):
    """Nothing is evaluated behind an opaque pixel: (1 - 1/255)^n falls below 1e-4 by n = 2,350, however clear
    the splats. One thread does a tile, so that a crowd may cost twice as much time as its work."""
    view = Camera(np.eye(4), [[500, 0, 252], [0, 500, 189], [0, 0, 1]], 504, 378)
    states = {
        name: rows.start(crowd(10_000, view, spread, opacity))
        for name, spread, opacity in (("apart", 1.0, 0.0), ("opaque", 0.02, 6.0), ("clear", 0.02, -4.5))
    }
    longest = {}
    for name, state in states.items():
        projected = cpp.project(
            state.gaussians, view.viewmat, view.K, 504, 378, sh_degree=0, antialiased=False
        )
        longest[name] = int(np.diff(np.asarray(cpp.isect_tiles(projected, 504, 378).offsets)).max())
    assert longest["apart"] < 200 and longest["opaque"] > 9000 and longest["clear"] > 7000
    times, evaluations = cost_of_steps(cpp, states, view)
    for name in ("opaque", "clear"):
        assert evaluations[name] < evaluations["apart"] / 2, evaluations
        assert times[name] < 1.5 * times["apart"], times
