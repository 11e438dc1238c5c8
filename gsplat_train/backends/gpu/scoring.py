# SPDX-License-Identifier: Apache-2.0
"""Renders beside photos: scores, and pictures in 8 bits, with nothing between the kernels.

Each array that the host looks at is copied to memory of its own first, by calls that take longer than most kernels.
So `score` leaves its sums and how the view went in one array, and the picture in another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import mlx.core as mx
import numpy as np

from ...evaluate.metrics import Score, check, score_of_sums
from ...model.gaussians import Gaussians
from .engine import START, Engine, camera_array, no_flags, on_device, pack
from .kernels import Sizes


def score(engine: Engine, image: mx.array, photo: np.ndarray | None, mask: np.ndarray | None = None) -> Score:
    """See Backend.score."""
    height, width, _ = image.shape
    return _scored(engine, image.reshape(-1), (width, height), photo, mask, START)[0]


def show(
    engine: Engine, gaussians: Gaussians, background: Sequence[float], antialiased: bool
) -> Callable[..., Score] | None:
    """See Backend.show."""
    if gaussians.means.shape[0] == 0:
        return None
    settings = np.zeros(32, np.float32)
    settings[12:15] = background
    return partial(_shown, engine, gaussians, pack(gaussians), on_device(mx.array(settings)), antialiased)


def _shown(
    engine: Engine,
    gaussians: Gaussians,
    packed: tuple[mx.array, mx.array],
    settings: mx.array,
    antialiased: bool,
    viewmat: np.ndarray,
    K: np.ndarray,
    width: int,
    height: int,
    photo: np.ndarray | None,
    mask: np.ndarray | None = None,
) -> Score:
    """One view, once more with more room where its intersections had too little."""
    run, camera = engine.run, camera_array(viewmat, K, once=True)
    n, rest, size = gaussians.means.shape[0], gaussians.shN.shape[1], (width, height)
    while True:
        sizes = Sizes(n, rest, width, height, engine.capacity(width, height))
        size_array = engine.sizes(sizes, gaussians.sh_degree, antialiased)
        records, radii, counters = run("project", sizes, [packed[0], camera, size_array])
        (colours,) = run("colour", sizes, [*packed, radii, camera, size_array])
        lists = engine.bins(sizes, size_array, records, radii, counters, START, no_flags(sizes))
        binned = [lists["ids"], lists["offsets"], lists["buckets"]]
        image = run("forward", sizes, [records, colours, *binned, settings, size_array])[0]
        found, overflows, needed = _scored(engine, image, size, photo, mask, lists["status"])
        if not overflows:
            return found
        engine.grow(width, height, needed)


def _scored(
    engine: Engine,
    image: mx.array,
    size: tuple[int, int],
    photo: np.ndarray | None,
    mask: np.ndarray | None,
    status: mx.array,
) -> tuple[Score, bool, int]:
    """(score, whether the view had too little room, intersections that it needed). image: flat; status: the view's."""
    width, height = size
    area, counting = width * height, 0
    target = counts = mx.zeros(8, mx.uint8)  # read by nobody
    if photo is not None:
        check(image[: 3 * area].reshape(height, width, 3), photo, mask)
        target, counting = mx.array(np.ascontiguousarray(photo).reshape(-1)), area
        if mask is not None:
            kept = np.asarray(mask) > 0
            counts, counting = mx.array(kept.view(np.uint8).reshape(-1)), int(np.count_nonzero(kept))
    sizes = Sizes(1, 0, width, height, 8)
    inputs = [image, target, counts, status, engine.sizes(sizes)]
    picture, sums = engine.run("score", sizes, inputs, (photo is None, mask is not None))
    numbers, blocks = np.asarray(sums), 3 * sizes.names["blocks"]
    state, needed = numbers[2 * blocks : 2 * blocks + 2].tolist()
    pixels = np.array(picture)[: 3 * area].reshape(height, width, 3)
    squares = int(numbers[:blocks].sum(dtype=np.uint64)) if counting else 0
    ssims = float(numbers[blocks : 2 * blocks].view(np.float32).sum(dtype=np.float64)) if counting else 0.0
    return score_of_sums(squares, ssims, counting, pixels), state != 0, needed
