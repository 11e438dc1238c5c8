# SPDX-License-Identifier: Apache-2.0
"""Splats as PLY, with the properties of Kerbl et al.'s code, which every viewer reads.

x y z, nx ny nz (zeros), f_dc_0..2, f_rest_0.. (channel-major: all of R, then G, then B), opacity (logit),
scale_0..2 (log), rot_0..3 (wxyz); float32, binary little endian. The comment `antialiased 0|1` says how to
render them. Splats are a mapping of the names of `Gaussians` to arrays: this file needs no MLX.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from ...errors import UserError
from ...storage import atomic_write
from ..splats import Splats

MAX_HEADER = 1 << 20  # bytes; a header has about 70 short lines
# f_rest properties of degree 0 to 3: three channels of (degree + 1)^2 - 1
REST_COUNTS = (0, 9, 24, 45)
BYTE_ORDERS = {"binary_little_endian": "<", "binary_big_endian": ">", "ascii": "="}
TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2",
    "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4", "float": "f4", "float32": "f4",
    "double": "f8", "float64": "f8",
}  # fmt: skip


class Header(NamedTuple):
    order: str  # a key of BYTE_ORDERS
    comments: list[str]
    elements: list[
        tuple[str, int, list[tuple[str, str]]]
    ]  # name, count, (property, NumPy type; "" for a list)


def columns(n_rest: int) -> list[str]:
    """The property names in order, for `n_rest` f_rest properties."""
    rest = [f"f_rest_{i}" for i in range(n_rest)]
    scales, quats = [f"scale_{i}" for i in range(3)], [f"rot_{i}" for i in range(4)]
    return [*"xyz", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", *rest, "opacity", *scales, *quats]


def write(path: Path, splats: Splats) -> None:
    """Writes splats, all or nothing; StorageError where the disk refuses."""
    arrays = splats.arrays
    means = arrays["means"]
    n = len(means)
    rest = arrays["shN"]
    rest = rest.transpose(0, 2, 1).reshape(n, 3 * rest.shape[1])
    names = columns(rest.shape[1])
    opacity = arrays["logit_opacities"][:, None]
    scales, quats = arrays["log_scales"], arrays["quats"]
    parts = [means, np.zeros((n, 3)), arrays["sh0"][:, 0], rest, opacity, scales, quats]
    table = np.concatenate(parts, axis=1, dtype="<f4")
    header = ["ply", "format binary_little_endian 1.0", f"comment antialiased {int(splats.antialiased)}"]
    header += [f"element vertex {n}", *(f"property float {name}" for name in names), "end_header", ""]
    with atomic_write(path) as file:
        file.write("\n".join(header).encode())
        file.write(table.data)


def read(path: Path) -> Splats:
    """Reads splats in any property order, byte order or ascii; absent f_rest mean degree 0.

    UserError, in one line, for whatever is no splat file: not a PLY, another kind, truncated, empty, not
    finite.
    """
    try:
        with open(path, "rb") as file:
            header = _read_header(path, file)
            vertices = _read_vertices(path, file, header)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    n_rest = sum(name.startswith("f_rest_") for name in vertices)
    needed = [name for name in columns(n_rest) if name not in ("nx", "ny", "nz")]
    if missing := [name for name in needed if name not in vertices]:
        raise UserError(f"{path} is a PLY but not of splats: it has no {', '.join(missing[:4])}")
    if n_rest not in REST_COUNTS:
        raise UserError(
            f"{path} has {n_rest} f_rest properties; allowed are {REST_COUNTS} (SH degree 0 to 3)"
        )
    with np.errstate(over="ignore"):  # a double beyond float32 becomes infinite, which is reported below
        table = np.stack([vertices[name].astype(np.float32) for name in needed], axis=1)
    broken = len(table) - int(np.isfinite(table).all(axis=1).sum())
    if not len(table) or broken:
        wrong = f"{broken} of {len(table)} splats with a value that is not finite" if broken else "no splats"
        raise UserError(f"{path} has {wrong}; export it again, or remove them in an editor")
    sh0, rest = 6, 6 + n_rest
    arrays = {
        "means": table[:, :3],
        "quats": table[:, rest + 4 :],
        "log_scales": table[:, rest + 1 : rest + 4],
        "logit_opacities": table[:, rest],
        "sh0": table[:, None, 3:sh0],
        "shN": table[:, sh0:rest].reshape(len(table), 3, n_rest // 3).transpose(0, 2, 1),
    }
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    return Splats(arrays, "antialiased 1" in header.comments)


def _read_header(path: Path, file: BinaryIO) -> Header:
    if file.readline(5).strip() != b"ply":
        raise UserError(f"{path} is not a PLY file: it does not begin with 'ply'")
    header = Header("", [], [])
    while file.tell() < MAX_HEADER:
        line = file.readline(MAX_HEADER)
        if not line.endswith(b"\n"):
            break
        match line.decode("latin-1").split():
            case ["end_header"]:
                if header.order not in BYTE_ORDERS:
                    raise UserError(f"{path} has no known format; allowed are {', '.join(BYTE_ORDERS)}")
                return header
            case ["format", order, _]:
                header = header._replace(order=order)
            case ["comment", *words]:
                header.comments.append(" ".join(words))
            case ["element", name, count] if count.isdecimal() and len(count) < 20:
                header.elements.append((name, int(count), []))
            case ["property", "list", _, _, name] if header.elements:
                header.elements[-1][2].append((name, ""))
            case ["property", kind, name] if header.elements and kind in TYPES:
                header.elements[-1][2].append((name, TYPES[kind]))
            case ["obj_info", *_]:
                pass
            case _:
                raise UserError(f"{path} has a PLY header with a line that is none: {line[:60]!r}")
    raise UserError(f"{path} is truncated: its header does not end")


def _read_vertices(path: Path, file: BinaryIO, header: Header) -> dict[str, np.ndarray]:
    """The columns of the element `vertex`."""
    if any(name == "chunk" for name, _, _ in header.elements):
        raise UserError(f"{path} is a compressed PLY, which is not read; convert it to a plain PLY of splats")
    for element, count, properties in header.elements:
        if not properties or any(not kind for _, kind in properties):
            wrong = "a list" if properties else "no properties"
            raise UserError(f"{path} is a PLY but not of splats: its {element} has {wrong}")
        if len({name for name, _ in properties}) < len(properties):
            raise UserError(f"{path} names a property of its {element} twice")
        dtype = np.dtype([(name, BYTE_ORDERS[header.order] + kind) for name, kind in properties])
        table = _read_element(path, file, header.order, dtype, count)
        if element == "vertex":
            return {name: table[name] for name, _ in properties}
    raise UserError(f"{path} is a PLY but not of splats: it has no vertices")


def _read_element(path: Path, file: BinaryIO, order: str, dtype: np.dtype, count: int) -> np.ndarray:
    start = file.tell()
    left = file.seek(0, 2) - file.seek(start)
    # A value takes at least two characters of ascii. Before anything of that size is allocated:
    width = len(dtype.names or ())
    least = count * (2 * width - 1 if order == "ascii" else dtype.itemsize)
    truncated = UserError(
        f"{path} is truncated: {count} elements need {least:,} bytes or more, {left:,} are there"
    )
    if least > left:
        raise truncated
    if order != "ascii":
        return np.frombuffer(file.read(count * dtype.itemsize), dtype)
    lines = [line.split() for line in (file.readline() for _ in range(count))]
    if not all(lines):
        raise truncated
    try:
        return np.array([tuple(map(float, line)) for line in lines], dtype)
    except ValueError:
        raise UserError(f"{path} has a line of ascii that does not hold {width} numbers") from None
