# SPDX-License-Identifier: Apache-2.0
"""Splats as PlayCanvas's SOG: a ZIP of lossless WebP textures, a pixel a splat, and meta.json.

Positions are 16 bits of a signed logarithm, scales and colours indices into codebooks of 256, rotations the
smallest three in bytes, harmonics indices into a palette. Version 2 is written, 1 and 2 are read. Source:
playcanvas/developer-site, the SOG specification.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from math import ceil, sqrt
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...errors import UserError, words_of
from ...storage import atomic_write, parsed
from ..splats import Splats, sigmoid
from ..usable import usable
from . import sog_textures
from .codebook import codebook, nearest_levels, palette
from .packing import morton_order, smallest_three, to_bytes

PALETTE_WIDTH = 64  # entries a row of the texture of centroids
MOST_ENTRIES = 65536
# Splats that share an entry, 1 to 2 times as many. A trained Fern loses 0.09, 0.13, 0.17 and 0.20 dB at 31, 17,
# 14 and 13 bytes a splat with 1, 4, 8 and 16 here.
SHARING = 8
MOST_UNPACKED = 40  # times the file: its pictures are packed in themselves, and only stored in the ZIP
MOST_SIDE = 16383  # pixels of a WebP
EFFORT = {"lossless": True, "exact": True, "quality": 75, "method": 4}  # exact: colours stay where alpha is 0
ROOT2 = sqrt(2.0)


def write(
    path: Path, splats: Splats, *, progress: Callable[[int, int], None] = lambda done, total: None
) -> None:
    """Writes splats in Morton order, all or nothing; StorageError where the disk refuses.

    progress gets how much of the longest part, the palette of harmonics, is done, and all of it.
    """
    splats = splats.take(morton_order(splats.arrays["means"]))
    meta, textures = encode(splats, progress)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        webps = dict(zip(textures, pool.map(_to_webp, textures.values()), strict=True))
    with atomic_write(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, data in {**webps, "meta.json": json.dumps(meta).encode()}.items():
            archive.writestr(zipfile.ZipInfo(name), data)


def encode(
    splats: Splats, progress: Callable[[int, int], None] = lambda done, total: None
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(meta.json, textures [H, W, 4] uint8 by file name) of splats."""
    arrays, n = splats.arrays, splats.n
    width = ceil(sqrt(n) / 4) * 4
    height = ceil(n / width / 4) * 4
    if max(width, height) > MOST_SIDE:
        raise UserError(f"SOG holds {MOST_SIDE**2:,} splats at most, here are {n:,}; see --max-splats")

    def texture(*columns: np.ndarray) -> np.ndarray:
        pixels = np.full((height * width, 4), 255, np.uint8)
        pixels[n:, :3] = 0
        pixels[:n, : sum(c.shape[1] for c in columns)] = np.concatenate(columns, axis=1)
        return pixels.reshape(height, width, 4)

    logs = np.sign(arrays["means"]) * np.log1p(np.abs(arrays["means"].astype(np.float64)))
    low, high = logs.min(axis=0), logs.max(axis=0)
    steps = np.rint(65535 * (logs - low) / np.maximum(high - low, 1e-30)).astype(np.uint16)
    largest, others = smallest_three(arrays["quats"])
    opacities = sigmoid(arrays["logit_opacities"])
    weights = visible_weight(arrays, opacities)
    scale_book = codebook(arrays["log_scales"].ravel())
    colour_book = codebook(arrays["sh0"].ravel(), np.repeat(weights, 3))
    alphas = to_bytes(opacities * 255)[:, None]
    textures = {
        "means_l.webp": texture((steps & 255).astype(np.uint8)),
        "means_u.webp": texture((steps >> 8).astype(np.uint8)),
        "quats.webp": texture(
            to_bytes((others * (ROOT2 / 2) + 0.5) * 255), (252 + largest[:, None]).astype(np.uint8)
        ),
        "scales.webp": texture(nearest_levels(scale_book, arrays["log_scales"])),
        "sh0.webp": texture(nearest_levels(colour_book, arrays["sh0"][:, 0]), alphas),
    }
    meta: dict[str, Any] = {
        "version": 2,
        "asset": {"generator": "gsplat_train"},
        "count": n,
        "antialias": splats.antialiased,
        "means": {"mins": low.tolist(), "maxs": high.tolist(), "files": ["means_l.webp", "means_u.webp"]},
        "scales": {"codebook": scale_book.tolist(), "files": ["scales.webp"]},
        "quats": {"files": ["quats.webp"]},
        "sh0": {"codebook": colour_book.tolist(), "files": ["sh0.webp"]},
    }
    if splats.antialiased:
        meta["model"] = "antialiased"  # what splat-transform reads; `antialias` is the specification's
    if splats.sh_degree:
        size = palette_size(n)
        centroids, labels = palette(arrays["shN"].reshape(n, -1), size, weights, progress)
        book = codebook(centroids.ravel())
        textures["shN_centroids.webp"] = _centroid_texture(nearest_levels(book, centroids))
        textures["shN_labels.webp"] = texture(
            np.stack([labels & 255, labels >> 8, np.zeros(n, np.int64)], axis=1).astype(np.uint8)
        )
        files = ["shN_centroids.webp", "shN_labels.webp"]
        meta["shN"] = {
            "count": len(centroids), "bands": splats.sh_degree, "codebook": book.tolist(), "files": files,
        }  # fmt: skip
    return meta, textures


def palette_size(n: int) -> int:
    """Entries of the palette for n splats: a power of two."""
    return min(MOST_ENTRIES, 1 << max(10, (n // SHARING).bit_length() - 1), n)


def visible_weight(arrays: dict[str, np.ndarray], opacities: np.ndarray) -> np.ndarray:
    """[N] float32: how much an error of a splat's colour shows: about its opacity times its area."""
    largest_two = np.sort(arrays["log_scales"], axis=1)[:, 1:].sum(axis=1)
    area = np.exp(np.clip(largest_two - np.median(largest_two), -8, 8))
    return (opacities * np.sqrt(area) + 1e-4).astype(np.float32)


def read(path: Path) -> Splats:
    """Reads versions 1 and 2; UserError, in one line, for whatever is no SOG, or damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(info.file_size for info in archive.infolist())
            if unpacked > MOST_UNPACKED * max(path.stat().st_size, 1 << 16):
                raise ValueError(f"a bomb: it would unpack to {unpacked:,} bytes")
            meta = parsed(archive.read("meta.json"))
            files = {name: archive.read(name) for name in sog_textures.names(meta)}
        arrays = sog_textures.decode(meta, files)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    except sog_textures.DAMAGE as error:
        raise UserError(f"{path} is no SOG, or damaged: {words_of(error)}") from None
    antialiased = meta.get("model") == "antialiased" or meta.get("antialias") is True
    return usable(path, Splats(arrays, antialiased))


def _centroid_texture(indices: np.ndarray) -> np.ndarray:
    """[ceil(K / 64), 64 coefficients, 4]: entry k's coefficients side by side in row k // 64."""
    count, coefficients = len(indices), indices.shape[1] // 3
    rows = ceil(count / PALETTE_WIDTH)
    pixels = np.zeros((rows * PALETTE_WIDTH, coefficients, 4), np.uint8)
    pixels[..., 3] = 255
    pixels[:count, :, :3] = indices.reshape(count, coefficients, 3)
    return pixels.reshape(rows, PALETTE_WIDTH * coefficients, 4)


def _to_webp(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels, "RGBA").save(buffer, "WEBP", **EFFORT)
    return buffer.getvalue()
