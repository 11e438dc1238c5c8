# SPDX-License-Identifier: Apache-2.0
"""Photos larger than memory: how long a step of a given length waits for its photo, and what the process holds.

    python scripts/bench_photos.py --photos 2000 --size 1600x1066 --step-ms 5 --budget 2G
    python scripts/bench_photos.py --photos 400 --size 1600x1066 --train 20 --budget 2G   trains too, twice

Photos are a few rendered pictures, tiled and shifted: made once, in the folder (--folder), as JPEG. The step is a
pause, as of a GPU. --train compares the bytes of a short training under the budget with those of one without.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from gsplat_train.datasets import open_scene
from gsplat_train.datasets.demo import make_demo, write_demo
from gsplat_train.machine import in_words, peak_bytes
from gsplat_train.scene import Photo, View
from gsplat_train.training.memory_plan import DEPTH
from gsplat_train.training.photos import ViewSampler
from gsplat_train.training.read_ahead import ReadAhead

RENDERED = 8  # pictures that are tiled


@dataclass(frozen=True)
class Tiled:
    """A picture tiled to a size and shifted."""

    tile: np.ndarray
    width: int
    height: int
    shift: int

    def decode(self) -> Photo:
        """See PhotoSource.decode."""
        rows, columns = self.tile.shape[:2]
        big = np.tile(self.tile, (-(-self.height // rows), -(-self.width // columns), 1))
        return Photo(
            np.roll(big[: self.height, : self.width], (7 * self.shift, 13 * self.shift), axis=(0, 1))
        )


def make_scene(folder: Path, photos: int, width: int, height: int, points: int = 2000) -> None:
    """A COLMAP scene of so many photos of that size: cameras of the built-in scene, its pictures tiled and shifted."""
    scene = make_demo(n_views=photos, width=width // 25, height=height // 25, n_points=points)
    tiles = [np.asarray(view.image) for view in make_demo(n_views=RENDERED, width=640, height=480).views]
    views = tuple(
        View(f"{i:05d}.jpg", view.camera.resized(width, height), Tiled(tiles[i % RENDERED], width, height, i))
        for i, view in enumerate(scene.views)
    )
    write_demo(folder, replace(scene, views=views))


def feed(folder: Path, budget: str, step_ms: float, steps: int) -> dict[str, float]:
    """Loads the scene under the budget and takes pauses for steps: seconds, share of waiting, peak bytes."""
    begun = time.perf_counter()
    scene = open_scene(folder, memory_budget=budget, trust=True, eval=False)
    loaded = time.perf_counter() - begun
    steps = steps or len(scene.views)
    ahead = ReadAhead(ViewSampler(scene.views, 0), steps, lambda key: False, DEPTH)
    total = 0
    begun = time.perf_counter()
    for step in range(steps):
        photo = ahead.at(step).pixels
        total += int(photo.image[0, 0, 0])
        time.sleep(step_ms / 1000)
    seconds = time.perf_counter() - begun
    ahead.close()
    return {
        "load_s": loaded,
        "seconds": seconds,
        "steps": steps,
        "waiting": ahead.waited / seconds,
        "peak": peak_bytes(),
        "bytes": sum(3 * view.camera.width * view.camera.height for view in scene.views),
    }


def trained(folder: Path, budget: str, steps: int, max_splats: int) -> str:
    """The hash of a short training in a process of its own, and its peak."""
    code = (
        "import hashlib, sys, numpy as np, gsplat_train as g\n"
        "from gsplat_train.machine import peak_bytes\n"
        "folder, budget, steps, n = sys.argv[1:]\n"
        "settings = dict(memory_budget=budget, trust=True, eval=False, steps=int(steps), max_splats=int(n))\n"
        "out = g.train(folder, refine_start=4, refine_every=5, **settings).gaussians\n"
        "print(hashlib.sha256(b''.join(np.asarray(a).tobytes() for a in out)).hexdigest(), peak_bytes())"
    )
    command = [sys.executable, "-c", code, str(folder), budget, str(steps), str(max_splats)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path("large_scene"))
    parser.add_argument("--photos", type=int, default=2000)
    parser.add_argument("--size", default="1600x1066")
    parser.add_argument("--step-ms", type=float, default=5.0)
    parser.add_argument("--steps", type=int, default=0, help="0: each photo once")
    parser.add_argument("--budget", default="2G")
    parser.add_argument("--train", type=int, default=0, help="steps to train, with the budget and without")
    parser.add_argument("--max-splats", type=int, default=20_000)
    args = parser.parse_args()
    width, height = map(int, args.size.split("x"))
    if not args.folder.exists():
        begun = time.perf_counter()
        make_scene(args.folder, args.photos, width, height)
        print(
            f"{args.photos} photos of {args.size} made in {time.perf_counter() - begun:.0f} s in {args.folder}"
        )
    if args.train:
        (paged, peak), (memory, other) = (
            trained(args.folder, budget, args.train, args.max_splats).split()
            for budget in (args.budget, "1000G")
        )
        print(
            f"{args.train} steps: budget {args.budget}: peak {in_words(int(peak))}; without: {in_words(int(other))}"
        )
        print("the same bytes" if paged == memory else "OTHER BYTES")
        sys.exit(paged != memory)
    found = feed(args.folder, args.budget, args.step_ms, args.steps)
    print(
        f"{in_words(found['bytes'])} of photos, loaded in {found['load_s']:.1f} s; {found['steps']:.0f} steps of "
        f"{args.step_ms:g} ms in {found['seconds']:.1f} s, {100 * found['waiting']:.2f} % waiting for photos; peak "
        f"{in_words(found['peak'])} under a budget of {args.budget}"
    )


if __name__ == "__main__":
    main()
