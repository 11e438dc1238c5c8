# SPDX-License-Identifier: Apache-2.0
"""What a training takes of the host's memory: the numbers of gsplat_train/backends/costs.py, a process for each.

    python scripts/bench_memory.py                     cpp, a table and what it says of a splat and of a pixel
    python scripts/bench_memory.py --backend python --splats 5000,20000 --sizes 160x120,640x480
    python scripts/bench_memory.py --set exposure=affine --set batch=2      other steps

Peaks are those of the kernel's count since the phase before (Linux).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from gsplat_train import config as config_module
from gsplat_train.datasets.demo import make_demo
from gsplat_train.machine import give_back, peak_bytes, resident_bytes
from gsplat_train.scene import Photo, Scene, View
from gsplat_train.training.run_folder import RunFolder
from gsplat_train.training.trainer import Trainer

PHASES = ("start", "steps", "evaluating", "saving", "writing")
STATE = 3 * 4 * 59  # bytes of a splat's parameters and moments at SH degree 3


def scene_of(width: int, height: int, splats: int) -> Scene:
    """Four photos of that size, tiled, and so many points."""
    small = make_demo(n_views=4, width=160, height=120, n_points=20_000)
    rng = np.random.default_rng(0)
    chosen = rng.integers(0, len(small.points), splats)
    points = small.points[chosen] + rng.normal(0, 0.01, (splats, 3))
    views = []
    for view in small.views:
        tiles = -(-height // 120), -(-width // 160), 1
        photo = Photo(np.tile(np.asarray(view.image), tiles)[:height, :width].copy())
        views.append(View(view.name, view.camera.resized(width, height), photo))
    return Scene("tiled", tuple(views), points, small.colors[chosen])


def measure(backend: str, width: int, height: int, splats: int, settings: dict[str, str]) -> dict[str, float]:
    """Bytes above those before the training, at the peak of each phase."""
    scene = scene_of(width, height, splats)
    few = {
        "backend": backend,
        "steps": 10,
        "max_splats": splats,
        "test_every": 2,
        "init_scale": 0.3,
        "sh_interval": 1,
    }
    config = config_module.load([few], settings)
    found = {}

    def mark(phase: str) -> None:
        found[phase] = peak_bytes() - before
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew

    give_back()
    Path("/proc/self/clear_refs").write_text("5")
    before = resident_bytes()
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(config, scene, RunFolder(Path(folder)))
        mark("start")
        for _ in range(3):
            trainer._one_step()
        mark("steps")
        trainer.evaluation.run()
        mark("evaluating")
        trainer.save()
        mark("saving")
        trainer.write_model()
        mark("writing")
    return found | {"before": before}


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backend", default="cpp")
    parser.add_argument("--splats", default="20000,200000")
    parser.add_argument("--sizes", default="320x240,1600x1066")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        width, height, splats = map(int, args.one.split(","))
        settings = dict(item.split("=", 1) for item in args.set)
        print(json.dumps(measure(args.backend, width, height, splats, settings)))
        return
    print(f"{'':24}{'before':>9}" + "".join(f"{phase:>12}" for phase in PHASES) + "   MB")
    peaks = {}
    sizes = [tuple(map(int, size.split("x"))) for size in args.sizes.split(",")]
    counts = [int(count) for count in args.splats.split(",")]
    for width, height in sizes:
        for splats in counts:
            command = [
                sys.executable,
                __file__,
                "--backend",
                args.backend,
                "--one",
                f"{width},{height},{splats}",
            ]
            for item in args.set:
                command += ["--set", item]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found = json.loads(done.stdout.splitlines()[-1])
            peaks[width * height, splats] = found
            cells = "".join(f"{found[phase] / 1e6:12.0f}" for phase in PHASES)
            print(
                f"{f'{width}x{height}':>10} {splats:>9,}    {found['before'] / 1e6:9.0f}{cells}", flush=True
            )
    small, large = (min(w * h for w, h in sizes), max(w * h for w, h in sizes))
    few, many = min(counts), max(counts)
    for phase in PHASES[1:]:
        each = (peaks[small, many][phase] - peaks[small, few][phase]) / max(many - few, 1)
        pixel = (peaks[large, few][phase] - peaks[small, few][phase]) / max(large - small, 1)
        print(f"{phase}: {each:.0f} bytes a splat ({each - STATE:.0f} beside its state), {pixel:.0f} a pixel")


if __name__ == "__main__":
    main()
