# SPDX-License-Identifier: Apache-2.0
"""Draws docs/images/capture-*.jpg: photos of the built-in world as one should and should not take them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from gsplat_train.datasets.demo import orbit_camera, photograph
from gsplat_train.scene import Camera

IMAGES = Path(__file__).parents[1] / "docs" / "images"
WIDTH, HEIGHT, GAP = 200, 150, 4
AROUND = 48  # photos of a round


def photo(camera: Camera) -> Image.Image:
    return Image.fromarray(photograph(camera))


def turned(camera: Camera, degrees: float) -> Camera:
    """The same place, looking further to the right."""
    angle = np.radians(degrees)
    turn = np.eye(4)
    turn[0, 0], turn[0, 2], turn[2, 0], turn[2, 2] = (
        np.cos(angle),
        -np.sin(angle),
        np.sin(angle),
        np.cos(angle),
    )
    return Camera(turn @ camera.viewmat, camera.K, camera.width, camera.height)


def strip(name: str, photos: list[Image.Image]) -> None:
    sheet = Image.new("RGB", (len(photos) * (WIDTH + GAP) - GAP, HEIGHT), "white")
    for i, picture in enumerate(photos):
        sheet.paste(picture, (i * (WIDTH + GAP), 0))
    sheet.save(IMAGES / f"capture-{name}.jpg", quality=85, optimize=True)


def main() -> None:
    here = orbit_camera(0.1, WIDTH, HEIGHT)
    round_ = [photo(orbit_camera(0.1 + i / AROUND, WIDTH, HEIGHT)) for i in range(4)]
    strip("good", round_)
    strip("turning", [photo(turned(here, degrees)) for degrees in (-30, -10, 10, 30)])
    strip("apart", [photo(orbit_camera(0.1 + i / 4, WIDTH, HEIGHT)) for i in range(4)])
    blurred = [
        picture.filter(ImageFilter.BoxBlur(k)) for picture, k in zip(round_, (0, 3, 1, 5), strict=True)
    ]
    strip("blur", blurred)
    bright = [
        picture.point(lambda v, g=gain: min(255, int(v * g)))
        for picture, gain in zip(round_, (1, 1.7, 0.5, 1.3), strict=True)
    ]
    strip("exposure", bright)


if __name__ == "__main__":
    main()
