# SPDX-License-Identifier: Apache-2.0
"""What a transforms.json says, in the dialects of nerfstudio, instant-ngp, Blender and scripts of one's own.

Enters: the file. Leaves: frames, each with the path of its photo, its camera-to-world matrix in OpenCV axes and
the lens in COLMAP's words, both in numbers that may still be senseless. The matrices in the file have OpenGL's
axes: x right, y up, z back (nerfstudio's data_conventions.md; Blender). A key in a frame beats one at the top.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import UserError
from ..storage import parsed, text_of
from .colmap_records import CameraRecord

FOCAL = (("fl_x", "fl_y"), ("fx", "fy"), ("f1_x", "f1_y"))  # pixels; the last is of some script
CENTRE = (("cx", "cy"), ("c1_x", "c1_y"))
ANGLES = (("camera_angle_x", "camera_angle_y", 1.0), ("x_fov", "y_fov", math.pi / 180))
MATRICES = ("K", "intrinsic_matrix", "camera_intrinsics")
PERSPECTIVE = ("PERSPECTIVE", "PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV")
OTHER_MODELS = ("OPENCV_FISHEYE", "EQUIRECTANGULAR")
SHEAR = 0.02  # of R^T R / s^2 = I: matrices written with few digits pass


class Frame(NamedTuple):
    """A photo of the file. `width`, `height` are None where the file does not say them."""

    path: str  # as written
    camtoworld: np.ndarray  # [4, 4]
    width: int | None
    height: int | None
    values: Mapping[str, Any]  # the frame's own keys
    top: Mapping[str, Any]  # those of the whole file
    mask: str | None


class Contents(NamedTuple):
    """A file: its frames and what else in it matters."""

    frames: list[Frame]
    mirrored: bool  # the world was left-handed; its z was turned round
    points: str | None  # the path of a PLY, as written
    held_out: frozenset[str]  # paths that the file itself holds out
    has_depth: bool
    bad: int  # frames that are left out, as the file calls them bad


def read_file(path: Path) -> Contents:
    """The frames of the file; UserError where it is none, holds none, or one has no usable matrix."""
    try:
        data = parsed(text_of(path.read_bytes()))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {error}") from error
    top: dict[str, Any] = data if isinstance(data, dict) else {}
    listed = data if isinstance(data, list) else top.get("frames")
    if not isinstance(listed, list) or not all(isinstance(item, dict) for item in listed):
        raise UserError(f"{path} must have a list 'frames' of objects with file_path and transform_matrix")
    if not listed:
        raise UserError(f"{path} has no frames; write it again from the reconstruction")
    apart = top.get("test_frames")
    apart = [item for item in apart if isinstance(item, dict)] if isinstance(apart, list) else []
    all_listed = [*listed, *apart]
    listed = [item for item in all_listed if item.get("is_bad") is not True] or all_listed
    frames = [_frame(item, top, f"frame {i} of {path}") for i, item in enumerate(listed)]
    signs = np.array([np.linalg.det(frame.camtoworld[:3, :3]) > 0 for frame in frames])
    if not signs.all():
        if signs.any():
            odd = frames[int(np.argmin(signs == (signs.mean() > 0.5)))].path
            raise UserError(f"{path}: the matrix of {odd!r} mirrors and others do not; correct it")
        flip = np.diag([1.0, 1.0, -1.0, 1.0])
        frames = [frame._replace(camtoworld=flip @ frame.camtoworld) for frame in frames]
    frames = [frame._replace(camtoworld=_rigid(frame, path)) for frame in frames]
    points = top.get("ply_file_path")
    held = top.get("test_filenames") or top.get("val_filenames") or [item.get("file_path") for item in apart]
    return Contents(
        frames,
        not signs.all(),
        points if isinstance(points, str) and points else None,
        frozenset(name for name in held if isinstance(name, str)) if isinstance(held, list) else frozenset(),
        any("depth_file_path" in item or "depth_path" in item for item in listed),
        len(all_listed) - len(listed),
    )


def record(frame: Frame, size: tuple[int, int]) -> CameraRecord:
    """The camera in COLMAP's words, for the file's w x h; `size` of the photo stands in where it has none.

    UserError where there is no focal length, or the lens is of a kind that is not known.
    """
    width, height = frame.width or size[0], frame.height or size[1]
    model = _model(frame)
    if model == "EQUIRECTANGULAR":
        return CameraRecord(model, width, height, (float(width), float(height)))
    fx, fy, cx, cy = _pinhole(frame, width, height)
    k1, k2, k3, k4, p1, p2 = _lens(frame)
    if model == "OPENCV_FISHEYE":
        return CameraRecord(model, width, height, (fx, fy, cx, cy, k1, k2, k3, k4))
    if k4:
        raise UserError(
            f"photo {frame.path!r} has k4 = {k4} of a perspective lens; undistort the photos first"
        )
    if k3:
        return CameraRecord("FULL_OPENCV", width, height, (fx, fy, cx, cy, k1, k2, p1, p2, k3, 0.0, 0.0, 0.0))
    if k1 or k2 or p1 or p2:
        return CameraRecord("OPENCV", width, height, (fx, fy, cx, cy, k1, k2, p1, p2))
    return CameraRecord("PINHOLE", width, height, (fx, fy, cx, cy))


def _frame(item: dict[str, Any], top: dict[str, Any], what: str) -> Frame:
    path = item.get("file_path")
    if not isinstance(path, str) or not path.strip():
        raise UserError(f"{what} has no file_path, the name of its photo")
    matrix = item.get("transform_matrix", item.get("transform_matrix_start"))
    if matrix is None:
        raise UserError(f"{what} has no transform_matrix, the camera's place in the world")
    try:
        camtoworld = np.array(matrix, np.float64)
    except (TypeError, ValueError, OverflowError):
        camtoworld = np.empty(0)
    if camtoworld.shape == (3, 4):
        camtoworld = np.vstack([camtoworld, [0, 0, 0, 1]])
    if camtoworld.shape != (4, 4) or not np.isfinite(camtoworld).all() or camtoworld[3, 3] == 0:
        raise UserError(f"{what} must have a transform_matrix [4, 4] of finite numbers")
    camtoworld = camtoworld / camtoworld[3, 3]  # some writers scale the whole matrix
    camtoworld[:, 1:3] *= -1  # OpenGL's y up, z back -> OpenCV's y down, z forward
    mask = item.get("mask_path")
    sizes = [_size(item, top, keys) for keys in (("w", "width"), ("h", "height"))]
    return Frame(path, camtoworld, sizes[0], sizes[1], item, top, mask if isinstance(mask, str) else None)


def _rigid(frame: Frame, path: Path) -> np.ndarray:
    """The matrix with a rotation in it and no scale; UserError where it is neither."""
    matrix = frame.camtoworld
    scale = np.cbrt(np.linalg.det(matrix[:3, :3]))
    rotation = matrix[:3, :3] / scale if scale > 0 else matrix[:3, :3]
    if not np.abs(rotation.T @ rotation - np.eye(3)).max() <= SHEAR:
        raise UserError(f"{path}: the matrix of {frame.path!r} is no rotation and translation; correct it")
    left, _, right = np.linalg.svd(rotation)
    rigid = np.eye(4)
    rigid[:3, :3], rigid[:3, 3] = left @ right, matrix[:3, 3]
    return rigid


def _size(item: dict[str, Any], top: dict[str, Any], keys: tuple[str, str]) -> int | None:
    for source in (item, top):
        for key in keys:
            value = _number(source.get(key))
            if value is not None and value >= 1:
                return round(value)
    return None


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return (
        float(value) if abs(value) < 1e300 else None
    )  # false for NaN, and asked of whole numbers of any length


def _pinhole(frame: Frame, width: int, height: int) -> tuple[float, float, float, float]:
    """fx, fy, cx, cy of the picture of width x height; UserError where there is no focal length."""
    focal = next((f for source in (frame.values, frame.top) if (f := _focal(source, width, height))), None)
    if focal is None:
        raise UserError(
            f"photo {frame.path!r} has no focal length: give fl_x and fl_y in pixels, or camera_angle_x in "
            "radians"
        )
    cx, cy = next(
        (c for source in (frame.values, frame.top) if (c := _centre(source))), (width / 2, height / 2)
    )
    return *focal, cx, cy


def _focal(source: Mapping[str, Any], width: int, height: int) -> tuple[float, float] | None:
    """(fx, fy) of one source, pixels before angles; an axis that is missing takes the other's."""
    pairs: list[tuple[float | None, float | None]] = []
    if (K := _intrinsic_matrix(source)) is not None:
        pairs.append((float(K[0, 0]), float(K[1, 1])))
    pairs += [(_number(source.get(x)), _number(source.get(y))) for x, y in FOCAL]
    for x, y, unit in ANGLES:
        angles = [(_number(source.get(x)), width), (_number(source.get(y)), height)]
        pairs.append(
            tuple(  # type: ignore[arg-type]
                side / 2 / math.tan(angle * unit / 2) if angle and 0 < angle * unit < math.pi else None
                for angle, side in angles
            )
        )
    for fx, fy in pairs:
        first = fx or fy
        if first and first > 0:
            return fx or first, fy or first
    return None


def _centre(source: Mapping[str, Any]) -> tuple[float, float] | None:
    if (K := _intrinsic_matrix(source)) is not None:
        return float(K[0, 2]), float(K[1, 2])
    for x, y in CENTRE:
        cx, cy = _number(source.get(x)), _number(source.get(y))
        if cx is not None and cy is not None:
            return cx, cy
    return None


def _intrinsic_matrix(source: Mapping[str, Any]) -> np.ndarray | None:
    for key in MATRICES:
        try:
            K = np.array(source[key], np.float64)
        except (KeyError, TypeError, ValueError, OverflowError):
            continue
        if K.shape in ((3, 3), (4, 4), (3, 4)) and np.isfinite(K).all():
            return K
    return None


def _model(frame: Frame) -> str:
    """PERSPECTIVE or one of OTHER_MODELS."""
    for source in (frame.values, frame.top):
        name = source.get("camera_model")
        if isinstance(name, str) and name.upper() in PERSPECTIVE:
            return "OPENCV_FISHEYE" if source.get("is_fisheye") is True else "PERSPECTIVE"
        if isinstance(name, str):
            if name.upper() in OTHER_MODELS:
                return name.upper()
            supported = ", ".join([*PERSPECTIVE[1:], *OTHER_MODELS])
            raise UserError(f"photo {frame.path!r} has the camera_model {name}; supported are {supported}")
        if source.get("is_fisheye") is True:
            return "OPENCV_FISHEYE"
        if source.get("equirectangular") is True or source.get("latlong") is True:
            return "EQUIRECTANGULAR"
    return "PERSPECTIVE"


def _lens(frame: Frame) -> tuple[float, float, float, float, float, float]:
    """k1, k2, k3, k4, p1, p2 as the frame says them, else the top, else zeros."""
    names = ("k1", "k2", "k3", "k4", "p1", "p2")
    for source in (frame.values, frame.top):
        params = source.get("distortion_params")
        if isinstance(params, list) and 4 <= len(params) <= 6:
            values = [_number(value) or 0.0 for value in params] + [0.0] * (6 - len(params))
            return tuple(values)  # type: ignore[return-value]
        if any(_number(source.get(name)) is not None for name in names):
            return tuple(_number(source.get(name)) or 0.0 for name in names)  # type: ignore[return-value]
    return (0.0,) * 6
