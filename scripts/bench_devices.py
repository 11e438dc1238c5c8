# SPDX-License-Identifier: Apache-2.0
"""Several devices of one machine beside one: the bytes, views a second, and the bare collective.

    python scripts/bench_devices.py --devices 1 2 4                      on NVIDIA GPUs, over NCCL
    python scripts/bench_devices.py --backend cpp --devices 1 2 --small  on processors, over a ring of sockets

Random splats as in scripts/bench_scenes.py, photos of noise from cameras side by side. First, for each number P of
devices: 30 steps with noise and sums, whose bytes must be those of one device with batch=P. Then views a second of
plain steps at SH degree 3, asked for without waiting, and how long `all_gather` of the gradients alone takes. The best
of three means; all devices begin together.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
sys.path.append(str(HERE.parent))  # behind an installed package, which has the compiled module

CASES = ((100_000, 1920, 1080), (1_000_000, 1920, 1080), (3_000_000, 1920, 1080))
SMALL = ((2_000, 96, 64),)
CHECKED = (20_000, 504, 378)  # of the bytes
VIEWS = 16


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backend", default="cuda", choices=["cuda", "cpp"])
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", type=int, default=100, help="that are timed, three times over")
    parser.add_argument("--small", action="store_true", help="one small case, to see that it runs")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(json.loads(args.worker))
        return
    cases = SMALL if args.small else CASES
    for count in args.devices:
        if count > 1:
            check_bytes(args.backend, count, SMALL[0] if args.small else CHECKED)
    print("| splats | devices | ms a step | views/s | against one | all_gather alone, ms |")
    print("| --- | --- | --- | --- | --- | --- |")
    for n, width, height in cases:
        alone = 0.0
        for count in args.devices:
            found = run(
                args.backend, count, {"case": [n, width, height], "steps": args.steps, "batch": count}
            )[0]
            speed = count / found["seconds"]
            alone = alone or speed / count
            gather = f"{1e3 * found['gather']:.3f}" if count > 1 else ""
            ms = 1e3 * found["seconds"]
            print(
                f"| {n:,} | {count} | {ms:.3f} | {speed:.1f} | {speed / alone:.2f} | {gather} |", flush=True
            )


def check_bytes(backend: str, count: int, case: tuple[int, int, int]) -> None:
    """SystemExit unless `count` devices end in the bytes of one that takes all views."""
    wanted = {"case": case, "steps": 0, "batch": count}
    hashes = [found["hash"] for found in run(backend, count, wanted)]
    (alone,) = run(backend, 1, wanted)
    same = all(each == alone["hash"] for each in hashes)
    print(
        f"{count} devices, {case[0]:,} splats, 30 steps: {'the bytes of one' if same else 'OTHER BYTES'}",
        flush=True,
    )
    if not same:
        raise SystemExit(f"one device: {alone['hash']}; {count}: {', '.join(hashes)}")


def run(backend: str, count: int, wanted: dict[str, Any]) -> list[dict[str, Any]]:
    """What each of `count` processes found."""
    from gsplat_train.cli.devices import _nccl, _ring

    with tempfile.TemporaryDirectory() as folder:
        commons = {} if count == 1 else _nccl() if backend == "cuda" else _ring(count, Path(folder))
        running = []
        for rank in range(count):
            own = dict(commons)
            if count > 1:
                own |= {"MLX_RANK": str(rank), "MLX_WORLD_SIZE": str(count)}
            if backend == "cuda":
                own["CUDA_VISIBLE_DEVICES"] = str(rank)
            else:
                own["GS_THREADS"] = str(max((os.cpu_count() or 1) // count, 1))
            command = [sys.executable, __file__, "--worker", json.dumps(wanted | {"backend": backend})]
            running.append(subprocess.Popen(command, env=os.environ | own, stdout=subprocess.PIPE, text=True))
        said = [process.communicate()[0] for process in running]
    for process in running:
        if process.returncode:
            raise SystemExit(f"a process ended with code {process.returncode}")
    return [json.loads(out.splitlines()[-1]) for out in said]


def work(wanted: dict[str, Any]) -> None:
    """One process: hash and times as JSON."""
    import mlx.core as mx
    from bench_scenes import random_scene

    from gsplat_train import backends
    from gsplat_train.scene import Photo, View
    from gsplat_train.training import company
    from gsplat_train.training.company import Company
    from gsplat_train.training.crew import Crew
    from gsplat_train.training.objective import Objective
    from gsplat_train.training.plan import Statistics
    from gsplat_train.training.rows import start
    from gsplat_train.training.stepper import make_stepper

    crew = company.join()
    batch = crew.deal(wanted["batch"]) if isinstance(crew, Company) else wanted["batch"]
    n, width, height = wanted["case"]
    gaussians, camera, photo = random_scene(n, width, height, 0)
    view = View("noise", camera, Photo(photo))
    stepper = make_stepper(backends.load(wanted["backend"]), start(gaussians), Objective())
    stepper.crew = crew if isinstance(crew, Company) else Crew(batch)
    views = [moved(view, i) for i in range(VIEWS)]

    def step(**changes: Any) -> None:
        first = stepper.step
        chosen = [views[(first + place) % VIEWS] for place in range(batch)]
        stepper.take(chosen[0], plan_of(first + batch, batch, **changes), *chosen[1:])

    if not wanted["steps"]:
        for _ in range(30):
            step(
                noise=1e-3, seed=3, statistics=Statistics.ABSGRADIENTS, opacity_weight=0.01, scale_weight=0.01
            )
        assert stepper.result().is_finite
        state = stepper.look()
        leaves = [leaf for tree in (state.gaussians, state.m, state.v) for leaf in tree]
        digest = hashlib.sha256(b"".join(np.array(leaf).tobytes() for leaf in leaves)).hexdigest()
        print(json.dumps({"hash": digest}))
        return
    for _ in range(2 * VIEWS):
        step()
    stepper.result()
    seconds = []
    for _ in range(3):
        crew.agree(False, True)  # all begin together
        begun = time.perf_counter()
        for _ in range(wanted["steps"]):
            step()
        stepper.result()
        seconds.append((time.perf_counter() - begun) / wanted["steps"])
    found = {"seconds": min(seconds), "gather": 0.0}
    if isinstance(crew, Company):
        row = mx.random.uniform(shape=(1, 8 + 14 * n))
        mx.eval(row)
        times = []
        for _ in range(20):
            begun = time.perf_counter()
            mx.eval(crew.gather(row))
            times.append(time.perf_counter() - begun)
        found["gather"] = float(np.median(times[5:]))
    print(json.dumps(found))


def plan_of(number: int, views: int, **changes: Any) -> Any:
    """A step over `views` views to number `number`."""
    from bench_steps import plain_plan

    from gsplat_train.config import Config

    plan = plain_plan(Config(), number)
    return replace(plan, views=views, rates=tuple(views**0.5 * rate for rate in plan.rates), **changes)


def moved(view: Any, i: int) -> Any:
    """The view from a little to the side, with another photo."""
    viewmat = view.camera.viewmat.copy()
    viewmat[0, 3] += 0.02 * i
    from gsplat_train.scene import Photo

    size = (view.camera.height, view.camera.width, 3)
    photo = np.random.default_rng(i).integers(0, 256, size, dtype=np.uint8)
    return replace(view, index=i, camera=replace(view.camera, viewmat=viewmat), photo=Photo(photo))


if __name__ == "__main__":
    main()
