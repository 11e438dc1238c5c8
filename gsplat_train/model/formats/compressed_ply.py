# SPDX-License-Identifier: Apache-2.0
"""Splats as PlayCanvas's compressed PLY: 16 bytes a splat within the ranges of its chunk of 256, and a byte a
harmonic.

Elements: chunk (18 floats: bounds of positions, log scales, colours), vertex (packed_position and
packed_scale 11-10-11 bits, packed_rotation 2-10-10-10, packed_color 8888), sh (f_rest, channel-major, +-4 in
256 steps).
Source: playcanvas/splat-transform's compressed-chunk.ts and write-compressed-ply.ts, for the layout.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np

from ...errors import UserError
from ...storage import atomic_write
from ..splats import C0, REST, Splats, logit, sigmoid
from ..usable import usable
from .packing import from_smallest_three, smallest_three, tight_order, to_whole
from .ply_elements import (
    Element,
    Header,
    as_floats,
    flag_comments,
    read_flags,
    read_header,
    read_tables,
    write_header,
)

CHUNK = 256  # splats that share their ranges
SCALE_LIMIT = 20.0  # of log scales
PACKED = ("packed_position", "packed_rotation", "packed_scale", "packed_color")
WHOLE = {"vertex": ("u4", "i4"), "sh": ("u1", "i1")}  # the types of the packed numbers of an element
SH_RANGE = 8.0  # a harmonic's byte covers -4 to 4
SEED = 0
ROOT2 = np.float32(2**0.5)


def write(path: Path, splats: Splats) -> None:
    """Writes splats, all or nothing; StorageError where the disk refuses.

    Chunks are runs of a Hilbert curve, what is far out apart: a Z-order curve through all lost 0.2 to 1.1 dB of Fern,
    by how the model was turned, where this loses 0.1. Harmonics are rounded up or
    down by chance (with a fixed seed), the nearer the likelier: most are far below a step of 1/32, and errors of
    one sign would add up where splats overlap. A trained scene of a toy lost 0.55 dB by rounding to the nearest
    and 0.03 dB by this.
    """
    splats = splats.take(tight_order(splats.arrays["means"]))
    arrays, n = splats.arrays, splats.n
    colours = arrays["sh0"][:, 0] * np.float32(C0) + np.float32(0.5)
    scales = np.clip(arrays["log_scales"], -SCALE_LIMIT, SCALE_LIMIT)
    bounds, packed = [], np.zeros((n, 4), "<u4")
    for column, values in ((0, arrays["means"]), (2, scales), (3, colours)):
        low, high = _ranges(values)
        bounds.append(np.concatenate([low, high], axis=1))
        low, size = (np.repeat(x, CHUNK, axis=0)[:n] for x in (low, high - low))
        within = np.where(size < 1e-5, 0, (values - low) / np.where(size < 1e-5, 1, size))
        if column == 3:
            alpha = to_whole(sigmoid(arrays["logit_opacities"]), 255)
            red, green, blue = to_whole(within, 255).T
            packed[:, column] = red << 24 | green << 16 | blue << 8 | alpha
        else:
            packed[:, column] = (
                to_whole(within[:, 0], 2047) << 21
                | to_whole(within[:, 1], 1023) << 11
                | to_whole(within[:, 2], 2047)
            )
    largest, others = smallest_three(arrays["quats"])
    a, b, c = to_whole(others / ROOT2 + 0.5, 1023).T
    packed[:, 1] = largest.astype(np.uint32) << 30 | a << 20 | b << 10 | c
    rest = arrays["shN"].transpose(0, 2, 1).reshape(n, -1)
    chance = np.random.default_rng(SEED).random(rest.shape, np.float32)
    harmonics = np.clip(np.floor((rest / SH_RANGE + 0.5) * 256 - 0.5 + chance), 0, 255).astype(np.uint8)
    chunks = np.concatenate(bounds, axis=1, dtype="<f4")
    elements = [
        Element("chunk", len(chunks), [(name, "float") for name in _bound_names()]),
        Element("vertex", n, [(name, "uint") for name in PACKED]),
    ]
    if rest.shape[1]:
        elements.append(Element("sh", n, [(f"f_rest_{i}", "uchar") for i in range(rest.shape[1])]))
    with atomic_write(path) as file:
        file.write(write_header(flag_comments(splats.antialiased, splats.up), elements))
        for table in (chunks, packed, harmonics):
            file.write(table.data)


def read(path: Path) -> Splats:
    """Reads splats; UserError, in one line, for whatever is no compressed PLY."""
    try:
        with open(path, "rb") as file:
            header = read_header(path, file)
            if "packed_position" not in header.properties("vertex"):
                raise UserError(f"{path} is no compressed PLY of splats; name a plain one .ply alone")
            return read_body(path, file, header)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None


def read_body(path: Path, file: BinaryIO, header: Header) -> Splats:
    """Reads what follows the header of a compressed PLY; UserError for what is damaged."""
    names = header.properties("chunk")
    wanted = [*_bound_names()[:12], *PACKED]
    vertex = header.properties("vertex")
    if missing := [n for n in wanted if n not in (vertex if n in PACKED else names)]:
        raise UserError(f"{path} is a compressed PLY without {', '.join(missing[:4])}")
    n_rest = len(header.properties("sh"))
    if n_rest % 3 or n_rest // 3 not in REST[:4]:
        raise UserError(f"{path} has {n_rest} harmonics; allowed are 0, 9, 24 and 45")
    for element, allowed in WHOLE.items():
        odd = {name for name, kind in header.typed(element) if kind not in allowed}
        if found := sorted(odd & {*PACKED} if element == "vertex" else odd):
            raise UserError(
                f"{path} is damaged: {found[0]} of its {element} is no whole number of {allowed[0][1]} bytes"
            )
    tables = read_tables(path, file, header, "sh" if n_rest else "vertex")
    packed = tables.get("vertex", np.empty(0))
    n, n_chunks = len(packed), len(tables.get("chunk", ()))
    if n_chunks != -(-n // CHUNK) or (n_rest and len(tables["sh"]) != n):
        raise UserError(f"{path} is damaged: {n} splats need {-(-n // CHUNK)} chunks, it has {n_chunks}")
    coloured = {*_bound_names()} <= {*names}  # older files hold colours of 0 to 1
    bounds = as_floats(tables["chunk"], _bound_names()[: 18 if coloured else 12])
    if not coloured:
        bounds = np.concatenate(
            [bounds, np.tile(np.array([0, 0, 0, 1, 1, 1], np.float32), (n_chunks, 1))], axis=1
        )
    bounds = np.repeat(bounds, CHUNK, axis=0)[:n]
    position, rotation, scale, colour = (packed[name].astype(np.uint32) for name in PACKED)
    rgba = np.stack([colour >> shift & 255 for shift in (24, 16, 8, 0)], axis=1) / np.float32(255)
    others = np.stack([rotation >> shift & 1023 for shift in (20, 10, 0)], axis=1) / np.float32(1023)
    colours = _between(bounds[:, 12:], rgba[:, :3])
    arrays = {
        "means": _between(bounds[:, :6], _unpack(position)),
        "quats": from_smallest_three(rotation >> 30, (others - 0.5) * ROOT2),
        "log_scales": _between(bounds[:, 6:12], _unpack(scale)),
        "logit_opacities": logit(rgba[:, 3]),
        "sh0": (colours[:, None] - np.float32(0.5)) / np.float32(C0),
        "shN": np.zeros((n, 0, 3), np.float32),
    }
    if n_rest:
        levels = (np.arange(256) + 0.5) / 256
        levels[[0, 255]] = 0, 1
        levels = ((levels - 0.5) * SH_RANGE).astype(np.float32)
        table = np.asarray(tables["sh"]).view(np.uint8).reshape(n, n_rest)
        arrays["shN"] = np.ascontiguousarray(levels[table].reshape(n, 3, n_rest // 3).transpose(0, 2, 1))
    arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
    return usable(path, Splats(arrays, *read_flags(header.comments)))


def _bound_names() -> list[str]:
    places = [("x", "y", "z"), ("scale_x", "scale_y", "scale_z"), ("r", "g", "b")]
    return [f"{end}_{name}" for place in places for end in ("min", "max") for name in place]


def _ranges(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest [C, 3] of each chunk of values [N, 3]."""
    starts = np.arange(0, len(values), CHUNK)
    return np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts)


def _unpack(packed: np.ndarray) -> np.ndarray:
    """[N, 3] in [0, 1] of 11-10-11 bits."""
    parts = [(packed >> 21) / 2047, (packed >> 11 & 1023) / 1023, (packed & 2047) / 2047]
    return np.stack(parts, axis=1).astype(np.float32)


def _between(bounds: np.ndarray, share: np.ndarray) -> np.ndarray:
    """[N, 3]: `share` of the way from bounds' [N, 6] lower to its upper half."""
    return bounds[:, :3] + (bounds[:, 3:] - bounds[:, :3]) * share
