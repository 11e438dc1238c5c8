# SPDX-License-Identifier: Apache-2.0
"""A COLMAP sparse model and its photos -> Scene.

Enters: a folder with photos and the model, binary or text, in sparse/N, sparse, colmap/sparse/N or itself.
Leaves: pinhole views in the model's frame, for COLMAP's axes and pixels are ours, and the model's points.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ..errors import UserError
from ..scene import Camera, Scene
from . import colmap_binary, colmap_text
from .advice import scene_above
from .colmap_places import FILES, find_places, is_complete, own_photos, photo_folders
from .colmap_records import CameraRecord, ImageRecord, Points, intrinsics, rotation_matrix
from .files import find_photos, shorten
from .held_out import held_out
from .images import PhotoFile, fitted, load_photos, with_masks
from .names import as_name
from .options import LoadOptions

MIN_QUATERNION = 1e-6  # norm; COLMAP writes 1
MAX_COORDINATE = 1e12  # scene units; squares of more would leave float32
SHAPES = 16  # photos whose shape is compared with their cameras' before one of several models is taken

Found = tuple[Path, list[PhotoFile], Points]  # the model's folder, its photos and its points

LOOKED_FOR = "a COLMAP model (sparse/0/cameras.bin or .txt)"


def recognise(root: Path) -> bool:
    """Whether the folder holds a COLMAP model or a part of one."""
    return bool(find_places(root))


def load(root: Path, options: LoadOptions) -> Scene:
    """The scene in `root`; of several models the one with most images. UserError where it is broken.

    Models lie in several places where they were undistorted or converted: where the first has a fault, or its
    photos are gone or another's, the next is taken.
    """
    places = find_places(root)
    if not places:
        raise UserError(f"{root} holds no COLMAP model; looked for sparse/N/cameras.bin or .txt")
    model, photos, points = _chosen(places, root, options)
    views, undistorted = load_photos(with_masks(photos, root, options), options)
    held = held_out([model, root], views, options.log)
    return Scene(root.resolve().name, tuple(views), points.positions, points.colors, undistorted, held)


def _chosen(places: list[list[Path]], root: Path, options: LoadOptions) -> Found:
    """What the first place holds that is sound and has photos of its own; UserError with the first fault where none
    can be used.
    """
    faults: list[UserError] = []
    spare: Found | None = None
    for folders in places:
        try:
            found = _read(folders, root, options)
            for photo in found[1][:: len(found[1]) // SHAPES + 1] if len(places) > 1 else ():
                fitted(photo)
            if owner := _owner(*found[:2], [model for place in places for model in place], root):
                spare = spare or found
                raise UserError(f"the photos of {found[0]} are beside {owner}, which they were made for")
        except UserError as error:
            faults.append(error)
            continue
        if faults:
            options.log(f"warning: took the COLMAP model in {found[0]}, as {faults[0]}")
        return found
    if spare:
        options.log(f"warning: took the COLMAP model in {spare[0]}: {faults[0]}")
        return spare
    whole = scene_above(root, recognise)
    raise UserError(f"{faults[0]}; or give {whole}, the scene it is a part of") if whole else faults[0]


def _owner(model: Path, photos: list[PhotoFile], others: list[Path], root: Path) -> Path | None:
    """Another whole model whose photos these are, for they lie where its writer puts them: undistorters write both."""
    own = own_photos(model, root)
    for other in others:
        theirs = own_photos(other, root)
        if (
            theirs != own
            and is_complete(other)
            and all(photo.path.is_relative_to(theirs) for photo in photos)
        ):
            return other
    return None


def _read(folders: list[Path], root: Path, options: LoadOptions) -> Found:
    """The largest of the sound models in `folders`, its photos and its points; UserError with the first fault where
    none is sound.
    """
    log, faults = options.log, []
    complete = [folder for folder in folders if is_complete(folder)] or folders
    for folder in folders:
        if folder not in complete:
            log(f"COLMAP: {folder} lacks one of {', '.join(FILES)}; left out")
    candidates: list[tuple[Path, list[ImageRecord]]] = []
    for folder in complete:
        try:
            candidates.append((folder, read_file(folder, "images", log)))
        except UserError as error:
            faults.append(error)
    sizes = ", ".join(f"{folder.name}: {len(images)} images" for folder, images in candidates)
    candidates.sort(key=lambda candidate: -len(candidate[1]))  # the first of equals stays it
    if len(candidates) > 1:
        log(f"COLMAP: took {candidates[0][0]}, the largest of {len(candidates)} models ({sizes})")
    for model, records in candidates:
        try:
            found = _read_model(model, records, root, options)
        except UserError as error:
            faults.append(error)
            continue
        if faults:
            log(f"warning: took the COLMAP model in {model}, as {faults[0]}")
        return found
    raise faults[0]


def _read_model(model: Path, records: list[ImageRecord], root: Path, options: LoadOptions) -> Found:
    log = options.log
    if not records:
        raise UserError(f"{model} is an empty model: it has no images; reconstruct the scene again")
    points = _usable(read_file(model, "points3D", log), model, log)
    photos = _photos(records, model, log)
    found = find_photos(photos, root, options.images, log, likely=photo_folders(model, root))
    return model, [photos[name]._replace(path=path) for name, path in found.items()], points


def read_file(model: Path, name: str, log: Callable[[str], None] = lambda line: None) -> Any:
    """One of FILES of a model: binary, as COLMAP itself prefers, or where there is none that is sound, text."""
    faults: list[UserError] = []
    for suffix, reader in ((".bin", colmap_binary), (".txt", colmap_text)):
        path = model / f"{name}{suffix}"
        if not path.is_file():
            continue
        try:
            if name == "images":
                read: Any = (
                    colmap_binary.read_images(path)
                    if suffix == ".bin"
                    else colmap_text.read_images(path, log)
                )
            else:
                read = reader.read_cameras(path) if name == "cameras" else reader.read_points(path)
        except UserError as error:
            faults.append(error)
            continue
        if faults:
            log(f"warning: took {path}, as {faults[0]}")
        return read
    if faults:
        raise faults[0]
    raise UserError(f"{model} has no {name}.bin or {name}.txt; a COLMAP model needs {', '.join(FILES)}")


def _cameras(model: Path, log: Callable[[str], None]) -> dict[int, CameraRecord]:
    """The cameras by id; UserError where there are none, or an id stands for two."""
    cameras: dict[int, CameraRecord] = {}
    for camera_id, record in read_file(model, "cameras", log):
        if cameras.setdefault(camera_id, record) != record:
            raise UserError(f"{model}: camera {camera_id} is given twice and differs; keep the right one")
    if not cameras:
        raise UserError(f"{model} has no cameras; reconstruct the scene again")
    return cameras


def _photos(records: list[ImageRecord], model: Path, log: Callable[[str], None]) -> dict[str, PhotoFile]:
    """Every image of the model, checked, by name and still without its file.

    An image without a usable pose, or given twice alike, is left out with a warning.
    """
    cameras = _cameras(model, log)
    records = [record._replace(name=_name(record.name, model)) for record in records]
    usable = [record for record in records if _has_pose(record)]
    if lost := [record for record in records if not _has_pose(record)]:
        if not usable:
            raise UserError(
                f"{model}: image {lost[0].name!r} has no usable pose: {lost[0].quat, lost[0].translation}; "
                "reconstruct the scene again"
            )
        names = shorten([record.name for record in lost])
        log(f"warning: {model}: {len(lost)} of {len(records)} images ({names}) have no usable pose; left out")
    photos: dict[str, PhotoFile] = {}
    by_name: dict[str, ImageRecord] = {}
    for record in usable:
        if by_name.setdefault(record.name, record) != record:
            raise UserError(f"{model}: two images have the name {record.name!r}; names must differ")
        if record.camera_id not in cameras:
            raise UserError(
                f"{model}: image {record.name!r} needs the camera {record.camera_id}, which is not there"
            )
        camera = cameras[record.camera_id]
        K, lens = intrinsics(camera, f"camera {record.camera_id} of {model}")
        viewmat = np.eye(4)
        viewmat[:3, :3] = rotation_matrix(record.quat)
        viewmat[:3, 3] = record.translation
        pinhole = Camera(viewmat, K, camera.width, camera.height)
        photos[record.name] = PhotoFile(record.name, Path(), pinhole, lens)
    if len(by_name) < len(usable):
        log(f"warning: {model}: {len(usable) - len(by_name)} images are given twice, alike; kept once")
    return photos


def _has_pose(record: ImageRecord) -> bool:
    believable = np.abs((*record.quat, *record.translation)).max() <= MAX_COORDINATE  # so that NaN is not
    return bool(believable and np.linalg.norm(record.quat) >= MIN_QUATERNION)


def _name(name: str, model: Path) -> str:
    """The name of an image as that of a view, which becomes a path below folders: hand-made models name photos by whole
    paths. UserError where nothing is left of it.
    """
    path = PurePosixPath(name)
    inside = as_name(name) if path.is_absolute() or ".." in path.parts else name
    if not PurePosixPath(inside).name:
        raise UserError(f"{model}: image name {name!r} names no photo; rename it")
    return inside


def _usable(points: Points, model: Path, log: Callable[[str], None]) -> Points:
    """The points without those that lie nowhere, which are told; UserError where none of some is left."""
    if not len(points.positions):
        return Points(np.empty((0, 3)), np.empty((0, 3), np.uint8))  # the check draws some
    good = (np.abs(points.positions) <= MAX_COORDINATE).all(axis=1)  # so that NaN is bad
    if good.all():
        return points
    first = int(np.argmin(good))
    what = (
        f"{model}: {(~good).sum():,} of {len(good):,} points lie nowhere, the first, number {first + 1}, "
        f"at {points.positions[first].tolist()}"
    )
    if not good.any():
        raise UserError(f"{what}; reconstruct the scene again")
    log(f"warning: {what}; left out")
    return Points(points.positions[good], points.colors[good])
