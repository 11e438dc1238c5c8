# SPDX-License-Identifier: Apache-2.0
"""Masks beside the photos: which file is whose mask, and which pixels it says count.

A mask is white where a pixel counts, as COLMAP and nerfstudio have it. It lies in a folder `masks` (or another of
FOLDERS) beside the photos' folder or in it, under the photo's path: with its name, with `.png` after the name or
in place of its ending, with `_mask` after or `mask_` before the stem; under the name of the photo's folder where
a camera has one for all its photos; or beside the photo with one of these additions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from .files import list_pictures, shorten

FOLDERS = ("masks", "mask", "images_mask", "images_masks", "image_masks", "dynamic_masks")
ADDITION = re.compile(r"^(?:dynamic_)?mask[_-]|[._ -]masks?$|-removebg-preview$", re.IGNORECASE)
LEVELS = 4  # of folders between a photo and the folder beside which the masks are
FOR_ALL = ("mask", "camera_mask")  # the stem of one mask for all photos
HALF = 128


def find_masks(photos: Iterable[Path], root: Path, log: Callable[[str], None]) -> dict[Path, Path]:
    """The mask of each photo that has one; a warning where some have none."""
    photos = list(photos)
    indexes: dict[Path, dict[str, Path]] = {}
    found: dict[Path, Path] = {}
    for photo in photos:
        for folder, relative in _places(photo, root):
            if folder not in indexes:
                indexes[folder] = _index(folder, beside=folder == photo.parent)
            if mask := next(
                (indexes[folder][key] for key in _keys(relative) if key in indexes[folder]), None
            ):
                found[photo] = mask
                break
    if found:
        folders = sorted({str(mask.parent) for mask in found.values()})
        log(f"photos: {len(found)} have a mask in {folders[0]}")
    if 0 < len(found) < len(photos):
        bare = [photo.name for photo in photos if photo not in found]
        log(
            f"warning: {len(bare)} of {len(photos)} photos ({shorten(bare)}) have no mask: all their pixels count"
        )
    return found


def _places(photo: Path, root: Path) -> Iterable[tuple[Path, str]]:
    """Folders that may hold the photo's mask, each with the photo's path as it would be in it."""
    for folder in photo.parents[:LEVELS]:
        relative = photo.relative_to(folder).as_posix()
        inside = [folder / name for name in FOLDERS]
        beside = [folder.parent / name for name in (*FOLDERS, f"{folder.name}_mask", f"{folder.name}_masks")]
        for place in inside if folder == root else inside + beside:
            if place.is_dir():
                yield place, relative
        if folder == root:
            break
    yield photo.parent, photo.name


def _index(folder: Path, beside: bool) -> dict[str, Path]:
    """The masks of a folder by what they belong to. beside: the folder holds the photos too."""
    index: dict[str, Path] = {}
    files = [path.name for path in folder.glob("*") if path.is_file()] if beside else list_pictures(folder)
    for file in sorted(files, key=lambda file: (not file.lower().endswith(".png"), file)):
        path = PurePosixPath(file)
        stem = ADDITION.sub("", path.stem)
        if beside and stem == path.stem:
            continue
        index.setdefault((path.parent / stem).as_posix().lower(), folder / file)
    return index


def _keys(relative: str) -> Iterable[str]:
    path = PurePosixPath(relative.lower())
    yield path.as_posix()
    yield path.with_suffix("").as_posix()
    yield from (parent.as_posix() for parent in path.parents[:-1])
    yield from FOR_ALL


def counts(picture: Image.Image, invert: bool = False) -> np.ndarray:
    """[H, W] uint8 of a mask: 255 where a pixel counts, else 0.

    Of a picture with transparency that is its alpha, else its brightness; from half on it counts. Labels, 0 and
    small numbers in a file without loss, count from 1 on.
    """
    if picture.has_transparency_data:
        alpha = np.asarray(picture.convert("RGBA"))[:, :, 3]
        if alpha.min() < 255:
            return _black_or_white(alpha >= HALF, invert)
    if picture.mode.startswith(("I", "F")):
        values = np.asarray(picture, np.float64)
        return _black_or_white(values >= max(values.max() / 2, 1e-9), invert)
    values = (
        np.asarray(picture.convert("RGB")).max(axis=2)
        if picture.mode == "P"
        else np.asarray(picture.convert("L"))
    )
    labels = values.max() < HALF and picture.format != "JPEG"
    return _black_or_white(values >= (1 if labels else HALF), invert)


def _black_or_white(counts: np.ndarray, invert: bool) -> np.ndarray:
    return np.where(counts ^ invert, 255, 0).astype(np.uint8)
