# SPDX-License-Identifier: Apache-2.0
"""Splats as .splat, 32 bytes each: position and scale as float32, colour, opacity and rotation as bytes.

No header, no harmonics, no flags. The largest and most opaque come first, so that a partial download shows
them. Source: the layout of antimatter15/splat (convert.py).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...errors import UserError
from ...storage import atomic_write
from ..splats import C0, Splats, logit, sigmoid, unit
from ..usable import usable
from .packing import to_bytes

ROW = np.dtype([("mean", "<f4", 3), ("scale", "<f4", 3), ("rgba", "u1", 4), ("quat", "u1", 4)])


def write(path: Path, splats: Splats) -> None:
    """Writes splats without their harmonics, all or nothing; StorageError where the disk refuses."""
    arrays = splats.arrays
    opacities = sigmoid(arrays["logit_opacities"])
    with np.errstate(divide="ignore"):
        order = np.argsort(-(arrays["log_scales"].sum(axis=1) + np.log(opacities)), kind="stable")
    rows = np.empty(splats.n, ROW)
    rows["mean"] = arrays["means"]
    with np.errstate(over="ignore"):
        rows["scale"] = np.minimum(np.exp(arrays["log_scales"]), np.finfo(np.float32).max)
    rows["rgba"][:, :3] = to_bytes((arrays["sh0"][:, 0] * C0 + 0.5) * 255)
    rows["rgba"][:, 3] = to_bytes(opacities * 255)
    rows["quat"] = to_bytes(unit(arrays["quats"]) * 128 + 128)
    with atomic_write(path) as file:
        file.write(rows[order].data)


def read(path: Path) -> Splats:
    """Reads splats, of degree 0; UserError where the size is not that of whole splats."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    if not data:
        raise UserError(f"{path} is no .splat: it is empty")
    if len(data) % ROW.itemsize:
        raise UserError(f"{path} is no .splat: its {len(data):,} bytes are not a multiple of {ROW.itemsize}")
    rows = np.frombuffer(data, ROW)
    with np.errstate(divide="ignore", invalid="ignore"):  # a scale of 0 becomes -inf and is dealt with later
        log_scales = np.log(rows["scale"])
    rgba = rows["rgba"] / np.float32(255)
    arrays = {
        "means": rows["mean"].astype(np.float32),
        "quats": unit((rows["quat"].astype(np.float32) - 128) / 128),
        "log_scales": log_scales,
        "logit_opacities": logit(rgba[:, 3]),
        "sh0": ((rgba[:, None, :3] - 0.5) / C0).astype(np.float32),
        "shN": np.zeros((len(rows), 0, 3), np.float32),
    }
    return usable(path, Splats(arrays, antialiased=False))
