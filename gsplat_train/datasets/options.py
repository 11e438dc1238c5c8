# SPDX-License-Identifier: Apache-2.0
"""How a scene is to be loaded: what every reader is given beside the folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


def _silent(line: str) -> None:
    pass


@dataclass(frozen=True)
class LoadOptions:
    images: str | None = None  # the folder of photos in the scene's; None: the reader finds it
    max_size: int = 1600  # pixels; photos with a longer side are reduced to it, 0 for none
    undistort: bool = True  # False takes distorted photos as they are
    cache: bool = True  # keep undistorted photos on disk
    trust: bool = False  # train on what the check of cameras, photos and points would refuse
    init: str | None = None  # a PLY of points or splats to start from, in place of the scene's points
    log: Callable[[str], None] = _silent  # gets a line for each thing worth knowing; warnings begin so
