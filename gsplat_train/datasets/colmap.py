# SPDX-License-Identifier: Apache-2.0
"""A COLMAP sparse model and its photos -> Scene.

Enters: a folder with photos and the model, binary or text, in sparse/N, sparse, colmap/sparse/N or itself.
Leaves: pinhole views in the model's frame, for COLMAP's axes and pixels are ours, and the model's points.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ..errors import UserError
from ..scene import Camera, Scene
from . import colmap_binary, colmap_text
from .advice import scene_above
from .colmap_places import FILES, find_places, is_complete, photo_folders
from .colmap_records import ImageRecord, Points, intrinsics, rotation_matrix
from .files import find_photos
from .images import PhotoFile, load_views
from .options import LoadOptions

MIN_QUATERNION = 1e-6  # norm; COLMAP writes 1
MAX_COORDINATE = 1e12  # scene units; squares of more would leave float32

LOOKED_FOR = "a COLMAP model (sparse/0/cameras.bin or .txt)"


def recognise(root: Path) -> bool:
    """Whether the folder holds a COLMAP model or a part of one."""
    return bool(find_places(root))


def load(root: Path, options: LoadOptions) -> Scene:
    """The scene in `root`; of several models the one with most images. UserError where it is broken.

    Models lie in several places where they were undistorted or converted: where the first has a fault, or its
    photos are gone, the next is taken.
    """
    places = find_places(root)
    if not places:
        raise UserError(f"{root} holds no COLMAP model; looked for sparse/N/cameras.bin or .txt")
    faults: list[UserError] = []
    for folders in places:
        try:
            model, photos, points = _read(folders, root, options)
        except UserError as error:
            faults.append(error)
            continue
        if faults:
            options.log(f"warning: took the COLMAP model in {model}, as {faults[0]}")
        break
    else:
        whole = scene_above(root, recognise)
        raise UserError(f"{faults[0]}; or give {whole}, the scene it is a part of") if whole else faults[0]
    views, undistorted = load_views(
        photos,
        max_size=options.max_size,
        undistorted=options.undistort,
        log=options.log,
        use_cache=options.cache,
    )
    return Scene(root.resolve().name, tuple(views), points.positions, points.colors, undistorted)


def _read(folders: list[Path], root: Path, options: LoadOptions) -> tuple[Path, list[PhotoFile], Points]:
    """The largest of the models in `folders`, its photos and its points."""
    log = options.log
    complete = [folder for folder in folders if is_complete(folder)] or folders
    for folder in folders:
        if folder not in complete:
            log(f"COLMAP: {folder} lacks one of {', '.join(FILES)}; left out")
    candidates = [(folder, read_file(folder, "images")) for folder in complete]
    model, records = max(candidates, key=lambda candidate: len(candidate[1]))  # the first of equals
    if len(candidates) > 1:
        sizes = ", ".join(f"{folder.name}: {len(found)} images" for folder, found in candidates)
        log(f"COLMAP: took {model}, the largest of {len(candidates)} models ({sizes})")
    if not records:
        raise UserError(f"{model} is an empty model: it has no images; reconstruct the scene again")
    points = _checked_points(read_file(model, "points3D"), model)
    photos = _photos(records, model)
    found = find_photos(photos, root, options.images, log, likely=photo_folders(model, root))
    return model, [photos[name]._replace(path=path) for name, path in found.items()], points


def read_file(model: Path, name: str) -> Any:
    """One of FILES of a model: binary where there is one, as COLMAP itself prefers, else text."""
    for suffix, reader in ((".bin", colmap_binary), (".txt", colmap_text)):
        path = model / f"{name}{suffix}"
        if path.is_file():
            read = {
                "cameras": reader.read_cameras,
                "images": reader.read_images,
                "points3D": reader.read_points,
            }
            return read[name](path)  # type: ignore[operator]
    raise UserError(f"{model} has no {name}.bin or {name}.txt; a COLMAP model needs {', '.join(FILES)}")


def _photos(records: list[ImageRecord], model: Path) -> dict[str, PhotoFile]:
    """Every image of the model, checked, by name and still without its file."""
    cameras = read_file(model, "cameras")
    if not cameras:
        raise UserError(f"{model} has no cameras; reconstruct the scene again")
    photos: dict[str, PhotoFile] = {}
    for record in records:
        _check_image(record, model)
        if record.name in photos:
            raise UserError(f"{model}: two images have the name {record.name!r}; names must differ")
        if record.camera_id not in cameras:
            raise UserError(
                f"{model}: image {record.name!r} needs the camera {record.camera_id}, which is not there"
            )
        camera = cameras[record.camera_id]
        K, distortion = intrinsics(camera, f"camera {record.camera_id} of {model}")
        viewmat = np.eye(4)
        viewmat[:3, :3] = rotation_matrix(record.quat)
        viewmat[:3, 3] = record.translation
        pinhole = Camera(viewmat, K, camera.width, camera.height)
        photos[record.name] = PhotoFile(record.name, Path(), pinhole, distortion)
    return photos


def _check_image(record: ImageRecord, model: Path) -> None:
    pose = (*record.quat, *record.translation)
    believable = np.abs(pose).max() <= MAX_COORDINATE  # so that NaN is not
    if not believable or np.linalg.norm(record.quat) < MIN_QUATERNION:
        raise UserError(
            f"{model}: image {record.name!r} has no usable pose: {pose}; reconstruct the scene again"
        )
    # The name becomes a path below the folder of photos, and below the folder of renders.
    path = PurePosixPath(record.name)
    if not path.name or path.is_absolute() or ".." in path.parts:
        raise UserError(f"{model}: image name {record.name!r} leads outside the folder of photos; rename it")


def _checked_points(points: Points, model: Path) -> Points:
    if not len(points.positions):
        raise UserError(f"{model} is an empty model: it has no points; reconstruct the scene again")
    bad = ~(np.abs(points.positions) <= MAX_COORDINATE).all(axis=1)  # so that NaN is bad
    if bad.any():
        first = int(np.argmax(bad))
        raise UserError(
            f"{model}: {bad.sum():,} of {len(bad):,} points are not finite, the first, number {first + 1}, "
            f"is at {points.positions[first].tolist()}; reconstruct the scene again"
        )
    return points
