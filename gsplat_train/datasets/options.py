# SPDX-License-Identifier: Apache-2.0
"""How a scene is to be loaded: what every reader is given beside the folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..errors import UserError


def _silent(line: str) -> None:
    pass


def _unseen(what: str, done: int, total: int) -> None:
    pass


MASK_MODES = ("ignore", "transparent", "off")
ALPHA_MODES = ("transparent", "mask", "ignore")
FOV_RANGE = (10.0, 150.0)  # degrees


@dataclass(frozen=True)
class LoadOptions:
    images: str | None = None  # the folder of photos in the scene's; None: the reader finds it
    max_size: int = 1600  # pixels; photos with a longer side are reduced to it, 0 for none
    undistort: bool = True  # False takes distorted photos as they are
    fov: float = 0.0  # degrees that the longer side spans after undistortion; 0: what fills the picture
    mask_mode: str = "ignore"  # masked pixels do not count; transparent: they are see-through; off: no masks
    invert_masks: bool = False  # black is what counts in a mask
    alpha_mode: str = "transparent"  # of photos with alpha: see-through; mask: pixels that are do not count;
    # ignore: the colours as they are in the file
    cache: bool = True  # keep undistorted photos on disk, and decoded ones that are larger than memory
    memory: int = 0  # bytes that the process may take in all; 0: a share of what is free
    trust: bool = False  # train on what the check of cameras, photos and points would refuse
    init: str | None = None  # a PLY of points or splats to start from, in place of the scene's points
    blank: bool = True  # tell which photos show nothing
    log: Callable[[str], None] = _silent  # gets a line for each thing worth knowing; warnings begin so
    progress: Callable[[str, int, int], None] = (
        _unseen  # gets what is under way, how much is done, of how much
    )

    def check(self) -> None:
        """UserError where an option is none."""
        if self.max_size < 0:
            raise UserError(
                f"max_size must be pixels of the longer side, or 0 for no limit, got {self.max_size}"
            )
        if self.fov and not FOV_RANGE[0] <= self.fov <= FOV_RANGE[1]:
            raise UserError(
                f"fov must be 0 or from {FOV_RANGE[0]:g} to {FOV_RANGE[1]:g} degrees, got {self.fov}"
            )
        for name, allowed in (("mask_mode", MASK_MODES), ("alpha_mode", ALPHA_MODES)):
            if getattr(self, name) not in allowed:
                raise UserError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
