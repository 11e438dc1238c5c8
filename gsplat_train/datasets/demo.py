# SPDX-License-Identifier: Apache-2.0
"""The built-in scene: photos of `demo_world` from a circle around it, and points on the surfaces they show.

It is made in seconds and needs no data; written as a COLMAP folder it goes the way of any other scene.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from ..scene import Camera, Photo, Scene, View
from ..storage import home_expanded, new_folder
from . import cache, demo_paints, demo_world
from .colmap_binary import write_pinholes
from .colmap_records import Points
from .options import LoadOptions

WIDTH, HEIGHT = 320, 240
THREADS = 8  # at most: more wait for one another
TILE = 100  # rays along the side of a bundle: narrow enough to pass most solids by
POINT_NOISE = 0.002  # of the distance to the camera, as a reconstruction has
POINT_TOLERANCE = 0.03  # of that distance: a point this far behind the surface is still the one seen
TARGET = np.array([0.0, 0.0, 0.5])


def make_demo(
    n_views: int = 32,
    width: int = WIDTH,
    height: int = HEIGHT,
    n_points: int = 6000,
    seed: int = 0,
    take: Callable[[Camera], np.ndarray] | None = None,
) -> Scene:
    """The scene in memory; every point is seen by at least two views. Three seconds on two cores.

    take: `photograph`, or what does the same.
    """
    cameras = [orbit_camera(i / n_views, width, height) for i in range(n_views)]
    demo_world.floor_lighting()  # once, before the threads want it
    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:  # NumPy releases the interpreter lock
        images = list(pool.map(take or photograph, cameras))
    names = [f"view_{i:02d}.png" for i in range(n_views)]
    views = [
        View(name, camera, Photo(image)) for name, camera, image in zip(names, cameras, images, strict=True)
    ]
    points, colors = sample_points(cameras, n_points, seed)
    return Scene("demo", tuple(views), points, colors)


LOOKED_FOR = "nothing: the program makes this scene"


def recognise(root: Path) -> bool:
    """No folder holds this scene: the configuration `demo` names its reader."""
    return False


def load(root: Path, options: LoadOptions) -> Scene:
    """The scene in memory, its photos from the cache where they are there; smaller where options.max_size says so."""
    width = min(options.max_size or WIDTH, WIDTH)
    return make_demo(width=width, height=max(round(HEIGHT * width / WIDTH), 1), take=kept)


def kept(camera: Camera) -> np.ndarray:
    """What `photograph` gives, kept in the cache under the camera and all that the picture was made by."""
    numbers = camera.viewmat.tobytes(), camera.K.tobytes(), f"{camera.width} {camera.height}"
    name = cache.key(_text(), *numbers)
    picture = cache.read(name, (camera.height, camera.width))
    if picture is None:
        picture = photograph(camera)
        cache.write(name, picture)
    return picture


@functools.cache
def _text() -> bytes:
    """Of the modules that make the pictures."""
    return b"".join(Path(name).read_bytes() for name in (__file__, demo_world.__file__, demo_paints.__file__))


def orbit_camera(turn: float, width: int, height: int) -> Camera:
    """The camera after `turn` of the circle.

    Its height swings, so that tops and sides are seen. Every 8th of 32 views, a held-out one, is a highest:
    it sees nothing that its neighbours do not.
    """
    azimuth = 2 * np.pi * turn
    elevation = np.radians(20 + 5 * np.cos(4 * azimuth))
    flat = np.cos(elevation)
    position = 4.3 * np.array([flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(elevation)])
    forward = (TARGET - position) / np.linalg.norm(TARGET - position)
    right = np.cross(forward, [0, 0, 1])
    right /= np.linalg.norm(right)
    viewmat = np.eye(4)
    viewmat[:3, :3] = [right, np.cross(forward, right), forward]
    viewmat[:3, 3] = -viewmat[:3, :3] @ position
    K = np.array([[0.94 * width, 0, width / 2], [0, 0.94 * width, height / 2], [0, 0, 1]])
    return Camera(viewmat, K, width, height)


def photograph(camera: Camera) -> np.ndarray:
    """The picture [H, W, 3] uint8 that the camera takes of the world."""
    # Two rays a pixel and axis, and one more round the border for the filter.
    v, u = (np.arange(-0.25, size + 0.5, 0.5) for size in (camera.height, camera.width))
    light = np.empty((3, len(v), len(u)), np.float32)
    for top in range(0, len(v), TILE):
        for left in range(0, len(u), TILE):
            tile = light[:, top : top + TILE, left : left + TILE]
            tile_v, tile_u = np.meshgrid(v[top : top + TILE], u[left : left + TILE], indexing="ij")
            found, _ = demo_world.cast(camera.position, rays(camera, tile_u.ravel(), tile_v.ravel()))
            tile[:] = found.reshape(tile.shape)
    light = _halved(_halved(light).swapaxes(1, 2))
    return np.ascontiguousarray(encode(light).transpose(2, 1, 0))


def _halved(light: np.ndarray) -> np.ndarray:
    """Every two rows averaged with half of their neighbours', as a lens does: no jagged edge to learn."""
    outer = light[:, 0:-2:2] + light[:, 3::2]
    return (outer + 3 * (light[:, 1:-1:2] + light[:, 2::2])) / 8


def rays(camera: Camera, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Unit directions [3, n] float32 in the world through the pixel positions (u, v) [n]."""
    K = camera.K
    directions = np.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], np.ones(len(u))])
    directions /= np.sqrt(demo_world.dot(directions, directions))
    return (camera.viewmat[:3, :3].T @ directions).astype(np.float32)


def encode(light: np.ndarray) -> np.ndarray:
    """Linear light as uint8 for a display."""
    return (255 * np.clip(light, 0, 1) ** (1 / 2.2) + 0.5).astype(np.uint8)


def sample_points(cameras: list[Camera], n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """At most `n` points [n, 3] on what the cameras see, slightly noisy, and their colors [n, 3] uint8."""
    random = np.random.default_rng(seed)
    drawn, seen_colors = [], []
    share = -(-3 * n // (2 * len(cameras)))  # half more than needed: some are seen by one view only
    for camera in cameras:
        u, v = random.uniform(0, camera.width, share), random.uniform(0, camera.height, share)
        directions = rays(camera, u, v)
        light, distance = demo_world.cast(camera.position, directions)
        places = camera.position[:, None] + distance * directions
        drawn.append((places + POINT_NOISE * distance * random.normal(size=places.shape)).T)
        seen_colors.append(encode(light).T)
    points, colors = np.concatenate(drawn), np.concatenate(seen_colors)
    twice = np.flatnonzero(np.sum([visible(points, camera) for camera in cameras], axis=0) >= 2)
    chosen = np.sort(random.choice(twice, min(n, len(twice)), replace=False))
    return points[chosen], colors[chosen]


def visible(points: np.ndarray, camera: Camera) -> np.ndarray:
    """bool [P]: which points [P, 3] lie in the picture and are not hidden."""
    positions, depths = project(points, camera)
    inside = (positions > 0) & (positions < [camera.width, camera.height])
    shown = (depths > 0) & inside.all(axis=1)
    if not shown.any():
        return shown
    offsets = points[shown] - camera.position
    distances = np.linalg.norm(offsets, axis=1)
    directions = (offsets / distances[:, None]).T.astype(np.float32)
    met, _ = demo_world.nearest(camera.position, directions)
    shown[shown] = met > distances * (1 - POINT_TOLERANCE)
    return shown


def project(points: np.ndarray, camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    """Pixel positions [P, 2] and depths [P] of points [P, 3]."""
    seen = points @ camera.viewmat[:3, :3].T + camera.viewmat[:3, 3]
    with np.errstate(divide="ignore", invalid="ignore"):
        return (seen @ camera.K.T)[:, :2] / seen[:, 2:], seen[:, 2]


def write_demo(directory: str | Path, scene: Scene, poses: bool = True) -> None:
    """Write the scene of `make_demo` as a COLMAP folder: images/*.png and, with `poses`, sparse/0/*.bin.

    UserError where the directory holds something, StorageError where it cannot be written; all or nothing.
    """
    with new_folder(home_expanded(directory)) as work:
        _write_photos(work, scene)
        if poses:
            _write_model(work, scene)


def _write_photos(folder: Path, scene: Scene) -> None:
    (folder / "images").mkdir()
    for view in scene.views:
        Image.fromarray(view.pixels.image).save(folder / "images" / view.name)


def _write_model(folder: Path, scene: Scene) -> None:
    (folder / "sparse" / "0").mkdir(parents=True)
    seen = [np.flatnonzero(visible(scene.points, view.camera)) for view in scene.views]
    positions = [
        project(scene.points[index], view.camera)[0] for index, view in zip(seen, scene.views, strict=True)
    ]
    cameras = [(view.name, view.camera) for view in scene.views]
    write_pinholes(folder / "sparse" / "0", cameras, Points(scene.points, scene.colors), seen, positions)
