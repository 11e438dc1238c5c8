# SPDX-License-Identifier: Apache-2.0
"""Scene readers, one file a format; `load_scene` recognises the format."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from ..errors import UserError
from ..scene import Scene
from .colmap import find_models, load_colmap
from .llff import POSES_FILE, load_llff

READERS = ("auto", "colmap", "llff")


def load_scene(
    path: str | os.PathLike[str],
    *,
    reader: str = "auto",
    images: str | None = None,
    max_size: int = 1600,
    undistort: bool = True,
    log: Callable[[str], None] = lambda line: None,
    cache: bool = True,
) -> Scene:
    """The scene in a folder: COLMAP where there is a model, else LLFF.

    images: the folder of photos in it (None: `images`, or the only `images_*`). max_size: photos with a
    longer side are reduced to it, 0 for none. undistort: False takes distorted photos as they are. log: gets
    a line for each thing worth knowing. cache: keep undistorted photos on disk. UserError: nothing usable.
    """
    root = Path(path).expanduser()
    if reader not in READERS:
        raise UserError(f"reader must be one of {', '.join(READERS)}, got {reader!r}")
    if not root.is_dir():
        raise UserError(f"scene {root} is {'not a folder' if root.exists() else 'not there'}")
    has_colmap, has_llff = bool(find_models(root)), (root / POSES_FILE).is_file()
    if reader == "colmap" or (reader == "auto" and has_colmap):
        return load_colmap(root, images=images, max_size=max_size, undistort=undistort, log=log, cache=cache)
    if has_llff:
        return load_llff(root, images=images, max_size=max_size, log=log)
    looked = {"auto": f"a COLMAP model (sparse/0/cameras.bin or .txt) and {POSES_FILE}", "llff": POSES_FILE}
    raise UserError(f"{root} is no scene this program knows; looked for {looked[reader]}")
