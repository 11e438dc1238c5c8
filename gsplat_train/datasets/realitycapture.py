# SPDX-License-Identifier: Apache-2.0
"""RealityCapture's (RealityScan's) camera parameters as CSV, the photos, and a PLY of points -> Scene.

Enters: the file of the export "Internal/External camera parameters", whose first line is
#name,x,y,alt,heading,pitch,roll,f,px,py,k1,k2,k3,k4,t1,t2; lens columns may be missing. Angles are degrees, z is
up; a camera's axes (x right, y up, z back) in the world are Rz(-heading) Rx(pitch) Ry(roll). f is in millimetres
of a picture whose longer side is 36, px and py are shares of that side from the middle (both as nerfstudio's
converter reads them, which was not checked with the program itself: the scene's check is).
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import UserError
from ..scene import Camera, Scene
from ..storage import text_of
from .colmap_records import CameraRecord, intrinsics
from .files import find_photos, shorten
from .images import PhotoFile, load_photos, with_masks
from .names import as_name
from .options import LoadOptions
from .point_ply import cloud_beside

POSE = ("x", "y", "alt", "heading", "pitch", "roll")
LENS = ("k1", "k2", "k3", "k4", "t1", "t2")
FRAME = 36.0  # millimetres of the longer side, to which f refers
HEAD = 4096  # bytes of a file that are looked at

LOOKED_FOR = "RealityCapture's camera parameters (CSV)"

Row = dict[str, str]


def recognise(root: Path) -> bool:
    """Whether the folder holds camera parameters that RealityCapture exported."""
    return _file(root) is not None


def load(root: Path, options: LoadOptions) -> Scene:
    """The scene in `root`; UserError where the file is broken or none of its photos is there."""
    log = options.log
    path = _file(root)
    if path is None:
        raise UserError(f"{root} holds no camera parameters of RealityCapture")
    rows = read_rows(path, log)
    files = find_photos(rows, root, options.images, log)
    photos = [photo(name, rows[name], file, path) for name, file in files.items()]
    views, undistorted = load_photos(with_masks(photos, root, options), options)
    scene = Scene(root.resolve().name, tuple(views), np.empty((0, 3)), np.empty((0, 3)), undistorted)
    cloud = cloud_beside(root, log)
    if cloud is None:
        return scene
    points, colors = cloud
    return replace(scene, points=points, colors=colors)


def read_rows(path: Path, log: Callable[[str], None] = lambda line: None) -> dict[str, Row]:
    """The rows by the photo's name, which is a path below a folder; those without a pose are left out."""
    lines = _text(path).splitlines()
    header = lines[0].lstrip("#")
    delimiter = max(",;\t", key=header.count)
    rows: dict[str, Row] = {}
    broken = []
    for row in csv.DictReader(io.StringIO("\n".join([header, *lines[1:]])), delimiter=delimiter):
        named = {
            (key or "").strip().lower(): (value or "").strip()
            for key, value in row.items()
            if isinstance(key, str)
        }
        name = as_name(named.get("name", ""))
        if not name or name.startswith("#"):
            continue
        try:
            usable = bool(
                np.isfinite([float(named[key]) for key in (*POSE, "f")]).all() and float(named["f"]) > 0
            )
        except (KeyError, ValueError, OverflowError):
            usable = False
        if not usable:
            broken.append(name)
        elif name not in rows:
            rows[name] = named
    if broken:
        log(f"warning: {len(broken)} photos have no usable pose ({shorten(broken)}) and are left out")
    if not rows:
        raise UserError(f"{path} has no camera with {', '.join(POSE)} and f; export the parameters again")
    return rows


def photo(name: str, row: Row, file: Path, path: Path) -> PhotoFile:
    """The photo with its camera; UserError where the lens is none of today's."""
    try:
        with Image.open(file) as picture:
            width, height = picture.size
    except Exception as error:  # pillow raises whatever its parsers meet
        raise UserError(f"photo {file} is not a picture pillow can read; replace it") from error
    longer = max(width, height)
    f = float(row["f"]) * longer / FRAME
    cx, cy = (_number(row, key) * longer + side / 2 for key, side in (("px", width), ("py", height)))
    k1, k2, k3, k4, t1, t2 = (_number(row, key) for key in LENS)
    if k4:
        raise UserError(
            f"{path}: {name!r} has k4 = {k4}; export undistorted photos, or Brown's model with k1 to k3"
        )
    pinhole = (f, f, cx, cy)
    record = CameraRecord("PINHOLE", width, height, pinhole)
    if k3:
        record = CameraRecord("FULL_OPENCV", width, height, (*pinhole, k1, k2, t1, t2, k3, 0.0, 0.0, 0.0))
    elif any((k1, k2, t1, t2)):
        record = CameraRecord("OPENCV", width, height, (*pinhole, k1, k2, t1, t2))
    K, distortion = intrinsics(record, f"the camera of {name!r} in {path}")
    return PhotoFile(name, file, Camera(viewmat(row), K, width, height), distortion)


def viewmat(row: Row) -> np.ndarray:
    """[4, 4] world -> camera in OpenCV's axes."""
    heading, pitch, roll = (np.radians(float(row[key])) for key in ("heading", "pitch", "roll"))
    camtoworld = _about(2, -heading) @ _about(0, pitch) @ _about(1, roll)
    matrix = np.eye(4)
    matrix[:3, :3] = (camtoworld * [1, -1, -1]).T
    matrix[:3, 3] = -matrix[:3, :3] @ [float(row[key]) for key in ("x", "y", "alt")]
    return matrix


def _about(axis: int, angle: float) -> np.ndarray:
    """The rotation about a coordinate axis."""
    first, second = (axis + 1) % 3, (axis + 2) % 3
    matrix = np.eye(3)
    matrix[first, first] = matrix[second, second] = np.cos(angle)
    matrix[second, first], matrix[first, second] = np.sin(angle), -np.sin(angle)
    return matrix


def _file(root: Path) -> Path | None:
    """The CSV in the folder whose head is RealityCapture's."""
    for path in sorted(root.glob("*.csv")):
        try:
            with open(path, "rb") as file:
                head = file.read(HEAD)
        except OSError:
            continue
        first = text_of(head, "replace").partition("\n")[0].lower()
        words = {word.strip().lstrip("#") for word in re.split(r"[,;\t]", first)}
        if {"name", *POSE} <= words:
            return path
    return None


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    return text_of(data, "surrogateescape")


def _number(row: Row, key: str) -> float:
    try:
        value = float(row.get(key) or 0.0)
    except ValueError:
        return 0.0
    return value if np.isfinite(value) else 0.0
