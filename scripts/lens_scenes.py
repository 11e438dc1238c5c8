# SPDX-License-Identifier: Apache-2.0
"""Trains the demo world photographed through each lens, and scores it on clean pinhole views of that world.

    python scripts/lens_scenes.py                      all lenses, the table on stdout
    python scripts/lens_scenes.py EUCM EQUIRECTANGULAR --exact

Every photo is ray-cast through the lens, not warped; the model is written as COLMAP's text and loaded as any scene.
The yardstick: all lenses stand at the same places and have the same pixels per degree on their axis as the pinhole
cameras, so a wide lens has a larger photo. All are scored on the same held-out pinhole views, which none has seen.
Points lie on all that the photos show, and splats are as many as points allow, so that both are as dense on what the
held-out views show whatever else a lens sees. A panorama is six views and gets six times the steps. The regularisers
are weighed against the mean over a picture; so that they weigh the same on what the held-out views show, their
weights are smaller by as much as there are more pixels.
"to its field" (--exact) is a second yardstick: the same training on pinhole photos ray-cast for the very cameras that
the program makes of the lens's photos. It holds no more than what undistorting and cutting cost.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from gsplat_train import backends
from gsplat_train.config import Config
from gsplat_train.datasets import demo, demo_world, load_scene
from gsplat_train.datasets.colmap_records import quaternion
from gsplat_train.datasets.lenses import ONE_FOCAL, PARAMETERS, Lens, colmap_lens
from gsplat_train.datasets.undistort import growth
from gsplat_train.errors import ending_in_one_line
from gsplat_train.evaluate.measure import measure
from gsplat_train.scene import Camera, Photo, Scene, View
from gsplat_train.training.api import train

WIDTH, VIEWS = 160, 32
HELD_OUT = 8
DRAWN = 12_000  # points, of which those are kept that no pinhole view shows
SPLATS_A_POINT = (
    1.2  # of the points in the scene's file: as dense on the scene whatever the lens shows beside it
)
PANORAMA = "EQUIRECTANGULAR"
SETTINGS = {
    "lr_means": 2e-3,
    "lr_sh0": 0.01,
    "lr_scales": 0.02,
    "init_scale": 0.7,
    "sh_interval": 100,
    "test_every": 0,
}
FISHEYE = (0.05, -0.02, 0.01, -0.003)
RADTAN = (0.05, -0.02, 0.01, 0, 0, 0, 0.01, -0.02, 0.02, -0.01, 0.005, 0.003)


@dataclass(frozen=True)
class Row:
    """A lens, its coefficients, and the photo's sides over those of the pinhole's photo."""

    name: str
    coefficients: tuple[float, ...] = ()
    model: str = ""
    sides: tuple[float, float] = (1, 1)
    fov: float = 0.0


ROWS = (
    Row("PINHOLE"),
    Row("SIMPLE_PINHOLE"),
    Row("SIMPLE_RADIAL", (0.1,)),
    Row("RADIAL", (-0.1, 0.05)),
    Row("OPENCV", (-0.1, 0.05, 0.01, -0.02)),
    Row("FULL_OPENCV", (-0.1, 0.05, 0.01, -0.02, 0.01, 0.02, -0.03, 0.01)),
    Row("SIMPLE_DIVISION", (-0.2,)),
    Row("DIVISION", (0.1,)),
    Row("FOV", (0.9,)),
    Row("EUCM", (0.6, 1.1)),
    Row("SIMPLE_FISHEYE"),
    Row("FISHEYE"),
    Row("SIMPLE_RADIAL_FISHEYE", (0.05,)),
    Row("RADIAL_FISHEYE", (0.05, -0.02)),
    Row("OPENCV_FISHEYE", FISHEYE),
    Row("THIN_PRISM_FISHEYE", (0.05, -0.02, 0.01, -0.02, 0.01, -0.003, 0.02, -0.01)),
    Row("RAD_TAN_THIN_PRISM_FISHEYE", RADTAN),
    Row("wide OPENCV_FISHEYE", FISHEYE, "OPENCV_FISHEYE", (2, 2)),  # 120 degrees across
    Row("wide OPENCV_FISHEYE --fov 90", FISHEYE, "OPENCV_FISHEYE", (2, 2), 90),
    Row("round FISHEYE", (), "FISHEYE", (2.953, 3.938)),  # a whole half sphere in a square photo
    Row(PANORAMA),
)


def photograph(camera: Camera, directions: np.ndarray) -> np.ndarray:
    """The photo [H, W, 3] uint8 by rays [3, 2 H, 2 W] of the camera, averaged two by two; black without a ray."""
    _, height, width = directions.shape
    flat = directions.reshape(3, -1)
    light = np.zeros((3, flat.shape[1]), np.float32)
    for part in np.array_split(np.flatnonzero(np.isfinite(flat[0])), 16):
        world = (camera.viewmat[:3, :3].T @ flat[:, part]).astype(np.float32)
        light[:, part], _ = demo_world.cast(camera.position, world)
    mean = light.reshape(3, height // 2, 2, width // 2, 2).mean(axis=(2, 4))
    return demo.encode(mean).transpose(1, 2, 0)


def rays(model: str, K: np.ndarray, lens: Lens, width: int, height: int) -> np.ndarray:
    """Directions [3, 2 H, 2 W] of the camera, two a pixel and axis."""
    u, v = np.meshgrid(np.arange(0.25, width, 0.5), np.arange(0.25, height, 0.5))
    if model == PANORAMA:
        longitude, latitude = (u / width - 0.5) * 2 * np.pi, (0.5 - v / height) * np.pi
        flat = np.cos(latitude)
        return np.stack([flat * np.sin(longitude), -np.sin(latitude), flat * np.cos(longitude)])
    a, b = (u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1]
    return lens.rays(a.ravel(), b.ravel()).reshape(3, *u.shape)


def pinhole_photo(view: View) -> View:
    """The view with a photo that its pinhole camera would take."""
    camera = view.camera
    image = photograph(camera, rays("PINHOLE", camera.K, Lens(), camera.width, camera.height))
    return replace(view, photo=Photo(image, view.mask))


def camera_line(row: Row, width: int, height: int, focal: float) -> tuple[str, int, int, list[float]]:
    """Model, photo's size and parameters of a lens that has `focal` pixels per radian on its axis."""
    model = row.model or row.name
    if model == PANORAMA:
        across = 2 * round(np.pi * focal)
        return model, across, across // 2, [across, across // 2]
    width, height = round(width * row.sides[0]), round(height * row.sides[1])

    def params(focal: float) -> list[float]:
        return [*[focal] * (1 if model in ONE_FOCAL else 2), width / 2, height / 2, *row.coefficients]

    assert len(params(1)) == PARAMETERS[model], row.name
    return model, width, height, params(focal / growth(colmap_lens(model, tuple(params(1)), model)[1], 1))


def points_beyond(clean: Scene, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points [n, 3] and colors [n, 3] uint8 on what the photos by rays [3, H, W] show and no pinhole view does."""
    random = np.random.default_rng(0)
    flat = directions.reshape(3, -1)
    flat = flat[:, np.isfinite(flat[0])]
    drawn, seen_colors = [], []
    for view in clean.views:
        camera = view.camera
        chosen = flat[:, random.integers(0, flat.shape[1], DRAWN // len(clean.views))]
        world = (camera.viewmat[:3, :3].T @ chosen).astype(np.float32)
        light, distance = demo_world.cast(camera.position, world)
        noise = demo.POINT_NOISE * distance * random.normal(size=world.shape)
        drawn.append((camera.position[:, None] + distance * world + noise).T)
        seen_colors.append(demo.encode(light).T)
    points, colors = np.concatenate(drawn), np.concatenate(seen_colors)
    beyond = ~np.any([demo.visible(points, view.camera) for view in clean.views], axis=0)
    return points[beyond], colors[beyond]


def write(folder: Path, row: Row, clean: Scene) -> None:
    """The views of the demo world but the held-out ones through a lens, as a COLMAP folder."""
    first = clean.views[0].camera
    model, width, height, params = camera_line(row, first.width, first.height, float(first.K[0, 0]))
    K, lens = (np.eye(3), Lens()) if model == PANORAMA else colmap_lens(model, tuple(params), model)
    directions = rays(model, K, lens, width, height)
    (folder / "images").mkdir(parents=True)
    (folder / "sparse").mkdir()
    lines = []
    for i, view in enumerate(clean.views, 1):
        if (i - 1) % HELD_OUT == 0:
            continue
        camera = view.camera
        Image.fromarray(photograph(camera, directions)).save(folder / "images" / view.name)
        pose = [*quaternion(camera.viewmat[:3, :3]), *camera.viewmat[:3, 3]]
        lines.append(f"{i} {' '.join(repr(float(x)) for x in pose)} 1 {view.name}\n\n")
    (folder / "sparse/images.txt").write_text("".join(lines))
    (folder / "sparse/cameras.txt").write_text(f"1 {model} {width} {height} {' '.join(map(repr, params))}\n")
    points, colors = points_beyond(clean, directions)
    points, colors = np.concatenate([clean.points, points]), np.concatenate([clean.colors, colors])
    listed = zip(points.tolist(), colors.tolist(), strict=True)
    text = [f"{i} {' '.join(map(str, [*place, *color]))} 0\n" for i, (place, color) in enumerate(listed, 1)]
    (folder / "sparse/points3D.txt").write_text("".join(text))


def opened(row: Row, clean: Scene) -> Scene:
    """The scene through a lens as the program loads it."""
    with tempfile.TemporaryDirectory() as work:
        write(Path(work) / "scene", row, clean)
        return load_scene(Path(work) / "scene", cache=False, fov=row.fov)


def trained(scene: Scene, held_out: Sequence[View], steps: int, splats: int, weight: float = 0.01) -> float:
    """The score in dB of a scene, on the held-out views; weight: of the regularisers."""
    backend = backends.load("cpp")
    supplied = SETTINGS | {"max_splats": splats, "opacity_reg": weight, "scale_reg": weight}
    result = train(scene, Config(backend="cpp", steps=steps), **supplied)
    return float(measure(result.gaussians, list(held_out), backend)["psnr"])


def scores(rows: Sequence[Row], width: int, steps: int, exact: bool) -> Iterator[list[str]]:
    """A line of the table for each lens, the pinhole first."""
    clean = demo.make_demo(VIEWS, width, width * 3 // 4)
    held_out = [pinhole_photo(view) for view in clean.views[::HELD_OUT]]
    reference = None
    for row in dict.fromkeys([ROWS[0], *rows]):
        scene = opened(row, clean)
        sides = len(scene.views) // (VIEWS - len(held_out))
        camera = scene.views[0].camera
        run = partial(
            trained,
            held_out=held_out,
            steps=steps * sides,
            splats=round(SPLATS_A_POINT * len(scene.points)),
            weight=0.01 * width * (width * 3 // 4) / (sides * camera.width * camera.height),
        )
        score = run(scene)
        reference = score if reference is None else reference
        field = 0.0
        if exact and (scene.undistort or sides > 1):
            field = score - run(replace(scene, views=tuple(map(pinhole_photo, scene.views))))
        shape = (
            f"{sides} x {camera.width}x{camera.height}" if sides > 1 else f"{camera.width}x{camera.height}"
        )
        focal = f"{np.radians(camera.K[0, 0]):.2f}"
        yield [
            row.name,
            shape,
            focal,
            f"{score:.2f}",
            f"{score - reference:+.2f}",
            f"{field:+.2f}" if exact else "",
        ]


def main() -> None:
    """Prints a line for each lens."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    names = [row.name for row in ROWS]
    parser.add_argument("lenses", nargs="*", metavar="LENS", help=", ".join(names))
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--width", type=int, default=WIDTH, help="of the pinhole's photos, 4 to 3")
    parser.add_argument(
        "--exact", action="store_true", help="train on ray-cast pictures of the same cameras too"
    )
    args = parser.parse_args()
    if unknown := set(args.lenses) - set(names):
        sys.exit(f"no lens {sorted(unknown)[0]!r}; there are: {', '.join(names)}")
    rows = [row for row in ROWS if not args.lenses or row.name in args.lenses]
    print("| lens | pictures | px per degree | dB | to pinhole | to its field |")
    print("| --- |" + " ---: |" * 5, flush=True)
    for cells in scores(rows, args.width, args.steps, args.exact):
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    with ending_in_one_line("lens_scenes.py"):
        main()
