# SPDX-License-Identifier: Apache-2.0
"""Camera paths from files: this program's own, and nerfstudio's camera_path.json.

This program's own is JSON in the scene's frame and OpenCV axes (x right, y down, z forward):

    {"fps": 30, "width": 1280, "height": 720, "fov": 50, "frames": [{"camtoworld": [16 numbers, by row]}, ...]}

`fov` is the vertical field of view in degrees. A frame may have its own `fov`, or `K` (9 numbers, by row, in
pixels), and `viewmat` (world to camera) in the place of `camtoworld`. `write_path` writes it.

nerfstudio's `camera_path` lists camera_to_world (16 numbers by row, OpenGL axes), fov (vertical, degrees) and
aspect, beside render_width, render_height and fps; a file of its older web viewer alike. Its frame is that of
nerfstudio's training: where its dataparser_transforms.json lies beside the file, it is undone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import UserError, words_of
from ..scene import Camera
from ..storage import atomic_write, parsed, text_of
from .paths import along

MOST_FRAMES = 100_000
FLIP = np.diag([1.0, -1.0, -1.0, 1.0])  # OpenGL's camera axes <-> OpenCV's


class CameraPath(NamedTuple):
    """The cameras of a file, and how many frames a second (None: it does not say)."""

    cameras: list[Camera]
    fps: float | None


@np.errstate(all="ignore")  # hostile numbers overflow, and are found out by what comes of them
def read_path(path: Path, frames: int | None = None) -> CameraPath:
    """The path in a file. frames: so many, evenly along it; None: those of the file.

    Pictures of the file's size, 1280x720 where it says none. UserError, in one line, where it is no path.
    """
    try:
        content = parsed(text_of(path.read_bytes()))
    except OSError as error:
        raise UserError(f"cannot read the camera path {path}: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"camera path {path} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"camera path {path} must be a JSON object with `frames` or `camera_path`")
    theirs = "camera_path" in content or "keyframes" in content
    listed = content.get("camera_path") or content.get("keyframes") if theirs else content.get("frames")
    if not isinstance(listed, list) or not 1 <= len(listed) <= MOST_FRAMES:
        raise UserError(f"camera path {path} has no list `frames` (or nerfstudio's `camera_path`) of cameras")
    try:
        width = int(content.get("render_width" if theirs else "width") or 1280)
        height = int(content.get("render_height" if theirs else "height") or 720)
        default = float(content.get("default_fov" if theirs else "fov") or 50.0)
        undo = _undo(path.with_name("dataparser_transforms.json")) if theirs else np.eye(4)
        made = [_camera(frame, width, height, default, undo, theirs) for frame in listed]
        fps = float(content["fps"]) if content.get("fps") else None
    except UserError as error:
        raise UserError(f"camera path {path}: {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, np.linalg.LinAlgError) as error:
        raise UserError(f"camera path {path} is damaged: {words_of(error)}") from None
    if theirs and "camera_path" not in content and frames is None:
        frames = max(round((fps or 24) * float(content.get("seconds") or len(made))), 1)
    if frames is not None and frames != len(made):
        lenses = [made[i] for i in np.linspace(0, len(made) - 1, frames).round().astype(int)]
        curve = along([camera.viewmat for camera in made], frames)
        made = [Camera(v, lens.K, width, height) for v, lens in zip(curve, lenses, strict=True)]
    return CameraPath(made, fps)


def write_path(path: Path, cameras: Sequence[Camera], fps: float) -> None:
    """Writes a path in this program's own format."""
    frames = [{"camtoworld": c.camtoworld.ravel().tolist(), "K": c.K.ravel().tolist()} for c in cameras]
    content = {"fps": fps, "width": cameras[0].width, "height": cameras[0].height, "frames": frames}
    with atomic_write(path) as file:
        file.write(json.dumps(content).encode() + b"\n")


def _camera(
    frame: Mapping[str, Any], width: int, height: int, fov: float, undo: np.ndarray, theirs: bool
) -> Camera:
    if theirs:
        pose = frame.get("camera_to_world", frame.get("matrix"))
        pose = np.array(parsed(pose) if isinstance(pose, str) else pose, np.float64).reshape(4, 4)
        if np.abs(pose[3, :3]).max() > 1e-6:  # the older viewer's keyframes are by column
            pose = pose.T
        viewmat = _rigid(np.linalg.inv(undo @ pose @ FLIP))
    elif "viewmat" in frame:
        viewmat = np.array(frame["viewmat"], np.float64).reshape(4, 4)
    else:
        viewmat = np.linalg.inv(np.array(frame["camtoworld"], np.float64).reshape(4, 4))
    if "K" in frame and not theirs:
        return Camera(viewmat, np.array(frame["K"], np.float64).reshape(3, 3), width, height)
    fov = float(frame.get("fov") or fov)
    if not 0 < fov < 180:
        raise UserError(f"fov must be degrees between 0 and 180, got {fov:g}")
    focal = height / 2 / np.tan(np.radians(fov) / 2)
    K = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    return Camera(viewmat, K, width, height)


def _undo(path: Path) -> np.ndarray:
    """[4, 4] from nerfstudio's frame of training to the one it read; the identity without its file."""
    if not path.is_file():
        return np.eye(4)
    content = parsed(text_of(path.read_bytes()))
    forth = np.eye(4)
    forth[:3] = np.array(content["transform"], np.float64)
    forth = np.diag([*[float(content["scale"])] * 3, 1.0]) @ forth
    return np.linalg.inv(forth)


def _rigid(viewmat: np.ndarray) -> np.ndarray:
    """The viewmat of a camera whose pose was scaled."""
    scale = np.cbrt(np.linalg.det(viewmat[:3, :3]))
    made = np.eye(4)
    made[:3] = viewmat[:3] / scale
    return made
