# SPDX-License-Identifier: Apache-2.0
"""Which folder holds the photos of a reconstruction, and which file on disk is the photo of which view."""

from __future__ import annotations

import filecmp
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from ..errors import UserError
from ..storage import is_file
from .names import FOLDERS_KEPT, Match, Matches, guess, match, natural

PICTURE_SUFFIXES = {
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".tif", ".tiff", ".bmp", ".webp", ".ppm", ".tga"),
    *(".gif", ".jp2", ".avif"),
}
FOREIGN_SUFFIXES = {
    ".heic",
    ".heif",
    ".dng",
    ".cr2",
    ".cr3",
    ".nef",
    ".arw",
    ".raf",
    ".exr",
}  # to be converted
SHOWN = 3  # names in a message, the rest is counted
DEPTH = 3  # of sub-folders that are searched for photos
NO_PHOTOS = re.compile(
    r"mask|depth|confidence|disparit|normal|segment|semantic|label|thumb|render", re.IGNORECASE
)
NO_PHOTO = re.compile(r"[-_. ](mask|depth|confidence|disparity|normals?)$", re.IGNORECASE)  # a file's stem
SIZES = re.compile(r"images?(_\d+)?", re.IGNORECASE)  # the same photos in several sizes
LFS_HEAD = b"version https://git-lfs"


def list_pictures(folder: Path) -> list[str]:
    """Paths of the pictures in a folder and its sub-folders, relative to it, sorted; hidden ones left out."""
    relative = (
        path.relative_to(folder)
        for path in folder.rglob("*")
        if path.suffix.lower() in PICTURE_SUFFIXES and path.is_file()
    )
    return sorted(
        path.as_posix() for path in relative if not any(part.startswith(".") for part in path.parts)
    )


def holds_pictures(folder: Path) -> bool:
    """Whether pictures lie in the folder itself, those among them that must be converted first."""
    return any(path.suffix.lower() in PICTURE_SUFFIXES | FOREIGN_SUFFIXES for path in folder.iterdir())


def closed_folder(root: Path) -> Path | None:
    """A folder of the scene that this user may not list, so that searches find nothing in it and say nothing."""
    level = [root]
    for _ in range(3):  # as deep as sparse/0
        below: list[Path] = []
        for folder in level:
            try:
                with os.scandir(folder) as entries:
                    below += [Path(entry.path) for entry in entries if entry.is_dir()]
            except PermissionError:
                return folder
            except OSError:  # a file, or gone; searches tell that
                continue
        level = below
    return None


def find_image_folder(root: Path, images: str | None) -> Path:
    """The folder `images` of the scene; None means `images`, or the only `images_*` where that is missing."""
    candidates = sorted(path.name for path in root.glob("images*") if path.is_dir())
    if images is None:
        images = candidates[0] if len(candidates) == 1 else "images"
    folder = root / images
    if ".." in folder.parts:
        folder = folder.resolve()
    if not folder.is_dir():
        advice = f"choose {' or '.join(candidates)} with --images" if candidates else "put the photos there"
        raise UserError(f"no folder {images!r} of photos in {root}; {advice}")
    if not list_pictures(folder):
        foreign = sum(path.suffix.lower() in FOREIGN_SUFFIXES for path in folder.rglob("*"))
        more = f"; {foreign} files there must be converted to JPEG or PNG first" if foreign else ""
        raise UserError(f"{folder} holds no pictures ({', '.join(sorted(PICTURE_SUFFIXES))}){more}")
    return folder


def find_photos(
    names: Iterable[str],
    root: Path,
    images: str | None,
    log: Callable[[str], None],
    *,
    likely: Sequence[Path] = (),
    taken: Collection[Path] = (),
) -> dict[str, Path]:
    """The photo of each name, from the folder that holds most of the names; views without one are left out.

    images: the folder in `root`; None searches `likely`, then what is in `root`. taken: the photos of other names,
    beside which none is guessed. A warning tells which views have no photo, and where names and files had to be paired
    by their order. UserError where no photo is found, or where it is undecided which is meant.
    """
    names = sorted(set(names))
    others = {os.path.abspath(path) for path in taken}
    if images is not None:
        folder = find_image_folder(root, images)
        matches = match(names, _files(folder, names, others))
    else:
        folder, matches = _search(names, root, likely, others)
    for name, choices in matches.doubtful.items():
        raise UserError(f"image {name!r} could be any of {shorten(choices)} in {folder}; keep only one there")
    for file, claimants in matches.shared.items():
        raise UserError(f"picture {file!r} in {folder} fits several images, such as {claimants[0]!r}")
    if taken and not matches.found:
        raise UserError(f"none of {shorten(names)} is in {root}")
    found = matches.found or _guessed(names, folder, log)
    _tell(names, found, folder, root, log)
    if images is None:
        tell_outside(root, [folder / hit.file for hit in found.values()], log)
    return {name: folder / hit.file for name, hit in found.items()}


def tell_outside(root: Path, files: Iterable[Path], log: Callable[[str], None], what: str = "photos") -> None:
    """Says which files that a scene names lie elsewhere: a folder from a stranger may name what is not his."""
    inside = os.path.abspath(root)
    foreign = [str(path) for path in files if os.path.commonpath([inside, os.path.abspath(path)]) != inside]
    if foreign:
        log(
            f"warning: {len(foreign)} {what} lie outside of {root}, where the scene names them: {shorten(foreign)}"
        )


def _files(folder: Path, names: Sequence[str], others: Collection[str]) -> set[str]:
    """The pictures, and what the names name whatever its ending, without those of `others`."""
    files = {*list_pictures(folder), *(name for name in names if is_file(folder / name))}
    return {file for file in files if os.path.abspath(folder / file) not in others} if others else files


def _search(
    names: list[str], root: Path, likely: Sequence[Path], others: Collection[str]
) -> tuple[Path, Matches]:
    """The folder that holds most of the names, the first of equals, and what was found in it."""
    best: tuple[tuple[int, int], Path, Matches] | None = None
    equal: list[Path] = []
    preferred = _unique(path for path in likely if path.is_dir())
    for folder in _unique([*preferred, *_subfolders(root), root]):
        matches = match(names, _files(folder, names, others))
        if folder == root:  # everything lies below it: only a name with its folders tells anything
            kept = {name: hit for name, hit in matches.found.items() if hit.way in FOLDERS_KEPT}
            matches = Matches(kept, {}, {})
        exact = sum(hit.way == "name" for hit in matches.found.values())
        score = len(matches.found), exact
        if best is None or score > best[0]:
            best, equal = (score, folder, matches), []
        elif score == best[0] and folder != root:
            equal.append(folder)
    if best is None or not best[2].found:
        try:
            folder = find_image_folder(root, None)
        except UserError as error:
            raise UserError(
                f"none of the {len(names)} photos ({shorten(names)}) is in a folder of {root}: {error}, or name "
                "their folder with --images"
            ) from None
        return folder, match(names, _files(folder, names, others))
    _, folder, matches = best
    rivals = [other for other in equal if other.parent == folder.parent and not SIZES.fullmatch(other.name)]
    if rivals and folder not in preferred and not SIZES.fullmatch(folder.name):
        folders_named = " or ".join(str(path.relative_to(root)) for path in [folder, *rivals][:SHOWN])
        raise UserError(
            f"{root} holds the model's photos more than once; choose {folders_named} with --images"
        )
    return folder, matches


def _subfolders(root: Path) -> list[Path]:
    """Folders in `root` that may hold photos, the outer before the inner, those for photos first."""
    found: list[Path] = []
    level = [root]
    for _ in range(DEPTH):
        inside = [
            path
            for folder in level
            for path in sorted(folder.glob("*/"), key=lambda path: natural(path.name))
            if not (path.name.startswith(".") or path.is_symlink() or NO_PHOTOS.search(path.name))
        ]
        found += sorted(inside, key=lambda path: not SIZES.fullmatch(path.name))
        level = inside
    return found


def _unique(folders: Iterable[Path]) -> list[Path]:
    return list(dict.fromkeys(folders))


def _guessed(names: list[str], folder: Path, log: Callable[[str], None]) -> dict[str, Match]:
    """Pairs of names and files that have nothing in common, with a warning; UserError if none."""
    files = list_pictures(folder)
    found = guess(names, files)
    if not found:
        raise UserError(
            f"none of the model's {len(names)} images ({shorten(names)}) is among the {len(files)} pictures "
            f"of {folder} ({shorten(files)}), neither by name nor by stem, and the counts differ; "
            "choose the folder with --images"
        )
    way = next(iter(found.values())).way
    log(
        f"warning: no photo in {folder} has the name of a view; they were paired by {way}, which is wrong if "
        "a photo was added or renamed"
    )
    return found


def _tell(
    names: list[str], found: dict[str, Match], folder: Path, root: Path, log: Callable[[str], None]
) -> None:
    """Say how photos were found, which views have none, and which photos no view has."""
    ways = Counter(hit.way for hit in found.values())
    (way, _), *_ = ways.most_common()
    rarest = ways.most_common()[-1][0]
    example = names[0] if len(ways) == 1 and names[0] in found else None
    example = example or next(name for name, hit in found.items() if hit.way == rarest)
    how = way if len(ways) == 1 else ", ".join(f"{count} by {name}" for name, count in ways.most_common())
    log(
        f"photos: {len(found)} in {folder}, matched {'by ' if len(ways) == 1 else ''}{how} "
        f"({example} is {found[example].file})"
    )
    if missing := [name for name in names if name not in found]:
        which = f"{len(missing)} of {len(names)} views ({shorten(missing)})"
        log(f"warning: {which} have no photo in {folder} and are left out")
    used = {hit.file for hit in found.values()}
    folders = {file.rpartition("/")[0] for file in used}
    beside = [file for file in list_pictures(folder) if file.rpartition("/")[0] in folders]
    extra = [file for file in beside if file not in used and not NO_PHOTOS.search(file)]
    if len(extra) > len(used):
        log(
            f"warning: {len(extra)} of {len(extra) + len(used)} photos in {folder} have no pose: the "
            "reconstruction covers little of the capture"
        )
    elif extra:
        log(f"photos: {len(extra)} of {len(extra) + len(used)} have no pose and are not used")
    else:
        _tell_elsewhere(names, root, folder, log)


def _tell_elsewhere(names: Sequence[str], root: Path, used: Path, log: Callable[[str], None]) -> None:
    """Warns where a folder beside the photos' has many more: undistorters take one of several models along."""
    stems = {Path(name).stem.casefold() for name in names}
    for folder in (root / "input", root / "images", root):
        pictures = [path for path in folder.glob("*") if path.suffix.lower() in PICTURE_SUFFIXES]
        more = sum(path.stem.casefold() not in stems for path in pictures)
        if folder != used and len(pictures) > more > len(names):
            log(
                f"warning: {more} more photos in {folder} have no pose: the reconstruction covers little of the "
                "capture"
            )
            break


def are_equal(path: Path, other: Path) -> bool:
    """Whether two files hold the same bytes; not, where one cannot be read."""
    with suppress(OSError):
        return filecmp.cmp(path, other, shallow=False)
    return False


def shorten(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(repr(name) for name in names[:SHOWN]) + more
