# SPDX-License-Identifier: Apache-2.0
"""Trains the demo world photographed through each lens, and scores it on clean pinhole views of that world.

Usage: python scripts/lens_scenes.py [--steps 600] [MODEL ...]. Every photo is ray-cast through the lens, not warped;
the model is written as COLMAP's text. A panorama is six views and gets six times the steps. Half a minute a lens on
two cores. What is printed beside the scores is the difference to the pinhole scene. A panorama's is no fault of cuts,
which are the ray-cast sides to 53 dB: of its pixels one in thirty shows what the held-out views show, and sky is learnt
in place of it. Ray-cast sides trained the same way end where the cuts end.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from gsplat_train import backends
from gsplat_train.config import Config
from gsplat_train.datasets import demo, demo_world, load_scene
from gsplat_train.datasets.colmap_records import quaternion
from gsplat_train.datasets.lenses import ONE_FOCAL, PARAMETERS, Lens, colmap_lens
from gsplat_train.evaluate.measure import measure
from gsplat_train.scene import Camera, Photo, View
from gsplat_train.training.api import train

WIDTH, HEIGHT, VIEWS = 320, 240, 32
HELD_OUT = 8
SETTINGS = {
    "lr_means": 2e-3,
    "lr_sh0": 0.01,
    "lr_scales": 0.02,
    "init_scale": 0.7,
    "sh_interval": 100,
    "test_every": 0,
}
COEFFICIENTS = {
    "PINHOLE": [],
    "SIMPLE_RADIAL": [0.1],
    "OPENCV": [-0.1, 0.05, 0.01, -0.02],
    "OPENCV_FISHEYE": [0.05, -0.02, 0.01, -0.003],
    "FULL_OPENCV": [-0.1, 0.05, 0.01, -0.02, 0.01, 0.02, -0.03, 0.01],
    "FOV": [0.9],
    "THIN_PRISM_FISHEYE": [0.05, -0.02, 0.01, -0.02, 0.01, -0.003, 0.02, -0.01],
    "RAD_TAN_THIN_PRISM_FISHEYE": [0.05, -0.02, 0.01, 0, 0, 0, 0.01, -0.02, 0.02, -0.01, 0.005, 0.003],
    "DIVISION": [-0.2],
    "EUCM": [0.6, 1.1],
    "EQUIRECTANGULAR": [],
}


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
    if model == "EQUIRECTANGULAR":
        longitude, latitude = (u / width - 0.5) * 2 * np.pi, (0.5 - v / height) * np.pi
        flat = np.cos(latitude)
        return np.stack([flat * np.sin(longitude), -np.sin(latitude), flat * np.cos(longitude)])
    a, b = (u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1]
    return lens.rays(a.ravel(), b.ravel()).reshape(3, *u.shape)


def write(folder: Path, model: str, clean: demo.Scene) -> None:
    """The demo world through a lens, as a COLMAP folder."""
    width, height = (960, 480) if model == "EQUIRECTANGULAR" else (WIDTH, HEIGHT)
    focal = (0.8 if "FISHEYE" in model else 0.94) * WIDTH
    focals = [focal] if model in ONE_FOCAL else [focal, focal]
    params = [width, height] if model == "EQUIRECTANGULAR" else [*focals, width / 2, height / 2]
    params += COEFFICIENTS[model]
    assert len(params) == PARAMETERS[model], model
    K, lens = (np.eye(3), Lens()) if model == "EQUIRECTANGULAR" else colmap_lens(model, tuple(params), model)
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
    (folder / "sparse/cameras.txt").write_text(f"1 {model} {width} {height} {' '.join(map(str, params))}\n")
    points = zip(clean.points.tolist(), clean.colors.tolist(), strict=True)
    text = [f"{i} {' '.join(map(str, [*place, *color]))} 0\n" for i, (place, color) in enumerate(points, 1)]
    (folder / "sparse/points3D.txt").write_text("".join(text))


def main() -> None:
    """Prints a line for each lens."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("models", nargs="*", default=list(COEFFICIENTS), metavar="MODEL")
    parser.add_argument("--steps", type=int, default=600)
    given = parser.parse_args()
    clean = demo.make_demo(VIEWS, WIDTH, HEIGHT)
    plain = Lens()
    held_out = []
    for view in clean.views[::HELD_OUT]:
        camera = view.camera
        image = photograph(camera, rays("PINHOLE", camera.K, plain, WIDTH, HEIGHT))
        held_out.append(View(view.name, camera, Photo(image)))
    backend = backends.load("cpp")
    reference = None
    for model in dict.fromkeys(["PINHOLE", *given.models]):
        with tempfile.TemporaryDirectory() as work:
            write(Path(work) / model, model, clean)
            scene = load_scene(Path(work) / model, cache=False)
            result = train(
                scene,
                Config(backend="cpp", steps=given.steps * (6 if model == "EQUIRECTANGULAR" else 1)),
                **SETTINGS,
            )
        score = measure(result.gaussians, held_out, backend)["psnr"]
        reference = score if reference is None else reference
        shape = f"{len(scene.views)} views of {scene.views[0].camera.width}x{scene.views[0].camera.height}"
        print(
            f"{model:28} {score:6.2f} dB  {score - reference:+5.2f}  {shape}  {scene.undistort or ''}",
            flush=True,
        )


if __name__ == "__main__":
    main()
