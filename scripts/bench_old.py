# SPDX-License-Identifier: Apache-2.0
"""Training steps of this checkout and of another in turn, on one machine; one JSON object a case.

    python scripts/bench_old.py --old DIR --backend cpp --scene DATA/fern --n 10091,100000
    python scripts/bench_old.py --old DIR --backend cuda --n 1000000 --width 1920 --height 1080

Each checkout, with its compiled module, trains in a process of its own. The two take turns of a fraction of a
second, and the ratio is the median over pairs of turns, so that it holds where others use the machine too.
The other checkout may have `train_step` in place of steppers. Without `--scene`: random splats.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
TURN = 0.2  # seconds, about


def main() -> None:
    if sys.argv[1:2] == ["--serve"]:
        serve(Path(sys.argv[2]), json.loads(sys.argv[3]))
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--old", required=True, help="the other checkout")
    parser.add_argument("--backend", default="cpp")
    parser.add_argument("--scene", help="a scene's folder; its photos are those of images_8 if it has these")
    parser.add_argument("--n", default="10091,100000", help="splats, comma-separated")
    parser.add_argument("--width", type=int, default=504)
    parser.add_argument("--height", type=int, default=378)
    parser.add_argument("--pairs", type=int, default=60)
    args = parser.parse_args()
    for n in map(int, args.n.split(",")):
        case = {"n": n, "width": args.width, "height": args.height, "scene": args.scene}
        print(json.dumps(compare(args.old, args.backend, case, args.pairs)), flush=True)


def compare(old: str, backend: str, case: dict[str, Any], pairs: int) -> dict[str, Any]:
    """ms a step of both checkouts, medians over turns, and the median of the pairs' ratios (new / old)."""
    supplied = case | {"backend": backend}
    with Runner(HERE.parent, supplied) as new, Runner(Path(old).resolve(), supplied) as before:
        runners = (before, new)
        for runner in runners:
            runner.turn(8)  # compiles
        count = max(4, int(TURN * 1e3 / max(runner.turn(40) for runner in runners)))
        times: list[tuple[float, float]] = []
        for k in range(pairs):
            order = runners if k % 2 else runners[::-1]
            taken = {runner: runner.turn(count) for runner in order}
            times.append((taken[before], taken[new]))
    a, b = (round(statistics.median(some), 4) for some in zip(*times, strict=True))
    ratios = sorted(y / x for x, y in times)
    quarters = [round(x, 4) for x in statistics.quantiles(ratios, n=4)]
    least = min(y for _, y in times) / min(x for x, _ in times)
    result = {"what": "old", **supplied, "pairs": pairs, "steps": count, "ms_old": a, "ms": b}
    return result | {"ratio": quarters[1], "quartiles": quarters[::2], "ratio_of_least": round(least, 4)}


class Runner:
    """A checkout's process, which trains when it is asked to."""

    def __init__(self, root: Path, case: dict[str, Any]) -> None:
        command = [sys.executable, str(Path(__file__).resolve()), "--serve", str(root), json.dumps(case)]
        environment = os.environ | {"PYTHONPATH": f"{root}{os.pathsep}{root / 'scripts'}"}
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, text=True, bufsize=1, env=environment
        )

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()

    def turn(self, count: int) -> float:
        """ms a step, over `count` steps."""
        assert self.process.stdin and self.process.stdout
        print(count, file=self.process.stdin, flush=True)
        return float(self.process.stdout.readline())


def serve(root: Path, case: dict[str, Any]) -> None:
    """In the process: steps by the number that comes in, their mean time goes out."""
    sys.path[:] = [str(root), str(root / "scripts")] + [path for path in sys.path if path != str(HERE)]
    import gsplat_train

    assert Path(gsplat_train.__file__).is_relative_to(root), gsplat_train.__file__
    take, wait = training(case)
    for line in sys.stdin:
        start = time.perf_counter()
        for _ in range(int(line)):
            take()
        wait()
        print((time.perf_counter() - start) / int(line) * 1e3, flush=True)


def training(case: dict[str, Any]) -> tuple[Callable[[], object], Callable[[], object]]:
    """(asks for a step, waits for all) of the checkout that is imported. Rates are small: the work stays."""
    import bench_scenes
    import numpy as np

    from gsplat_train import backends
    from gsplat_train.scene import View

    backend: Any = backends.load(case["backend"])
    if case["scene"]:
        from gsplat_train.datasets import load_scene

        folder = Path(case["scene"])
        images = "images_8" if (folder / "images_8").is_dir() else None
        scene, _ = load_scene(folder, images=images).normalized()
        views = scene.split(8)[0]
        gaussians = bench_scenes.start_of(scene.points, scene.colors, case["n"], 0)
    else:
        gaussians, camera, photo = bench_scenes.random_scene(case["n"], case["width"], case["height"], 0)
        views = (View("random", camera, photo),)
    endless = endlessly(views)
    try:
        from gsplat_train.training.rows import start
    except ImportError:
        from gsplat_train.optimizer import start
        from gsplat_train.train_step import Noise, Regularizers, train_step

        state, rates = start(gaussians), dict.fromkeys(gaussians._fields, 1e-5)

        def old() -> None:
            train_step(
                backend, state, next(endless), lrs=rates, sh_degree=3, ssim_lambda=0.2, antialiased=False,
                background=np.zeros(3, np.float32), regularizers=Regularizers(0.0, 0.0), noise=Noise(0.0, 0),
                stats=None, absgrad=False,
            )  # fmt: skip

        return old, lambda: backend.settle(state) if hasattr(backend, "settle") else None
    from gsplat_train.training.objective import Objective
    from gsplat_train.training.plan import StepPlan
    from gsplat_train.training.stepper import make_stepper

    stepper = make_stepper(backend, start(gaussians), Objective())

    def new() -> None:
        stepper.take(next(endless), StepPlan(stepper.step + 1, (1e-5,) * 6, sh_degree=3))

    return new, stepper.result


def endlessly(views: tuple[Any, ...]) -> Iterator[Any]:
    while True:
        yield from views


if __name__ == "__main__":
    main()
