# SPDX-License-Identifier: Apache-2.0
"""Which splats of a file can be used: what is not finite is clamped or left out, what is odd is said.

Other programs write logits of opacity 1 (infinite), scales of 0 (-inf) and, rarely, NaN. One such splat is no
reason to refuse a million others; that it was met is told in the notes of the Splats.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import UserError
from .splats import Splats

LOGIT_LIMIT = 16.0  # instead of an infinite logit; sigmoid(16) is 1 within 1e-7
LOG_SCALE_LEAST = -20.0  # instead of -inf; as .compressed.ply clamps
FINEST = 1e-5  # of a scene's extent, what positions must resolve
FEW = 100  # splats; below that, no statistics are believed
NEIGHBOURS, ASKED = 8, 100  # how far the eighth neighbour is, asked of a hundred splats
BROAD = (
    2.5  # times that distance; trained models' splats are 0.5 to 0.8 of it long, exponentiated ones 4 to 17
)


def usable(path: Path, splats: Splats) -> Splats:
    """The splats that can be rendered, with notes of what was done; UserError where there are none.

    An infinite opacity (a valid logit) is clamped, as is a log scale of -inf. A splat with any other value
    that is not finite is left out.
    """
    arrays = dict(splats.arrays)
    if not splats.n:
        raise UserError(f"{path} has no splats; export it again")
    notes = []
    logits, scales = arrays["logit_opacities"], arrays["log_scales"]
    infinite, flat = np.isinf(logits), np.isneginf(scales)
    if infinite.any():
        limits = np.copysign(np.float32(LOGIT_LIMIT), logits)
        arrays["logit_opacities"] = np.where(infinite, limits, logits)
        notes.append(f"{path}: infinite opacities ({infinite.sum():,}) are clamped")
    if flat.any():
        arrays["log_scales"] = np.where(flat, np.float32(LOG_SCALE_LEAST), scales)
        count = flat.any(axis=1).sum()
        notes.append(f"{path}: scales of 0 ({count:,} splats) are clamped to exp({LOG_SCALE_LEAST:g})")
    good = np.ones(splats.n, bool)
    for array in arrays.values():
        if not np.isfinite(array).all():
            good &= np.isfinite(array.reshape(splats.n, -1)).all(axis=1)
    splats = splats._replace(arrays=arrays)
    if not good.any():
        raise UserError(f"{path} has no splat whose values are all finite; export it again")
    if left_out := splats.n - int(good.sum()):
        notes.append(f"{path}: left out {left_out:,} of {splats.n:,} splats, with values that are not finite")
        splats = splats.take(good)
    return splats.noted(*notes, *(f"{path}: {oddity}" for oddity in oddities(splats)))


def oddities(splats: Splats) -> list[str]:
    """What no trained model would have, a line each: activated values, splats larger than the scene."""
    found: list[str] = []
    means, scales = splats.arrays["means"], splats.arrays["log_scales"]
    logits = splats.arrays["logit_opacities"]
    if splats.n < FEW:
        return found
    low, high = np.percentile(means, [1, 99], axis=0)
    extent = max(float(np.linalg.norm(high - low)), 1e-30)
    largest = scales.max(axis=1)
    usual = np.exp(np.median(largest).astype(np.float64))
    if scales.min() >= 0 and (usual > 0.1 * extent or usual > BROAD * _spacing(means)):
        found.append("no scale is below 1 unit: they look like scales that were exponentiated already")
    elif giants := int((largest > np.log(extent)).sum()):
        found.append(f"{_counted(giants)} larger than the scene ({extent:.3g}); --max-scale leaves out such")
    if logits.min() >= 0 and logits.max() <= 1 and np.ptp(logits) > 0:
        found.append("all opacities are from 0 to 1: they look like opacities that were activated already")
    return found


def _counted(n: int) -> str:
    return "1 splat is" if n == 1 else f"{n:,} splats are"


def _spacing(means: np.ndarray) -> float:
    """The median distance from a splat to its eighth neighbour."""
    found = []
    for mean in means[:: -(-len(means) // ASKED)]:
        squares = ((means - mean) ** 2).sum(axis=1)
        found.append(np.partition(squares, NEIGHBOURS)[NEIGHBOURS])
    return float(np.sqrt(np.median(found)))


def too_coarse(splats: Splats) -> str | None:
    """A word where float32 cannot hold the positions finely, as in georeferenced scenes; else None."""
    means = splats.arrays["means"]
    extent = float(np.linalg.norm(np.percentile(means, 99, axis=0) - np.percentile(means, 1, axis=0)))
    largest = float(np.abs(np.median(means, axis=0)).max())  # a few splats far out are no reason to move all
    if largest * 2.0**-23 > FINEST * extent:
        return (
            f"positions around {largest:.3g} in a scene of {extent:.3g} are coarse; --centre auto moves them"
        )
    return None
