# SPDX-License-Identifier: Apache-2.0
"""Points from a PLY: a point cloud of any program, or the splats of a trained model.

Colours are red, green, blue (whole numbers to 255, or shares of 1) or a splat's f_dc_0..2; a file without any
gives black ones, which are then taken from the photos.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..errors import UserError
from ..model.formats.ply_elements import read_header, read_tables
from ..model.splats import C0

NAMES = (("red", "green", "blue"), ("r", "g", "b"), ("diffuse_red", "diffuse_green", "diffuse_blue"))
MAX_COORDINATE = 1e12  # scene units; squares of more would leave float32


def cloud_beside(root: Path, log: Callable[[str], None]) -> tuple[np.ndarray, np.ndarray] | None:
    """`read_points` of the first sound PLY in a folder, by name; None where there is no PLY, UserError with the first
    fault where none is sound.
    """
    faults: list[UserError] = []
    for path in sorted(root.glob("*.ply")):
        try:
            points, colors = read_points(path, log)
        except UserError as error:
            faults.append(error)
            continue
        log(f"points: {len(points):,} from {path.name}")
        if faults:
            log(f"warning: took {path.name}, as {faults[0]}")
        return points, colors
    if faults:
        raise faults[0]
    return None


@np.errstate(all="ignore")  # hostile numbers overflow, and are found out by what comes of them
def read_points(path: Path, log: Callable[[str], None] = lambda line: None) -> tuple[np.ndarray, np.ndarray]:
    """Positions [P, 3] float64 and colors [P, 3] uint8; points that are not finite are left out, with a word.

    UserError where the file is no PLY, is cut off, or has no points.
    """
    try:
        with open(path, "rb") as file:
            table = read_tables(path, file, read_header(path, file), "vertex")["vertex"]
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    names = table.dtype.names or ()
    if not {"x", "y", "z"} <= set(names):
        raise UserError(f"{path} has no x, y, z of its vertices; it holds no points")
    points = np.column_stack([table[name].astype(np.float64) for name in "xyz"])
    colors = _colors(table, names)
    good = np.asarray((np.abs(points) <= MAX_COORDINATE).all(axis=1))
    if not good.any():
        raise UserError(f"{path} holds no points at finite places; export it again")
    if bad := len(good) - int(good.sum()):
        log(f"warning: {bad:,} of {len(good):,} points of {path.name} are not finite and are left out")
    return points[good], colors[good]


def _colors(table: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    for trio in NAMES:
        if set(trio) <= set(names):
            whole = table.dtype[trio[0]].kind in "iu"
            scale = 1.0 if whole and table.dtype[trio[0]].itemsize == 1 else _scale(table, trio)
            values = np.column_stack([table[name] for name in trio]).astype(np.float64) * scale
            return _bytes(values)
    if {"f_dc_0", "f_dc_1", "f_dc_2"} <= set(names):
        values = np.column_stack([table[f"f_dc_{i}"].astype(np.float64) for i in range(3)])
        return _bytes(255 * (values * C0 + 0.5))
    return np.zeros((len(table), 3), np.uint8)


def _scale(table: np.ndarray, trio: tuple[str, str, str]) -> float:
    """Shares of 1, bytes or 16 bits: what the largest value says."""
    largest = max((float(np.nanmax(table[name], initial=0)) for name in trio), default=0.0)
    return 255.0 if largest <= 1 else 1.0 if largest <= 255 else 255 / 65535


def _bytes(values: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(np.nan_to_num(values), 0, 255)).astype(np.uint8)
