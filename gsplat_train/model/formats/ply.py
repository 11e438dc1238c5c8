# SPDX-License-Identifier: Apache-2.0
"""Splats as PLY, with the properties of Kerbl et al.'s code, which every viewer reads.

x y z, nx ny nz (zeros), f_dc_0..2, f_rest_0.. (channel-major: all of R, then G, then B), opacity (logit),
scale_0..2 (log), rot_0..3 (wxyz); float32, binary little endian. The comments `antialiased 0|1` and
`SplatRenderMode: mip|default` say how to render them, `Vertical axis: x y z` which way is up.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...errors import UserError
from ...storage import atomic_write
from ..splats import REST, Splats
from ..usable import usable
from . import compressed_ply
from .ply_elements import (
    Element,
    as_floats,
    flag_comments,
    read_flags,
    read_header,
    read_tables,
    write_header,
)

BLOCK = 1 << 14  # splats written at a time: memory that is new costs more than what is written there


def columns(n_rest: int) -> list[str]:
    """The property names in order, for `n_rest` f_rest properties."""
    rest = [f"f_rest_{i}" for i in range(n_rest)]
    scales, quats = [f"scale_{i}" for i in range(3)], [f"rot_{i}" for i in range(4)]
    return [*"xyz", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", *rest, "opacity", *scales, *quats]


def write(path: Path, splats: Splats) -> None:
    """Writes splats, all or nothing; StorageError where the disk refuses."""
    arrays, n = splats.arrays, splats.n
    n_rest = 3 * arrays["shN"].shape[1]
    names = columns(n_rest)
    element = Element("vertex", n, [(name, "float") for name in names])
    table = np.zeros((min(n, BLOCK), len(names)), "<f4")
    with atomic_write(path) as file:
        file.write(write_header(flag_comments(splats.antialiased, splats.up), [element]))
        for first in range(0, n, BLOCK):
            part = {name: array[first : first + BLOCK] for name, array in arrays.items()}
            rows = table[: len(part["means"])]
            rows[:, :3] = part["means"]
            rows[:, 6:9] = part["sh0"][:, 0]
            rows[:, 9 : 9 + n_rest].reshape(len(rows), 3, n_rest // 3)[:] = part["shN"].transpose(0, 2, 1)
            rows[:, 9 + n_rest] = part["logit_opacities"]
            rows[:, 10 + n_rest : 13 + n_rest] = part["log_scales"]
            rows[:, 13 + n_rest :] = part["quats"]
            file.write(rows.data)


def read(path: Path) -> Splats:
    """Reads splats in any property order, byte order or ascii; absent f_rest mean degree 0; a compressed PLY
    of any name.

    Degree 4 is cut to 3. UserError, in one line, for whatever is no splat file: not a PLY, another kind,
    truncated, empty.
    """
    try:
        with open(path, "rb") as file:
            header = read_header(path, file)
            if "packed_position" in header.properties("vertex"):
                return compressed_ply.read_body(path, file, header)
            n_rest = _check_names(path, header.properties("vertex"))
            table = read_tables(path, file, header, "vertex")["vertex"]
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    normals = {"nx", "ny", "nz"} <= {*(table.dtype.names or ())}
    values = as_floats(table, columns(n_rest)) if normals else None
    if values is None:
        names = [name for name in columns(n_rest) if name not in ("nx", "ny", "nz")]
        values = as_floats(table, names)
        values = np.concatenate(
            [values[:, :3], np.zeros((len(values), 3), np.float32), values[:, 3:]], axis=1
        )
    rest = values[:, 9 : 9 + n_rest].reshape(len(values), 3, n_rest // 3).transpose(0, 2, 1)
    arrays = {
        "means": values[:, :3],
        "quats": values[:, 13 + n_rest :],
        "log_scales": values[:, 10 + n_rest : 13 + n_rest],
        "logit_opacities": values[:, 9 + n_rest],
        "sh0": values[:, None, 6:9],
        "shN": rest[:, : REST[3]],
    }
    arrays = {name: np.array(array, np.float32, order="C") for name, array in arrays.items()}
    antialiased, up = read_flags(header.comments)
    splats = Splats(arrays, antialiased, up)
    if n_rest == 3 * REST[4]:
        splats = splats.cut_note(path)
    return usable(path, splats)


def _check_names(path: Path, names: list[str]) -> int:
    """The number of f_rest properties; UserError where splats' properties are missing."""
    n_rest = sum(name.startswith("f_rest_") for name in names)
    needed = [name for name in columns(n_rest) if name not in ("nx", "ny", "nz")]
    if names and (missing := [name for name in needed if name not in names]):
        raise UserError(f"{path} is a PLY but not of splats: it has no {', '.join(missing[:4])}")
    allowed = tuple(3 * count for count in REST)
    if n_rest not in allowed:
        raise UserError(f"{path} has {n_rest} f_rest properties; allowed are {allowed} (SH degree 0 to 4)")
    return n_rest
