# SPDX-License-Identifier: Apache-2.0
"""A PNG of a scene from the top and from the side: its points in their colours, its cameras as red arrow
heads.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageDraw

SIDE = 640  # pixels of each of the two pictures
MARGIN = 24
SHOWN = 0.98  # of the points; far ones would make all else tiny
FEW = 3000  # points: they are drawn two pixels wide
BACK, CAMERA, INK = (24, 24, 28), (255, 84, 64), (220, 220, 220)


def draw(
    R: np.ndarray, positions: np.ndarray, points: np.ndarray, colors: np.ndarray, up: np.ndarray
) -> bytes:
    """The PNG. R [V, 3, 3] world to camera, positions [V, 3], points [P, 3], colors [P, 3] uint8, up [3]."""
    first = np.eye(3)[int(np.argmin(np.abs(up)))]
    right = np.cross(up, first)
    right /= np.linalg.norm(right)
    away = np.cross(up, right)
    shown = _near(positions, points)
    picture = Image.new("RGB", (2 * SIDE, SIDE), BACK)
    everything = np.concatenate([positions, points[shown]])
    for left, title, across, down in ((0, "top", right, away), (SIDE, "side", right, -up)):
        plane = np.stack([across, down])
        low, high = (f(everything @ plane.T, axis=0) for f in (np.min, np.max))
        scale = (SIDE - 2 * MARGIN) / max(float((high - low).max()), 1e-9)
        offset = np.array([left + SIDE / 2, SIDE / 2]) - scale * (low + high) / 2
        _points(picture, scale * points[shown] @ plane.T + offset, colors[shown])
        pen = ImageDraw.Draw(picture)
        size = 0.022 * SIDE
        for matrix, position in zip(R, positions, strict=True):
            tip = scale * plane @ position + offset
            ahead, wide = plane @ matrix[2], plane @ matrix[0]
            corners = [tip, tip + size * (ahead + 0.5 * wide), tip + size * (ahead - 0.5 * wide)]
            pen.polygon([tuple(corner) for corner in corners], outline=CAMERA)
        pen.text((left + 8, 6), title, fill=INK)
    pen.line([(SIDE, 0), (SIDE, SIDE)], fill=INK)
    stream = io.BytesIO()
    picture.save(stream, "PNG", optimize=True)
    return stream.getvalue()


def _near(positions: np.ndarray, points: np.ndarray) -> np.ndarray:
    """bool [P]: without the farthest from the middle."""
    if not len(points):
        return np.zeros(0, bool)
    distances = np.linalg.norm(points - np.median(points, axis=0), axis=1)
    reach = np.linalg.norm(positions - np.median(points, axis=0), axis=1).max()
    return distances <= min(np.quantile(distances, SHOWN), 3 * reach)


def _points(picture: Image.Image, places: np.ndarray, colors: np.ndarray) -> None:
    columns, rows = np.floor(places).astype(int).T
    inside = (columns >= 0) & (columns < picture.width) & (rows >= 0) & (rows < picture.height)
    pixels = np.asarray(picture).copy()
    visible = np.maximum(colors[inside], 48)  # dark points too
    for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)) if len(places) < FEW else ((0, 0),):
        down, across = rows[inside] + i, columns[inside] + j
        pixels[np.minimum(down, len(pixels) - 1), np.minimum(across, pixels.shape[1] - 1)] = visible
    picture.paste(Image.fromarray(pixels))
