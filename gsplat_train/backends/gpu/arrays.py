# SPDX-License-Identifier: Apache-2.0
"""Rows of arrays of MLX by their numbers. MLX on CUDA compiles its own kernels for `a[rows]` when they are first used,
3 s for each type of numbers; the kernels `take` and `put` are there at the start. They only carry words of 32 bits, so
arrays of any such type are handed to them as they are.
"""

from __future__ import annotations

from functools import partial
from math import prod
from types import SimpleNamespace
from typing import Any

import mlx.core as mx

from .engine import Engine, at_least_eight
from .kernels import KERNELS


def module(engine: Engine) -> Any:
    """mlx.core with `rows_of` and `with_rows` beside: see training.draws."""
    return SimpleNamespace(**vars(mx), rows_of=partial(rows_of, engine), with_rows=partial(with_rows, engine))


def rows_of(engine: Engine, array: mx.array, rows: mx.array) -> mx.array:
    """array[rows], [n, ...]. array [B, ...] of 4 bytes a number, rows [n] int32."""
    if not rows.shape[0]:
        return array[:0]
    return _launch(engine, "take", (rows.shape[0], *array.shape[1:]), array, rows)


def with_rows(
    engine: Engine, array: mx.array, rows: mx.array, values: Any, order: mx.array | None = None
) -> mx.array:
    """[B, ...] `array` with `values`, [n, ...] or one number, in the rows [n] int32. They rise, and the i-th of them
    has row order[i] of the values; one that is there twice has the same values twice.
    """
    n = rows.shape[0]
    if not n or not array.size:
        return array
    if order is None:
        order = mx.arange(n, dtype=mx.uint32)
    shape = (n, *array.shape[1:])
    if not isinstance(values, mx.array):
        values = mx.full(shape, values, dtype=array.dtype)
    return _launch(engine, "put", array.shape, array, rows, order, values.reshape(shape))


def _launch(
    engine: Engine, name: str, shape: tuple[int, ...], array: mx.array, rows: mx.array, *more: mx.array
) -> mx.array:
    """The result [shape] of `take` or `put`; without Sizes, which a refinement would make for each of its calls."""
    if array.dtype.size != 4:
        raise TypeError(f"rows are of numbers of 4 bytes, not of {array.dtype}")
    n, before, width = rows.shape[0], array.shape[0], prod(array.shape[1:])
    size, threads = prod(shape), KERNELS[name].threads
    sizes = mx.array([n, *[0] * 12, width, before, 0], dtype=mx.int32)
    (result,) = engine.kernel(name)(
        inputs=[*map(at_least_eight, (array, rows, *more)), sizes],
        output_shapes=[shape if size >= 8 else (8,)],
        output_dtypes=[array.dtype],
        grid=(-(-size // threads) * threads, 1, 1),
        threadgroup=(threads, 1, 1),
    )
    return result if size >= 8 else result[:size].reshape(shape)
