# SPDX-License-Identifier: Apache-2.0
"""Speed of the renderer and of the training step; one JSON object a line on standard output.

    python scripts/bench.py step --backend cpp --scene fern --n 10091,30000,100000
    python scripts/bench.py random --n 1000000 --width 1920 --height 1080 --seed 0
    python scripts/bench.py render --n 1000000 --width 1920 --height 1080 --vs python

`step` trains a fixed number of splats at SH degree 3 without density control: 500 steps first, then the time of 500 steps over all
training views. `random` times forward, forward + backward and the whole step on splats drawn at random; `render` forward alone.
`--vs BACKEND` runs two backends in turn and prints the ratio, which holds where a machine's speed drifts.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from gsplat_train import backends
from gsplat_train.config import Config
from gsplat_train.datasets import load_scene
from gsplat_train.gaussians import Gaussians, gaussians_from_points
from gsplat_train.optimizer import TrainState, learning_rates, start
from gsplat_train.render import render
from gsplat_train.scene import Camera, View
from gsplat_train.train_step import Noise, Regularizers, train_step

BLACK = np.zeros(3, np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["step", "random", "render"])
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--vs", help="a second backend, run in turn with the first")
    parser.add_argument("--scene", default="fern", help="a folder, or a name under --data-root")
    parser.add_argument("--data-root", default=None, help="default: $GS_DATA, else ./data")
    parser.add_argument("--images", default="images_8")
    parser.add_argument("--n", default="10091", help="splats, comma-separated")
    parser.add_argument("--width", type=int, default=1920)
    parser.add_argument("--height", type=int, default=1080)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--warm-up", type=int, default=500)
    parser.add_argument("--steps", type=int, default=500)
    args = parser.parse_args()
    names = [backends.choose(args.backend)] + ([args.vs] if args.vs else [])
    for n in (int(x) for x in args.n.split(",")):
        if args.what == "step":
            bench_step(args, names, n)
        else:
            bench_random(args, names, n)


def bench_step(args: argparse.Namespace, names: list[str], n: int) -> None:
    """Whole training steps on a scene's photos."""
    folder = scene_folder(args.scene, args.data_root)
    scene, _ = load_scene(folder, images=args.images if (folder / args.images).is_dir() else None, log=quiet).normalized()
    views, _ = scene.split(8)
    runs = {}
    for name in names:
        backend = backends.load(name)
        state = start(start_of(scene.points, scene.colors, n, args.seed))
        runs[name] = (backend, state, endless(views, args.seed))
    times = time_in_turn(
        {name: stepper(*run) for name, run in runs.items()}, args.warm_up, args.steps, lambda name: reset(runs[name][0])
    )
    camera = views[0].camera
    for name in names:
        backend = runs[name][0]
        counts = getattr(backend, "statistics", dict)()
        stages = {k: 1e3 * v / args.steps for k, v in counts.items() if k in STAGES}
        report("step", name, n, camera, times[name], stages, scene=args.scene,
               intersections=counts.get("intersections_mean", counts.get("intersections")))
    ratio(names, times)


def bench_random(args: argparse.Namespace, names: list[str], n: int) -> None:
    """The random scene: z uniform in 2..10, centres uniform over 1.1x the image, scales log-normal(0, 0.5) times 2.5 px (2 px
    from 3 million on)."""
    gaussians, camera, photo = random_scene(n, args.width, args.height, args.seed)
    view = View("random", camera, photo)
    weight = mx.array(np.random.default_rng(args.seed).normal(size=(args.height, args.width, 3)).astype(np.float32))

    def forward(backend: Any) -> Callable[[], None]:
        return lambda: mx.eval(render(gaussians, camera, backend, 3).image)

    def both(backend: Any) -> Callable[[], None]:
        gradient = mx.grad(lambda g: (render(g, camera, backend, 3).image * weight).sum())
        return lambda: mx.eval(gradient(gaussians))

    def whole(backend: Any) -> Callable[[], None]:
        return stepper(backend, start(Gaussians(*(leaf + 0 for leaf in gaussians))), endless([view], 0))

    kinds = {"forward": forward, "forward_backward": both, "step": whole} if args.what == "random" else {"render": forward}
    warm_up, steps = min(args.warm_up, 3), min(args.steps, 20)
    for what, make in kinds.items():
        times = time_in_turn({name: make(backends.load(name)) for name in names}, warm_up, steps)
        for name in names:
            report(what, name, n, camera, times[name], {}, scene="random")
        ratio(names, times)


STAGES = ("project", "tiles", "forward", "loss", "backward", "update")


def stepper(backend: Any, state: TrainState, views: Iterator[View]) -> Callable[[], None]:
    """One training step a call, without density control, at SH degree 3."""
    config = Config()

    def step() -> None:
        train_step(
            backend, state, next(views), lrs=learning_rates(config, state.step), sh_degree=3, ssim_lambda=config.ssim_lambda,
            background=BLACK, antialiased=False, regularizers=Regularizers(0.0, 0.0), noise=Noise(0.0, 0), stats=None, absgrad=False,
        )
        mx.eval(state.gaussians, state.m, state.v)

    return step


def time_in_turn(
    steps: dict[str, Callable[[], None]], warm_up: int, count: int, reset: Callable[[str], None] = lambda name: None
) -> dict[str, list[float]]:
    """Milliseconds of `count` calls of each after `warm_up` calls, ten of one and ten of the other in turn."""
    for name, step in steps.items():
        for _ in range(warm_up):
            step()
        reset(name)
    times: dict[str, list[float]] = {name: [] for name in steps}
    while min(map(len, times.values())) < count:
        for name, step in steps.items():
            for _ in range(min(10, count - len(times[name]))):
                start = time.perf_counter()
                step()
                times[name].append(1e3 * (time.perf_counter() - start))
    return times


def start_of(points: np.ndarray, colors: np.ndarray, n: int, seed: int) -> Gaussians:
    """One Gaussian a point; a seeded subset, or the largest split in two along their longest axis until there are n."""
    if n < len(points):
        chosen = np.sort(np.random.default_rng(seed).choice(len(points), n, replace=False))
        points, colors = points[chosen], colors[chosen]
    g = gaussians_from_points(points, colors, sh_degree=3, init_opacity=0.1, init_scale=1.0)
    leaves = [np.array(leaf) for leaf in g]
    while len(leaves[0]) < n:
        means, quats, log_scales, *_ = leaves
        largest = np.argsort(-log_scales.max(axis=1), kind="stable")[: n - len(means)]
        axis = log_scales[largest].argmax(axis=1)
        w, x, y, z = (quats[largest] / np.linalg.norm(quats[largest], axis=1, keepdims=True)).T
        columns = np.stack([
            [1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y)],
            [2 * (x * y - w * z), 1 - 2 * (x * x + z * z), 2 * (y * z + w * x)],
            [2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)],
        ])  # [axis, xyz, splat]
        offset = columns[axis, :, np.arange(len(largest))] * np.exp(log_scales[largest, axis])[:, None] * 0.5
        log_scales[largest] -= np.log(1.6)
        twins = [leaf[largest].copy() for leaf in leaves]
        twins[0] = means[largest] + offset
        means[largest] -= offset
        leaves = [np.concatenate([leaf, twin]) for leaf, twin in zip(leaves, twins, strict=True)]
    return Gaussians(*(mx.array(leaf.astype(np.float32)) for leaf in leaves))


def random_scene(n: int, width: int, height: int, seed: int) -> tuple[Gaussians, Camera, np.ndarray]:
    rng = np.random.default_rng(seed)
    focal = float(width)
    z = rng.uniform(2, 10, n)
    pixels = (rng.uniform(-0.55, 0.55, (n, 2))) * (width, height)
    size = rng.lognormal(0, 0.5, (n, 3)) * (2.0 if n >= 3_000_000 else 2.5)
    leaves = (
        np.concatenate([pixels * z[:, None] / focal, z[:, None]], axis=1),
        rng.normal(size=(n, 4)),
        np.log(size * z[:, None] / focal),
        rng.normal(size=n),
        rng.normal(size=(n, 1, 3)) * 0.5,
        rng.normal(size=(n, 15, 3)) * 0.1,
    )
    camera = Camera(np.eye(4), [[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], width, height)
    photo = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Gaussians(*(mx.array(leaf.astype(np.float32)) for leaf in leaves)), camera, photo


def endless(views: Any, seed: int) -> Iterator[View]:
    rng = np.random.default_rng(seed)
    while True:
        for i in rng.permutation(len(views)):
            yield views[i]


def scene_folder(scene: str, data_root: str | None) -> Path:
    import os

    if Path(scene).is_dir():
        return Path(scene)
    return Path(data_root or os.environ.get("GS_DATA", "data")) / scene


def report(
    what: str, backend: str, n: int, camera: Camera, times: list[float], stages: dict[str, float], **more: Any
) -> None:
    module = backends.load(backend)
    median = statistics.median(times)
    line = {
        "what": what, "backend": backend, **more, "width": camera.width, "height": camera.height, "n": n,
        "ms_median": round(median, 3), "it_per_s": round(1e3 / median, 2),
        "stages_ms": {k: round(v, 3) for k, v in stages.items()},
        "machine": machine(), "threads": threads(module), "commit": commit(),
    }
    print(json.dumps(line), flush=True)


def ratio(names: list[str], times: dict[str, list[float]]) -> None:
    if len(names) == 2:
        a, b = (statistics.median(times[name]) for name in names)
        print(json.dumps({"ratio": f"{names[1]} / {names[0]}", "time": round(b / a, 3)}), flush=True)


def reset(backend: Any) -> None:
    if hasattr(backend, "statistics"):
        backend.statistics(reset=True)


def threads(backend: Any) -> int | None:
    return backend.thread_count() if hasattr(backend, "thread_count") else None


def machine() -> str:
    """The processor's name, and the number of its cores that are there."""
    name = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        fields = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line)
        named = {k.strip(): v.strip() for k, v in fields.items()}
        name = f"{named.get('model name', name)} family {named.get('cpu family', '?')} model {named.get('model', '?')}"
    return f"{name}, {platform.system()} {platform.machine()}"


def commit() -> str:
    """The commit of this checkout, with + where it is not clean; empty outside of git."""
    here = Path(__file__).parent
    run = subprocess.run(["git", "describe", "--always", "--dirty=+", "--abbrev=9"], cwd=here, capture_output=True, text=True)
    return run.stdout.strip()


def quiet(message: str) -> None:
    del message


if __name__ == "__main__":
    main()
