# SPDX-License-Identifier: Apache-2.0
"""transforms.json and the photos that it names -> Scene.

Enters: a folder with transforms.json, or with Blender's transforms_train.json and _test.json. Leaves: views in
the frame of the file, the points of its PLY, or drawn ones. Splits that files choose are kept: the test file's
photos are held out; the validation file's are used for nothing where there is a test file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from ..errors import UserError
from ..scene import Camera, Scene, View
from . import transforms_file
from .agreement import SmallView, small_views_of
from .colmap_records import intrinsics
from .files import shorten, tell_outside
from .images import PhotoFile, load_photos, with_masks
from .names import as_name
from .options import LoadOptions
from .point_ply import read_points
from .points import company, draw, looked_at
from .sweep import sweep
from .transforms_file import Frame
from .transforms_paths import TEST, TRAIN, VAL, WHOLE, as_written, find_files, without_repeats

NERFSTUDIO_POINTS = "sparse_pc.ply"
AWAY = 0.1  # share of cameras that look at the scene, below which the axes are doubted ...
TOWARDS = 0.9  # share from which nothing is doubted
FEWEST = 5  # ... where there are this many
TRIED = 48  # cameras to settle it with
CLEARLY = 0.12  # better agreement: wrong axes give up to 0.25, right ones 0.33 to 0.86
AGREED = 0.35  # agreement that wrong axes were not seen to reach
UNKNOWN = 0.25  # below it photos tell nothing: they are few, and far apart
SWEPT = 1000  # points drawn to see what cameras have in common
ALONE = 1.2  # cameras that see a drawn point, of which one drew it
FLIP = np.diag([1.0, -1.0, -1.0, 1.0])

LOOKED_FOR = f"{WHOLE} or {TRAIN}"


class Chosen(NamedTuple):
    """The frames to load and the names of those held out; None where no file says so."""

    frames: dict[str, Frame]  # by the name of the view
    held_out: frozenset[str] | None
    points: str | None


def recognise(root: Path) -> bool:
    """Whether the folder holds a transforms.json or Blender's split of one."""
    return (root / WHOLE).is_file() or (root / TRAIN).is_file()


def load(root: Path, options: LoadOptions) -> Scene:
    """The scene in `root`; UserError where it is broken or none of its photos is there."""
    log = options.log
    chosen = _choose(root, log)
    files = find_files(chosen.frames, root, options.images, log)
    files, held_out = without_repeats(files, chosen.frames, chosen.held_out, log)
    photos = [_photo(name, chosen.frames[name], path) for name, path in sorted(files.items())]
    if options.mask_mode != "off":
        photos = _with_named_masks(photos, chosen.frames, root, log)
    views, undistorted = load_photos(with_masks(photos, root, options), options)
    if held_out is not None:
        # Of a panorama all sides are held out.
        held_out = frozenset(view.name for view in views if {view.name, view.group} & held_out)
        if not held_out or len(held_out) == len(views):
            held_out = None
    if held_out is not None:
        log(f"views: {len(views) - len(held_out)} to train on, {len(held_out)} held out, as the files say")
    views = _with_axes(views, log)
    name = root.resolve().name
    scene = Scene(name, tuple(views), np.empty((0, 3)), np.empty((0, 3)), undistorted, held_out)
    return _with_points(scene, root, chosen.points, log)


def _with_axes(views: list[View], log: Callable[[str], None]) -> list[View]:
    """The views with OpenGL's axes, as the format says, or OpenCV's where the photos prove a writer forgot it.

    Cameras that all look away from one place most likely look at it in OpenCV's axes: what they see in OpenGL's,
    standing back to back, nobody else sees. Cameras that turned on the spot look at it in OpenCV's axes wrongly. Where
    some look at one place and some do not, photos alone decide.
    """
    _, ahead = looked_at(views)
    if len(views) < FEWEST:
        log(f"cameras: {ahead:.0%} look at one place, in OpenGL's axes")
        return views
    small_views = small_views_of(views, TRIED)
    turned_views = [small_view.moved(FLIP @ small_view.viewmat) for small_view in small_views]
    own, other = (np.nan_to_num(sweep(tried).agreement) for tried in (small_views, turned_views))
    numbers = f"photos agree {other:.2f} so, {own:.2f} in OpenGL's"
    prove = other >= own + CLEARLY and (ahead < AWAY or other >= max(AGREED, own + 2 * CLEARLY))
    if ahead >= TOWARDS and not prove:
        log(f"cameras: {ahead:.0%} look at one place, in OpenGL's axes")
        return views
    if not prove and ahead < AWAY:
        alone, together = (company(tried, draw(tried, SWEPT)[0]) for tried in (small_views, turned_views))
        if prove := alone < ALONE <= together:
            numbers = (
                f"so the cameras see the same things, {together:.1f} of them each, in OpenGL's none does"
            )
        elif max(own, other) < UNKNOWN and not _are_inverted(small_views):
            prove = True
            numbers = f"so {1 - ahead:.0%} look at one place, in OpenGL's {ahead:.0%}; photos tell nothing"
    if not prove:
        log(f"cameras: {ahead:.0%} look at one place, in OpenGL's axes; in OpenCV's {numbers}")
        return views
    log(f"warning: the matrices are read in OpenCV's axes, which the format does not allow: {numbers}")
    turned = [replace(view.camera, viewmat=FLIP @ view.camera.viewmat) for view in views]
    return [replace(view, camera=camera) for view, camera in zip(views, turned, strict=True)]


def _are_inverted(small_views: list[SmallView]) -> bool:
    """Whether the photos agree where the file's matrices are taken from world to camera."""
    inverted = [view.moved(FLIP @ np.linalg.inv(view.viewmat) @ FLIP) for view in small_views]
    return bool(sweep(inverted).agreement > UNKNOWN)


def _choose(root: Path, log: Callable[[str], None]) -> Chosen:
    parts = [part for part in (TRAIN, VAL, TEST) if (root / part).is_file()]
    whole = _whole(root, log)
    if whole is not None:
        contents = whole
        frames = _named(contents.frames, WHOLE, log)
        held = frozenset(as_name(path) for path in contents.held_out) or None
        test = next((part for part in (TEST, VAL) if part in parts), None)
        if held is None and test and TRAIN in parts:
            trained, tested = (
                frozenset(as_name(frame.path) for frame in transforms_file.read_file(root / part).frames)
                for part in (TRAIN, test)
            )
            held = (tested - trained) & frozenset(frames) or None
        if parts:
            log(f"transforms: took {WHOLE}; {', '.join(parts)} only say what is held out")
    else:
        contents = transforms_file.read_file(root / TRAIN)
        frames, held = _named(contents.frames, TRAIN, log), None
        test = next((part for part in (TEST, VAL) if part in parts), None)
        if test:
            more = _named(transforms_file.read_file(root / test).frames, test, log)
            held = frozenset(more) - frozenset(frames) or None
            frames = more | frames
            unused = f"; {VAL} is used for nothing" if test == TEST and VAL in parts else ""
            split = f"{test} held out" if held else f"{test} has no others to hold out"
            log(f"transforms: {TRAIN} is trained on, {split}{unused}")
    if contents.mirrored:
        log("transforms: the matrices mirror (a left-handed world); the world's z was turned round")
    if contents.bad:
        log(f"transforms: {contents.bad} frames that the file calls bad (is_bad) are left out")
    if contents.has_depth:
        log("transforms: the depth pictures are not used")
    return Chosen(frames, held, contents.points)


def _whole(root: Path, log: Callable[[str], None]) -> transforms_file.Contents | None:
    """What transforms.json says; None where it is not there, or is broken and Blender's split is there too."""
    if not (root / WHOLE).is_file():
        return None
    try:
        return transforms_file.read_file(root / WHOLE)
    except UserError as error:
        if not (root / TRAIN).is_file():
            raise
        log(f"warning: took {TRAIN}, as {error}")
        return None


def _named(frames: list[Frame], file: str, log: Callable[[str], None]) -> dict[str, Frame]:
    named: dict[str, Frame] = {}
    twice = []
    for frame in frames:
        name = as_name(frame.path)
        if not name:
            raise UserError(f"{file}: {frame.path!r} is no path of a photo")
        if name in named:
            twice.append(name)
        else:
            named[name] = frame
    if twice:
        log(f"warning: {file} has {len(twice)} photos more than once ({shorten(twice)}); the first counts")
    return named


def _with_named_masks(
    photos: list[PhotoFile], frames: dict[str, Frame], root: Path, log: Callable[[str], None]
) -> list[PhotoFile]:
    """The photos with the masks that their frames name."""
    wanted = {photo.name: mask for photo in photos if (mask := frames[photo.name].mask)}
    found = {name: file for name, mask in wanted.items() if (file := as_written(root, mask))}
    if lost := len(wanted) - len(found):
        log(f"warning: {lost} of {len(wanted)} masks that the file names are not there")
    tell_outside(root, found.values(), log, "masks")
    if found:
        log(f"photos: {len(found)} have the mask that the file names")
    return [photo._replace(mask=found.get(photo.name)) for photo in photos]


def _photo(name: str, frame: Frame, path: Path) -> PhotoFile:
    size = (1, 1)
    if frame.width is None or frame.height is None:
        try:
            with Image.open(path) as picture:
                size = picture.size
        except Exception as error:  # pillow raises whatever its parsers meet
            raise UserError(f"photo {path} is not a picture pillow can read; replace it") from error
    record = transforms_file.record(frame, size)
    K, distortion = intrinsics(record, f"the camera of {frame.path!r}")
    viewmat = np.eye(4)
    viewmat[:3, :3] = frame.camtoworld[:3, :3].T
    viewmat[:3, 3] = -viewmat[:3, :3] @ frame.camtoworld[:3, 3]
    return PhotoFile(name, path, Camera(viewmat, K, record.width, record.height), distortion)


def _with_points(scene: Scene, root: Path, written: str | None, log: Callable[[str], None]) -> Scene:
    """The points of the PLY that the file names, which are in the file's own frame; else none."""
    path = as_written(root, written) if written else None
    if path is None and (root / NERFSTUDIO_POINTS).is_file():
        path = root / NERFSTUDIO_POINTS
    if path is None:
        if written:
            log(f"warning: the points {written} are not there")
        return scene
    tell_outside(root, [path], log, "files of points")
    points, colors = read_points(path, log)
    log(f"points: {len(points):,} from {path.name}")
    return replace(scene, points=points, colors=colors)
