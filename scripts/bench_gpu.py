# SPDX-License-Identifier: Apache-2.0
"""The GPU backend built, checked and timed in one call; beside gsplat where that is installed.

    python scripts/bench_gpu.py --backend cuda --gsplat --fern DATA --seeds 3

Random splats as in scripts/bench_scenes.py. `step` is a whole training step (render, L1 + D-SSIM, backward,
Adam, SH degree 3), asked for without waiting, as the trainer does; `forward` and `both` (forward + backward
to the parameters' gradients) are kernels of fixed capacity. Times are the best of three means. `--gsplat`
runs gsplat (torch) in a process of its own; its step has torch's fused Adam and fused-ssim, or where that is
missing D-SSIM by convolutions, and is then no fair comparison. `--old DIR` times the step of another checkout
in turn with this one's (scripts/bench_old.py).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import bench_old  # noqa: E402

CASES = (
    (10_091, 504, 378),
    (100_000, 504, 378),
    (200_000, 504, 378),
    (1_000_000, 1920, 1080),
    (3_000_000, 1920, 1080),
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backend", default="cuda", choices=["cuda", "metal"])
    parser.add_argument("--gsplat", action="store_true", help="also time gsplat, if it can be imported")
    parser.add_argument("--fern", help="the folder that holds fern/: also train it with MCMC")
    parser.add_argument("--seeds", type=int, default=1, help="of the runs on Fern")
    parser.add_argument(
        "--old", metavar="DIR", help="another checkout, whose step is timed in turn with this one's"
    )
    parser.add_argument("--pairs", type=int, default=12, help="turns of --old")
    parser.add_argument("--no-checks", action="store_true")
    args = parser.parse_args()
    if not args.no_checks:
        check(args.backend)
    if args.fern:
        for seed in range(args.seeds):
            train_fern(args.backend, args.fern, seed)
    for n, width, height in CASES if args.old else ():
        case = {"n": n, "width": width, "height": height, "scene": None}
        print(json.dumps(bench_old.compare(args.old, args.backend, case, args.pairs)), flush=True)
    # Last, because MLX keeps the memory that they took.
    theirs = peer() if args.gsplat else []
    print_table([time_case(args.backend, *case) for case in CASES], theirs)


def check(backend: str) -> None:
    """The GPU tests; their last line."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        str(HERE.parent / "tests/test_gpu.py"),
    ]
    run = subprocess.run(command, env=os.environ | {"GS_REQUIRE": backend}, capture_output=True, text=True)
    print(run.stdout if run.returncode else "checks: " + run.stdout.strip().splitlines()[-1], flush=True)


def time_case(name: str, n: int, width: int, height: int) -> dict[str, Any]:
    """Milliseconds of forward, both and step; the host's part of a step; the kernels one by one."""
    import bench_scenes as bench
    import mlx.core as mx

    from gsplat_train import backends
    from gsplat_train.scene import View
    from gsplat_train.training.plan import StepPlan
    from gsplat_train.training.rows import start

    backend: Any = backends.load(name)
    gaussians, camera, photo = bench.random_scene(n, width, height, 0)
    frame = Frame(backend.engine, gaussians, camera, n)
    count = 200 if n < 500_000 else 20
    result: dict[str, Any] = {"n": n, "width": width, "height": height, "intersections": frame.intersections}
    result["forward"] = best(lambda: mx.async_eval(frame.forward()), mx.synchronize, count)
    result["both"] = best(lambda: mx.async_eval(frame.both()), mx.synchronize, count)
    result["kernels_us"] = frame.kernels()

    view, stepper = View("random", camera, photo), backend.stepper(start(gaussians))
    host = 0.0

    def step() -> None:
        nonlocal host
        began = time.perf_counter()
        stepper.take(view, StepPlan(stepper.step + 1, rates=(1e-4,) * 6, sh_degree=3))
        host += time.perf_counter() - began

    result["step"] = best(step, stepper.result, count)
    host = 0.0
    for _ in range(30):  # fewer than the host may be ahead: it never waits
        step()
    result["host"] = host / 30 * 1e3
    stepper.result()
    print(json.dumps(result), flush=True)
    return result


def best(call: Callable[[], object], wait: Callable[[], object], count: int) -> float:
    """Milliseconds a call: the best of three means over `count` calls, after some to warm up."""
    means = []
    for _ in range(4):
        start = time.perf_counter()
        for _ in range(count):
            call()
        wait()
        means.append((time.perf_counter() - start) / count * 1e3)
    return round(min(means[1:]), 4)


class Frame:
    """The kernels of a picture and its gradient, with room for all intersections."""

    def __init__(self, engine: Any, gaussians: Any, camera: Any, n: int) -> None:
        import mlx.core as mx

        from gsplat_train.backends.gpu import engine as _gpu
        from gsplat_train.backends.gpu.kernels import Sizes

        self.engine = engine
        self.params = _gpu.pack(gaussians)
        width, height = camera.width, camera.height
        self.camera, self.start = _gpu.camera_array(camera.viewmat, camera.K), _gpu.START
        self.settings = mx.zeros(32)
        rng = np.random.default_rng(0)
        self.weight = mx.array(rng.normal(size=3 * width * height).astype(np.float32)) + 0
        while True:
            self.sizes = Sizes(n, gaussians.shN.shape[1], width, height, engine.capacity(width, height))
            self.inputs_of_size, self.flags = engine.sizes(self.sizes, 3), _gpu.no_flags(self.sizes)
            status = np.asarray(self.forward()[1]["status"])
            if status[0] == 0:
                break
            engine.grow(width, height, int(status[1]))
        self.intersections = int(status[1])
        mx.eval(self.params, self.settings, self.weight, self.flags)

    def forward(self) -> Any:
        engine, sizes, inputs_of_size = self.engine, self.sizes, self.inputs_of_size
        records, radii, counters = engine.run("project", sizes, [self.params[0], self.camera, inputs_of_size])
        (colours,) = engine.run("colour", sizes, [*self.params, radii, self.camera, inputs_of_size])
        lists = engine.bins(sizes, inputs_of_size, records, radii, counters, self.start, self.flags)
        binned = [lists["ids"], lists["offsets"], lists["buckets"]]
        outputs = engine.run("forward", sizes, [records, colours, *binned, self.settings, inputs_of_size])
        return outputs, lists, (records, radii, colours)

    def both(self) -> Any:
        engine, sizes, inputs_of_size = self.engine, self.sizes, self.inputs_of_size
        (image, final_t, checkpoints, used), lists, (records, radii, colours) = self.forward()
        inputs = [
            records,
            colours,
            lists["ids"],
            lists["offsets"],
            lists["buckets"],
            lists["slots"],
            lists["bucket_tiles"],
        ]
        inputs += [used, checkpoints, image, final_t, self.weight, final_t, inputs_of_size]
        (grads,) = engine.run("backward", sizes, inputs, (False, False))
        v = engine.run(
            "splat_grads", sizes, [records, lists["spans"], lists["group_starts"], grads, inputs_of_size]
        )
        v_means2d, v_conics, v_colors, v_opacities, _ = v
        inputs = [
            *self.params,
            radii,
            colours,
            v_means2d,
            v_conics,
            v_opacities,
            v_colors,
            v_opacities,
            self.camera,
            inputs_of_size,
        ]
        return engine.run("project_vjp", sizes, inputs)

    def kernels(self) -> dict[str, float]:
        """Microseconds of each kernel of `both`, twenty in a row; short ones show what a launch costs."""
        import mlx.core as mx

        times: dict[str, float] = {}
        run = self.engine.run

        def timed(name: str, sizes: Any, inputs: list[Any], template: tuple[bool, ...] = ()) -> Any:
            mx.eval(inputs)
            copies = [[*inputs] for _ in range(20)]
            if name == "intersect":  # counts up in its input; the next kernel shall find one count there
                for copy in copies[1:]:
                    copy[2] = inputs[2] + 0
                mx.eval([copy[2] for copy in copies])
            outputs = run(name, sizes, copies[0], template)
            mx.eval(outputs)
            start = time.perf_counter()
            mx.async_eval([run(name, sizes, copy, template) for copy in copies[1:]])
            mx.synchronize()
            times[name] = round((time.perf_counter() - start) / 19 * 1e6, 1)
            return outputs

        self.engine.run = timed
        try:
            self.both()
        finally:
            del self.engine.run
        return times


def peer() -> list[dict[str, Any]]:
    """gsplat's times, from a process of its own."""
    run = subprocess.run([sys.executable, str(HERE / "bench_gsplat.py")], capture_output=True, text=True)
    if run.returncode:
        print(f"gsplat: {run.stderr.strip().splitlines()[-1:]}")
    lines = [line for line in run.stdout.splitlines() if line.startswith("{")]
    print("\n".join(lines), flush=True)
    return [json.loads(line) for line in lines]


def print_table(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> None:
    print(
        "| splats, size | forward | forward + backward | step | it/s | host ms |\n|---|---|---|---|---|---|"
    )
    for i, o in enumerate(ours):
        t = theirs[i] if i < len(theirs) else {}

        def beside(key: str, o: Any = o, t: Any = t) -> str:
            return f"{o[key]:.2f} ({t[key]:.2f})" if t else f"{o[key]:.2f}"

        rate = f"{1e3 / o['step']:,.0f}" + (f" ({1e3 / t['step']:,.0f})" if t else "")
        size = f"{o['n']:,} at {o['width']}x{o['height']}"
        cells = [beside("forward"), beside("both"), beside("step"), rate, f"{o['host']:.2f}"]
        print(f"| {size} | {' | '.join(cells)} |")


def train_fern(backend: str, data: str, seed: int) -> None:
    """Fern as configs/fern.toml has it, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        out = f"{folder}/run"
        words = [
            "fern",
            "--backend",
            backend,
            "--data-root",
            data,
            "--out",
            out,
            "--seed",
            str(seed),
            "--quiet",
        ]
        code = "from gsplat_train.cli.train import main; main()"
        subprocess.run(
            [sys.executable, "-c", code, *words], cwd=HERE.parent, stdout=subprocess.DEVNULL, check=False
        )
        metrics = json.loads((Path(out) / "metrics.json").read_text())
    keys = ("n_splats", "seconds", "it_per_s", "wall_seconds", "peak_gpu_memory_mb")
    print(json.dumps({"fern": seed, **{k: metrics[k] for k in keys}, **metrics["test"]}), flush=True)


if __name__ == "__main__":
    main()
