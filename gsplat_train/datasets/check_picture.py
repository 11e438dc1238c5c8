# SPDX-License-Identifier: Apache-2.0
"""check.png: cameras and points from above and from the side, and photos with the points where cameras see them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

from ..scene import Scene, View
from ..storage import PROGRAM, atomic_write
from .agreement import in_picture, spread

SIDE = 480  # pixels of a plan
PHOTO = 240  # pixels, width of a photo of the contact sheet
COLUMNS, ROWS = 4, 3
POINTS_IN_PLAN, POINTS_IN_PHOTO = 20_000, 600
BACK, CAMERA, FORWARD = (24, 24, 28), (255, 170, 60), (255, 90, 60)
DIM = 0.45  # of the photos' brightness below the points
SHOWN = 0.95  # of the points lie inside a plan


def write(path: Path, scene: Scene) -> None:
    """Writes the picture, whole or not at all; StorageError where that fails."""
    sheet = _contact_sheet(scene)
    picture = Image.new("RGB", (2 * SIDE, SIDE + sheet.height), BACK)
    above, side = _axes(scene.views)
    picture.paste(_plan(scene, above, "from above"), (0, 0))
    picture.paste(_plan(scene, side, "from the side"), (SIDE, 0))
    picture.paste(sheet, (0, SIDE))
    data, text = io.BytesIO(), PngInfo()
    text.add_text("Software", PROGRAM)
    picture.save(data, "PNG", pnginfo=text)
    with atomic_write(path) as file:
        file.write(data.getvalue())


def _axes(views: Sequence[View]) -> tuple[np.ndarray, np.ndarray]:
    """Two [2, 3] bases: right and away as seen from above, right and up as seen from the side."""
    up = np.mean([-view.camera.viewmat[1, :3] for view in views], axis=0)
    up = up / np.linalg.norm(up) if np.linalg.norm(up) > 1e-6 else np.array([0.0, 0.0, 1.0])
    positions = np.stack([view.camera.position for view in views])
    flat = (positions - positions.mean(axis=0)) @ (np.eye(3) - np.outer(up, up))
    right = np.linalg.svd(flat)[2][0]
    right = right - up * (right @ up)
    if np.linalg.norm(right) < 1e-6:
        right = np.cross(up, [0.37, 0.71, 0.6])
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(up, right)]), np.stack([right, up])


def _plan(scene: Scene, axes: np.ndarray, title: str) -> Image.Image:
    canvas = np.full((SIDE, SIDE, 3), BACK, np.uint8)
    cameras = np.stack([view.camera.position for view in scene.views]) @ axes.T
    forward = np.stack([view.camera.viewmat[2, :3] for view in scene.views]) @ axes.T
    chosen = spread(len(scene.points), POINTS_IN_PLAN)
    points = scene.points[chosen] @ axes.T
    outer = (1 - SHOWN) / 2
    inside = np.quantile(points, [outer, 1 - outer], axis=0) if len(points) else cameras[:1]
    everything = np.concatenate([cameras, inside])
    low, high = everything.min(axis=0), everything.max(axis=0)
    scale = 0.88 * SIDE / max(float((high - low).max()), 1e-30)

    def place(x: np.ndarray) -> np.ndarray:
        moved = (x - (low + high) / 2) * scale * [1, -1] + SIDE / 2
        return np.clip(moved, -9 * SIDE, 9 * SIDE)

    at = place(points).astype(int)
    seen = ((at >= 0) & (at < SIDE)).all(axis=1)
    canvas[at[seen, 1], at[seen, 0]] = np.maximum(scene.colors[chosen][seen], 60)
    picture = Image.fromarray(canvas)
    draw = ImageDraw.Draw(picture)
    for start, way in zip(place(cameras), forward, strict=True):
        x, y = start
        draw.line([x, y, x + 14 * way[0], y - 14 * way[1]], fill=FORWARD)
        draw.ellipse([x - 2, y - 2, x + 2, y + 2], fill=CAMERA)
    draw.text((8, 6), f"{title}: {len(cameras)} cameras, {len(scene.points):,} points", fill=(220, 220, 220))
    return picture


def _contact_sheet(scene: Scene) -> Image.Image:
    shown = [
        scene.views[i] for i in spread(len(scene.views), COLUMNS * ROWS) if scene.views[i].photo is not None
    ]
    tiles = [_tile(view, scene) for view in shown]
    height = max((tile.height for tile in tiles), default=1)
    rows = -(-len(tiles) // COLUMNS)
    sheet = Image.new("RGB", (2 * SIDE, rows * height), BACK)
    for k, tile in enumerate(tiles):
        sheet.paste(tile, (k % COLUMNS * PHOTO, k // COLUMNS * height))
    return sheet


def _tile(view: View, scene: Scene) -> Image.Image:
    """The photo, dimmed, with the points in their colours where the camera says they are."""
    image = Image.fromarray(view.pixels.image)
    size = PHOTO, max(1, round(PHOTO * image.height / image.width))
    picture = image.resize(size).point(lambda value: DIM * value)
    camera = view.camera.resized(*size)
    chosen = spread(len(scene.points), POINTS_IN_PHOTO * 4)
    index, pixels = in_picture(camera, scene.points[chosen])
    draw = ImageDraw.Draw(picture)
    for k, (x, y) in list(zip(index, pixels, strict=True))[:POINTS_IN_PHOTO]:
        draw.rectangle([x - 1, y - 1, x + 1, y + 1], fill=tuple(scene.colors[chosen][k].tolist()))
    draw.text((4, 2), view.name, fill=(255, 255, 255))
    return picture
