# SPDX-License-Identifier: Apache-2.0
"""Splats as binary glTF with KHR_gaussian_splatting: float32, full harmonics, in glTF's axes.

One primitive of points; POSITION, ROTATION (xyzw), SCALE (linear), OPACITY (activated), a VEC3 a harmonic, and
COLOR_0 for programs without the extension. glTF is left-up-forward: x and y are turned round against a PLY.
Source: KhronosGroup/glTF, extensions/2.0/Khronos/KHR_gaussian_splatting (release candidate of July 2026). The
extension has no word on antialiasing: it stands in `extras`.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import UserError, words_of
from ...storage import atomic_write
from ..splats import C0, Splats, sigmoid, unit
from ..usable import usable
from . import gltf_nodes
from .axes import flipped
from .packing import to_bytes

EXTENSION = "KHR_gaussian_splatting"
TO_GLTF = (-1, -1, 1)  # right-down-forward -> left-up-forward, and back
FLOAT, UNSIGNED_BYTE, POINTS, VERTICES = 5126, 5121, 0, 34962
KINDS = {1: "SCALAR", 3: "VEC3", 4: "VEC4"}


def write(path: Path, splats: Splats) -> None:
    """Writes splats, all or nothing; StorageError where the disk refuses."""
    antialiased, arrays = splats.antialiased, flipped(splats, TO_GLTF).arrays
    opacities = sigmoid(arrays["logit_opacities"])
    with np.errstate(over="ignore"):
        scales = np.minimum(np.exp(arrays["log_scales"]), np.finfo(np.float32).max)
    columns = {
        "POSITION": arrays["means"],
        f"{EXTENSION}:ROTATION": unit(arrays["quats"])[:, [1, 2, 3, 0]],
        f"{EXTENSION}:SCALE": scales,
        f"{EXTENSION}:OPACITY": opacities,
        f"{EXTENSION}:SH_DEGREE_0_COEF_0": arrays["sh0"][:, 0],
    }
    for band in range(1, splats.sh_degree + 1):
        for i in range(2 * band + 1):
            columns[f"{EXTENSION}:SH_DEGREE_{band}_COEF_{i}"] = arrays["shN"][:, band**2 - 1 + i]
    columns["COLOR_0"] = _plain_colours(arrays["sh0"][:, 0], opacities)
    views: list[dict[str, int]] = []
    accessors: list[dict[str, Any]] = []
    blocks, start = [], 0
    for name, column in columns.items():
        block = column.tobytes() if column.dtype == np.uint8 else column.astype("<f4").tobytes()
        views.append({"buffer": 0, "byteOffset": start, "byteLength": len(block), "target": VERTICES})
        width = 1 if column.ndim == 1 else column.shape[1]
        accessor: dict[str, Any] = {
            "bufferView": len(accessors),
            "componentType": UNSIGNED_BYTE if column.dtype == np.uint8 else FLOAT,
            "count": len(column),
            "type": KINDS[width],
        }
        if column.dtype == np.uint8:
            accessor["normalized"] = True
        if name == "POSITION":
            accessor |= {"min": column.min(axis=0).tolist(), "max": column.max(axis=0).tolist()}
        accessors.append(accessor)
        blocks.append(block)
        start += len(block)
    details = {
        "kernel": "ellipse", "colorSpace": "srgb_rec709_display", "projection": "perspective",
        "sortingMethod": "cameraDistance",
    }  # fmt: skip
    primitive = {
        "mode": POINTS,
        "attributes": {name: i for i, name in enumerate(columns)},
        "extensions": {EXTENSION: details},
    }
    document = {
        "asset": {"version": "2.0", "generator": "gsplat_train", "extras": {"antialiased": antialiased}},
        "extensionsUsed": [EXTENSION],
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": "splats"}],
        "meshes": [{"primitives": [primitive]}],
        "accessors": accessors,
        "bufferViews": views,
        "buffers": [{"byteLength": start}],
    }
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    whole = 12 + 8 + len(text) + 8 + start
    if whole >= 2**32:
        raise UserError(
            f"a .glb holds 4 GiB at most, {splats.n:,} splats need {whole:,} bytes; see --sh-degree"
        )
    with atomic_write(path) as file:
        file.write(struct.pack("<4sIIII", b"glTF", 2, whole, len(text), gltf_nodes.JSON_CHUNK) + text)
        file.write(struct.pack("<II", start, gltf_nodes.BINARY_CHUNK))
        for block in blocks:
            file.write(block)


def read(path: Path) -> Splats:
    """Reads the splats of all nodes of the scene, each where its node puts it; UserError, in one line, for
    whatever is no binary glTF of splats, or damaged.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    try:
        document, binary = gltf_nodes.split(data)
        parts = gltf_nodes.splats(document, binary, EXTENSION)
        extras = document.get("asset", {}).get("extras")
        antialiased = isinstance(extras, dict) and extras.get("antialiased") is True
    except gltf_nodes.DAMAGE as error:
        raise UserError(f"{path} is no binary glTF of splats, or damaged: {words_of(error)}") from None
    degree = max(part.sh_degree for part in parts)
    padded = [part.padded(degree).arrays for part in parts]
    arrays = {name: np.concatenate([part[name] for part in padded]) for name in padded[0]}
    return usable(path, flipped(Splats(arrays, antialiased), TO_GLTF))


def _plain_colours(sh0: np.ndarray, opacities: np.ndarray) -> np.ndarray:
    """[N, 4] uint8: linear colour and opacity, for programs that draw points."""
    shown = np.clip(sh0 * C0 + 0.5, 0, 1)
    linear = np.where(
        shown <= 0.04045, shown / 12.92, ((shown + 0.055) / 1.055) ** 2.4
    )  # sRGB, IEC 61966-2-1
    return to_bytes(np.concatenate([linear, opacities[:, None]], axis=1) * 255)
