# SPDX-License-Identifier: Apache-2.0
"""Pictures of what was trained, as PNG."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from ..scene import View
from ..storage import atomic_write

ERROR_GAIN = 4.0  # the preview shows errors brighter by this


def write_preview(path: Path, view: View, picture: np.ndarray) -> None:
    """A PNG of the photo, the render and their difference, side by side."""
    photo = view.pixels.image
    difference = np.abs(photo.astype(np.int16) - picture) * ERROR_GAIN
    write_png(path, np.concatenate([photo, picture, np.minimum(difference, 255).astype(np.uint8)], axis=1))


def write_png(path: Path, picture: np.ndarray) -> None:
    """Writes [H, W, 3] uint8, all or nothing."""
    with atomic_write(path) as file:
        Image.fromarray(picture).save(file, "PNG")
