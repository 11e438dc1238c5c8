# SPDX-License-Identifier: Apache-2.0
"""COLMAP's text model files: cameras.txt, images.txt, points3D.txt."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..errors import UserError
from .colmap_records import CameraRecord, ImageRecord, Points
from .files import LFS_HEAD


def read_cameras(path: Path) -> dict[int, CameraRecord]:
    """cameras.txt by camera id."""
    cameras = {}
    for number, line in _records(path):
        try:
            camera_id, model, width, height, *params = line.split()
            values = tuple(float(value) for value in params)
            cameras[int(camera_id)] = CameraRecord(model, int(width), int(height), values)
        except ValueError:
            raise _malformed(path, number, line, "CAMERA_ID MODEL WIDTH HEIGHT PARAMS...") from None
    return cameras


def read_images(path: Path) -> list[ImageRecord]:
    """images.txt, in the order of the file, without the 2D points (every second line, which may be empty)."""
    images = []
    for number, line in _records(path, lines_each=2):
        try:
            _, w, x, y, z, tx, ty, tz, camera_id, name = line.split(maxsplit=9)
            quat, translation = (float(w), float(x), float(y), float(z)), (float(tx), float(ty), float(tz))
            images.append(ImageRecord(name, int(camera_id), quat, translation))
        except ValueError:
            raise _malformed(path, number, line, "IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME") from None
    return images


def read_points(path: Path) -> Points:
    """points3D.txt, without the tracks."""
    positions, colors = [], []
    for number, line in _records(path):
        try:
            _, x, y, z, red, green, blue, *_ = line.split(maxsplit=7)
            positions.append((float(x), float(y), float(z)))
            color = (int(red), int(green), int(blue))
            if not all(0 <= channel <= 255 for channel in color):
                raise ValueError
            colors.append(color)
        except ValueError:
            raise _malformed(path, number, line, "POINT3D_ID X Y Z R G B ERROR TRACK...") from None
    return Points(np.array(positions).reshape(-1, 3), np.array(colors, np.uint8).reshape(-1, 3))


def _records(path: Path, lines_each: int = 1) -> Iterator[tuple[int, str]]:
    """The number and text of each record's first line; comments and blank lines between do not count."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            numbered = enumerate(file, 1)
            for number, line in numbered:
                text = line.strip()
                if text.startswith(LFS_HEAD.decode()):
                    raise UserError(f"{path} is a Git LFS pointer, not the file; run git lfs pull")
                if text and not text.startswith("#"):
                    yield number, text
                    for _ in range(lines_each - 1):
                        next(numbered, None)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error


def _malformed(path: Path, number: int, line: str, expected: str) -> UserError:
    return UserError(f"{path}, line {number}: expected {expected}, got {line[:80]!r}")
