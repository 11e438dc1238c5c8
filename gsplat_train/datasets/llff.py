# SPDX-License-Identifier: Apache-2.0
"""An LLFF scene, poses_bounds.npy and photos without a COLMAP model -> Scene.

Each row of poses_bounds.npy is a [3, 5] matrix, row by row, then near and far depth (Mildenhall et al. 2019,
https://github.com/fyusion/llff): columns 0-2 are the camera's down, right and back axes in the world, column
3 its position, column 4 height, width and focal length in pixels of the full-size photo. There is no
distortion, the principal point is the centre, and row k is the k-th photo in sorted order.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import UserError
from ..scene import Camera, Scene
from .files import find_image_folder, list_pictures
from .images import PhotoFile, load_photos, with_masks
from .options import LoadOptions
from .points import draw_points

POSES_FILE = "poses_bounds.npy"
N_POINTS = 10_000  # as many as COLMAP finds in such a scene (Fern: 10,091)


LOOKED_FOR = POSES_FILE


def recognise(root: Path) -> bool:
    """Whether the folder holds an LLFF scene."""
    return (root / POSES_FILE).is_file()


def load(root: Path, options: LoadOptions) -> Scene:
    """The scene in `root`, its points drawn between the near and far bounds. UserError where it is broken."""
    cameras, bounds = read_poses(root / POSES_FILE)
    folder = find_image_folder(root, options.images)
    names = list_pictures(folder)
    if len(names) != len(cameras):
        raise UserError(
            f"{root / POSES_FILE} has {len(cameras)} poses but {folder} has {len(names)} pictures; "
            "they must be as many"
        )
    photos = [PhotoFile(name, folder / name, camera) for name, camera in zip(names, cameras, strict=True)]
    views, _ = load_photos(with_masks(photos, root, options), options)
    points, colors = draw_points(views, N_POINTS, bounds)
    options.log(
        f"LLFF: {len(points):,} points drawn between the near and far bounds, where the photos agree best, as "
        "there is no COLMAP model"
    )
    return Scene(root.resolve().name, tuple(views), points, colors)


def read_poses(path: Path) -> tuple[list[Camera], np.ndarray]:
    """The cameras of the full-size photos and their near and far depths [V, 2]."""
    try:
        with np.errstate(over="ignore"):  # in the size that a header may claim; mapped, it costs nothing
            rows = np.array(np.load(path, mmap_mode="r", allow_pickle=False), np.float64)
    except Exception as error:  # whatever a broken header makes NumPy raise
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path} cannot be read as a NumPy array: {reason}") from error
    if rows.ndim != 2 or rows.shape[1] != 17 or not len(rows):
        raise UserError(f"{path} must be [views, 17] numbers, got shape {rows.shape}")
    if bad := np.flatnonzero(~np.isfinite(rows).all(axis=1)).tolist():
        raise UserError(f"{path}: row {bad[0]} of {len(rows)} holds NaN or infinity")
    cameras = []
    for i, row in enumerate(rows):
        pose, (near, far) = row[:15].reshape(3, 5), row[15:]
        if not 0 < near < far:
            raise UserError(
                f"{path}: row {i} must have 0 < near < far, got {near} and {far}; write it again (imgs2poses.py), "
                "or give the COLMAP model that it was made of"
            )
        height, width, focal = pose[:, 4]
        down, right, back = pose[:, :3].T
        viewmat = np.eye(4)
        viewmat[:3, :3] = [right, down, -back]
        viewmat[:3, 3] = -viewmat[:3, :3] @ pose[:, 3]
        K = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
        try:
            cameras.append(Camera(viewmat, K, width, height))
        except UserError as error:
            raise UserError(f"{path}: row {i} holds no camera: {error}") from error
    return cameras, rows[:, 15:]
