# SPDX-License-Identifier: Apache-2.0
"""A scene in parts against the same scene whole: the built-in world three times in a row, cut, trained, merged.

    python scripts/bench_partition.py OUT --backend cuda
    python scripts/bench_partition.py OUT --backend cpp --steps 1500 --views 12      smaller, for two cores

Three worlds stand 6 m apart under one sky, each with a circle of cameras; the cameras of one see the others behind it.
The whole is trained with `splats` Gaussians, each part with its share and a half, `steps` steps each. Prints the PSNR
of the held-out views by the whole model and by the merged one; exit 1 where the merged one is over 0.2 dB worse.
OUT/renders_whole and OUT/renders_merged are the held-out views, OUT/across_*.png looks along the row, over both seams.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent))  # behind an installed package, which has the compiled module

from gsplat_train.datasets import demo, demo_world  # noqa: E402
from gsplat_train.errors import ending_in_one_line  # noqa: E402
from gsplat_train.evaluate.pictures import write_png  # noqa: E402
from gsplat_train.scene import Camera, Photo, Scene, View  # noqa: E402

APART = 6.0  # metres from world to world
WORLDS = 3
WORSE = 0.2  # dB that a merged model may be worse


def enlarge() -> list[float]:
    """Puts WORLDS worlds in a row in place of the one; where they stand along x."""
    places = [APART * (i - (WORLDS - 1) / 2) for i in range(WORLDS)]
    solids = [
        replace(solid, centre=(solid.centre[0] + x, *solid.centre[1:]))
        for x in places
        for solid in demo_world.SOLIDS
    ]
    world: Any = demo_world
    world.SOLIDS = tuple(solids)
    world.CENTRES = np.array([solid.centre for solid in solids], np.float32)
    world.RADII = np.array([solid.radius for solid in solids], np.float32)
    grid = round(world.FLOOR_GRID * (world.SHADOW_REACH + places[-1]) / world.SHADOW_REACH / 40) * 40
    world.SHADOW_REACH, world.FLOOR_GRID = world.SHADOW_REACH * grid / world.FLOOR_GRID, grid
    return places


def moved(camera: Camera, x: float) -> Camera:
    """The camera from a place `x` farther along the first axis."""
    viewmat = camera.viewmat.copy()
    viewmat[:3, 3] -= viewmat[:3, 0] * x
    return replace(camera, viewmat=viewmat)


def scene_of(places: list[float], views: int, width: int, height: int) -> Scene:
    """The worlds, each from a circle of `views` cameras."""
    cameras = [moved(demo.orbit_camera(i / views, width, height), x) for x in places for i in range(views)]
    demo_world.floor_lighting()
    with ThreadPoolExecutor() as pool:
        photos = list(pool.map(demo.photograph, cameras))
    shots = [
        View(f"view_{i:03d}.png", camera, Photo(photo))
        for i, (camera, photo) in enumerate(zip(cameras, photos, strict=True))
    ]
    points, colors = demo.sample_points(cameras, 6000 * len(places), 0)
    return Scene("worlds", tuple(shots), points, colors)


def command(name: str, *words: object) -> None:
    """Runs a command of the program; ends with it where it fails."""
    call = [sys.executable, "-m", f"gsplat_train.cli.{name}", *map(str, words)]
    done = subprocess.run(call, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(call)}\n{done.stderr}")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--backend", default="cuda")
    parser.add_argument("--parts", type=int, default=WORLDS)
    parser.add_argument("--steps", type=int, default=9000)
    parser.add_argument("--splats", type=int, default=60_000, help="of the whole")
    parser.add_argument("--views", type=int, default=32, help="of each world")
    parser.add_argument("--size", type=int, nargs=2, default=(320, 240))
    args = parser.parse_args()
    out = args.out
    scene = scene_of(enlarge(), args.views, *args.size)
    whole = out / "scene"
    demo.write_demo(whole, scene, poses=True)
    command("partition", whole, out / "parts", "--parts", args.parts)
    share = int(1.5 * args.splats / args.parts)
    jobs = [(whole, out / "run_whole", args.splats)]
    jobs += [(out / f"parts/part_{i}", out / f"run_{i}", share) for i in range(1, args.parts + 1)]
    fast = (
        "--set",
        "lr_means=8e-4",
        "--set",
        "lr_means_end=8e-5",
    )  # as configs/demo.toml: its worlds want it
    for folder, run, splats in jobs:
        numbers = ("--steps", args.steps, "--max-splats", splats)
        command("train", folder, "--backend", args.backend, "--out", run, *numbers, *fast, "--quiet")
    command("merge", *(out / f"run_{i}" for i in range(1, args.parts + 1)), out / "merged.ply")
    scores = {}
    for name, model in (("whole", out / "run_whole"), ("merged", out / "merged.ply")):
        place = ("--scene", whole, "--backend", args.backend, "--out", out / f"renders_{name}")
        command("render", model, *place)
        metrics = json.loads((out / f"renders_{name}" / "metrics.json").read_text())
        scores[name] = metrics.get("test", metrics)
    across(out, args.backend, args.size)
    counts = {
        name: len_of(path)
        for name, path in (("whole", out / "run_whole/point_cloud.ply"), ("merged", out / "merged.ply"))
    }
    for name, score in scores.items():
        print(f"{name}: {score['psnr']:.3f} dB, SSIM {score['ssim']:.4f}, {counts[name]:,} splats")
    return int(scores["merged"]["psnr"] < scores["whole"]["psnr"] - WORSE)


def len_of(path: Path) -> int:
    """The splats of a PLY."""
    from gsplat_train.model.io import load_model

    return len(load_model(path).means)


def across(out: Path, backend: str, size: tuple[int, int]) -> None:
    """Looks along the row from its end, and across it over the places between two worlds, by both models."""
    import mlx.core as mx

    from gsplat_train import backends
    from gsplat_train.model.io import load_model
    from gsplat_train.renderer import render

    width, height = 2 * size[0], 2 * size[1]
    cameras = [demo.orbit_camera(turn, width, height) for turn in (0.0, 0.25, 0.27)]
    cameras = [moved(camera, x) for camera, x in zip(cameras, (APART, APART / 2, -APART / 2), strict=True)]
    chosen: Any = backends.load(backend)
    for i, camera in enumerate(cameras):
        pictures = [demo.photograph(camera)]
        for path in (out / "run_whole/point_cloud.ply", out / "merged.ply"):
            image = render(load_model(path), camera, chosen).image
            pictures.append(np.array(mx.round(255 * mx.clip(image, 0, 1)).astype(mx.uint8)))
        write_png(out / f"across_{i}.png", np.concatenate(pictures, axis=1))


if __name__ == "__main__":
    with ending_in_one_line("bench_partition.py"):
        sys.exit(main())
