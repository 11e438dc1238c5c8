# SPDX-License-Identifier: Apache-2.0
"""The textures of a SOG -> splats' arrays. What a file says is checked before it is believed."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from typing import Any

import numpy as np
from PIL import Image

from ..splats import REST, logit
from .packing import from_smallest_three

# Whatever a file that is none, or broken, or hostile, raises on the way; the caller makes one line of it.
DAMAGE = (
    zipfile.BadZipFile, ValueError, TypeError, EOFError, AttributeError, SyntaxError,
    NotImplementedError, RuntimeError, ArithmeticError, struct.error, zlib.error, LookupError,
    Image.DecompressionBombError,
)  # fmt: skip
PARTS = ("means", "scales", "quats", "sh0")
ROOT_HALF = np.float32(0.5**0.5)
PALETTE_WIDTH = 64
MODEST_PIXELS = 1 << 22  # no bomb, whatever its bytes; more than PIXELS_A_BYTE are one
PIXELS_A_BYTE = 2000


def names(meta: Any) -> list[str]:
    """The files that a meta.json names."""
    return [name for part in (*PARTS, "shN") for name in meta.get(part, {}).get("files", [])]


def decode(meta: dict[str, Any], files: dict[str, bytes]) -> dict[str, np.ndarray]:
    """The arrays that the textures hold; one of DAMAGE where they do not fit."""
    first = "version" not in meta
    if not first and meta["version"] != 2:
        raise ValueError(f"version {meta['version']} is unknown, 1 and 2 are read")
    n = int(meta["means"]["shape"][0] if first else meta["count"])
    if n < 1:
        raise ValueError("no splats")

    def pixels(part: str, i: int = 0) -> np.ndarray:
        whole = _open(files[meta[part]["files"][i]]).reshape(-1, 4)
        if len(whole) < n:
            raise ValueError(f"{len(whole):,} pixels of {part} for {n:,} splats")
        return whole[:n]

    low, high = (_numbers(meta["means"][end], 3) for end in ("mins", "maxs"))
    steps = pixels("means", 0)[:, :3].astype(np.float64) + 256.0 * pixels("means", 1)[:, :3]
    logs = low + (high - low) * (steps / 65535)
    rotation = pixels("quats")
    others = (rotation[:, :3] / np.float32(255) - np.float32(0.5)) * (2 * ROOT_HALF)
    coded = rotation[:, 3] >= 252
    quats = from_smallest_three(np.where(coded, rotation[:, 3], 252) - 252, others)
    quats[~coded] = 1, 0, 0, 0
    colours = pixels("sh0")
    if first:
        values = _between(meta["sh0"], colours, 4)
        log_scales, sh0, logits = _between(meta["scales"], pixels("scales")[:, :3], 3), *_split(values)
    else:
        log_scales = _numbers(meta["scales"]["codebook"], 256)[pixels("scales")[:, :3]]
        sh0 = _numbers(meta["sh0"]["codebook"], 256)[colours[:, :3]]
        logits = logit(colours[:, 3] / np.float32(255))
    with np.errstate(over="ignore"):
        means = np.sign(logs) * np.expm1(np.abs(logs))
    arrays = {
        "means": means,
        "quats": quats,
        "log_scales": log_scales,
        "logit_opacities": logits,
        "sh0": sh0[:, None],
        "shN": _harmonics(meta, files, pixels("shN", 1), first) if "shN" in meta else np.zeros((n, 0, 3)),
    }
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def _harmonics(meta: dict[str, Any], files: dict[str, bytes], labels: np.ndarray, first: bool) -> np.ndarray:
    """[N, K-1, 3] from the palette."""
    part = meta["shN"]
    centroids = _open(files[part["files"][0]])[:, :, :3]
    coefficients, rest = divmod(centroids.shape[1], PALETTE_WIDTH)
    if rest or coefficients not in REST[1:4]:
        raise ValueError(f"centroids {centroids.shape[1]} pixels wide; allowed are 192, 512 and 960")
    entries = centroids.reshape(-1, coefficients, 3)
    label = labels[:, 0].astype(np.int64) + 256 * labels[:, 1].astype(np.int64)
    if first:
        low, high = float(part["mins"]), float(part["maxs"])
        values = low + (high - low) * (entries / np.float32(255))
    else:
        values = _numbers(part["codebook"], 256)[entries]
    return values[label]


def _open(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        count = image.width * image.height
        if count > max(MODEST_PIXELS, PIXELS_A_BYTE * len(data)):
            raise ValueError(f"a bomb: {count:,} pixels out of {len(data):,} bytes")
        return np.asarray(image.convert("RGBA"))


def _numbers(listed: Any, count: int) -> np.ndarray:
    values = np.array(listed, np.float64)
    if values.shape != (count,):
        raise ValueError(f"{values.shape} numbers where {count} are needed")
    return values


def _between(part: dict[str, Any], pixels: np.ndarray, count: int) -> np.ndarray:
    low, high = (_numbers(part[end], count) for end in ("mins", "maxs"))
    return low + (high - low) * (pixels / 255.0)


def _split(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return values[:, :3], values[:, 3]
