# SPDX-License-Identifier: Apache-2.0
"""Where in a folder COLMAP models lie, and where their photos may."""

from __future__ import annotations

from pathlib import Path, PureWindowsPath

FILES = ("cameras", "images", "points3D")
SUFFIXES = (".bin", ".txt")
# In the order in which they are tried: first what COLMAP and 3DGS write, then undistorters' and converters'
# folders, at last the model before undistortion, whose photos are in `input`.
PLACES = (
    "sparse",
    ".",
    "colmap/sparse",
    "colmap_sparse",
    "colmap_text",
    "sparse_text",
    "colmap/text",
    "colmap",
    "colmap_output/sparse",
    "colmap_workspace/sparse",
    "sparse_colmap",
    "dense/sparse",
    "dense/*/sparse",
    "undistorted/sparse",
    "undistorted",
    "colmap_dense/sparse",
    "mvs/sparse",
    "dense",
    "distorted/sparse",
)
# Folders in which models lie beside `images`, or a level further down by number
INSIDE = {"sparse", "colmap_sparse", "colmap_text", "sparse_text", "sparse_colmap", "text"}


def find_places(root: Path) -> list[list[Path]]:
    """The models in `root`: for each place that has any their folders, complete ones only where there are."""
    places = []
    for pattern in PLACES:
        for place in [root] if pattern == "." else sorted(root.glob(pattern)):
            inside = sorted(path for path in place.glob("*") if path.is_dir())
            if pattern == ".":
                inside = [path for path in inside if path.name.isdecimal()]
            if models := [folder for folder in [*inside, place] if holds_model(folder)]:
                places.append(models)
    return places


def holds_model(folder: Path) -> bool:
    """Whether a folder holds a COLMAP model or a part of one."""
    return any(has_file(folder, name) for name in FILES)


def is_complete(folder: Path) -> bool:
    """Whether a folder holds all files of a COLMAP model."""
    return all(has_file(folder, name) for name in FILES)


def has_file(folder: Path, name: str) -> bool:
    """Whether one of FILES is there, binary or text."""
    return any((folder / f"{name}{suffix}").is_file() for suffix in SUFFIXES)


def photo_folders(model: Path, root: Path) -> list[Path]:
    """Where the photos of a model most likely are, best first: beside it, then in folders around it."""
    around = [model, *model.parents]
    around = around[: around.index(root) + 1] if root in around else [model, root]
    original = "distorted" in model.relative_to(root).parts if root in model.parents else False
    folders = [root / "input"] if original else []
    folders += [folder / "images" for folder in around[1:] or around]
    for folder in around:
        if path := _image_path(folder / "project.ini"):
            folders += [root / path, *(other / path.name for other in around)]
    return [*folders, *(folder / "input" for folder in around)]


def own_photos(model: Path, root: Path) -> Path:
    """Where what wrote a model puts the photos that it is of: an undistorter beside it, else `images` or `input`."""
    inside = model.relative_to(root).parts if root in model.parents else ()
    if "distorted" in inside:
        return root / "input"
    home = model.parent if model.name.isdecimal() and model != root else model
    return (home.parent if home.name in INSIDE and home != root else home) / "images"


def _image_path(ini: Path) -> Path | None:
    """The folder of photos that COLMAP's project file names."""
    try:
        lines = ini.read_text("utf-8", "replace").splitlines()
    except OSError:
        return None
    for line in lines:
        key, _, value = line.partition("=")
        if key.strip() == "image_path" and value.strip():
            return Path(PureWindowsPath(value.strip()).as_posix())
    return None
