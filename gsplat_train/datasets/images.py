# SPDX-License-Identifier: Apache-2.0
"""Photos on disk -> views: decode, reduce, undistort, mask, and the camera that fits the result.

Enters: for each photo its path and the camera as reconstructed, whose size may differ from the file's.
Leaves: views with a pinhole camera in the pixels of their picture. Where all pictures together take more than a
quarter of the memory there is for them, they are decoded once into a file of the cache and read from it when asked
for (`photo_store`), or decoded when asked for (`FilePhoto`) where the disk has no room; otherwise they are in memory.
EXIF rotation is applied only where the camera's shape asks for it: COLMAP does not apply it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import UserError
from ..machine import budget, give_back, resident_bytes
from ..scene import Camera, Photo, View
from . import blank, cache, masks, photo_store
from .decode import decode, header
from .file_photo import FilePhoto, same_shape
from .files import shorten
from .lenses import PANORAMA, Lens
from .options import LoadOptions
from .panorama import FIELD, SIDES, Side, side_size
from .photo_store import Place
from .undistort import Distortion, as_lens, at_most, chosen_zoom, kept_places, picture_sizes, straighten

__all__ = [
    "FilePhoto",
    "PhotoFile",
    "decode",
    "fitted",
    "load_photos",
    "load_views",
    "same_shape",
    "with_masks",
]

NO_DISTORTION: Distortion = (0.0, 0.0, 0.0, 0.0)
MESSAGE_EVERY = 50  # photos; undistorting so many can take a minute
EAGER_SHARE = 4  # the photos are kept in memory where they take less than one part in so many of it
THREADS = 16  # that decode, at most
THREAD_BYTES = 1 << 26  # that a thread takes at the least: the C library's heap for it


class PhotoFile(NamedTuple):
    """A photo to load: the camera is that of the reconstruction, at any size."""

    name: str
    path: Path
    camera: Camera
    distortion: Lens | Distortion = NO_DISTORTION
    mask: Path | None = None


class _Plan(NamedTuple):
    """What becomes of one photo: a view, or several of a panorama."""

    cameras: list[tuple[str, Camera]]
    sources: list[FilePhoto]
    file_size: tuple[int, int]
    zoom: float | None  # None: not undistorted
    group: str = ""  # of a panorama: its name


class _Loaded(NamedTuple):
    views: list[View]
    plan: _Plan
    cached: bool
    transparent: bool
    counted: float  # share of the pixels
    places: list[Place]  # of the photos in a store


def load_views(
    photos: Sequence[PhotoFile],
    *,
    max_size: int = 1600,
    undistorted: bool = True,
    log: Callable[[str], None] = lambda line: None,
    use_cache: bool = True,
) -> tuple[list[View], dict[str, Any] | None]:
    """See `load_photos`."""
    options = LoadOptions(max_size=max_size, undistort=undistorted, log=log, cache=use_cache)
    return load_photos(photos, options)


def load_photos(
    photos: Sequence[PhotoFile], options: LoadOptions
) -> tuple[list[View], dict[str, Any] | None]:
    """The views of the photos and what metrics.json says of the undistortion (None: there was none).

    UserError names the first photo that cannot be read or whose shape is not its camera's.
    """
    options.check()
    # pillow and numpy release the interpreter lock while they work on a picture
    threads = min(THREADS, os.cpu_count() or 1)
    with ThreadPoolExecutor(threads) as pool:
        plans = list(pool.map(lambda photo: _planned(photo, options), photos))
    size = sum(4 * camera.width * camera.height for plan in plans for _, camera in plan.cameras)
    most = options.memory or budget().bytes
    lazy = EAGER_SHARE * size > most
    room = most - resident_bytes() - size * (not lazy)
    each_takes = max((plan.sources[0].cost(plan.file_size) for plan in plans), default=1)
    with ThreadPoolExecutor(max(1, min(threads, room // max(each_takes, THREAD_BYTES)))) as pool:

        def each(load: Callable[[_Plan], _Loaded]) -> list[_Loaded]:
            loaded = []
            for item in pool.map(load, plans):
                loaded.append(item)
                options.progress("loading photos", len(loaded), len(photos))
                if len(loaded) % MESSAGE_EVERY == 0:
                    options.log(f"photos: {len(loaded)} of {len(photos)} loaded")
            return loaded

        loaded = _paged(plans, each, size, options) if lazy else each(_loaded)
    kept_places.cache_clear()
    give_back()
    return [view for item in loaded for view in item.views], _report(photos, loaded, options)


def with_masks(photos: Sequence[PhotoFile], root: Path, options: LoadOptions) -> list[PhotoFile]:
    """The photos with the masks that lie beside them, where none is named already; UserError where there are none at
    all and options say what becomes of them.
    """
    if options.mask_mode == "off":
        return list(photos)
    bare = [photo.path for photo in photos if photo.mask is None]
    found = masks.find_masks(bare, root, options.log)
    masked = [photo if photo.mask else photo._replace(mask=found.get(photo.path)) for photo in photos]
    if (options.invert_masks or options.mask_mode == "transparent") and not any(each.mask for each in masked):
        option = "invert_masks" if options.invert_masks else "mask_mode=transparent"
        places = ", ".join(masks.FOLDERS)
        raise UserError(
            f"{option}: there is no mask of any photo of {root}, looked in {places}; leave it out"
        )
    return masked


def _planned(photo: PhotoFile, options: LoadOptions) -> _Plan:
    """How the photo becomes a view: its header is read, and no pixel."""
    camera, file_size, turn = fitted(photo)
    lens = as_lens(photo.distortion)
    common: dict[str, Any] = {
        "path": photo.path,
        "turn": turn,
        "mask": photo.mask if options.mask_mode != "off" else None,
        "mask_mode": options.mask_mode,
        "invert_masks": options.invert_masks,
        "alpha_mode": options.alpha_mode,
        "use_cache": options.cache,
    }
    if lens == PANORAMA:
        return _sides(photo, camera, common, options)
    if (lens.is_pinhole and not options.fov) or not options.undistort:
        size = at_most(options.max_size, file_size)
        return _Plan([(photo.name, camera.resized(*size))], [FilePhoto(size=size, **common)], file_size, None)
    size, out = picture_sizes(camera.K, file_size, lens, options.fov, options.max_size)
    camera = camera.resized(*size)
    zoom = chosen_zoom(camera.K, *size, lens, options.fov)
    warp = straighten(camera.K, lens, zoom, (out[0] / size[0], out[1] / size[1]))
    pinhole = replace(camera, K=camera.K * [[zoom, 1, 1], [1, zoom, 1], [1, 1, 1]]).resized(*out)
    source = FilePhoto(size=size, warp=warp, out=out, holes=bool(options.fov), **common)
    return _Plan([(photo.name, pinhole)], [source], file_size, zoom)


def _sides(photo: PhotoFile, camera: Camera, common: dict[str, Any], options: LoadOptions) -> _Plan:
    """The sides of a cube round a panorama, as views of one group."""
    side = side_size(camera.width, options.max_size, options.fov or FIELD)
    across = min(camera.width, round(camera.width * side / side_size(camera.width, 0, options.fov or FIELD)))
    size = (across, max(1, round(camera.height * across / camera.width)))
    stem, dot, ending = photo.name.rpartition(".")
    cameras, sources = [], []
    for name in SIDES:
        warp = Side(name, *size, side, options.fov or FIELD)
        cameras.append((f"{stem or photo.name}_{name}{dot}{ending if stem else ''}", warp.camera(camera)))
        sources.append(FilePhoto(size=size, warp=warp, out=(side, side), **common))
    return _Plan(cameras, sources, (camera.width, camera.height), None, photo.name)


def _paged(
    plans: list[_Plan],
    each: Callable[[Callable[[_Plan], _Loaded]], list[_Loaded]],
    size: int,
    options: LoadOptions,
) -> list[_Loaded]:
    """The photos in a file of the cache, which is written if it is not there, or left in their files."""
    sources = [source for plan in plans for source in plan.sources]
    store, writer = photo_store.claim(sources, size, options.log) if options.cache else (None, None)
    if store is not None:
        places = iter(store.places)
        loaded = [_of(plan, [next(places) for _ in plan.sources], True) for plan in plans]
    elif writer is None:
        loaded = each(lambda plan: _loaded(plan, photo_store.unwritten))
    else:
        with writer:
            loaded = each(lambda plan: _loaded(plan, writer.add))
        store = writer.finish([place for item in loaded for place in item.places])
    if store is None:
        options.log(f"photos: {size / 1e9:.1f} GB as pixels, left in their files and decoded when needed")
        return loaded
    options.log(f"photos: {store.bytes / 1e9:.1f} GB as pixels, read when needed from {store.path}")
    kept = iter(store.photos(sources))
    return [item._replace(views=[replace(view, photo=next(kept)) for view in item.views]) for item in loaded]


def _loaded(plan: _Plan, write: Callable[[Photo], Place] | None = None) -> _Loaded:
    """Makes the pictures once, so that a damaged file is found now, whether they are kept or not.

    write: where they go; None: they stay in memory.
    """
    made, cached, places = [], True, []
    for source in plan.sources:
        if write is not None:  # there is no need of two copies on disk
            source = replace(source, use_cache=write is photo_store.unwritten and source.use_cache)
        photo, from_cache = source.make()
        cached &= from_cache
        places.append((write or photo_store.unwritten)(photo))
        made.append(photo)
    loaded = _of(plan, places, cached)
    if write is None:
        kept = [replace(view, photo=photo) for view, photo in zip(loaded.views, made, strict=True)]
        return loaded._replace(views=kept)
    return loaded


def _of(plan: _Plan, places: Sequence[Place], cached: bool) -> _Loaded:
    """What is known of the plan's views once their photos were decoded; these stay in their files."""
    views = [
        View(name, camera, source, group=plan.group)
        for (name, camera), source in zip(plan.cameras, plan.sources, strict=True)
    ]
    share = float(np.mean([place.counted for place in places]))
    return _Loaded(views, plan, cached, any(place.alpha for place in places), share, list(places))


def fitted(photo: PhotoFile) -> tuple[Camera, tuple[int, int], bool]:
    """The photo's camera in its file's pixels, the file's width and height, and whether EXIF turns it; UserError where
    camera and file have different shapes. No pixel is read.
    """
    camera, sides = photo.camera, (photo.camera.width, photo.camera.height)
    width, height, turn = header(
        photo.path, lambda w, h: not same_shape(w, h, *sides) and same_shape(h, w, *sides)
    )
    size = (height, width) if turn else (width, height)
    if not same_shape(*size, *sides):
        turned = same_shape(*size[::-1], *sides)
        raise UserError(
            f"photo {photo.path} is {size[0]}x{size[1]} but its camera is {sides[0]}x{sides[1]}, "
            f"another shape; it is {'rotated' if turned else 'cropped, undistorted'}, or not the photo of this "
            "view: name the folder of the photos that were reconstructed with --images"
        )
    return camera.resized(*size), size, turn


def _report(
    photos: Sequence[PhotoFile], loaded: Sequence[_Loaded], options: LoadOptions
) -> dict[str, Any] | None:
    """Say what was done to the photos, a line each kind."""
    log = options.log
    flat = [item for item in loaded if len(item.views) == 1]
    if reduced := [item for item in flat if item.plan.file_size != item.plan.sources[0].size]:
        (width, height), small = reduced[0].plan.file_size, reduced[0].plan.sources[0].size
        sizes = f"from {width}x{height} to {small[0]}x{small[1]}"
        log(f"photos: {len(reduced)} of {len(loaded)} reduced {sizes} (--max-size)")
    if turned := sum(item.plan.sources[0].turn for item in loaded):
        log(f"photos: {turned} turned as their EXIF tag says, which gives them their cameras' shape")
    if sides := [item for item in loaded if len(item.views) > 1]:
        side = sides[0].views[0].camera.width
        log(f"photos: {len(sides)} panoramas, each cut into {len(SIDES)} views of {side}x{side}")
    if transparent := sum(item.transparent for item in loaded):
        what = "are see-through: they are laid over the render's background (--alpha-mode)"
        log(f"photos: {transparent} {what}")
    if (counted := float(np.mean([item.counted for item in loaded] or [1.0]))) < 1:
        log(f"photos: {100 * counted:.0f} % of their pixels count")
        if empty := [item.views[0].name for item in loaded if not item.counted]:
            log(f"warning: no pixel of {len(empty)} photos ({shorten(empty)}) counts; see --invert-masks")
    if options.blank:
        found = [[place.blank for place in item.places] for item in loaded]
        blank.tell([photo.name for photo in photos], found, log)
    if zooms := [item.plan.zoom for item in loaded if item.plan.zoom is not None]:
        kept = sum(item.cached and item.plan.zoom is not None for item in loaded)
        low, high = f"{min(zooms):.5f}", f"{max(zooms):.5f}"
        grown = [s.out for s in (item.plan.sources[0] for item in flat) if s.out and s.out != s.size]
        log(
            f"photos: {len(zooms)} undistorted, zoom {low if low == high else f'{low} to {high}'}, bicubic"
            + (f", to {grown[0][0]}x{grown[0][1]}" if grown else "")
            + (f" ({kept} from the cache in {cache.cache_folder()})" if kept else "")
        )
        return {"zoom": round(max(zooms), 5), "kernel": "bicubic"}
    if not options.undistort and not all(as_lens(photo.distortion).is_pinhole for photo in photos):
        log("photos: their lens distortion is ignored (undistort=false)")
    return None
