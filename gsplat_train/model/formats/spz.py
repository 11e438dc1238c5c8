# SPDX-License-Identifier: Apache-2.0
"""Splats as Niantic's SPZ: 24-bit positions and bytes, structure of arrays, compressed.

Versions 1 to 3 are one gzip of header and blocks (spz_blocks.py); version 4 has a plain header of 32 bytes, a
table of contents and one Zstandard frame a block. Written are 3, which all readers know, and 4. Source:
nianticlabs/spz, load-spz.h and its README, for the layout.

Axes: Niantic's own tools write right-up-back (OpenGL); most other writers leave the axes of the PLY, and no
flag tells the two apart before version 4's optional extension. So the PLY's axes are the default both ways,
as in SuperSplat; `axes="rub"` writes for Niantic's tools.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import zstandard

from ...errors import UserError
from ...storage import atomic_write
from ..splats import Splats
from ..usable import usable
from . import spz_blocks
from .axes import flipped
from .packing import morton_order

MAGIC = 0x5053474E  # "NGSP"
HEADER = struct.Struct("<IIIBBBB")  # magic, version, splats, SH degree, fractional bits, flags, 0 or streams
HEADER_4 = 32  # bytes: HEADER, where the table of contents begins (uint32), zeros
ANTIALIASED, EXTENDED = 1, 2  # flags
AXES_TYPE = 0xADBE0003  # extension with the axes' enumeration
AXES = {"ply": (6, (1, 1, 1)), "rub": (4, (1, -1, -1))}  # enumeration, signs from the PLY's axes
SIGNS = {1: (-1, 1, -1), 2: (1, 1, -1), 3: (-1, -1, -1), 4: (1, -1, -1), 5: (-1, 1, 1), 6: (1, 1, 1),
         7: (-1, -1, 1), 8: (1, -1, 1)}  # fmt: skip  # LDB RDB LUB RUB LDF RDF LUF RUF -> RDF
DEFLATE_LIMIT = 1032  # bytes that one byte of deflate can become, at most
MOST_EXTENSIONS = 1 << 20  # bytes behind the blocks that are unpacked, to see the checksum
GZIP_LEVEL, ZSTD_LEVEL = 6, 12


class Head(NamedTuple):
    version: int
    n: int
    degree: int
    bits: int
    flags: int
    streams: int


def write(path: Path, splats: Splats, *, version: int = 3, axes: str = "ply") -> None:
    """Writes splats, all or nothing; StorageError where the disk refuses.

    version: 3 or 4. axes: "ply" as they are, "rub" right-up-back. UserError where a position does not fit.
    """
    with atomic_write(path) as file:
        file.write(to_bytes(splats, version=version, axes=axes))


def to_bytes(splats: Splats, *, version: int = 3, axes: str = "ply") -> bytes:
    """The whole file, as `write` writes it."""
    if version not in (3, 4):
        raise UserError(f"SPZ version {version} is not written; allowed are 3 and 4")
    if axes not in AXES:
        raise UserError(f"SPZ axes {axes!r} are unknown; allowed are {', '.join(AXES)}")
    number, signs = AXES[axes]
    # Neighbours in space side by side: a seventh smaller on a trained Fern.
    splats = flipped(splats.take(morton_order(splats.arrays["means"])), signs)
    bits = spz_blocks.fractional_bits(splats.arrays["means"])
    blocks = spz_blocks.encode(splats.arrays, bits)
    flags = ANTIALIASED * splats.antialiased
    head = [MAGIC, version, splats.n, splats.sh_degree, bits]
    if version == 3:
        content = HEADER.pack(*head, flags, 0) + b"".join(blocks)
        packer = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, zlib.MAX_WBITS | 16)
        return packer.compress(content) + packer.flush()
    blocks = [block for block in blocks if block]
    extension = struct.pack("<III", AXES_TYPE, 4, number) if axes != "ply" else b""
    frames = [zstandard.ZstdCompressor(ZSTD_LEVEL).compress(block) for block in blocks]
    table = b"".join(struct.pack("<QQ", len(f), len(b)) for f, b in zip(frames, blocks, strict=True))
    header = HEADER.pack(*head, flags | (EXTENDED if extension else 0), len(blocks))
    header += struct.pack("<I", HEADER_4 + len(extension)) + bytes(HEADER_4 - HEADER.size - 4)
    return header + extension + table + b"".join(frames)


def read(path: Path) -> Splats:
    """Reads versions 1 to 4; degree 4 is cut to 3. UserError, in one line, for what is no SPZ or damaged."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    return from_bytes(path, data)


def from_bytes(path: Path, data: bytes) -> Splats:
    """The splats of a whole file; `path` is for messages."""
    packed = data[:2] == b"\x1f\x8b"
    try:
        start = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(data, HEADER.size) if packed else data
    except zlib.error as error:
        raise UserError(f"{path} is damaged: {error}") from None
    if len(start) < HEADER.size:
        raise UserError(f"{path} is no SPZ, or truncated: {len(data):,} bytes")
    magic, *rest = HEADER.unpack_from(start)
    head = Head(*rest)
    if magic != MAGIC or head.version not in ((1, 2, 3) if packed else (4,)):
        raise UserError(f"{path} is no SPZ of the versions 1 to 4")
    if head.degree > 4 or not head.n or head.bits > 24:
        raise UserError(
            f"{path} is damaged: {head.n:,} splats, SH degree {head.degree}, {head.bits} fractional bits"
        )
    sizes = spz_blocks.sizes(head.n, head.degree, head.version)
    blocks, signs = (_unpack_3 if packed else _unpack_4)(path, data, head, sizes)
    arrays = spz_blocks.decode(blocks, head.n, head.degree, head.version, head.bits)
    splats = flipped(Splats(arrays, bool(head.flags & ANTIALIASED)), signs)
    if head.degree == 4:
        splats = splats.cut_note(path)
    return usable(path, splats)


def _unpack_3(
    path: Path, data: bytes, head: Head, sizes: list[int]
) -> tuple[list[bytes], tuple[int, int, int]]:
    whole = HEADER.size + sum(sizes)
    short = UserError(f"{path} is truncated: {head.n:,} splats need {whole:,} bytes when unpacked")
    if whole > DEFLATE_LIMIT * len(data):
        raise short
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16)
    try:
        content = unpacker.decompress(data, whole)
        beyond = unpacker.decompress(unpacker.unconsumed_tail, MOST_EXTENSIONS)
    except zlib.error as error:
        raise UserError(f"{path} is damaged: {error}") from None
    if len(content) < whole or not (unpacker.eof or len(beyond) == MOST_EXTENSIONS):
        raise short
    return _split(content, HEADER.size, sizes), (1, 1, 1)


def _unpack_4(
    path: Path, data: bytes, head: Head, sizes: list[int]
) -> tuple[list[bytes], tuple[int, int, int]]:
    wanted = [size for size in sizes if size]
    if sum(sizes) > DEFLATE_LIMIT * len(data):
        raise UserError(f"{path} is truncated: {head.n:,} splats need {sum(sizes):,} bytes when unpacked")
    table = int.from_bytes(data[HEADER.size : HEADER.size + 4], "little")
    if head.streams != len(wanted) or not HEADER_4 <= table <= len(data) - 16 * head.streams:
        raise UserError(f"{path} is damaged: {head.streams} streams, a table of contents at byte {table:,}")
    entries = [struct.unpack_from("<QQ", data, table + 16 * i) for i in range(head.streams)]
    start = table + 16 * head.streams
    if [size for _, size in entries] != wanted or start + sum(size for size, _ in entries) != len(data):
        raise UserError(f"{path} is damaged or truncated: its streams have other sizes than its header says")
    blocks = []
    for (packed, size), frame in zip(entries, _split(data, start, [p for p, _ in entries]), strict=True):
        try:
            block = (
                zstandard.ZstdDecompressor().stream_reader(frame).read(size + 1)
            )  # and never more than that
        except zstandard.ZstdError as error:
            raise UserError(f"{path} is damaged: {error}") from None
        if len(block) != size:
            raise UserError(f"{path} is damaged: a stream of {packed:,} bytes is not {size:,} unpacked")
        blocks.append(block)
    while len(blocks) < len(sizes):
        blocks.append(b"")  # degree 0: no stream of harmonics
    return blocks, _axes_of(data[HEADER_4:table])


def _axes_of(extensions: bytes) -> tuple[int, int, int]:
    """The signs that lead to the PLY's axes, where an extension names the file's; else none."""
    at = 0
    while at + 8 <= len(extensions):
        kind, length = struct.unpack_from("<II", extensions, at)
        if kind == AXES_TYPE and length == 4 and at + 12 <= len(extensions):
            return SIGNS.get(int.from_bytes(extensions[at + 8 : at + 12], "little"), (1, 1, 1))
        at += 8 + length
    return (1, 1, 1)


def _split(data: bytes, start: int, sizes: list[int]) -> list[bytes]:
    parts = []
    for size in sizes:
        parts.append(data[start : start + size])
        start += size
    return parts
