# SPDX-License-Identifier: Apache-2.0
"""Photos on disk -> views: decode, reduce, undistort, and the camera that fits the result.

Enters: for each photo its path and the camera as reconstructed, whose size may differ from the file's.
Leaves: uint8 RGB in memory and a pinhole camera in the pixels of that picture. EXIF rotation is not applied:
COLMAP does not either.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ..errors import UserError
from ..scene import Camera, Photo, View
from . import cache
from .files import LFS_HEAD
from .undistort import Distortion, find_zoom, undistort

NO_DISTORTION: Distortion = (0.0, 0.0, 0.0, 0.0)
ASPECT_TOLERANCE = 0.05  # rounding of reduced photos passes, a rotated or cropped photo does not
TOLD_EVERY = 50  # photos; undistorting so many can take a minute
REMEDY = "replace it or take it out of the folder"
CACHE_VERSION = "undistorted 1"  # part of the key: a new one where the same photo would come out different


class PhotoFile(NamedTuple):
    """A photo to load: the camera is that of the reconstruction, at any size."""

    name: str
    path: Path
    camera: Camera
    distortion: Distortion = NO_DISTORTION


class _Loaded(NamedTuple):
    view: View
    file_size: tuple[int, int]
    zoom: float | None  # None: not undistorted
    cached: bool
    transparent: bool


def load_views(
    photos: Sequence[PhotoFile],
    *,
    max_size: int = 1600,
    undistorted: bool = True,
    log: Callable[[str], None] = lambda line: None,
    use_cache: bool = True,
) -> tuple[list[View], dict[str, Any] | None]:
    """The views of the photos and what metrics.json says of the undistortion (None: there was none).

    max_size: photos with a longer side are reduced to it, 0 keeps all. UserError names the first photo that
    cannot be read or whose shape is not its camera's.
    """
    if max_size < 0:
        raise UserError(f"max_size must be pixels of the longer side, or 0 for no limit, got {max_size}")

    def load(photo: PhotoFile) -> _Loaded:
        return _load(photo, max_size, undistorted, use_cache)

    # pillow and numpy release the interpreter lock while they work on a picture
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        loaded = []
        for item in pool.map(load, photos):
            loaded.append(item)
            if len(loaded) % TOLD_EVERY == 0:
                log(f"photos: {len(loaded)} of {len(photos)} loaded")
    return [item.view for item in loaded], _report(photos, loaded, undistorted, log)


def decode(path: Path) -> np.ndarray:
    """A picture file as [H, W, 3] uint8; see `_to_rgb` for the modes. UserError where it cannot be read."""
    return _decode(_open(path, _read(path)), path)[0]


def _load(photo: PhotoFile, max_size: int, undistorted: bool, use_cache: bool) -> _Loaded:
    data = _read(photo.path)
    picture = _open(photo.path, data)
    file_size = picture.size
    camera = _fitted(photo, *file_size)
    factor = min(1.0, max_size / max(file_size)) if max_size else 1.0
    camera = camera.resized(*(max(1, round(side * factor)) for side in file_size))
    width, height = camera.width, camera.height
    if not undistorted or photo.distortion == NO_DISTORTION:
        image, transparent = _decode(picture, photo.path)
        view = View(photo.name, camera, Photo(_reduced(image, width, height)))
        return _Loaded(view, file_size, zoom=None, cached=False, transparent=transparent)

    zoom = find_zoom(camera.K, width, height, photo.distortion)
    pinhole = replace(camera, K=camera.K * [[zoom, 1, 1], [1, zoom, 1], [1, 1, 1]])
    settings = repr((CACHE_VERSION, width, height, camera.K.tolist(), photo.distortion, zoom))
    name = cache.key(data, settings)
    kept = cache.read(name, (height, width, 3)) if use_cache else None
    if kept is not None:
        return _Loaded(
            View(photo.name, pinhole, Photo(kept)), file_size, zoom, cached=True, transparent=False
        )
    image, transparent = _decode(picture, photo.path)
    image = undistort(_reduced(image, width, height), camera.K, photo.distortion, zoom)
    if use_cache:
        cache.write(name, image)
    return _Loaded(
        View(photo.name, pinhole, Photo(image)), file_size, zoom, cached=False, transparent=transparent
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"photo {path} cannot be read: {error.strerror}") from error


def _open(path: Path, data: bytes) -> Image.Image:
    """The header only: pillow decodes when asked for pixels."""
    if data.startswith(LFS_HEAD):
        raise UserError(f"photo {path} is a Git LFS pointer, not the photo; run git lfs pull")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # large photos are not attacks
            return Image.open(io.BytesIO(data))
    except Exception as error:  # pillow raises whatever its parsers meet
        raise UserError(f"photo {path} is not a picture pillow can read; {REMEDY}") from error


def _decode(picture: Image.Image, path: Path) -> tuple[np.ndarray, bool]:
    try:
        picture.load()
        return _to_rgb(picture)
    except UserError as error:
        raise UserError(f"photo {path}: {error}") from None
    except MemoryError:
        raise
    except Exception as error:
        raise UserError(f"photo {path} is damaged ({error}); {REMEDY}") from error


def _to_rgb(picture: Image.Image) -> tuple[np.ndarray, bool]:
    """[H, W, 3] uint8, and whether it was transparent: then it is laid over black, the default background."""
    if picture.mode.startswith("I"):  # 16 bits a pixel; pillow's own conversion would clip at 255
        grey = np.rint(np.clip(np.asarray(picture, np.float64) / 257, 0, 255)).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2), False
    if picture.mode == "F":
        raise UserError("has 32-bit pixels, whose range is unknown; convert it to 8 bits")
    if picture.has_transparency_data:
        rgba = np.asarray(picture.convert("RGBA"), np.float32)
        if rgba[:, :, 3].min() < 255:
            return np.rint(rgba[:, :, :3] * (rgba[:, :, 3:] / 255)).astype(np.uint8), True
    return np.array(picture.convert("RGB")), False


def _fitted(photo: PhotoFile, width: int, height: int) -> Camera:
    """The photo's camera in the pixels of the file; UserError where the two have different shapes."""
    camera = photo.camera
    ratio = (width / camera.width) / (height / camera.height)
    rounding = 1 / min(width, height)
    if abs(np.log(ratio)) > ASPECT_TOLERANCE + rounding:
        raise UserError(
            f"photo {photo.path} is {width}x{height} but its camera is {camera.width}x{camera.height}, "
            "another shape; it is rotated, cropped, or not the photo of this view"
        )
    return camera.resized(width, height)


def _reduced(image: np.ndarray, width: int, height: int) -> np.ndarray:
    if image.shape[:2] == (height, width):
        return image
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))


def _report(
    photos: Sequence[PhotoFile], loaded: Sequence[_Loaded], undistorted: bool, log: Callable[[str], None]
) -> dict[str, Any] | None:
    """Say what was done to the photos, a line each kind."""
    reduced = [item for item in loaded if item.file_size != (item.view.camera.width, item.view.camera.height)]
    if reduced:
        (width, height), camera = reduced[0].file_size, reduced[0].view.camera
        sizes = f"from {width}x{height} to {camera.width}x{camera.height}"
        log(f"photos: {len(reduced)} of {len(loaded)} reduced {sizes} (--max-size)")
    if transparent := sum(item.transparent for item in loaded):
        log(f"photos: {transparent} are partly transparent and were laid over black")
    zooms = [item.zoom for item in loaded if item.zoom is not None]
    if zooms:
        kept = sum(item.cached for item in loaded)
        low, high = f"{min(zooms):.5f}", f"{max(zooms):.5f}"
        log(
            f"photos: {len(zooms)} undistorted, zoom {low if low == high else f'{low} to {high}'}, bicubic"
            + (f" ({kept} from the cache in {cache.cache_folder()})" if kept else "")
        )
        return {"zoom": round(max(zooms), 5), "kernel": "bicubic"}
    if any(photo.distortion != NO_DISTORTION for photo in photos):
        log("photos: their lens distortion is ignored (undistort=false)")
    return None
