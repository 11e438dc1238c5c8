# SPDX-License-Identifier: Apache-2.0
"""Named float32 arrays <-> a safetensors file (github.com/huggingface/safetensors): a length (uint64), a JSON
header of that length, the arrays.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..storage import atomic_write, parsed


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Writes float32 tensors as safetensors; the size and the CRC-32 of the file."""
    header, end = {}, 0
    for name, array in sorted(tensors.items()):
        start, end = end, end + array.nbytes
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the arrays begin aligned
    chunks: list[Any] = [len(text).to_bytes(8, "little"), text]
    chunks += [np.ascontiguousarray(tensors[name], "<f4").reshape(-1).data for name in header]
    crc = 0
    with atomic_write(path) as file:
        for chunk in chunks:
            file.write(chunk)
            crc = zlib.crc32(chunk, crc)
    return {"bytes": 8 + len(text) + end, "crc32": crc}


def read_tensors(path: Path, expected: Mapping[str, int]) -> dict[str, np.ndarray]:
    """The tensors of a file that is as it was written; ValueError otherwise."""
    data = path.read_bytes()
    if len(data) != expected["bytes"]:
        raise ValueError(f"{path.name} has {len(data):,} bytes of {expected['bytes']:,}")
    if zlib.crc32(data) != expected["crc32"]:
        raise ValueError(f"the checksum of {path.name} does not fit")
    start = 8 + int.from_bytes(data[:8], "little")
    arrays = {}
    for name, entry in parsed(data[8:start]).items():
        first, last = entry["data_offsets"]
        array = np.frombuffer(data, "<f4", (last - first) // 4, start + first)
        arrays[name] = array.reshape(entry["shape"])
    return arrays
