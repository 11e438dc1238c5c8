# SPDX-License-Identifier: Apache-2.0
"""What tells a scene from another one: kept in checkpoints, compared on resuming.

A run that goes on with other cameras or photos under the same names would put every splat in the wrong place
without a word.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from ..errors import UserError
from ..scene import Camera, Similarity, View, evenly

CAMERA_TOLERANCE = 1e-4  # of rotations, of positions in training's frame, of K in its width
PIXEL_TOLERANCE = 6.0  # of 255, mean over a thumbnail: decoders differ by less, other photos by more
SAMPLES = 8  # photos looked at
THUMBNAIL = 4  # pixels


def of_scene(views: Sequence[View]) -> dict[str, np.ndarray]:
    """Tensors that tell these training views from others: cameras of all, thumbnails of a few."""
    cameras = np.array(
        [
            [
                *view.camera.viewmat[:3].ravel(),
                *view.camera.K[:2].ravel(),
                view.camera.width,
                view.camera.height,
            ]
            for view in views
        ],
        np.float32,
    )
    return {
        "scene.cameras": cameras,
        "scene.photos": np.array([_thumbnail(v) for v in evenly(views, SAMPLES)], np.float32),
    }


def cameras_of(tensors: Mapping[str, np.ndarray], frame: Similarity) -> list[Camera]:
    """The training cameras that a checkpoint's tensors hold, in the scene's frame; KeyError where they are of
    version 0.1.
    """
    cameras = []
    for row in tensors["scene.cameras"].astype(np.float64):
        viewmat, K = np.eye(4), np.eye(3)
        viewmat[:3], K[:2] = row[:12].reshape(3, 4), row[12:18].reshape(2, 3)
        cameras.append(frame.camera_to_scene(Camera(viewmat, K, int(row[18]), int(row[19]))))
    return cameras


def check(
    kept: Mapping[str, np.ndarray],
    names: Sequence[str],
    frame: Similarity,
    views: Sequence[View],
    now: Similarity,
) -> None:
    """UserError where the views or the frame are not those that the checkpoint's tensors were made of."""
    if list(names) != [view.name for view in views]:
        raise UserError("the scene has other training views than the run; start a new run")
    offset = np.abs(frame.centre - now.centre).max() / now.scale
    if offset > CAMERA_TOLERANCE or abs(frame.scale / now.scale - 1) > CAMERA_TOLERANCE:
        raise UserError(
            "the scene's cameras lie in another frame than the run's (was it reconstructed again?); "
            "start a new run"
        )
    current = of_scene(views)
    was, here = kept["scene.cameras"], current["scene.cameras"]
    sizes = np.maximum(here[:, -2:-1], 1)
    allowed = np.concatenate(
        [np.full((len(here), 12), CAMERA_TOLERANCE), CAMERA_TOLERANCE * np.repeat(sizes, 6, 1)], 1
    )
    off = (np.abs(was[:, :18] - here[:, :18]) > allowed).any(axis=1) | (was[:, 18:] != here[:, 18:]).any(
        axis=1
    )
    if off.any():
        raise UserError(
            f"{off.sum()} of {len(off)} cameras, the first of {views[int(off.argmax())].name}, are not those that "
            "the run was trained with (another reconstruction, size or undistortion); start a new run"
        )
    other = np.abs(kept["scene.photos"] - current["scene.photos"]).mean(axis=1) > PIXEL_TOLERANCE
    if other.any():
        name = evenly(views, SAMPLES)[int(other.argmax())].name
        raise UserError(f"photo {name} is not the one that the run was trained with; start a new run")


def _thumbnail(view: View) -> np.ndarray:
    small = Image.fromarray(view.pixels.image).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    return np.asarray(small, np.float32).ravel()
