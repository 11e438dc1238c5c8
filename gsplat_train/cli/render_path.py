# SPDX-License-Identifier: Apache-2.0
"""gs-render along a path: numbered pictures, or a film, of cameras that no photo was taken with."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..config import Config
from ..datasets import read_scene
from ..errors import UserError
from ..evaluate.depth import colored, depth_unit, write_depths
from ..evaluate.frames import Look, depth_range, shoot
from ..evaluate.metrics import to_uint8
from ..evaluate.path_files import read_path, write_path
from ..evaluate.paths import PATHS, make_path, with_lens
from ..evaluate.pictures import (
    Row,
    Writers,
    keep_others_pictures,
    reduced,
    with_alpha,
    write_png,
    write_sheets,
)
from ..evaluate.video import Video
from ..model.io import Model, committed, read_checkpoint, similarity_of
from ..scene import View
from ..storage import home_expanded
from ..training.identity import cameras_of
from .progress import Progress
from .render_views import keep_off_photos

if TYPE_CHECKING:
    from ..backends import Backend

FRAMES, FPS = 120, 30.0
SHEET_FRAMES = 24  # on a sheet, two a row, each with its depth


class PathOptions(NamedTuple):
    """What the command line says of the path."""

    kind: str
    frames: int | None
    fps: float | None
    width: int | None
    height: int | None
    fov: float | None


def render_path(
    model: Model,
    settings: Config | None,
    scene_named: bool,
    asked: PathOptions,
    stages: Backend,
    look: Look,
    target: Path,
    film: bool,
    alpha: bool,
    report: Progress,
    *,
    depth: bool,
    sheet: bool,
    ours: bool = False,
) -> None:
    """Writes the film `target`, or 00000.png, 00001.png ... and path.json into that folder; with depth asked for
    also a film or pictures of it; sheet.png, beside a film <its name>_sheet.png, of frames evenly along the path.

    ours: see render_views.
    """
    fps = asked.fps
    if asked.kind in PATHS:
        views, held = views_of(model, settings, scene_named, report)
        model = model.to_render([view.camera for view in views])
        cameras = [model.camera(view.camera) for view in views if view.name not in held]
        made = make_path(asked.kind, cameras, points_of(model), asked.frames or FRAMES)
    else:
        of_scene, stored = read_path(home_expanded(asked.kind), asked.frames)
        fps, model = fps or stored, model.to_render(of_scene)
        made = [model.camera(camera) for camera in of_scene]
    made = [with_lens(camera, asked.width, asked.height, asked.fov) for camera in made]
    fps = fps or FPS
    if not film:
        keep_off_photos(target, settings)
    if not film and not ours:
        keep_others_pictures(target / f"{number:05d}.png" for number in range(len(made)))
    near, far = depth_range(model.gaussians, made) if look.depth else (1.0, 2.0)
    scale = model.frame.scale
    near, far = near * scale, far * scale
    unit = depth_unit(far)
    width, height = made[0].width, made[0].height
    report.release()
    shown = set(np.linspace(0, len(made) - 1, min(len(made), SHEET_FRAMES)).astype(int)) if sheet else set()
    cells: list[tuple[int, list[np.ndarray]]] = []
    with ExitStack() as stack:
        writers = stack.enter_context(Writers())
        video = stack.enter_context(Video(target, fps, width, height)) if film else None
        depths = None
        if film and depth:
            depths = stack.enter_context(Video(target.with_stem(f"{target.stem}_depth"), fps, width, height))
        for number, camera in enumerate(made):
            frame = shoot(model.gaussians, camera, stages, look, scale)
            path = target / f"{number:05d}.png"
            if video is not None:
                video.add(to_uint8(frame.image))
                if depths is not None and frame.depth is not None:
                    depths.add(colored(frame.depth, near, far))
            elif alpha:
                writers.add(_write_rgba, path, np.array(frame.image), frame.alpha)
            else:
                writers.add(_write_rgb, path, np.array(frame.image))
            if video is None and depth and frame.depth is not None:
                writers.add(write_depths, path, frame.depth, unit, near, far)
            if number in shown and frame.depth is not None:
                pictures = (to_uint8(frame.image), colored(frame.depth, near, far))
                cells.append((number, [reduced(picture) for picture in pictures]))
            report.at("rendering", number + 1, len(made))
    if cells:
        pairs = [cells[i : i + 2] for i in range(0, len(cells), 2)]
        rows = [
            Row(", ".join(f"frame {n}" for n, _ in pair), [picture for _, two in pair for picture in two])
            for pair in pairs
        ]
        write_sheets(target.with_name(f"{target.stem}_sheet.png") if film else target / "sheet.png", rows)
    if not film:
        write_path(target / "path.json", [model.frame.camera(camera) for camera in made], fps)
    report.summary(
        {"frames": len(made), "fps": fps, "width": width, "height": height, "out": str(target)}
        | ({"depth_unit": unit} if depth and not film else {})
    )
    report.message(f"{len(made)} frame{'' if len(made) == 1 else 's'} of {width}x{height} in {target}")
    report.release()


def _write_rgb(path: Path, image: np.ndarray) -> None:
    write_png(path, to_uint8(image))


def _write_rgba(path: Path, image: np.ndarray, alpha: np.ndarray) -> None:
    write_png(path, with_alpha(image, alpha))


def views_of(
    model: Model, settings: Config | None, scene_named: bool, report: Progress
) -> tuple[list[View], set[str]]:
    """The views that are known, and the names of those held out: the training views of the run's checkpoint,
    without photos; all of the scene where one was named or there is no checkpoint; none without either.
    """
    for path in committed(model.run / "checkpoints") if model.run is not None and not scene_named else []:
        try:
            meta, tensors = read_checkpoint(path)
            cameras = cameras_of(tensors, similarity_of(meta))
            return [View(str(n), c) for n, c in zip(meta["names"], cameras, strict=True)], set()
        except (UserError, KeyError, ValueError):
            continue
    if settings is None:
        return [], set()
    data = read_scene(settings, report.message, report.at)
    held = data.split(settings.test_every if settings.eval else 0)[1]
    return list(data.views), {view.name for view in held}


def points_of(model: Model) -> np.ndarray:
    """[P, 3] the middles of the splats that hide something, in the model's frame."""
    opaque = np.asarray(model.gaussians.opacities) > 0.3
    return np.asarray(model.gaussians.means, np.float64)[opaque]
