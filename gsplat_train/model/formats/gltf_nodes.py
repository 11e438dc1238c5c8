# SPDX-License-Identifier: Apache-2.0
"""The splats in a binary glTF: chunks, accessors, and the nodes that place them. Nothing is believed unchecked."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from ...storage import parsed
from ..frame import matrix, moved
from ..splats import REST, Splats, logit

JSON_CHUNK, BINARY_CHUNK = 0x4E4F534A, 0x004E4942
DAMAGE = (
    KeyError,
    ValueError,
    TypeError,
    IndexError,
    AttributeError,
    RecursionError,
    ArithmeticError,
    struct.error,
)
COMPONENTS = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
WIDTHS = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}
MOST_NODES = 10_000


def split(data: bytes) -> tuple[dict[str, Any], bytes]:
    """(document, binary chunk) of a whole file; ValueError where it is none."""
    if len(data) < 20 or data[:4] != b"glTF":
        raise ValueError("it does not begin with 'glTF'")
    version, whole, length, kind = struct.unpack_from("<IIII", data, 4)
    if version != 2 or whole != len(data) or kind != JSON_CHUNK or 20 + length > len(data):
        raise ValueError(f"version {version}, {whole:,} bytes of {len(data):,}")
    document = parsed(data[20 : 20 + length])
    start = 20 + length
    if start + 8 > len(data):
        return document, b""
    size, kind = struct.unpack_from("<II", data, start)
    if kind != BINARY_CHUNK or start + 8 + size > len(data):
        raise ValueError("its binary chunk is not there")
    return document, data[start + 8 : start + 8 + size]


def splats(document: dict[str, Any], binary: bytes, extension: str) -> list[Splats]:
    """The splats of each primitive with the extension, in the scene's frame; one of DAMAGE otherwise."""
    nodes, meshes = document.get("nodes", []), document["meshes"]
    scenes = document.get("scenes")
    roots = scenes[document.get("scene", 0)]["nodes"] if scenes else range(len(nodes))
    waiting = [(int(i), np.eye(3), 1.0, np.zeros(3)) for i in roots]
    found = []
    for _ in range(MOST_NODES):
        if not waiting:
            break
        i, rotation, scale, offset = waiting.pop()
        node = nodes[i]
        own = _placement(node)
        offset = offset + scale * rotation @ own[2]
        rotation, scale = rotation @ own[0], scale * own[1]
        waiting += [(int(child), rotation, scale, offset) for child in node.get("children", [])]
        for primitive in meshes[node["mesh"]]["primitives"] if "mesh" in node else ():
            if extension in primitive.get("extensions", {}):
                part = _primitive(document, binary, primitive["attributes"], extension)
                found.append(moved(part, rotation, scale, offset))
    else:
        raise ValueError(f"over {MOST_NODES:,} nodes")
    if not found:
        raise ValueError(f"no primitive with {extension}")
    return found


def _primitive(document: dict[str, Any], binary: bytes, attributes: dict[str, int], extension: str) -> Splats:
    def column(name: str, width: int) -> np.ndarray:
        return _accessor(document, binary, attributes[name], width)

    rest = []
    for band in range(1, 5):
        names = [f"{extension}:SH_DEGREE_{band}_COEF_{i}" for i in range(2 * band + 1)]
        if names[0] not in attributes or band > 3:
            break
        rest += [column(name, 3) for name in names]
    means = column("POSITION", 3)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_scales = np.log(column(f"{extension}:SCALE", 3))
    arrays = {
        "means": means,
        "quats": column(f"{extension}:ROTATION", 4)[:, [3, 0, 1, 2]],
        "log_scales": log_scales,
        "logit_opacities": logit(column(f"{extension}:OPACITY", 1)[:, 0]),
        "sh0": column(f"{extension}:SH_DEGREE_0_COEF_0", 3)[:, None],
        "shN": np.stack(rest, axis=1) if rest else np.zeros((len(means), 0, 3)),
    }
    if len({len(array) for array in arrays.values()}) > 1 or arrays["shN"].shape[1] not in REST:
        raise ValueError("attributes of different lengths")
    return Splats({name: array.astype(np.float32) for name, array in arrays.items()}, False)


def _accessor(document: dict[str, Any], binary: bytes, index: int, width: int) -> np.ndarray:
    """[N, width] float of an accessor, normalised integers as the fractions that they stand for."""
    accessor = document["accessors"][int(index)]
    dtype = np.dtype(COMPONENTS[accessor["componentType"]])
    if WIDTHS[accessor["type"]] != width or "sparse" in accessor:
        raise ValueError(f"accessor {index} is a {accessor['type']}")
    view = document["bufferViews"][accessor["bufferView"]]
    if view.get("buffer", 0) != 0 or "uri" in document["buffers"][0]:
        raise ValueError("its data lie in another file")
    count, row = int(accessor["count"]), width * dtype.itemsize
    stride = int(view.get("byteStride", row))
    inside, start = int(accessor.get("byteOffset", 0)), int(view.get("byteOffset", 0))
    end = inside + (count - 1) * stride + row
    if count < 1 or stride < row or min(inside, start) < 0:
        raise ValueError(f"accessor {index} has {count} entries, {stride} bytes apart")
    if end > int(view["byteLength"]) or start + end > len(binary):
        raise ValueError(f"truncated: accessor {index} needs {start + end:,} bytes of {len(binary):,}")
    values = np.ndarray((count, width), dtype, binary, start + inside, (stride, dtype.itemsize))
    if dtype.kind == "f":
        return values
    fraction = values / np.float32(np.iinfo(dtype).max) if accessor.get("normalized") else values
    return np.maximum(fraction, -1.0)


def _placement(node: dict[str, Any]) -> tuple[np.ndarray, float, np.ndarray]:
    """(rotation [3, 3], scale, offset [3]) of a node; ValueError where it mirrors, shears or stretches."""
    if "matrix" in node:
        whole = np.array(node["matrix"], np.float64).reshape(4, 4).T
        linear, offset = whole[:3, :3], whole[:3, 3]
    else:
        x, y, z, w = node.get("rotation", (0, 0, 0, 1))
        linear = matrix(np.array([w, x, y, z], np.float64)) * np.array(
            node.get("scale", (1, 1, 1)), np.float64
        )
        offset = np.array(node.get("translation", (0, 0, 0)), np.float64)
    scale = float(np.cbrt(np.linalg.det(linear)))
    if not scale > 0 or offset.shape != (3,) or np.abs(linear @ linear.T / scale**2 - np.eye(3)).max() > 1e-3:
        raise ValueError("a node that mirrors, shears or stretches its splats")
    return linear / scale, scale, offset
