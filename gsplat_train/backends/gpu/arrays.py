# SPDX-License-Identifier: Apache-2.0
"""Rows of arrays of MLX by their numbers. MLX on CUDA compiles its own kernels for `a[rows]` when they are first used,
3 s for each type of numbers; the kernels `take` and `put` know words of 32 bits alone and are there at the start.
"""

from __future__ import annotations

from functools import partial
from math import prod
from types import SimpleNamespace
from typing import Any

import mlx.core as mx

from .engine import Engine, at_least_eight, size_numbers
from .kernels import Sizes


def module(engine: Engine) -> Any:
    """mlx.core with `rows_of` and `with_rows` beside: see training.draws."""
    return SimpleNamespace(**vars(mx), rows_of=partial(rows_of, engine), with_rows=partial(with_rows, engine))


def rows_of(engine: Engine, array: mx.array, rows: mx.array) -> mx.array:
    """array[rows], [n, ...]. array [B, ...] of 4 bytes a number, rows [n] int32."""
    n, width = rows.shape[0], prod(array.shape[1:])
    if not n:
        return array[:0]
    inputs = [_words(array), at_least_eight(rows)]
    (taken,) = engine.run("take", *_call(inputs, n, len(array), width))
    return taken[: n * width].view(array.dtype).reshape(n, *array.shape[1:])


def with_rows(
    engine: Engine, array: mx.array, rows: mx.array, values: Any, order: mx.array | None = None
) -> mx.array:
    """[B, ...] `array` with `values`, [n, ...] or one number, in the rows [n] int32. They rise, or rise as rows[order];
    one that is there twice has the same values twice.
    """
    n, width = rows.shape[0], prod(array.shape[1:])
    if not n or not array.size:
        return array
    if order is None:
        order = mx.arange(n, dtype=mx.uint32)
    values = values if isinstance(values, mx.array) else mx.array(values, dtype=array.dtype)
    values = mx.broadcast_to(values.astype(array.dtype), (n, *array.shape[1:]))
    inputs = [_words(array), at_least_eight(rows), at_least_eight(order), _words(values)]
    (new,) = engine.run("put", *_call(inputs, n, len(array), width))
    return new[: array.size].view(array.dtype).reshape(array.shape)


def _words(array: mx.array) -> mx.array:
    """Its numbers as the kernels have them."""
    if array.dtype.size != 4:
        raise TypeError(f"rows are of numbers of 4 bytes, not of {array.dtype}")
    return at_least_eight(array.reshape(-1).view(mx.uint32))


def _call(inputs: list[mx.array], n: int, before: int, width: int) -> tuple[Sizes, list[mx.array]]:
    sizes = Sizes(n, 0, 16, 16, 8, parts=width, before=before)
    return sizes, [*inputs, size_numbers(sizes)]
