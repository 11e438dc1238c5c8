# SPDX-License-Identifier: Apache-2.0
"""Few values in place of many: a codebook of numbers, a palette of vectors; both by Lloyd's iteration (1957,
published 1982), weighted, started where the density of values asks for it.

A palette of 65,536 among 100,000 vectors needs no search of all in all: vectors are first put into groups of
neighbours, then each group gets its share of the palette.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np

LEVELS = 256
ROUNDS_1D = 10
SPREAD = 0.1  # of the levels, evenly over the range: bounds the error of the few values at its ends
ROUNDS = 6  # of a group's palette
GROUP = 256  # vectors, on average
SAMPLE = 32  # vectors a group from which the groups' centres are found
BATCH = 16384  # rows of a table of distances
SEED = 0


def codebook(values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """[256] ascending float32 numbers that stand for `values` [n] with small mean squared error.

    Starts where a quantiser of many levels has them: with density^(1/3) (Panter and Dite 1951).
    """
    order = np.argsort(values, kind="stable")
    ordered = values[order].astype(np.float64)
    weight = np.ones(len(ordered)) if weights is None else weights[order].astype(np.float64)
    low, high = ordered[0], ordered[-1]
    if not high - low > 1e-9 * max(abs(low), abs(high), 1e-30):
        return np.full(LEVELS, low, np.float32)
    mass = np.concatenate([[0.0], np.cumsum(weight)])
    moment = np.concatenate([[0.0], np.cumsum(weight * ordered)])
    edges = np.linspace(low, high, 16 * LEVELS + 1)
    density = np.diff(mass[np.searchsorted(ordered, edges[1:-1])], prepend=0.0, append=mass[-1])
    share = np.cumsum(np.cbrt(density))
    share = np.concatenate([[0.0], share / share[-1]]) * (1 - SPREAD)
    share += np.linspace(0, SPREAD, len(share))
    levels = np.interp((np.arange(LEVELS) + 0.5) / LEVELS, share, edges)
    for _ in range(ROUNDS_1D):
        cuts = np.searchsorted(ordered, (levels[1:] + levels[:-1]) / 2)
        masses = np.diff(mass[cuts], prepend=0.0, append=mass[-1])
        moments = np.diff(moment[cuts], prepend=0.0, append=moment[-1])
        levels = np.where(masses > 0, moments / np.where(masses > 0, masses, 1), levels)
    return np.sort(levels).astype(np.float32)


def nearest_levels(levels: np.ndarray, values: np.ndarray) -> np.ndarray:
    """uint8 index of the nearest of `levels` [256] (ascending) for values of any shape."""
    middles = (levels[1:].astype(np.float64) + levels[:-1]) / 2
    return np.searchsorted(middles, values).astype(np.uint8)


def palette(
    vectors: np.ndarray,
    size: int,
    weights: np.ndarray,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[np.ndarray, np.ndarray]:
    """(palette [size, D] float32, label [N] of each vector's entry) for vectors [N, D] with weights [N].

    Deterministic. N must not be below `size`. progress gets how many of the groups are solved, and all.
    """
    rng = np.random.default_rng(SEED)
    n = len(vectors)
    n_groups = max(1, n // GROUP)
    sample = vectors[rng.choice(n, min(n, SAMPLE * n_groups), replace=False)]
    centres = sample[rng.choice(len(sample), n_groups, replace=False)]
    for _ in range(ROUNDS):
        centres = _means(sample, _nearest(centres, sample), np.ones(len(sample), np.float32), centres)
    group = _nearest(centres, vectors)
    order = np.argsort(group, kind="stable")
    ends = np.concatenate([[0], np.cumsum(np.bincount(group, minlength=n_groups))])
    # Shares by size, rounded so that they sum to `size` and none exceeds its group.
    shares = np.round(ends * (size / n)).astype(np.int64)

    def solve(i: int) -> tuple[np.ndarray, np.ndarray]:
        members = order[ends[i] : ends[i + 1]]
        return _group_palette(vectors[members], int(shares[i + 1] - shares[i]), weights[members])

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        parts = []
        for solved in pool.map(solve, range(n_groups)):
            parts.append(solved)
            progress(len(parts), n_groups)
    entries, labels, first = [], np.empty(n, np.int64), 0
    for (start, end), (part, label) in zip(pairwise(ends), parts, strict=True):
        if not len(part) and end > start:  # a group too small for a share: what is there already
            label = np.zeros(end - start, np.int64)
            first_or_last = max(first - 1, 0)
            labels[order[start:end]] = first_or_last
            continue
        labels[order[start:end]] = first + label
        entries.append(part)
        first += len(part)
    return np.concatenate(entries), labels


def _group_palette(vectors: np.ndarray, size: int, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if not size:
        return vectors[:0], np.zeros(0, np.int64)
    entries = vectors[np.linspace(0, len(vectors) - 1, size).astype(np.int64)]
    for _ in range(ROUNDS):
        entries = _means(vectors, _nearest(entries, vectors), weights, entries)
    return entries, _nearest(entries, vectors)


def _nearest(entries: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """[N] index of the entry nearest to each vector."""
    half = 0.5 * (entries * entries).sum(axis=1)
    found = np.empty(len(vectors), np.int64)
    for start in range(0, len(vectors), BATCH):
        some = slice(start, start + BATCH)
        found[some] = np.argmax(vectors[some] @ entries.T - half, axis=1)
    return found


def _means(vectors: np.ndarray, labels: np.ndarray, weights: np.ndarray, before: np.ndarray) -> np.ndarray:
    """[K, D] weighted means by label; `before` where a label has none."""
    order = np.argsort(labels, kind="stable")
    counts = np.bincount(labels, minlength=len(before))
    used = counts > 0
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])[used]
    weighted = np.concatenate([vectors * weights[:, None], weights[:, None]], axis=1)[order]
    sums = np.add.reduceat(weighted, starts, axis=0)
    after = before.copy()
    after[used] = sums[:, :-1] / np.maximum(sums[:, -1:], 1e-30)
    return after
