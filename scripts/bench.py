# SPDX-License-Identifier: Apache-2.0
"""Speed of the renderer and of the training step; one JSON object a line on standard output.

    python scripts/bench.py step --backend cpp --scene fern --n 10091,30000,100000
    python scripts/bench.py random --n 1000000 --width 1920 --height 1080 --seed 0
    python scripts/bench.py render --n 1000000 --width 1920 --height 1080 --vs python
    python scripts/bench.py cost --backend cpp > cost.jsonl

`step` trains a fixed number of splats at SH degree 3 without density control: 500 steps first, then the
time of 500 steps over all training views; with `--repeat R` R times 500 steps from the same state, and the
median of the runs' medians. `random` times forward, forward + backward and the whole step on splats drawn
at random; `render` forward alone, and with its score
beside a photo. `cost` is the table of bench_cost.py, `cell` one entry of it. `--vs
BACKEND` runs two backends in turn and prints the ratio, which holds where a machine's speed drifts. Stages
are medians over the steps.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bench_cost
import machine_share
import mlx.core as mx
import numpy as np
from bench_scenes import random_scene, start_of
from bench_steps import Training, endless, one_step, time_in_turn

from gsplat_train import backends
from gsplat_train.datasets import load_scene
from gsplat_train.errors import ending_in_one_line
from gsplat_train.machine import peak_bytes
from gsplat_train.model.gaussians import Gaussians
from gsplat_train.renderer import render
from gsplat_train.scene import Camera, View
from gsplat_train.training.objective import Objective
from gsplat_train.training.rows import start
from gsplat_train.training.stepper import make_stepper

STAGES = ("project", "tiles", "forward", "loss", "backward", "update")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["step", "random", "render", "cost", "cell"])
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--vs", help="a second backend, run in turn with the first")
    parser.add_argument("--scene", default="fern", help="a folder, or a name under --data-root")
    parser.add_argument("--data-root", default=None, help="default: $GS_DATA, else ./data")
    parser.add_argument("--images", default="images_8")
    parser.add_argument(
        "--n", help="splats, comma-separated; default: 10091, and for the table 10000 to 1000000"
    )
    parser.add_argument("--width", type=int, default=1920)
    parser.add_argument("--height", type=int, default=1080)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--warm-up", type=int, default=500)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--repeat", type=int, default=1, help="timed runs of `step`, all from the same state")
    parser.add_argument("--seconds", type=float, default=2.0, help="how long a `cell` is timed")
    parser.add_argument("--sizes", default="504x378,960x540,1920x1080", help="pictures of `cost`")
    parser.add_argument("--threads", default="1,2", help="of `cost`")
    args = parser.parse_args()
    if args.what == "cost":
        ns = [int(x) for x in (args.n or "10000,30000,100000,300000,1000000").split(",")]
        sizes = [(int(w), int(h)) for w, h in (size.split("x") for size in args.sizes.split(","))]
        bench_cost.table(
            args.backend, ns, sizes, [int(x) for x in args.threads.split(",")], args.seconds, args.seed
        )
        return
    names = [backends.choose(args.backend)] + ([args.vs] if args.vs else [])
    for n in (int(x) for x in (args.n or "10091").split(",")):
        if args.what == "step":
            bench_step(args, names, n)
        elif args.what == "cell":
            bench_cell(args, names[0], n)
        else:
            bench_random(args, names, n)


def bench_step(args: argparse.Namespace, names: list[str], n: int) -> None:
    """Whole training steps on a scene's photos."""
    folder = scene_folder(args.scene, args.data_root)
    scene, _ = load_scene(
        folder, images=args.images if (folder / args.images).is_dir() else None, log=quiet
    ).normalized()
    views, _ = scene.split(8)
    points = start_of(scene.points, scene.colors, n, args.seed)
    runs = {
        name: Training(name, Gaussians(*(x + 0 for x in points)), views, args.seed, args.warm_up)
        for name in names
    }
    times: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(args.repeat):
        for run in runs.values():
            run.restart()
        steps = {name: run.step for name, run in runs.items()}
        for name, some in time_in_turn(steps, 0, args.steps, lambda name: runs[name].count()).items():
            times[name] += some
    for name, run in runs.items():
        medians = [float(x) for x in np.median(np.reshape(times[name], (args.repeat, -1)), axis=1)]
        cameras = [view.camera for view in views[:: max(1, len(views) // 4)]]
        share = machine_share.of_steps(run.backend, run.counts(), n, run.state.gaussians, cameras)
        report(
            "step",
            name,
            n,
            views[0].camera,
            medians,
            run.counts(),
            scene=args.scene,
            runs_ms=[round(x, 3) for x in medians],
            **share,
        )
    ratio(names, times)


def bench_random(args: argparse.Namespace, names: list[str], n: int) -> None:
    """The stages on the random scene, each by itself."""
    gaussians, camera, photo = random_scene(n, args.width, args.height, args.seed)
    view = View("random", camera, photo)
    weight = mx.array(
        np.random.default_rng(args.seed).normal(size=(args.height, args.width, 3)).astype(np.float32)
    )

    def forward(backend: Any) -> Callable[[], None]:
        return lambda: mx.eval(render(gaussians, camera, backend, 3).image)

    def both(backend: Any) -> Callable[[], None]:
        gradient = mx.grad(lambda g: (render(g, camera, backend, 3).image * weight).sum())
        return lambda: mx.eval(gradient(gaussians))

    def evaluate(backend: Any) -> Callable[[], None]:
        return lambda: backend.score(render(gaussians, camera, backend, 3).image, photo)

    def whole(backend: Any) -> Callable[[], None]:
        state = start(Gaussians(*(leaf + 0 for leaf in gaussians)))
        return one_step(make_stepper(backend, state, Objective()), endless([view], 0))

    kinds = (
        {"forward": forward, "forward_backward": both, "step": whole}
        if args.what == "random"
        else {"render": forward, "evaluate": evaluate}
    )
    warm_up, steps = min(args.warm_up, 3), min(args.steps, 20)
    for what, make in kinds.items():
        times = time_in_turn({name: make(backends.load(name)) for name in names}, warm_up, steps)
        for name in names:
            report(what, name, n, camera, times[name], {}, scene="random")
        ratio(names, times)


def bench_cell(args: argparse.Namespace, name: str, n: int) -> None:
    """Whole steps on the random scene for `--seconds`; what they use of the machine; the peak of memory."""
    gaussians, camera, photo = random_scene(n, args.width, args.height, args.seed)
    run = Training(
        name, gaussians, [View("random", camera, photo)], args.seed, min(args.warm_up, 3), restarts=False
    )
    times: list[float] = []
    while len(times) < 3 or (sum(times) < 1e3 * args.seconds and len(times) < args.steps):
        times += time_in_turn({name: run.step}, 0, 1, lambda name: run.count())[name]
    peak = peak_bytes()
    share = machine_share.of_steps(run.backend, run.counts(), n, run.state.gaussians, [camera])
    report(
        "cell",
        name,
        n,
        camera,
        times,
        run.counts(),
        scene="random",
        steps=len(times),
        peak_bytes=peak,
        workspace_bytes=run.counts().get("workspace_bytes"),
        **share,
    )


def scene_folder(scene: str, data_root: str | None) -> Path:
    if Path(scene).is_dir():
        return Path(scene)
    return Path(data_root or os.environ.get("GS_DATA", "data")) / scene


def report(
    what: str, backend: str, n: int, camera: Camera, times: list[float], counts: dict[str, float], **more: Any
) -> None:
    """One line. `times` in ms; `counts`: the backend's statistics, means a step."""
    module = backends.load(backend)
    median = statistics.median(times)
    line = {
        "what": what,
        "backend": backend,
        "width": camera.width,
        "height": camera.height,
        "n": n,
        "ms_median": round(median, 3),
        "it_per_s": round(1e3 / median, 2),
        "stages_ms": {k: round(1e3 * v, 3) for k, v in counts.items() if k in STAGES},
        **({"intersections": round(counts["intersections"])} if "intersections" in counts else {}),
        **more,
        "machine": machine(),
        "load": round(os.getloadavg()[0], 2),  # beyond `threads`, others were at work
        "threads": threads(module),
        "commit": commit(),
    }
    print(json.dumps(line), flush=True)


def ratio(names: list[str], times: dict[str, list[float]]) -> None:
    if len(names) == 2:
        a, b = (statistics.median(times[name]) for name in names)
        print(json.dumps({"ratio": f"{names[1]} / {names[0]}", "time": round(b / a, 3)}), flush=True)


def threads(backend: Any) -> int | None:
    return backend.thread_count() if hasattr(backend, "thread_count") else None


def machine() -> str:
    """The processor's name, and the number of its cores that are there."""
    name = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        fields = dict(
            line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line
        )
        named = {k.strip(): v.strip() for k, v in fields.items()}
        family, model = named.get("cpu family", "?"), named.get("model", "?")
        name = f"{named.get('model name', name)} family {family} model {model}"
    return f"{name}, {platform.system()} {platform.machine()}"


def commit() -> str:
    """The commit of this checkout, with + where it is not clean; empty outside of git."""
    here = Path(__file__).parent
    run = subprocess.run(
        ["git", "describe", "--always", "--dirty=+", "--abbrev=9"], cwd=here, capture_output=True, text=True
    )
    return run.stdout.strip()


def quiet(message: str) -> None:
    del message


if __name__ == "__main__":
    with ending_in_one_line("bench.py"):
        main()
