# SPDX-License-Identifier: Apache-2.0
"""Depth as pictures: 16 bits for programs, colours for people."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from ..storage import atomic_write
from .pictures import write_png

HEADROOM = 1.5  # 16 bits reach so much farther than nearly all that is seen
# Near to far, for a viewer without full colour vision too: lightness falls all the way.
COLORS = np.array(
    [[255, 246, 190], [250, 176, 94], [222, 92, 90], [142, 44, 122], [58, 22, 104], [10, 8, 34]]
)


def depth_unit(far: float) -> float:
    """Scene units a step of 16 bits: 1, 2 or 5 times a power of ten, so that `far` and more fits."""
    least = far * HEADROOM / 65535
    power = 10.0 ** np.floor(np.log10(least))
    return float(next(power * factor for factor in (1, 2, 5, 10) if power * factor >= least))


def write_depth(path: Path, depth: np.ndarray, unit: float) -> None:
    """A PNG of 16 bits: depth [H, W] in steps of `unit`, 0 where there is none; text chunks say so."""
    steps = np.where(depth > 0, np.clip(np.rint(depth / unit), 1, 65535), 0).astype(np.uint16)
    text = PngImagePlugin.PngInfo()
    text.add_text("depth_unit", f"{unit:g}")
    text.add_text("Description", f"camera-space z; 1 = {unit:g} scene units; 0 = nothing there")
    with atomic_write(path) as file:
        Image.fromarray(steps).save(file, "PNG", pnginfo=text, compress_level=3)


def write_depths(path: Path, depth: np.ndarray, unit: float, near: float, far: float) -> None:
    """NAME_depth.png in 16 bits and NAME_depth_color.png, for the picture NAME.png at `path`."""
    write_depth(path.with_stem(f"{path.stem}_depth"), depth, unit)
    write_png(path.with_stem(f"{path.stem}_depth_color"), colored(depth, near, far))


def read_depth(path: Path) -> np.ndarray:
    """[H, W] float32 scene units, as `write_depth` wrote them; 0 where nothing is."""
    with Image.open(path) as picture:
        return np.asarray(picture, np.float32) * float(picture.info["depth_unit"])  # type: ignore[arg-type]


def colored(depth: np.ndarray, near: float, far: float) -> np.ndarray:
    """[H, W, 3] uint8: light is near, dark is far, by 1 / depth between the two; black where nothing is."""
    inverse = 1 / np.maximum(depth, 1e-12)
    t = np.clip((1 / near - inverse) / max(1 / near - 1 / far, 1e-12), 0, 1) * (len(COLORS) - 1)
    picture = np.stack([np.interp(t, np.arange(len(COLORS)), COLORS[:, c]) for c in range(3)], axis=2)
    return np.where(depth[:, :, None] > 0, np.rint(picture), 0).astype(np.uint8)
