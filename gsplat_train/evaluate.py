# SPDX-License-Identifier: Apache-2.0
"""Models from disk, and how well they show held-out views: usable on any PLY, checkpoint or run.

Metrics follow losses.psnr and losses.ssim: the render rounded to 8 bits against the uint8 photo, the mean
over views, in the scene's own frame, at all SH degrees.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import mlx.core as mx
import numpy as np
from PIL import Image

from . import checkpoint, losses
from .errors import UserError
from .formats import ply
from .gaussians import Gaussians
from .render import render
from .scene import View
from .storage import atomic_write

if TYPE_CHECKING:
    from .backends import Backend

BACKGROUNDS = {"black": (0.0, 0.0, 0.0), "white": (1.0, 1.0, 1.0), "random": (0.0, 0.0, 0.0)}  # to measure on
ERROR_GAIN = 4.0  # the preview shows errors brighter by this


class Model(NamedTuple):
    """A model in its scene's own frame."""

    gaussians: Gaussians
    antialiased: bool  # the mode it was trained for
    run: Path | None  # the run folder that it lies in


def load_model(path: str | os.PathLike[str]) -> Gaussians:
    """The Gaussians of a run folder, a checkpoint or a .ply, in the scene's own frame.

    UserError if it is none.
    """
    return open_model(Path(path)).gaussians


def open_model(path: Path, log: Callable[[str], None] = lambda line: None) -> Model:
    """As `load_model`, with what else is known.

    Of a run folder the newest checkpoint, else point_cloud.ply.
    """
    path = path.expanduser()
    if path.is_dir():
        folder = path / "checkpoints"
        if checkpoint.committed(folder):
            return _from_checkpoint(checkpoint.newest(folder, log), path)
        if (path / "point_cloud.ply").is_file():
            return open_model(path / "point_cloud.ply")
        raise UserError(f"{path} is no run: it holds neither checkpoints nor point_cloud.ply")
    if not path.exists():
        raise UserError(f"no model at {path}; give a run folder, a checkpoint or a .ply")
    if path.suffix.lower() == ".ply":
        splats = ply.read(path)
        gaussians = Gaussians(**{name: mx.array(array) for name, array in splats.arrays.items()})
        return Model(gaussians, splats.antialiased, _run_of(path.parent))
    if path.suffix in (".safetensors", ".json"):
        return _from_checkpoint(checkpoint.load(path), _run_of(path.parent.parent))
    raise UserError(f"{path} is no model; allowed are a run folder, a checkpoint (.safetensors) and a .ply")


def measure(
    gaussians: Gaussians,
    views: Iterable[View],
    backend: Backend,
    *,
    background: str = "black",
    antialiased: bool = False,
    each: Callable[[View, np.ndarray], None] = lambda view, picture: None,
) -> dict[str, Any]:
    """Renders the views: {"psnr", "ssim", "views": {name: {"psnr", "ssim"}}} over those with a photo.

    `each` gets every view with its render [H, W, 3] uint8. gaussians and views are in one frame.
    """
    scores = {}
    for view in views:
        out = render(
            gaussians, view.camera, backend, background=BACKGROUNDS[background], antialiased=antialiased
        )
        picture = losses.to_uint8(out.image)
        if view.image is not None:
            scores[view.name] = {
                "psnr": losses.psnr(picture, view.image, view.mask),
                "ssim": losses.ssim(picture, view.image, view.mask),
            }
        each(view, picture)
    means = {
        name: float(np.mean([score[name] for score in scores.values()])) if scores else float("nan")
        for name in ("psnr", "ssim")
    }
    return {**means, "views": scores}


def write_preview(path: Path, view: View, picture: np.ndarray) -> None:
    """A PNG of the photo, the render and their difference, side by side."""
    assert view.image is not None
    difference = np.abs(view.image.astype(np.int16) - picture) * ERROR_GAIN
    write_png(
        path, np.concatenate([view.image, picture, np.minimum(difference, 255).astype(np.uint8)], axis=1)
    )


def write_png(path: Path, picture: np.ndarray) -> None:
    """Writes [H, W, 3] uint8, all or nothing."""
    with atomic_write(path) as file:
        Image.fromarray(picture).save(file, "PNG")


def _from_checkpoint(found: checkpoint.Checkpoint | None, run: Path | None) -> Model:
    assert found is not None
    return Model(checkpoint.scene_frame(found.state.gaussians, found.similarity), found.antialiased, run)


def _run_of(folder: Path) -> Path | None:
    return folder if (folder / "config.toml").is_file() else None
