# SPDX-License-Identifier: Apache-2.0
"""What to do with a folder or file that is no scene: what it seems to be, and the next step."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable
from pathlib import Path

from .files import FOREIGN_SUFFIXES, LFS_HEAD, list_pictures

VIDEO_SUFFIXES = {".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mts", ".insv", ".360"}
ARCHIVE_SUFFIXES = {".zip", ".tar", ".gz", ".tgz", ".7z", ".rar", ".xz", ".zst", ".bz2"}
SCENE_FILES = {".json", ".npy", ".bin", ".txt", ".db", ".xml", ".csv"}
ABOVE, BELOW = 3, 2  # levels at which a scene is looked for round a folder that is none
SHOWN = 3
# Files with cameras that no reader takes: whose they are, and what makes a scene of them
MODEL = "export them as a COLMAP model or a transforms.json"
PROCESS = "nerfstudio's ns-process-data writes a transforms.json of them"
FOREIGN_CAMERAS = {
    "sfm_data.json": ("OpenMVG", MODEL),
    "sfm_data.bin": ("OpenMVG", MODEL),
    "cameras.sfm": ("Meshroom", MODEL),
    "reconstruction.json": ("OpenSfM", MODEL),
    "bundle.out": ("Bundler", MODEL),
    "bundle.rd.out": ("Bundler", MODEL),
    "cameras.npz": ("IDR", MODEL),
    "cameras_sphere.npz": ("NeuS", MODEL),
    "mesh_info.json": ("Polycam", PROCESS),
    "corrected_cameras": ("Polycam", PROCESS),
    "rgbd": ("Record3D", PROCESS),
    "*.nvm": ("VisualSFM", MODEL),
    "*.psx": ("Metashape", "export the cameras as cameras.xml"),
    "*.rcproj": ("RealityCapture", "export the camera parameters as CSV"),
}
PHOTOS_ONLY = "photos but no poses: gs-prepare finds them (or COLMAP)"


def advice(root: Path, is_scene: Callable[[Path], bool]) -> str:
    """What to do about a folder that no reader recognises; empty where there is nothing to say."""
    if inside := _scenes_below(root, is_scene):
        more = f" or {len(inside) - SHOWN} more" if len(inside) > SHOWN else ""
        return f"give {' or '.join(map(str, inside[:SHOWN]))}{more}, where a scene is"
    if above := scene_above(root, is_scene):
        return f"it is a part of the scene {above}: give that"
    paths = sorted(root.rglob("*"))
    files = [path for path in paths if path.is_file()]
    if pointers := [path for path in files if is_lfs_pointer(path)]:
        return f"{pointers[0].name} is a Git LFS pointer: run git lfs pull"
    if any(path.name == "database.db" for path in files):
        return "database.db holds COLMAP's features only: run its mapper, which makes sparse/0"
    pictures = list_pictures(root)
    foreign = _foreign_cameras(paths, root)
    if pictures:
        photos = f"it holds {len(pictures)} {PHOTOS_ONLY}"
        return f"{foreign}; without them {photos}" if foreign else photos
    if foreign:
        return foreign
    for suffixes, remedy in (
        (VIDEO_SUFFIXES, "is a video: give its name to gs-train, or to gs-prepare"),
        (ARCHIVE_SUFFIXES, "is an archive: unpack it first"),
        (FOREIGN_SUFFIXES, "must be converted to JPEG or PNG, and reconstructed with COLMAP"),
    ):
        if found := [path for path in files if path.suffix.lower() in suffixes]:
            return f"{found[0].name} {remedy}"
    return "" if files else "it is empty"


def foreign_cameras(root: Path) -> str:
    """What to do about another program's cameras in a folder, which no reader takes; empty where there are none."""
    return _foreign_cameras(sorted(root.rglob("*")), root)


def _foreign_cameras(paths: list[Path], root: Path) -> str:
    """The same of all that is in the folder, in order."""
    named = {path.name: path for path in reversed(paths)}
    for pattern, (program, remedy) in FOREIGN_CAMERAS.items():
        if found := fnmatch.filter(named, pattern):
            path = named[found[-1]].relative_to(root)
            return f"{path} holds cameras of {program}, which are not read: {remedy}"
    return ""


def file_advice(path: Path, is_scene: Callable[[Path], bool]) -> str:
    """What to do about a file that was given for a folder."""
    suffix = path.suffix.lower()
    if is_lfs_pointer(path):
        return "it is a Git LFS pointer: run git lfs pull"
    if suffix in ARCHIVE_SUFFIXES:
        return "unpack it, and give the folder"
    if suffix in VIDEO_SUFFIXES:
        return "it is a video: gs-train VIDEO or gs-prepare VIDEO OUT makes a scene of it"
    if above := scene_above(path, is_scene):
        return f"give the folder: {above}"
    return "give the folder that it is in" if suffix in SCENE_FILES else "a scene is a folder"


def scene_above(folder: Path, is_scene: Callable[[Path], bool]) -> Path | None:
    """The scene that a folder is a part of."""
    scenes = [parent for parent in folder.absolute().parents[:ABOVE] if is_scene(parent)]
    return scenes[-1] if scenes else None  # X rather than X/sparse


def is_lfs_pointer(path: Path) -> bool:
    """Whether a file is the stand-in that a clone without git-lfs leaves."""
    if not path.is_file():  # a pipe would be waited for
        return False
    try:
        with open(path, "rb") as file:
            return file.read(len(LFS_HEAD)) == LFS_HEAD
    except OSError:
        return False


def _scenes_below(root: Path, is_scene: Callable[[Path], bool]) -> list[Path]:
    level = [root]
    for _ in range(BELOW):
        level = [path for folder in level for path in sorted(folder.glob("*/")) if path.name[0] != "."]
        if scenes := [path for path in level if is_scene(path)]:
            return scenes
    return []
