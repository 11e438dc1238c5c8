# SPDX-License-Identifier: Apache-2.0
"""What density control draws: the same rows on every machine, for the same logits, seed and step.

Functions take `xp`, the module whose arrays they get and give: numpy or mlx.core. Random numbers are counters
through a hash, weights and their sums are integers: neither knows an order of summation, and nothing is kept
between two refinements. The module of a population on a GPU may have some of them itself (backends.gpu.arrays).
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any, NamedTuple

import numpy as np

NOISE, RELOCATION, GROWTH, SPLIT, BACKGROUND = 0, 2, 3, 4, 6  # purposes; NOISE and SPLIT take two each
AGAIN = 8  # added to one of them, for what is drawn a second time
CELLS = 2048  # of the table of weights, a unit of logit
FARTHEST = 16  # logits beyond +-16 weigh as these
WORD = 0xFFFFFFFF  # 32 bits
BLOCK = 1024  # a sum over one long row would be one group of threads on a GPU


class Key(NamedTuple):
    """Tells the random numbers of one use from all others."""

    seed: int
    step: int
    purpose: int

    @property
    def stream(self) -> int:
        """32 bits that the hash begins with."""
        return (self.step * 0x85EBCA77 + self.seed * 0xC2B2AE3D + self.purpose * 0x27D4EB2F) & WORD


def hashed(xp: Any, index: Any, key: Key) -> Any:
    """uint32 of `index` (uint32) and key: a counter through lowbias32 (Chris Wellons' "hash prospector")."""

    def word(value: int) -> Any:
        return xp.array(value, dtype=xp.uint32)

    x = index * word(0x9E3779B1) + word(key.stream)
    x = (x ^ (x >> 16)) * word(0x7FEB352D)
    x = (x ^ (x >> 15)) * word(0x846CA68B)
    return x ^ (x >> 16)


def uniforms(n: int, key: Key) -> tuple[float, ...]:
    """n numbers from 0 to 1 in 24 bits, those of `hashed`, in Python's integers, which for a few are fastest."""
    found, stream = [], key.stream
    for index in range(n):
        x = (index * 0x9E3779B1 + stream) & WORD
        x = ((x ^ (x >> 16)) * 0x7FEB352D) & WORD
        x = ((x ^ (x >> 15)) * 0x846CA68B) & WORD
        found.append(((x ^ (x >> 16)) >> 8) / 2**24)
    return tuple(found)


def normals(xp: Any, rows: int, key: Key) -> Any:
    """[rows, 3] float32 standard normals: Box and Muller's transform of two uniforms each."""
    index = xp.arange(3 * rows).astype(xp.uint32)
    bits = (hashed(xp, index, key._replace(purpose=key.purpose + j)) >> 8 for j in (0, 1))
    u1, u2 = ((x.astype(xp.float32) + 0.5) / 2**24 for x in bits)
    return (xp.sqrt(-2 * xp.log(u1)) * xp.cos(2 * math.pi * u2)).reshape(rows, 3)


def weights(xp: Any, logits: Any, min_opacity: float) -> Any:
    """[N] uint32: 65,536 times the opacity, at least 1; 0 for the dead, whose opacity is at most `min_opacity`.

    Out of a table, after one rounding, so that no machine's exponential decides who is drawn.
    """
    dead = logit_of(min_opacity)
    if (own := getattr(xp, "weigh", None)) is not None:
        return own(logits, dead)
    alive = logits > dead  # NaN is dead
    reach = CELLS * FARTHEST
    place = xp.round(xp.clip(xp.where(alive, logits, 0) * CELLS, -reach, reach)).astype(xp.int32) + reach
    return xp.where(alive, xp.array(table())[place], xp.array(0, dtype=xp.uint32))


@cache
def table() -> np.ndarray:
    """uint32: weights of logits from -FARTHEST to FARTHEST, CELLS to a unit."""
    logits = np.arange(-CELLS * FARTHEST, CELLS * FARTHEST + 1) / CELLS
    return np.maximum(1, np.round(65536 / (1 + np.exp(-logits)))).astype(np.uint32)


def logit_of(opacity: float) -> float:
    """The logit of an opacity, also of 0 and 1."""
    if not 0 < opacity < 1:
        return math.inf if opacity >= 1 else -math.inf
    return math.log(opacity) - math.log1p(-opacity)


def multinomial(xp: Any, weights: Any, n: int, key: Key) -> Any:
    """[n] int32 rows in rising order, each drawn by itself in proportion to the weights [N], which are not all 0.

    One comb of n teeth over the cumulative sum (systematic draws) was tried in its place: the built-in scene lost
    0.15 dB by it (mean of three seeds).
    """
    if (own := getattr(xp, "drawn", None)) is not None:
        return xp.sort(own(weights, n, key.stream))
    total_to = cumulative(xp, weights)  # below 2^40 for 2^24 rows
    total = total_to[-1:]
    bits = hashed(xp, xp.arange(n).astype(xp.uint32), key).astype(xp.uint64)
    low = total & xp.array(0xFFFFFFFF, dtype=xp.uint64)
    points = bits * (total >> 32) + ((bits * low) >> 32)  # bits * total / 2^32
    return xp.searchsorted(total_to, xp.sort(points), side="right").astype(xp.int32)


def distinct(xp: Any, weights: Any, n: int, key: Key) -> Any:
    """Rows int32 in rising order, none twice, drawn in proportion to the weights [N]: of `n` draws what was drawn again
    is drawn once more among the others, so a few less than `n` may come of it, or fewer where so few are above 0.
    """
    again = key._replace(purpose=AGAIN + key.purpose)
    if (own := getattr(xp, "distinct", None)) is not None:
        return own(weights, n, (key.stream, again.stream))
    alive = int((weights > 0).sum())
    if not alive:
        return xp.zeros(0).astype(xp.int32)
    drawn = _once(xp, multinomial(xp, weights, n, key))
    if len(drawn) < min(n, alive):
        left = with_rows(xp, weights + 0, drawn, 0)
        more = _once(xp, multinomial(xp, left, n - len(drawn), again))
        drawn = xp.sort(xp.concatenate([drawn, more]))
    return drawn


def _once(xp: Any, drawn: Any) -> Any:
    """Rows in rising order, each once."""
    first = xp.concatenate([xp.ones(1) > 0, drawn[1:] != drawn[:-1]])
    return rows_of(xp, drawn, positions(xp, first, int(first.sum())))


def without_return(xp: Any, weights: Any, n: int, key: Key) -> Any:
    """[N] bool, n times true: rows drawn one after the other in proportion to the weights [N] of those that are left,
    of which n at least are above 0. The n largest of weight / -log(u), u uniform, are such a draw (Efraimidis and
    Spirakis 2006).
    """
    bits = hashed(xp, xp.arange(len(weights)).astype(xp.uint32), key) >> 8
    return strongest(xp, weights / -xp.log((bits.astype(xp.float32) + 0.5) / 2**24), n)


def strongest(xp: Any, values: Any, n: int) -> Any:
    """[N] bool: the `n` largest of `values`, none below 0; of equal ones those that come first."""
    if n == 0:
        return values < 0
    # The bits of floats that are not negative are in the order of their values.
    high = values.astype(xp.float32).view(xp.uint32).astype(xp.uint64) << 32
    order = high | xp.arange(len(values))[::-1].astype(xp.uint64)
    last = len(values) - n
    return order >= xp.partition(order, last)[last : last + 1]


def cumulative(xp: Any, counts: Any) -> Any:
    """[N] uint64 inclusive sums of `counts`, by blocks where a GPU may do it."""
    if xp is np:
        return np.cumsum(counts, dtype=np.uint64)
    n = counts.shape[0]
    blocks = xp.pad(counts.astype(xp.uint64), (0, -n % BLOCK)).reshape(-1, BLOCK).cumsum(axis=1)
    if len(blocks) == 1:  # MLX 0.32.4 on CUDA writes beyond the end where it scans an axis that is one long
        return blocks.reshape(-1)[:n]
    before = blocks[:, -1:].cumsum(axis=0) - blocks[:, -1:]
    return (blocks + before).reshape(-1)[:n]


def rows_of(xp: Any, array: Any, rows: Any) -> Any:
    """array[rows], [n, ...]. rows [n] int32."""
    own = getattr(xp, "rows_of", None)
    return array[rows] if own is None else own(array, rows)


def with_rows(xp: Any, array: Any, rows: Any, values: Any) -> Any:
    """`array`, which nobody else needs as it was, with `values` in some rows [n] int32, which rise; one that is there
    twice has the same values twice.
    """
    if (own := getattr(xp, "with_rows", None)) is not None:
        return own(array, rows, values)
    array[rows] = values
    return array


def positions(xp: Any, mask: Any, n: int) -> Any:
    """[n] int32: where `mask` [N], n times true, is."""
    if (own := getattr(xp, "positions", None)) is not None:
        return own(mask, n)
    if xp is np:
        return np.flatnonzero(mask).astype(np.int32)
    ranks = xp.arange(1, n + 1).astype(xp.uint64)
    return xp.searchsorted(cumulative(xp, mask), ranks, side="left").astype(xp.int32)


def mentions(xp: Any, ordered: Any) -> Any:
    """[n] int32: how often each of `ordered`, rows in rising order, is in it."""
    ends = (xp.searchsorted(ordered, ordered, side=side).astype(xp.int32) for side in ("right", "left"))
    return next(ends) - next(ends)
