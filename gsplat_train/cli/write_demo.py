# SPDX-License-Identifier: Apache-2.0
"""gs-train demo --write: the built-in scene as a folder, with its cameras or as photos alone."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from ..errors import UserError

SIDES = 16, 4096  # pixels


def write_demo_folder(scene_name: str, directory: Path, size: str | None, photos_only: bool) -> None:
    """Writes the scene into `directory`; size: as 640x480. UserError where another scene is named, or no size."""
    if scene_name != "demo":
        raise UserError(f"--write writes the built-in scene: gs-train demo --write {directory}")
    from ..datasets.demo import make_demo, write_demo

    width, height = parsed_size(size) if size is not None else (320, 240)
    scene = make_demo(width=width, height=height)
    write_demo(directory, scene, poses=not photos_only)
    what = "photos without poses" if photos_only else "views"
    print(
        f"{len(scene.views)} {what} in {directory}; train on it with: gs-train {directory}", file=sys.stderr
    )


def parsed_size(size: str) -> tuple[int, int]:
    """Width and height of a size as 640x480."""
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", size.strip().lower())
    sides = [int(side) for side in match.groups()] if match else []
    if not sides or min(sides) < SIDES[0] or max(sides) > SIDES[1]:
        raise UserError(
            f"--size is WIDTHxHEIGHT, each of {SIDES[0]} to {SIDES[1]} pixels, as 640x480; got {size!r}"
        )
    return sides[0], sides[1]
