# SPDX-License-Identifier: Apache-2.0
"""gs-render of a scene's views: pictures of each, and scores where there are photos."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from ..config import Config
from ..datasets import read_scene, scene_folder
from ..datasets.files import holds_pictures
from ..errors import UserError
from ..evaluate.depth import colored, depth_unit, write_depths
from ..evaluate.frames import Look, depth_range, shoot
from ..evaluate.measure import FULLY, means_of, more_scores
from ..evaluate.pictures import (
    Row,
    Writers,
    error_of,
    keep_others_pictures,
    reduced,
    with_alpha,
    write_png,
    write_sheets,
)
from ..model.io import Model, committed
from ..model.sky import colour_of
from ..registry import MADE
from ..scene import Camera, Scene, View
from ..storage import atomic_write, file_name, parsed
from ..training.run_folder import to_json
from .progress import Progress, write_result

if TYPE_CHECKING:
    from ..backends import Backend


def render_views(
    model: Model,
    settings: Config,
    split: str,
    stages: Backend,
    look: Look,
    folder: Path,
    report: Progress,
    *,
    depth: bool,
    alpha: bool,
    sheet: bool,
    ours: bool = False,
) -> None:
    """Writes NAME.png of each view, NAME_depth.png and NAME_depth_color.png where asked, metrics.json, sheets.

    ours: what lies in the folder was written by this command, and may be written over.
    """
    keep_off_photos(folder, settings)
    data = read_scene(settings, report.message, report.at)
    parts = split_views(data, settings, model.run)
    views = chosen(parts, split, data.name, settings)
    names = file_names(views)
    if not ours:
        keep_others_pictures(folder / name for name in names.values())
    model = model.to_render([view.camera for view in data.views])
    near, far = model_depths(model, [view.camera for view in views]) if look.depth else (1.0, 2.0)
    unit = depth_unit(far)
    scores: dict[str, dict[str, float]] = {}
    rows: list[Row] = []
    report.release()
    with Writers() as writers:
        for done, view in enumerate(views, 1):
            frame = shoot(model.gaussians, model.camera(view.camera), stages, look, model.frame.scale)
            photo = None if view.photo is None else view.photo.decode()
            pixels, mask = (
                (None, None) if photo is None else (photo.shown(colour_of(look.background)), photo.mask)
            )
            score = stages.score(frame.image, pixels, mask)
            path = folder / names[view.name]
            if not np.isnan(score.psnr):
                scores[view.name] = {"psnr": score.psnr, "ssim": score.ssim}
                if pixels is not None:
                    scores[view.name] |= more_scores(score.picture, pixels, mask)
                if report.mode == "jsonl":
                    write_result(to_json({"view": view.name} | scores[view.name]))
            writers.add(
                write_png, path, with_alpha(np.asarray(frame.image), frame.alpha) if alpha else score.picture
            )
            if depth and frame.depth is not None:
                writers.add(write_depths, path, frame.depth, unit, near, far)
            if sheet and frame.depth is not None:
                rows.append(_row(view, pixels, score.picture, colored(frame.depth, near, far), scores))
            report.at("rendering", done, len(views))
    if rows:
        write_sheets(folder / "sheet.png", rows)
    if scores:
        # of held-out views alone: what the metrics.json of the run has
        named = {} if split == "test" else {"split": split}
        metrics = named | means_of(scores, FULLY) | ({"depth_unit": unit} if depth else {})
        if split == "all":  # what was trained on and what was not, apart
            for part in ("test", "train"):
                its = {view.name: scores[view.name] for view in parts[part] if view.name in scores}
                if its:
                    metrics[part] = {
                        key: value for key, value in means_of(its, FULLY).items() if key != "views"
                    }
                    metrics[part]["views"] = list(its)
        with atomic_write(folder / "metrics.json") as file:
            file.write(to_json(metrics, indent=1).encode() + b"\n")
        report.message(
            f"PSNR {metrics['psnr']:.2f} dB, SSIM {metrics['ssim']:.4f}, mean of {len(scores)} views"
        )
        report.summary(named | {name: metrics[name] for name in FULLY})
    report.message(f"{len(views)} views in {folder}")
    report.release()


def model_depths(model: Model, cameras: Sequence[Camera]) -> tuple[float, float]:
    """(near, far) of what cameras of the scene see of a model, in the scene's unit."""
    near, far = depth_range(model.gaussians, [model.camera(camera) for camera in cameras])
    return near * model.frame.scale, far * model.frame.scale


def split_views(data: Scene, settings: Config, run: Path | None) -> dict[str, tuple[View, ...]]:
    """The views of "train", "test" and "all". What the run's checkpoint was trained on is never test, whatever has
    come to the scene since.
    """
    train, test = data.split(settings.test_every if settings.eval else 0)
    trained = trained_names(run)
    if trained is not None:
        train = tuple(view for view in data.views if view.name in trained)
        test = tuple(view for view in test if view.name not in trained)
    return {"train": train, "test": test, "all": data.views}


def chosen(parts: dict[str, tuple[View, ...]], split: str, name: str, settings: Config) -> tuple[View, ...]:
    """The views of a split; UserError where there are none."""
    views = parts[split]
    if not views:
        why = (
            "the run trained on all of its views"
            if split == "test" and not settings.eval
            else "there are none"
        )
        raise UserError(f"{name} has no views in the split {split}: {why}; choose another with --split")
    return views


def trained_names(run: Path | None) -> frozenset[str] | None:
    """The views that a run's newest checkpoint was trained on; None where that is not known."""
    for path in committed(run / "checkpoints") if run is not None else []:
        try:
            names = parsed(path.read_bytes())["names"]
            return frozenset(map(str, names))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


def file_names(views: tuple[View, ...]) -> dict[str, str]:
    """A PNG's path for each view: its name with the extension replaced; with all extensions kept where two
    would be the same; cut where it is too long.
    """
    stems = {view.name: str(PurePosixPath(view.name).with_suffix("")) for view in views}
    unique = len(set(stems.values())) == len(stems)
    names = {}
    for name, stem in stems.items():
        path = PurePosixPath(stem if unique else name)
        if path.is_absolute() or ".." in path.parts[:-1]:
            raise UserError(f"view {name} would be written outside the folder; rename it in the scene")
        names[name] = str(path.with_name(file_name(path.name, ".png")))
    return names


def keep_off_photos(folder: Path, settings: Config | None) -> None:
    """UserError where pictures would land among the scene's photos."""
    if settings is None or settings.reader in MADE:
        return
    try:
        root = scene_folder(settings).resolve()
    except UserError:  # it is not there, and not needed
        return
    place = folder.resolve()
    inside = root in place.parents and place.is_dir() and _holds_photos(place)
    if place == root or inside:
        raise UserError(f"{folder} holds the scene's photos, nothing is written there; name another --out")


def _holds_photos(folder: Path) -> bool:
    """Whether pictures lie in a folder that this command has not written. A run's own metrics.json says nothing
    of that.
    """
    written = any((folder / name).is_file() for name in ("metrics.json", "path.json"))
    if written and not (folder / "log.jsonl").exists():
        return False
    return holds_pictures(folder)


def _row(
    view: View,
    photo: np.ndarray | None,
    picture: np.ndarray,
    depth: np.ndarray,
    scores: dict[str, dict[str, float]],
) -> Row:
    score = scores.get(view.name)
    caption = (
        view.name if score is None else f"{view.name}   {score['psnr']:.2f} dB, SSIM {score['ssim']:.3f}"
    )
    pictures = [picture, depth] if photo is None else [photo, picture, error_of(photo, picture), depth]
    return Row(caption, [reduced(picture) for picture in pictures])
