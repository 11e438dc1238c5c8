# SPDX-License-Identifier: Apache-2.0
"""See-through photos of a plain thing, as a renderer of objects gives them: a box or a ball before nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from gsplat_train.scene import Camera, Photo, Scene, View

FLIP = np.diag([1.0, -1.0, -1.0, 1.0])
HALF = {"box": np.array([0.9, 0.6, 0.5]), "plate": np.array([1.0, 0.8, 0.08])}
SUN = np.array([0.5, 0.3, 0.8]) / np.linalg.norm([0.5, 0.3, 0.8])
COLOR = np.array([200, 180, 60])
FACTOR = 1.2  # focal length over the side of a photo
AWAY = 4.0


def thing(
    shape: str = "box",
    light: str = "flat",
    where: str = "dome",
    *,
    texture: float = 0.0,
    noise: float = 1.0,
    n: int = 24,
    side: int = 64,
    seed: int = 0,
) -> Scene:
    """Photos [side, side] from a dome, a ring or all round. light: flat (one colour), sun, or lamp (at the camera).

    texture: levels of 255 of waves on the surface; noise: of a pixel.
    """
    random = np.random.default_rng(seed)
    waves = random.normal(size=(6, 3)) * 4, random.uniform(0, 6, (6, 3))
    K = np.array([[FACTOR * side, 0, side / 2], [0, FACTOR * side, side / 2], [0, 0, 1]])
    y, x = np.mgrid[:side, :side] + 0.5
    straight = np.stack([x - side / 2, y - side / 2, np.full_like(x, FACTOR * side)], -1)
    views = []
    for i in range(n):
        viewmat = looking(_position(where, i / n, random))
        origin, rays = -viewmat[:3, :3].T @ viewmat[:3, 3], straight @ viewmat[:3, :3]
        rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
        shown, places, normals = _hit(shape, origin, rays)
        towards = {"flat": None, "sun": SUN, "lamp": -rays}[light]
        lit = 1.0 if towards is None else 0.25 + 0.75 * np.maximum((normals * towards).sum(-1), 0)
        grain = noise * random.normal(size=places.shape)
        if texture:
            grain += texture / 2.5 * np.sin((places @ waves[0].T)[..., None] + waves[1]).sum(axis=-2)
        image = np.clip(COLOR * np.expand_dims(lit, -1) + grain, 0, 255) * shown[..., None]
        photo = Photo(image.astype(np.uint8), alpha=(255 * shown).astype(np.uint8))
        views.append(View(f"r_{i:03}.png", Camera(viewmat, K, side, side), photo))
    return Scene("thing", tuple(views), np.empty((0, 3)), np.empty((0, 3), np.uint8))


def looking(position: np.ndarray) -> np.ndarray:
    """The viewmat [4, 4] of a camera there that looks at the origin."""
    forward = -position / np.linalg.norm(position)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    viewmat = np.eye(4)
    viewmat[:3, :3] = [right, np.cross(forward, right), forward]
    viewmat[:3, 3] = -viewmat[:3, :3] @ position
    return viewmat


def _position(where: str, turn: float, random: np.random.Generator) -> np.ndarray:
    if where == "round":
        direction = random.normal(size=3)
        return AWAY * direction / np.linalg.norm(direction)
    height, azimuth = random.uniform(0.05, 0.95), random.uniform(0, 2 * np.pi)
    if where == "ring":
        height, azimuth = 0.44, 2 * np.pi * turn
    flat = np.sqrt(1 - height**2)
    return AWAY * np.array([flat * np.cos(azimuth), flat * np.sin(azimuth), height])


def _hit(shape: str, origin: np.ndarray, rays: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Whether each ray meets the thing, and where, and the surface's normal there."""
    if shape == "ball":
        along = (origin * rays).sum(-1)
        inner = along**2 - origin @ origin + 1
        places = origin + (-along - np.sqrt(np.maximum(inner, 0)))[..., None] * rays
        return inner > 0, places, places
    with np.errstate(divide="ignore"):
        ends = np.stack([(-HALF[shape] - origin) / rays, (HALF[shape] - origin) / rays])
    near, far = ends.min(axis=0), ends.max(axis=0).min(axis=-1)
    axis = near.argmax(axis=-1)[..., None]
    normals = np.zeros_like(rays)
    np.put_along_axis(normals, axis, -np.sign(np.take_along_axis(rays, axis, -1)), -1)
    first = near.max(axis=-1)
    return first < far, origin + first[..., None] * rays, normals


def points_on(shape: str, scene: Scene, n: int = 3000) -> Scene:
    """The scene with points on its surface, each in the colour that one of the photos shows there."""
    random = np.random.default_rng(1)
    points = random.normal(size=(n, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    if shape != "ball":
        half = HALF[shape]
        axis = random.choice(3, n, p=(areas := 1 / half) / areas.sum())
        points = random.uniform(-1, 1, (n, 3))
        points[np.arange(n), axis] = np.sign(points[np.arange(n), axis])
        points *= half
    colors = np.full((n, 3), COLOR, np.uint8)
    for view in scene.views:
        seen = points @ view.camera.viewmat[:3, :3].T + view.camera.viewmat[:3, 3]
        u, v = (seen @ view.camera.K.T)[:, :2].T // seen[:, 2]
        normals = points if shape == "ball" else np.sign(points) * (np.abs(points) >= half - 1e-9)
        shown = np.flatnonzero((normals * (view.camera.position - points)).sum(axis=1) > 0)
        colors[shown] = view.image[v[shown].astype(int), u[shown].astype(int)]
    return replace(scene, points=points, colors=colors)


def posed(scene: Scene, change) -> Scene:
    """change: of a viewmat."""
    cameras = [replace(view.camera, viewmat=change(view.camera.viewmat)) for view in scene.views]
    return replace(
        scene, views=tuple(replace(v, camera=c) for v, c in zip(scene.views, cameras, strict=True))
    )


def shuffled(scene: Scene) -> Scene:
    """Each camera with the photo of another."""
    n = len(scene.views)
    photos = [scene.views[(7 * i + 3) % n].photo for i in range(n)]
    return replace(scene, views=tuple(replace(v, photo=p) for v, p in zip(scene.views, photos, strict=True)))


def write(scene: Scene, folder: Path) -> None:
    """As Blender's transforms.json: OpenGL's axes, RGBA photos, one angle of view."""
    (folder / "train").mkdir(parents=True)
    frames = []
    for view in scene.views:
        photo = view.pixels
        Image.fromarray(np.dstack([photo.image, photo.alpha])).save(folder / "train" / view.name)
        matrix = np.linalg.inv(view.camera.viewmat) @ FLIP
        frames.append({"file_path": f"./train/{Path(view.name).stem}", "transform_matrix": matrix.tolist()})
    angle = float(2 * np.arctan(0.5 / FACTOR))
    (folder / "transforms_train.json").write_text(json.dumps({"camera_angle_x": angle, "frames": frames}))
