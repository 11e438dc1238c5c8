# SPDX-License-Identifier: Apache-2.0
"""A folder of photos as people have it -> pictures that a reconstruction can take.

Enters: files of any kind. Leaves: pictures written upright in RGB, in 8 bits, under names without blanks,
with what is known of their cameras; and why each of the others was left out.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from ..datasets.decode import open_picture
from ..datasets.files import LFS_HEAD, NO_PHOTO, NO_PHOTOS, PICTURE_SUFFIXES, list_pictures, shorten
from ..errors import UserError
from ..storage import atomic_write
from .metadata import Metadata, read_metadata

HEIF_SUFFIXES = {".heic", ".heif", ".hif", ".avif"}
FEWEST = 3  # photos; two show no shape that could be checked
SMALLEST = 64  # pixels of the shorter side
THUMBNAIL = 32  # pixels of the side of what photos are compared by
ONE_COLOR = 2.0  # grey levels: the spread of a thumbnail that shows nothing
SAME = 1.0  # grey levels: the mean difference of two thumbnails of the same thing
QUALITY = 95  # of JPEG
COPIED = {"JPEG": ".jpg", "PNG": ".png"}  # formats every reader knows


class NoScene(UserError):
    """The photos cannot become a scene: nothing of it is worth keeping."""


@dataclass(frozen=True)
class Photo:
    """A picture that was written for the reconstruction."""

    name: str  # in the folder of images
    source: str  # where it comes from
    width: int
    height: int
    camera: str = ""  # what the metadata call it
    focal: float | None = None  # pixels, from the metadata
    down: tuple[float, float, float] | None = None  # gravity in the camera's axes


@dataclass(frozen=True)
class _Read:
    photo: Photo | None
    why_not: str = ""
    thumbnail: np.ndarray | None = None
    digest: str = ""


def find_photos(root: Path) -> tuple[Path, list[str], list[str]]:
    """The folder that holds the photos, their names in it, and the names of files that are something else.

    A scene's own `images` is taken where there is one; a folder with nothing but one sub-folder is that. Masks, depth
    maps and the like, told by their names, are others where photos lie beside them.
    HEIC counts where pillow-heif is installed; otherwise such files are among the others.
    """
    if (root / "images").is_dir() and list_pictures(root / "images"):
        root = root / "images"
    suffixes = PICTURE_SUFFIXES | (HEIF_SUFFIXES if _register_heif() else set())
    found: list[str] = []
    others: list[str] = []
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root)
        if any(part.startswith(".") for part in name.parts) or not path.is_file():
            continue
        (found if path.suffix.lower() in suffixes else others).append(name.as_posix())
    photos = [name for name in found if not _is_beside_a_photo(name)]
    if photos and len(photos) < len(found):
        others, found = sorted({*others, *found} - {*photos}), photos
    tops = {name.split("/")[0] for name in found}
    if len(tops) == 1 and found[0].count("/"):
        inner = root / tops.pop()
        return inner, [name.split("/", 1)[1] for name in found], others
    return root, found, others


def _is_beside_a_photo(name: str) -> bool:
    """Whether its name says that a picture is a mask, a depth map or the like of a photo."""
    folders, _, file = name.rpartition("/")
    return bool(NO_PHOTOS.search(folders) or NO_PHOTO.search(os.path.splitext(file)[0]))


def _register_heif() -> bool:
    if importlib.util.find_spec("pillow_heif") is None:
        return False
    import pillow_heif

    pillow_heif.register_heif_opener()
    return True


def gather(
    root: Path, names: list[str], target: Path, at: Callable[[int], None]
) -> tuple[list[Photo], dict[str, str]]:
    """Writes the photos into `target`; what was written, and for each that was left out why.

    UserError where too few are left, or where they cannot show a scene.
    """
    taken = _targets(names)

    def read(name: str) -> _Read:
        return _read(root / name, name, target / taken[name])

    kept: list[_Read] = []
    left_out: dict[str, str] = {}
    first: dict[str, str] = {}
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        for count, (name, read_) in enumerate(zip(names, pool.map(read, names), strict=True), 1):
            if read_.photo is None:
                left_out[name] = read_.why_not
            elif read_.digest in first:
                left_out[name] = f"the same as {first[read_.digest]}"
                (target / read_.photo.name).unlink(missing_ok=True)
            else:
                first[read_.digest] = name
                kept.append(read_)
            at(count)
    _check(kept, left_out, root)
    return [read.photo for read in kept if read.photo is not None], left_out


def _targets(names: list[str]) -> dict[str, str]:
    """The name each photo is written under: without blanks, with an ending that says what is in it, once
    only.
    """
    taken: dict[str, str] = {}
    used: set[str] = set()
    for name in names:
        stem, end = os.path.splitext(re.sub(r"\s+", "_", name))
        end = end if end.lower() in (".jpg", ".jpeg", ".png") else ".jpg"
        choice, number = stem + end, 2
        while choice.lower() in used:  # the file systems of Macs and Windows ignore case
            choice, number = f"{stem}_{number}{end}", number + 1
        used.add(choice.lower())
        taken[name] = choice
    return taken


def _read(path: Path, name: str, target: Path) -> _Read:
    try:
        data = path.read_bytes()
    except OSError as error:
        return _Read(None, f"not readable ({error.strerror})")
    if data.startswith(LFS_HEAD):
        return _Read(None, "a Git LFS pointer; run git lfs pull")
    try:
        picture = open_picture(path, data)
        metadata = read_metadata(picture)
        kind, mode = picture.format, picture.mode
        upright = ImageOps.exif_transpose(picture)
        upright.load()
        rgb = to_rgb(upright)
    except MemoryError:
        raise
    except Exception as error:  # pillow raises whatever its parsers meet
        how = "" if isinstance(error, UserError) else f" ({type(error).__name__})"
        return _Read(None, f"no picture, or a damaged one{how}")
    width, height = rgb.size
    if min(width, height) < SMALLEST:
        return _Read(None, f"{width}x{height} pixels, too small")
    small = thumbnail(rgb)
    if small.std() < ONE_COLOR:
        return _Read(None, "one colour only", small)
    fits = COPIED.get(kind or "") == target.suffix.lower().replace("jpeg", "jpg")
    if not (fits and mode in ("RGB", "L") and metadata.orientation == 1):
        data = encode(rgb, target.suffix)
    with atomic_write(target) as file:
        file.write(data)
    photo = _described(target, name, width, height, metadata)
    return _Read(photo, "", small, hashlib.sha256(data).hexdigest())


def _described(target: Path, name: str, width: int, height: int, metadata: Metadata) -> Photo:
    share = metadata.focal_share
    focal = None if share is None else share * float(np.hypot(width, height))
    depth = name.count("/")
    inside = "/".join(target.parts[-1 - depth :])
    return Photo(inside, name, width, height, metadata.camera, focal, metadata.down)


def to_rgb(picture: Image.Image) -> Image.Image:
    """As RGB in 8 bits; 16 bits are scaled, transparent parts are laid over black."""
    if picture.mode.startswith("I"):
        values = np.clip(np.asarray(picture, np.float64) / 257, 0, 255)
        return Image.fromarray(np.rint(values).astype(np.uint8)).convert("RGB")
    if picture.has_transparency_data:
        black = Image.new("RGBA", picture.size, (0, 0, 0, 255))
        return Image.alpha_composite(black, picture.convert("RGBA")).convert("RGB")
    return picture.convert("RGB")


def thumbnail(picture: Image.Image) -> np.ndarray:
    """float32 [32, 32] grey: what pictures are compared by."""
    small = picture.convert("L").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    return np.asarray(small, np.float32)


def encode(picture: Image.Image, suffix: str) -> bytes:
    """The bytes of a PNG or of a JPEG without loss of colour resolution."""
    stream = io.BytesIO()
    if suffix.lower() == ".png":
        picture.save(stream, "PNG")
    else:
        picture.save(stream, "JPEG", quality=QUALITY, subsampling=0)
    return stream.getvalue()


def _check(kept: list[_Read], left_out: dict[str, str], root: Path) -> None:
    why = f" ({summary(left_out)})" if left_out else ""
    if left_out and not kept and all("one colour" in reason for reason in left_out.values()):
        raise NoScene(
            f"the {len(left_out)} photos of {root} show one colour only; was the lens covered? "
            "Give photos that show a scene"
        )
    thumbnails: list[Any] = [read.thumbnail for read in kept]
    same = bool(kept) and all(np.abs(t - thumbnails[0]).mean() < SAME for t in thumbnails)
    copies = sum("the same as" in reason for reason in left_out.values())
    if same and len(kept) + copies >= FEWEST:
        raise NoScene(
            f"the {len(kept) + copies} photos of {root} all show the same; depth comes from moving the "
            "camera: walk around the scene between photos"
        )
    if len(kept) < FEWEST:
        raise NoScene(
            f"{len(kept)} photos of {root} can be used{why}; at least {FEWEST} are needed, 20 to 200 are good"
        )


def summary(left_out: dict[str, str]) -> str:
    """The reasons, each with the names of the first and how many more."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in left_out.items():
        by_reason.setdefault("the same as another" if "same as" in reason else reason, []).append(name)
    return "; ".join(f"{reason}: {shorten(names)}" for reason, names in by_reason.items())
