# SPDX-License-Identifier: Apache-2.0
"""COLMAP's text model files, cameras.txt, images.txt, points3D.txt, as COLMAP, other programs and editors
write them: with a byte-order mark, in UTF-16, and without the second lines of images.txt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from ..errors import UserError
from ..storage import encoding_of
from .colmap_records import CameraRecord, ImageRecord, Points
from .files import LFS_HEAD

IMAGE_FIELDS = 10  # IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME


def read_cameras(path: Path) -> list[tuple[int, CameraRecord]]:
    """The cameras of cameras.txt with their ids, in the order of the file."""
    cameras = []
    for number, line in _lines(path):
        try:
            camera_id, model, width, height, *params = line.split()
            values = tuple(float(value) for value in params)
            cameras.append((int(camera_id), CameraRecord(model, int(width), int(height), values)))
        except ValueError:
            raise _malformed(path, number, line, "CAMERA_ID MODEL WIDTH HEIGHT PARAMS...") from None
    return cameras


def read_images(path: Path, log: Callable[[str], None] = lambda line: None) -> list[ImageRecord]:
    """images.txt, in the order of the file, without the 2D points.

    These stand in every second line, which may be empty. Editors and scripts that drop empty lines leave the
    next image there: it is told from 2D points by its name.
    """
    images = []
    expects_points, lost = False, 0
    for number, line in _lines(path, blank=True):
        if expects_points and not _is_image(line):
            expects_points = False
            continue
        lost += expects_points
        if not line:
            continue
        try:
            _, w, x, y, z, tx, ty, tz, camera_id, name = line.split(maxsplit=IMAGE_FIELDS - 1)
            quat, translation = (float(w), float(x), float(y), float(z)), (float(tx), float(ty), float(tz))
            images.append(ImageRecord(name, int(camera_id), quat, translation))
        except ValueError:
            raise _malformed(path, number, line, "IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME") from None
        expects_points = True
    if lost:
        log(f"warning: {path} has lost {lost} of its second lines (2D points, often empty)")
    return images


def _is_image(line: str) -> bool:
    """Whether a line where 2D points (X Y POINT3D_ID ...) may stand is the next image."""
    fields = line.split(maxsplit=IMAGE_FIELDS)
    if len(fields) < IMAGE_FIELDS or not all(map(_is_number, fields[: IMAGE_FIELDS - 1])):
        return False
    return len(fields) == IMAGE_FIELDS or not _is_number(fields[-2])  # ten numbers are no 2D points


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def read_points(path: Path) -> Points:
    """points3D.txt, without the tracks."""
    positions, colors = [], []
    for number, line in _lines(path):
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


def _lines(path: Path, blank: bool = False) -> Iterator[tuple[int, str]]:
    """The number and text of each line, stripped; no comments, and blank ones only where asked for."""
    try:
        with open(path, "rb") as file:
            head = file.read(len(LFS_HEAD))
        if head == LFS_HEAD:
            raise UserError(f"{path} is a Git LFS pointer, not the file; run git lfs pull")
        encoding = encoding_of(head)
        # Names in another code page pass as surrogates; nothing of the kind can stand in UTF-16.
        errors = "replace" if encoding == "utf-16" else "surrogateescape"
        with open(path, encoding=encoding, errors=errors) as file_of_text:
            for number, line in enumerate(file_of_text, 1):
                text = line.strip()
                if (text or blank) and not text.startswith("#"):
                    yield number, text
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error


def _malformed(path: Path, number: int, line: str, expected: str) -> UserError:
    return UserError(f"{path}, line {number}: expected {expected}, got {line[:80]!r}")
