# SPDX-License-Identifier: Apache-2.0
"""Where the photos that a transforms.json names are: as it says, by their names, or from a folder above."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path, PurePosixPath

from ..errors import UserError
from ..storage import is_file
from .files import are_equal, find_photos, shorten, tell_outside
from .transforms_file import Frame

WHOLE = "transforms.json"
TRAIN, VAL, TEST = (f"transforms_{part}.json" for part in ("train", "val", "test"))
ENDINGS = (".png", ".jpg", ".jpeg", ".PNG", ".JPG", ".JPEG")  # of paths that are written without
ABOVE = 2  # levels above the file's folder at which photos are looked for


def find_files(
    frames: dict[str, Frame], root: Path, images: str | None, log: Callable[[str], None]
) -> dict[str, Path]:
    """The photo of each frame: where its path says, else by its name; frames without one are left out."""
    found: dict[str, Path] = {}
    if images is None:
        found = {name: file for name, frame in frames.items() if (file := as_written(root, frame.path))}
        used, rest = set(found.values()), [name for name in frames if name not in found]
        alike = Counter(PurePosixPath(name).name for name in rest)
        for name in rest:
            base = PurePosixPath(name).name
            if alike[base] == 1 and (file := as_written(root, base)) and file not in used:
                found[name] = file
    tell_outside(root, found.values(), log)
    missing = [name for name in frames if name not in found]
    if not missing:
        log(f"photos: {len(found)} where {WHOLE if (root / WHOLE).is_file() else TRAIN} says")
        return found
    if not found:
        try:
            return find_photos(missing, root, images, log)
        except UserError:
            found = {} if images else _beside(frames, root)
            if not found:
                raise
        tell_outside(root, found.values(), log)
    missing = [name for name in frames if name not in found]
    with suppress(UserError):  # none of them is anywhere
        found |= find_photos(missing, root, images, lambda line: None, taken=found.values())
    lost = [name for name in frames if name not in found]
    log(f"photos: {len(found)} of {len(frames)} found")
    if lost:
        log(f"warning: {len(lost)} of {len(frames)} photos are not there ({shorten(lost)}) and are left out")
    return found


def _beside(frames: dict[str, Frame], root: Path) -> dict[str, Path]:
    """Photos whose paths are relative to a folder above the file's: that in which its writer was run."""
    for above in list(root.absolute().parents)[:ABOVE]:
        named = {name: as_written(above, name) for name in frames if "/" in name}
        if found := {name: file for name, file in named.items() if file}:
            return found
    return {}


def without_repeats(
    files: dict[str, Path],
    frames: dict[str, Frame],
    held_out: frozenset[str] | None,
    log: Callable[[str], None],
) -> tuple[dict[str, Path], frozenset[str] | None]:
    """The files and what is held out without photos that are trained on as well, at the same camera: their scores would
    tell nothing. Small captures are often split into the same photos twice.
    """
    held = held_out or frozenset()
    trained: dict[bytes, list[Path]] = {}
    for name, path in files.items():
        if name not in held:
            trained.setdefault(frames[name].camtoworld.tobytes(), []).append(path)
    again = {
        name
        for name in held & files.keys()
        for path in trained.get(frames[name].camtoworld.tobytes(), ())
        if are_equal(path, files[name])
    }
    if not again:
        return files, held_out
    names = shorten(sorted(again))
    log(f"warning: {len(again)} of {len(held)} photos held out ({names}) are trained on as well; left out")
    return {name: path for name, path in files.items() if name not in again}, held - again or None


def as_written(root: Path, path: str) -> Path | None:
    """The file at a path as it stands in a transforms.json, also without its ending; None where there is none."""
    file = Path(os.path.normpath(root / path.strip().replace("\\", "/")))
    for candidate in (file, *(file.with_name(file.name + ending) for ending in ENDINGS)):
        if is_file(candidate):
            return candidate
    return None
