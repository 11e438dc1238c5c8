# SPDX-License-Identifier: Apache-2.0
"""Writes the parts of a scene as ordinary COLMAP folders: photos, masks, a model, the names that are held out.

A part has the views that were cut for it and a ring of others that see enough of it, its own points and some of the
others' as seeds for what lies behind. Pixels of a photo that show another part's places are masked: what stands
there is that part's to make.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ..datasets.agreement import in_picture
from ..datasets.colmap_binary import write_pinholes
from ..datasets.colmap_records import Points
from ..datasets.held_out import HELD_OUT
from ..scene import Camera, Scene, View
from ..storage import atomic_write, new_folder
from .cut import cut_views
from .ownership import owners, weights

RING = 0.1  # of a view's weights that fall on a part, so that the view is in its ring
SEEDS = 0.2  # of the others' points that a part gets
CELL = 8  # pixels of a mask's cell
NEAREST = 6  # points that decide a cell: it is masked where all are another part's
PLAN = "partition.json"  # beside the parts' folders, and in each of them


class Part(NamedTuple):
    """A part as it was written."""

    folder: Path
    own: int  # views that were cut for it
    ring: int  # others that see enough of it
    points: int
    masked: float  # share of the pixels


def write_parts(
    scene: Scene,
    out: Path,
    parts: int,
    *,
    ring: float = RING,
    test_every: int = 8,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> list[Part]:
    """Writes out/part_1 .. part_K and out/partition.json, all or nothing.

    UserError where `out` holds something or the scene has too few views; StorageError where it cannot be written.
    """
    of_views = cut_views(scene, parts)
    cameras = [view.camera for view in scene.views]
    of_points = owners(scene.points, cameras, of_views)
    held = {view.name for view in scene.split(test_every)[1]}
    members = [_members(scene, of_views, of_points, part, ring) for part in range(parts)]
    plan = {
        "version": 1,
        "parts": parts,
        "views": [view.name for view in scene.views],
        "part_of_view": of_views,
        "cameras": [_camera_json(camera) for camera in cameras],
    }
    total, done, written = sum(map(len, members)), 0, []
    with new_folder(out) as work:
        for part, index in enumerate(members):
            folder = work / f"part_{part + 1}"
            chosen = [scene.views[i] for i in index]
            masked = []
            _make_folders(folder)
            for view in chosen:
                masked.append(_write_view(folder, view, scene.points, of_points == part))
                done += 1
                progress("writing", done, total)
            seeds = np.random.default_rng((part, parts)).random(len(scene.points)) < SEEDS
            kept = np.flatnonzero((of_points == part) | (seeds & _seen(scene.points, chosen)))
            _write_model(folder, chosen, scene.points[kept], scene.colors[kept])
            names = [_file(view) for view in chosen if view.name in held]
            (folder / HELD_OUT).write_text("".join(f"{name}\n" for name in names), "utf-8")
            _write_plan(folder / PLAN, plan | {"part": part})
            own = sum(of_views[i] == part for i in index)
            share = float(np.mean(masked)) if masked else 0.0
            written.append(Part(out / folder.name, own, len(index) - own, len(kept), share))
        _write_plan(work / PLAN, plan)
    return written


def _members(
    scene: Scene, of_views: Sequence[int], of_points: np.ndarray, part: int, ring: float
) -> list[int]:
    """Indices of the views of a part: its own, and those that see enough of it."""
    result = []
    for i, view in enumerate(scene.views):
        index, weight = weights(scene.points, view.camera)
        share = weight[of_points[index] == part].sum() / max(weight.sum(), 1e-30)
        if of_views[i] == part or share >= ring:
            result.append(i)
    return result


def _seen(points: np.ndarray, views: Sequence[View]) -> np.ndarray:
    seen = np.zeros(len(points), bool)
    for view in views:
        seen[in_picture(view.camera, points)[0]] = True
    return seen


def _make_folders(folder: Path) -> None:
    for name in ("images", "masks", "sparse/0"):
        (folder / name).mkdir(parents=True)


def _file(view: View) -> str:
    """The name of a view's photo in a part."""
    return f"{view.name.replace('/', '__').rsplit('.', 1)[0]}.png"


def _write_view(folder: Path, view: View, points: np.ndarray, own: np.ndarray) -> float:
    """Writes a view's photo and its mask; the share of the pixels that do not count."""
    photo = view.pixels
    picture = photo.image
    if photo.matte is not None:
        alpha = photo.matte.astype(np.float32)[:, :, None]
        straight = np.rint(255 * picture / np.maximum(alpha, 1)).clip(0, 255).astype(np.uint8)
        picture = np.concatenate([straight, photo.matte[:, :, None]], axis=2)
    path = folder / "images" / _file(view)
    Image.fromarray(picture).save(path, compress_level=1)
    counts = own_pixels(view.camera, points, own)
    if photo.mask is not None:
        counts = counts & (photo.mask > 0)
    Image.fromarray(255 * counts.astype(np.uint8)).save(folder / "masks" / path.name)
    return float(1 - counts.mean())


def own_pixels(camera: Camera, points: np.ndarray, own: np.ndarray) -> np.ndarray:
    """[H, W] bool: the pixels that are not another part's.

    A cell of CELL x CELL pixels is another's where all of its NEAREST projected points [P, 3] are; own [P]: which of
    these are not. Points behind others count too, for nothing says what hides them, and mistakes keep a pixel.
    """
    index, pixels = in_picture(camera, points)
    rows, columns = -(-camera.height // CELL), -(-camera.width // CELL)
    if not len(index) or own[index].all():
        return np.ones((camera.height, camera.width), bool)
    chosen = np.linspace(0, len(index) - 1, min(len(index), 3000)).astype(int)
    pixels, own_points = pixels[chosen], own[index[chosen]]
    y, x = np.mgrid[:rows, :columns] * CELL + CELL / 2
    count = min(NEAREST, len(chosen))
    cells = np.empty((rows, columns), bool)
    for row in range(rows):
        squares = (pixels[:, 0, None] - x[row]) ** 2 + (pixels[:, 1, None] - y[row]) ** 2
        near = np.argpartition(squares, count - 1, axis=0)[:count]
        cells[row] = own_points[near].any(axis=0)
    return np.repeat(np.repeat(cells, CELL, 0), CELL, 1)[: camera.height, : camera.width]


def _write_model(folder: Path, views: Sequence[View], points: np.ndarray, colors: np.ndarray) -> None:
    cameras = [(_file(view), view.camera) for view in views]
    nothing, nowhere = [np.empty(0, np.int64)] * len(views), [np.empty((0, 2))] * len(views)
    write_pinholes(folder / "sparse" / "0", cameras, Points(points, colors), nothing, nowhere)


def _camera_json(camera: Camera) -> dict[str, Any]:
    return {
        "viewmat": camera.viewmat.tolist(),
        "K": camera.K.tolist(),
        "width": camera.width,
        "height": camera.height,
    }


def _write_plan(path: Path, plan: dict[str, Any]) -> None:
    with atomic_write(path) as file:
        file.write(json.dumps(plan).encode() + b"\n")
