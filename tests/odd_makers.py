# SPDX-License-Identifier: Apache-2.0
"""Small writers of scenes as people have them, from 21 views of the built-in scene; no reader is in them.

`sound` is what there is to train on, `truth` all 24 views, by which a model is judged, whatever the set looked like.
"""

from __future__ import annotations

import functools
import os
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from colmap_files import MODEL_IDS
from PIL import Image

from gsplat_train.datasets import demo, demo_world
from gsplat_train.datasets.lenses import ONE_FOCAL, Lens, colmap_lens
from gsplat_train.scene import Camera, Photo, Scene, View

WIDTH, HEIGHT, VIEWS, POINTS = 120, 90, 24, 2000
HELD_OUT = 8
Name = Callable[[str], str | None]  # of a view -> what it is called; None: not at all
IDENTITY = np.eye(4)


@functools.cache
def everything() -> Scene:
    """The built-in scene in small; a second to make."""
    return demo.make_demo(VIEWS, WIDTH, HEIGHT, POINTS)


def truth() -> tuple[View, ...]:
    return everything().views


@functools.cache
def sound() -> Scene:
    """What is written: all views but every eighth."""
    views = tuple(view for i, view in enumerate(truth()) if i % HELD_OUT)
    return replace(everything(), views=views)


def similarity(scale: float = 1.0, turn: float = 0.0, shift: Sequence[float] = (0, 0, 0)) -> np.ndarray:
    """[4, 4] of x' = scale R x + shift, R about an axis that is none of the three."""
    axis = np.array([0.36, 0.48, 0.8])
    K = np.cross(np.eye(3), axis)
    matrix = np.eye(4)
    matrix[:3, :3] = scale * (np.eye(3) + np.sin(turn) * K + (1 - np.cos(turn)) * K @ K)
    matrix[:3, 3] = shift
    return matrix


def moved_camera(camera: Camera, frame: np.ndarray) -> Camera:
    """The camera in the frame that `frame` [4, 4], a similarity, leads to."""
    scale = np.cbrt(np.linalg.det(frame[:3, :3]))
    R = camera.viewmat[:3, :3] @ (frame[:3, :3] / scale).T
    viewmat = np.eye(4)
    viewmat[:3, :3] = R
    viewmat[:3, 3] = scale * camera.viewmat[:3, 3] - R @ frame[:3, 3]
    return replace(camera, viewmat=viewmat)


def bare() -> Scene:
    """The scene without its points."""
    return replace(sound(), points=np.empty((0, 3)), colors=np.empty((0, 3), np.uint8))


def moved(scene: Scene, frame: np.ndarray) -> Scene:
    views = tuple(replace(view, camera=moved_camera(view.camera, frame)) for view in scene.views)
    return replace(scene, views=views, points=scene.points @ frame[:3, :3].T + frame[:3, 3])


def with_photos(scene: Scene, change: Callable[[np.ndarray], np.ndarray]) -> Scene:
    views = tuple(
        replace(view, photo=Photo(np.ascontiguousarray(change(view.image)))) for view in scene.views
    )
    return replace(scene, views=views)


def with_viewmats(scene: Scene, change: Callable[[np.ndarray], np.ndarray]) -> Scene:
    views = (replace(v, camera=replace(v.camera, viewmat=change(v.camera.viewmat))) for v in scene.views)
    return replace(scene, views=tuple(views))


# ---- COLMAP ----


def quaternion(R: np.ndarray) -> list[float]:
    """w x y z of a rotation: the eigenvector of Bar-Itzhack's matrix (2000)."""
    upper = [
        [R[0, 0] - R[1, 1] - R[2, 2], R[1, 0] + R[0, 1], R[2, 0] + R[0, 2], R[2, 1] - R[1, 2]],
        [0, R[1, 1] - R[0, 0] - R[2, 2], R[2, 1] + R[1, 2], R[0, 2] - R[2, 0]],
        [0, 0, R[2, 2] - R[0, 0] - R[1, 1], R[1, 0] - R[0, 1]],
        [0, 0, 0, R[0, 0] + R[1, 1] + R[2, 2]],
    ]
    x, y, z, w = np.linalg.eigh(np.array(upper), UPLO="U")[1][:, 3]
    return [float(n) * (1 if w >= 0 else -1) for n in (w, x, y, z)]


def write_photos(folder: Path, scene: Scene, file: Name = str, **options: Any) -> None:
    for view in scene.views:
        if (name := file(view.name)) is not None:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(view.image).save(path, **options)


def image_rows(scene: Scene, name: Name = str) -> list[tuple[int, list[float], list[float], int, str]]:
    """id, quaternion, translation, camera, name of each view that the model knows."""
    rows = []
    for i, view in enumerate(scene.views, 1):
        expected = name(view.name)
        if expected is not None:
            viewmat = view.camera.viewmat
            rows.append((i, quaternion(viewmat[:3, :3]), viewmat[:3, 3].tolist(), 1, expected))
    return rows


def camera_row(
    camera: Camera, model: str = "PINHOLE", params: Sequence[float] | None = None
) -> tuple[Any, ...]:
    K = camera.K
    own = [K[0, 0], K[1, 1], K[0, 2], K[1, 2]]
    return (1, model, camera.width, camera.height, [float(x) for x in (own if params is None else params)])


def write_text(folder: Path, cameras: Iterable[Any], images: Iterable[Any], scene: Scene) -> None:
    """cameras.txt, images.txt with empty second lines, points3D.txt."""
    folder.mkdir(parents=True, exist_ok=True)

    def line(*parts: Any) -> bytes:
        flat = (p for part in parts for p in (part if isinstance(part, list) else [part]))
        return os.fsencode(" ".join(str(p) for p in flat)) + b"\n"

    points = zip(scene.points.tolist(), scene.colors.tolist(), strict=True)
    (folder / "cameras.txt").write_bytes(b"# cameras\n" + b"".join(line(*row) for row in cameras))
    (folder / "images.txt").write_bytes(b"".join(line(*row) + b"\n" for row in images))
    (folder / "points3D.txt").write_bytes(
        b"".join(line(i, place, color, 0.5, 1, 0, 2, 0) for i, (place, color) in enumerate(points, 1))
    )


def write_binary(folder: Path, cameras: Iterable[Any], images: Iterable[Any], scene: Scene) -> None:
    """The same as .bin, with two 2D points an image and a track of two."""
    folder.mkdir(parents=True, exist_ok=True)
    cameras, images = list(cameras), list(images)
    data = struct.pack("<Q", len(cameras))
    for number, model, width, height, params in cameras:
        data += struct.pack(f"<iiQQ{len(params)}d", number, MODEL_IDS[model], width, height, *params)
    (folder / "cameras.bin").write_bytes(data)
    data = struct.pack("<Q", len(images))
    for number, quat, translation, camera, name in images:
        data += struct.pack("<i7di", number, *quat, *translation, camera) + os.fsencode(name) + b"\0"
        data += struct.pack("<Qddqddq", 2, 1.5, 2.5, 1, 3.5, 4.5, -1)
    (folder / "images.bin").write_bytes(data)
    data = struct.pack("<Q", len(scene.points))
    for i, (place, color) in enumerate(zip(scene.points, scene.colors, strict=True), 1):
        data += struct.pack("<Q3d3BdQ4i", i, *place, *color, 0.5, 2, 1, 0, 2, 0)
    (folder / "points3D.bin").write_bytes(data)


def colmap(
    root: Path,
    scene: Scene | None = None,
    *,
    model: str = "sparse/0",
    photos: str = "images",
    name: Name = str,
    file: Name = str,
    binary: bool = False,
    rows: Callable[[list[Any]], list[Any]] = list,
    cameras: Sequence[Any] | None = None,
    **options: Any,
) -> Path:
    """A COLMAP folder. name: what the model calls a view; file: its photo; rows: what becomes of images.txt's.

    options: how pictures are saved. The folder of the model.
    """
    scene = sound() if scene is None else scene
    write_photos(root / photos, scene, file, **options)
    write = write_binary if binary else write_text
    write(root / model, cameras or [camera_row(scene.views[0].camera)], rows(image_rows(scene, name)), scene)
    return root / model


def edit(path: Path, change: Callable[[str], str]) -> None:
    """Rewrites a text file."""
    text = path.read_bytes().decode("utf-8", "surrogateescape")
    path.write_bytes(change(text).encode("utf-8", "surrogateescape"))


# ---- photos through lenses ----


def cast(camera: Camera, directions: np.ndarray) -> np.ndarray:
    """Photo [h, w, 3] of the world by rays [3, 2 h, 2 w] of the camera, two a pixel and axis."""
    _, h, w = directions.shape
    flat = directions.reshape(3, -1)
    shown = np.isfinite(flat[0])
    light = np.zeros((3, flat.shape[1]), np.float32)
    world = (camera.viewmat[:3, :3].T @ flat[:, shown]).astype(np.float32)
    light[:, shown], _ = demo_world.cast(camera.position, world)
    return demo.encode(light.reshape(3, h // 2, 2, w // 2, 2).mean(axis=(2, 4))).transpose(1, 2, 0)


def through(
    model: str, coefficients: Sequence[float], *, enlarge: int = 2, focal: float = 0.9
) -> tuple[Scene, tuple[Any, ...]]:
    """The views ray-cast through a lens of COLMAP's, and the camera's row; a panorama is twice as wide as high.

    enlarge: photos are so many times larger, so that straightening them costs no sharpness.
    """
    width, height = enlarge * WIDTH, enlarge * HEIGHT
    if model == "EQUIRECTANGULAR":
        width, height = 4 * WIDTH, 2 * WIDTH
        params = [float(width), float(height)]
    else:
        focals = [focal * width] * (1 if model in ONE_FOCAL else 2)
        params = [*focals, width / 2, height / 2, *coefficients]
    u, v = np.meshgrid(np.arange(0.25, width, 0.5), np.arange(0.25, height, 0.5))
    if model == "EQUIRECTANGULAR":
        longitude, latitude = (u / width - 0.5) * 2 * np.pi, (0.5 - v / height) * np.pi
        flat = np.cos(latitude)
        rays = np.stack([flat * np.sin(longitude), -np.sin(latitude), flat * np.cos(longitude)])
    else:
        K, lens = (np.eye(3), Lens()) if model == "PINHOLE" else colmap_lens(model, tuple(params), model)
        if model == "PINHOLE":
            K = np.array([[params[0], 0, params[2]], [0, params[1], params[3]], [0, 0, 1]])
        a, b = (u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1]
        rays = lens.rays(a.ravel(), b.ravel()).reshape(3, *u.shape)
    plain = Camera(np.eye(4), [[1, 0, 0], [0, 1, 0], [0, 0, 1]], width, height)
    views = tuple(
        replace(
            view, camera=replace(plain, viewmat=view.camera.viewmat), photo=Photo(cast(view.camera, rays))
        )
        for view in sound().views
    )
    return replace(sound(), views=views), camera_row(plain, model, params)


# ---- cut out ----


@functools.cache
def alphas() -> tuple[np.ndarray, ...]:
    """Of each true view which pixels [H, W] show what is within two units of the middle: 255 or 0."""
    found = []
    for view in truth():
        u, v = np.meshgrid(np.arange(0.5, WIDTH), np.arange(0.5, HEIGHT))
        rays = demo.rays(view.camera, u.ravel(), v.ravel())
        _, distance = demo_world.cast(view.camera.position, rays)
        places = view.camera.position[:, None] + distance * rays
        near = np.linalg.norm(places - demo.TARGET[:, None], axis=0) < 2
        found.append(np.where(near, 255, 0).astype(np.uint8).reshape(HEIGHT, WIDTH))
    return tuple(found)


def alpha_of(view: View) -> np.ndarray:
    return alphas()[[other.name for other in truth()].index(view.name)]


def cut_truth(background: int = 0) -> tuple[View, ...]:
    """The true views with one colour where they are see-through."""
    return tuple(
        replace(view, photo=Photo(_over(view.image, alpha_of(view), background))) for view in truth()
    )


def cut(scene: Scene, background: int = 0) -> Scene:
    views = (replace(v, photo=Photo(_over(v.image, alpha_of(v), background))) for v in scene.views)
    near = np.linalg.norm(scene.points - demo.TARGET, axis=1) < 2
    return replace(scene, views=tuple(views), points=scene.points[near], colors=scene.colors[near])


def _over(image: np.ndarray, alpha: np.ndarray, background: int) -> np.ndarray:
    return np.where(alpha[:, :, None] > 0, image, np.uint8(background))


def rgba(view: View, junk: int) -> Image.Image:
    """The photo with an alpha channel, and `junk` of 255 where it is see-through."""
    return Image.fromarray(np.dstack([_over(view.image, alpha_of(view), junk), alpha_of(view)]))


# ---- something in the way ----


def blots() -> list[np.ndarray]:
    """Of each written view which pixels [H, W] are good: a square that wanders is not."""
    found = []
    for i in range(len(sound().views)):
        good = np.full((HEIGHT, WIDTH), 255, np.uint8)
        x, y = 7 + (37 * i) % (WIDTH - 45), 5 + (23 * i) % (HEIGHT - 42)
        good[y : y + 36, x : x + 38] = 0
        found.append(good)
    return found


def blotted() -> Scene:
    """The scene with a pink square in each photo."""
    views = []
    for view, good in zip(sound().views, blots(), strict=True):
        image = np.where(good[:, :, None] > 0, view.image, np.array([255, 0, 200], np.uint8))
        views.append(replace(view, photo=Photo(image)))
    return replace(sound(), views=tuple(views))


def write_masks(folder, name=str, size=(WIDTH, HEIGHT), invert=False):
    folder.mkdir(parents=True, exist_ok=True)
    for view, good in zip(sound().views, blots(), strict=True):
        path = folder / name(view.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(255 - good if invert else good).resize(size, Image.Resampling.NEAREST).save(path)
