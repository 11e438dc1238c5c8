# SPDX-License-Identifier: Apache-2.0
"""Which views a COLMAP scene holds out: `test.txt` beside the model or in the scene's folder, a name a line, as
hierarchical 3DGS (Kerbl et al. 2024) and gs-partition write it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from ..scene import View
from ..storage import text_of

HELD_OUT = "test.txt"
MOST_BYTES = 1 << 22


def held_out(
    folders: Sequence[Path], views: Sequence[View], log: Callable[[str], None]
) -> frozenset[str] | None:
    """The names of the views that the first such file in `folders` lists; None where there is none. Of a panorama
    all sides are held out where the file names it or one of them.

    A file with a line that names no view is of something else: it is left aside, and that is said.
    """
    for folder in folders:
        path = folder / HELD_OUT
        if not path.is_file() or path.stat().st_size > MOST_BYTES:
            continue
        try:
            lines = [line.strip() for line in text_of(path.read_bytes()).splitlines()]
        except (OSError, UnicodeDecodeError):
            log(f"warning: {path} cannot be read, and does not say what is held out")
            continue
        by_key = {key: view.group or view.name for view in views for key in _keys(view.name, view.group)}
        names = [line for line in lines if line]
        unknown = [name for name in names if _stem(name) not in by_key and name not in by_key]
        if unknown:
            log(
                f"warning: {path} names {unknown[0]!r}, which is no view, so it does not say what is held out"
            )
            continue
        meant = {by_key.get(name) or by_key[_stem(name)] for name in names}
        chosen = frozenset(view.name for view in views if (view.group or view.name) in meant)
        if len(chosen) == len(views):
            log(f"warning: {path} holds out every view, so it is left aside")
            continue
        log(f"views: {len(views) - len(chosen)} to train on, {len(chosen)} held out, as {path} says")
        return chosen
    return None


def _keys(*names: str) -> list[str]:
    return [key for name in names if name for key in (name, _stem(name))]


def _stem(name: str) -> str:
    return str(PurePosixPath(name.replace("\\", "/")).with_suffix(""))
