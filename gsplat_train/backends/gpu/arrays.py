# SPDX-License-Identifier: Apache-2.0
"""What density control does again and again with arrays of MLX, a kernel each: rows by their numbers, weights, draws,
places. As operations of MLX most of a refinement's time was the host's, which asks for them; and MLX on CUDA compiles
its own kernels for `a[rows]` when they are first used, 3 s for each type of numbers.
"""

from __future__ import annotations

from functools import cache, partial
from math import prod
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import numpy as np

from ...training import draws
from .engine import Engine, at_least_eight, on_device
from .kernels import COUNT_BLOCK, KERNELS


def module(engine: Engine) -> Any:
    """mlx.core with what training.draws looks for beside; see the functions of these names there."""
    own = (rows_of, with_rows, weigh, drawn, distinct, positions)
    return SimpleNamespace(**vars(mx) | {function.__name__: partial(function, engine) for function in own})


def rows_of(engine: Engine, array: mx.array, rows: mx.array) -> mx.array:
    """array[rows], [n, ...]. array [B, ...] of 4 bytes a number, rows [n] int32."""
    n, shape = rows.shape[0], (rows.shape[0], *array.shape[1:])
    if not n:
        return array[:0]
    sizes = _sizes(n, prod(array.shape[1:]), array.shape[0])
    inputs = [_words(array), rows.view(mx.int32)]
    return _launch(engine, "take", inputs, sizes, prod(shape), [shape], [mx.uint32])[0].view(array.dtype)


def with_rows(
    engine: Engine, array: mx.array, rows: mx.array, values: Any, order: mx.array | None = None
) -> mx.array:
    """[B, ...] `array` with `values`, [n, ...] or one number, in the rows [n] int32. They rise, and the i-th of them
    has row order[i] of the values; one that is there twice has the same values twice.
    """
    n, shape = rows.shape[0], (rows.shape[0], *array.shape[1:])
    if not n or not array.size:
        return array
    if order is None:
        order = mx.arange(n, dtype=mx.uint32)
    if not isinstance(values, mx.array):
        values = mx.full(shape, values, dtype=array.dtype)
    inputs = [_words(array), rows, order, _words(values.astype(array.dtype).reshape(shape))]
    sizes = _sizes(n, prod(shape[1:]), array.shape[0])
    return _launch(engine, "put", inputs, sizes, array.size, [array.shape], [mx.uint32])[0].view(array.dtype)


def weigh(engine: Engine, logits: mx.array, dead: float) -> mx.array:
    """[N] uint32 weights of logits [N]; 0 where they are at most `dead`."""
    n = logits.shape[0]
    limits = mx.array([dead, draws.CELLS, draws.CELLS * draws.FARTHEST, *[0] * 5], dtype=mx.float32)
    inputs = [logits, _table(), limits]
    return _launch(engine, "weigh", inputs, _sizes(n), n, [(n,)], [mx.uint32])[0]


def drawn(engine: Engine, weights: mx.array, n: int, stream: int) -> mx.array:
    """[n] int32 rows in no order, drawn in proportion to weights [N] uint32 of which the sum is above 0."""
    count = weights.shape[0]
    inputs = [_prefix_sums(engine, at_least_eight(weights), count), _eight(stream, mx.uint32)]
    return _launch(engine, "draw", inputs, _sizes(n, before=count), n, [(n,)], [mx.int32])[0]


def distinct(engine: Engine, weights: mx.array, n: int, streams: tuple[int, int]) -> mx.array:
    """See training.draws.distinct. How many were drawn twice is not asked, only how many rows there are in the end."""
    count, weights = weights.shape[0], at_least_eight(weights)

    def marked(weights: mx.array, stream: int, few: mx.array) -> mx.array:
        inputs = [_prefix_sums(engine, weights, count), _eight(stream, mx.uint32), few]
        sizes, shapes = _sizes(n, before=count), [weights.shape]
        return _launch(engine, "mark", inputs, sizes, n, shapes, [mx.uint32], init_value=0)[0]

    few = _eight(n, mx.int32)
    marks = marked(weights, streams[0], few)
    marks = marks + marked(weights * (1 - marks), streams[1], few - marks.sum().astype(mx.int32))
    return positions(engine, marks, int(marks.sum()), count)


def positions(engine: Engine, mask: mx.array, n: int, count: int | None = None) -> mx.array:
    """[n] int32: where `mask` [N], n times true, is; its first `count`, if that is given."""
    count, counts = mask.shape[0] if count is None else count, at_least_eight(mask.astype(mx.uint32))
    if not n:
        return mx.zeros(0, mx.int32)
    inputs = [counts, _block_sums(engine, counts, count)]
    return _launch(engine, "positions", inputs, _sizes(count, n), _threads(count), [(n,)], [mx.int32])[0]


def halve(
    engine: Engine, params: mx.array, rows: mx.array, before: int, how: tuple[float, ...]
) -> list[mx.array]:
    """[means [2n, 3], log scales [2n, 3], logits [2n]] of the two halves of the rows [n] int32, of which there are
    some. params: packed, of `before` Gaussians; how: see csrc/kernels/halve.metal.
    """
    n, inputs = rows.shape[0], [params, rows, mx.array([*how, *[0] * 4], dtype=mx.float32)]
    shapes: list[tuple[int, ...]] = [(2 * n, 3), (2 * n, 3), (2 * n,)]
    return _launch(engine, "halve", inputs, _sizes(n, before=before), n, shapes, [mx.float32] * 3)


def _block_sums(engine: Engine, counts: mx.array, n: int) -> mx.array:
    blocks = max(8, -(-n // COUNT_BLOCK))
    return _launch(engine, "block_sums", [counts], _sizes(n), _threads(n), [(blocks,)], [mx.uint64])[0]


def _prefix_sums(engine: Engine, counts: mx.array, n: int) -> mx.array:
    """[at least eight] uint64 inclusive sums of the first `n` counts."""
    inputs: list[mx.array] = [counts, _block_sums(engine, counts, n)]
    shapes: list[tuple[int, ...]] = [(max(8, n),)]
    return _launch(engine, "prefix_sums", inputs, _sizes(n), _threads(n), shapes, [mx.uint64])[0]


def _eight(value: int, dtype: mx.Dtype) -> mx.array:
    return mx.array([value] * 8, dtype=dtype)


def _threads(count: int) -> int:
    """Of the kernels that take COUNT_BLOCK counts a group."""
    return -(-count // COUNT_BLOCK) * KERNELS["block_sums"].threads


@cache
def _table() -> mx.array:
    return on_device(mx.array(draws.table()))


def _words(array: mx.array) -> mx.array:
    """Its bits: MLX compiles a kernel for each type of its arguments anew."""
    if array.dtype.size != 4:
        raise TypeError(f"rows are of numbers of 4 bytes, not of {array.dtype}")
    return array.view(mx.uint32)


def _sizes(n: int, parts: int = 0, before: int = 0) -> mx.array:
    """What these kernels read of it; without Sizes, which a refinement would make for each of its calls."""
    numbers = np.zeros(16, np.int32)
    numbers[0], numbers[13], numbers[14] = n, parts, before
    return mx.array(numbers)


def _launch(
    engine: Engine,
    name: str,
    inputs: list[mx.array],
    sizes: mx.array,
    count: int,
    shapes: list[tuple[int, ...]],
    dtypes: list[mx.Dtype],
    **more: Any,
) -> list[mx.array]:
    """The results of a kernel of `count` threads. No array on its way has fewer than eight elements: see kernels.py."""
    if not count:  # no GPU starts a grid of nothing
        return [mx.zeros(shape, dtype=dtype) for shape, dtype in zip(shapes, dtypes, strict=True)]
    threads = KERNELS[name].threads
    results = engine.kernel(name)(
        inputs=[*map(at_least_eight, inputs), sizes],
        output_shapes=[shape if prod(shape) >= 8 else (8,) for shape in shapes],
        output_dtypes=dtypes,
        grid=(-(-count // threads) * threads, 1, 1),
        threadgroup=(threads, 1, 1),
        **more,
    )
    return [
        result if prod(shape) >= 8 else result[: prod(shape)].reshape(shape)
        for result, shape in zip(results, shapes, strict=True)
    ]
