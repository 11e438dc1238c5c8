# SPDX-License-Identifier: Apache-2.0
"""What a run takes of a GPU's memory, and how fast its steps are, for several values of gpu_memory.

    python scripts/gpu_memory.py --backend cuda --splats 1000000 --width 1920 --height 1080 0 8e9 4e9 3e9

Random splats of SH degree 3, and photos that differ. Each value in a process of its own: MLX's peak is the process's.
A JSON line a value: milliseconds a step (best of three means), MLX's peak in 10^6 bytes, the window of steps, how many
photos are kept, and a refinement (MCMC relocates and grows nothing). Exit 1 where a peak is above its bound.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

WARM, STEPS = 20, 40  # steps before the clock runs, and a mean's


def measure(supplied: float, args: argparse.Namespace) -> dict[str, Any]:
    """One value, in this process."""
    import bench_scenes
    import mlx.core as mx

    from gsplat_train import backends, config
    from gsplat_train.backends.gpu.kernels import Sizes
    from gsplat_train.scene import Photo, View
    from gsplat_train.training import strategies
    from gsplat_train.training.plan import StepPlan
    from gsplat_train.training.protocol import Bounds
    from gsplat_train.training.rows import start

    backend: Any = backends.load(args.backend)
    gaussians, camera, _ = bench_scenes.random_scene(args.splats, args.width, args.height, 0)
    rng = np.random.default_rng(0)
    shape = (args.height, args.width, 3)
    views = [
        View(f"{i}", camera, Photo(rng.integers(0, 256, shape, dtype=np.uint8), None), index=i)
        for i in range(args.photos)
    ]
    state = start(gaussians)
    del gaussians
    mx.synchronize()
    mx.clear_cache()
    mx.reset_peak_memory()
    stepper = backend.stepper(state, Bounds(supplied, args.splats, (args.width, args.height)))

    def steps(count: int) -> float:
        began = time.perf_counter()
        for _ in range(count):
            number = stepper.step + 1
            stepper.take(views[number % len(views)], StepPlan(number, rates=(1e-4,) * 6, sh_degree=3))
        stepper.result()
        return (time.perf_counter() - began) / count * 1e3

    steps(WARM)
    milliseconds = min(steps(STEPS) for _ in range(3))
    peak = mx.get_peak_memory()
    strategy = strategies.load(config.load([], {"max_splats": args.splats, "mcmc.least_share": 0.0}))
    began = time.perf_counter()
    stepper.refine(lambda population: strategy.refine(population, 700))
    mx.synchronize()
    refinement = time.perf_counter() - began
    engine = backend.engine
    capacity = engine.capacity(args.width, args.height)
    sizes = Sizes(args.splats, 15, args.width, args.height, capacity)
    return {
        "gpu_memory": supplied,
        "step_ms": round(milliseconds, 3),
        "peak_mb": round(peak / 1e6),
        "peak_with_refinement_mb": round(mx.get_peak_memory() / 1e6),
        "refinement_ms": round(1e3 * refinement, 1),
        "window": engine.budget.window(sizes),
        "capacity": capacity,
        "photos_kept": stepper.photos.bytes // views[0].pixels.image.nbytes,
        "photos": len(views),
        "bound_mb": round(engine.budget.total / 1e6),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("values", nargs="*", type=float, default=[0.0, 8e9, 4e9], help="of gpu_memory")
    parser.add_argument("--backend", default="cuda", choices=["cuda", "metal"])
    parser.add_argument("--splats", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=1920)
    parser.add_argument("--height", type=int, default=1080)
    parser.add_argument("--photos", type=int, default=100)
    parser.add_argument("--here", action="store_true", help="one value, in this process")
    args = parser.parse_args()
    if args.here:
        print(json.dumps(measure(args.values[0], args)), flush=True)
        return 0
    words = [f"--{name}={getattr(args, name)}" for name in ("backend", "splats", "width", "height", "photos")]
    wrong = False
    for value in args.values:
        command = [sys.executable, __file__, "--here", *words, str(value)]
        run = subprocess.run(command, capture_output=True, text=True)
        line = (run.stdout.strip().splitlines() or [""])[-1]
        if run.returncode or not line.startswith("{"):
            print(f"gpu_memory {value:g}: {(run.stderr.strip().splitlines() or ['?'])[-1]}", flush=True)
            wrong = True
            continue
        found = json.loads(line)
        wrong |= bool(value) and found["peak_with_refinement_mb"] > found["bound_mb"]
        print(line, flush=True)
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
