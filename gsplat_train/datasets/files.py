# SPDX-License-Identifier: Apache-2.0
"""Which file on disk is the photo of which view."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath

from ..errors import UserError

PICTURE_SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".ppm", ".tga"}
SHOWN = 3  # names in a message, the rest is counted


def list_pictures(folder: Path) -> list[str]:
    """Paths of the pictures in a folder and its sub-folders, relative to it, sorted; hidden ones left out."""
    relative = (
        path.relative_to(folder) for path in folder.rglob("*") if path.suffix.lower() in PICTURE_SUFFIXES
    )
    return sorted(
        path.as_posix() for path in relative if not any(part.startswith(".") for part in path.parts)
    )


def find_image_folder(root: Path, images: str | None) -> Path:
    """The folder `images` of the scene; None means `images`, or the only `images_*` where that is missing."""
    candidates = sorted(path.name for path in root.glob("images*") if path.is_dir())
    if images is None:
        images = candidates[0] if len(candidates) == 1 else "images"
    folder = root / images
    if not folder.is_dir():
        advice = f"choose {' or '.join(candidates)} with --images" if candidates else "put the photos there"
        raise UserError(f"no folder {images!r} of photos in {root}; {advice}")
    if not list_pictures(folder):
        raise UserError(f"{folder} holds no pictures ({', '.join(sorted(PICTURE_SUFFIXES))})")
    return folder


def match_files(names: Iterable[str], folder: Path, log: Callable[[str], None]) -> dict[str, Path]:
    """The photo of each name, by the first way that finds any; the others are left out, with a warning.

    The ways: by name; if none is there, by stem ignoring case and extension; if none again and the counts are
    equal, by sorted order; otherwise UserError.
    """
    names = sorted(names)
    files = list_pictures(folder)
    found = {name: folder / name for name in names if (folder / name).is_file()}
    way = "name"
    if not found:
        found = {name: folder / file for name, file in _by_stem(names, files, folder).items()}
        way = "stem, ignoring case and extension"
    if not found and len(names) == len(files):
        found = {name: folder / file for name, file in zip(names, files, strict=True)}
        way = "sorted order"
    if not found:
        raise UserError(
            f"none of the model's {len(names)} images ({shorten(names)}) is among the {len(files)} pictures "
            f"of {folder} ({shorten(files)}), neither by name nor by stem, and the counts differ; "
            "choose the folder with --images"
        )
    example = names[0] if names[0] in found else next(iter(found))
    log(f"photos: {len(found)} in {folder}, matched by {way} ({example} is {found[example].name})")
    missing = [name for name in names if name not in found]
    if missing:
        which = f"{len(missing)} of {len(names)} views ({shorten(missing)})"
        log(f"warning: {which} have no photo in {folder} and are left out")
    return found


def _by_stem(names: list[str], files: list[str], folder: Path) -> dict[str, str]:
    by_stem: dict[str, list[str]] = {}
    for file in files:
        by_stem.setdefault(_stem(file), []).append(file)
    matched: dict[str, str] = {}
    for name in names:
        choices = by_stem.get(_stem(name), [])
        if len(choices) > 1:
            raise UserError(
                f"image {name!r} could be any of {shorten(choices)} in {folder}; keep only one there"
            )
        if choices and choices[0] in matched.values():
            raise UserError(f"picture {choices[0]!r} in {folder} fits several images, such as {name!r}")
        if choices:
            matched[name] = choices[0]
    return matched


def _stem(name: str) -> str:
    return PurePosixPath(name).with_suffix("").as_posix().lower()


def shorten(names: list[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(repr(name) for name in names[:SHOWN]) + more
