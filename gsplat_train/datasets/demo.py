# SPDX-License-Identifier: Apache-2.0
"""The built-in scene: photos of `demo_world` from a circle around it, and points on the surfaces they show.

It is made in seconds and needs no data; written as a COLMAP folder it goes the way of any other scene.
"""

from __future__ import annotations

import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import StorageError, UserError
from ..scene import Camera, Scene, View
from . import demo_world
from .colmap_binary import write_model
from .colmap_records import CameraRecord, ImageRecord, Points, quaternion

SUPERSAMPLES = 2  # per axis of a pixel
TILE = 60  # pixels: of a bundle of rays narrow enough to pass most solids by
POINT_NOISE = 0.002  # of the distance to the camera, as a reconstruction has
POINT_TOLERANCE = 0.03  # of that distance: a point this far behind the surface is still the one seen
TARGET = np.array([0.0, 0.0, 0.42])


def make_demo(
    n_views: int = 32, width: int = 320, height: int = 240, n_points: int = 5000, seed: int = 0
) -> Scene:
    """The scene in memory; every point is seen by at least two views. Two seconds on two cores."""
    cameras = [orbit_camera(i / n_views, width, height) for i in range(n_views)]
    demo_world.floor_lighting()  # once, before the threads want it
    with ThreadPoolExecutor(max_workers=2) as pool:  # NumPy releases the interpreter lock
        images = list(pool.map(photograph, cameras))
    names = [f"view_{i:02d}.png" for i in range(n_views)]
    views = [View(*parts) for parts in zip(names, cameras, images, strict=True)]
    points, colors = sample_points(cameras, n_points, seed)
    return Scene("demo", tuple(views), points, colors)


def orbit_camera(turn: float, width: int, height: int) -> Camera:
    """The camera after `turn` of the circle; its height swings so that tops and sides are seen."""
    azimuth = 2 * np.pi * turn
    elevation = np.radians(23 + 7 * np.sin(3 * azimuth))
    flat = np.cos(elevation)
    position = 4.3 * np.array([flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(elevation)])
    forward = (TARGET - position) / np.linalg.norm(TARGET - position)
    right = np.cross(forward, [0, 0, 1])
    right /= np.linalg.norm(right)
    viewmat = np.eye(4)
    viewmat[:3, :3] = [right, np.cross(forward, right), forward]
    viewmat[:3, 3] = -viewmat[:3, :3] @ position
    focal = 0.94 * width
    return Camera(
        viewmat, np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]]), width, height
    )


def photograph(camera: Camera) -> np.ndarray:
    """The picture [H, W, 3] uint8 that the camera takes of the world."""
    n = SUPERSAMPLES
    image = np.empty((camera.height, camera.width, 3), np.uint8)
    for top in range(0, camera.height, TILE):
        for left in range(0, camera.width, TILE):
            rows, columns = min(TILE, camera.height - top), min(TILE, camera.width - left)
            v, u = np.meshgrid(np.arange(rows * n) + 0.5, np.arange(columns * n) + 0.5, indexing="ij")
            light, _ = demo_world.cast(
                camera.position, rays(camera, left + u.ravel() / n, top + v.ravel() / n)
            )
            light = light.reshape(3, rows, n, columns, n).mean(axis=(2, 4))
            image[top : top + rows, left : left + columns] = encode(light).transpose(1, 2, 0)
    return image


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


def write_demo(directory: str | Path, scene: Scene) -> None:
    """Write the scene of `make_demo` as a COLMAP folder: images/*.png and sparse/0/*.bin.

    UserError where the directory holds something, StorageError where it cannot be written; all or nothing.
    """
    directory = Path(directory).expanduser()
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UserError(f"{directory} exists and is not an empty folder; choose another")
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(dir=directory.parent, prefix=f".{directory.name}."))
        try:
            work.chmod(0o755)
            _write_folder(work, scene)
            work.replace(directory)
        except BaseException:
            shutil.rmtree(work, ignore_errors=True)
            raise
    except OSError as error:
        raise StorageError(f"{directory} cannot be written: {error.strerror}") from error


def _write_folder(folder: Path, scene: Scene) -> None:
    (folder / "images").mkdir()
    (folder / "sparse" / "0").mkdir(parents=True)
    cameras: dict[CameraRecord, int] = {}
    images, seen, positions = [], [], []
    for view in scene.views:
        assert view.image is not None  # make_demo took it
        Image.fromarray(view.image).save(folder / "images" / view.name)
        camera = view.camera
        K = camera.K.tolist()
        record = CameraRecord("PINHOLE", camera.width, camera.height, (K[0][0], K[1][1], K[0][2], K[1][2]))
        camera_id = cameras.setdefault(record, len(cameras) + 1)
        translation = tuple(camera.viewmat[:3, 3].tolist())
        images.append(ImageRecord(view.name, camera_id, quaternion(camera.viewmat[:3, :3]), translation))
        seen.append(np.flatnonzero(visible(scene.points, camera)))
        positions.append(project(scene.points[seen[-1]], camera)[0])
    records = {camera_id: record for record, camera_id in cameras.items()}
    write_model(folder / "sparse" / "0", records, images, Points(scene.points, scene.colors), seen, positions)
