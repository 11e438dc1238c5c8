# SPDX-License-Identifier: Apache-2.0
"""mx.fast.metal_kernel once more: the same arguments, the same arrays back, run thread by thread on the CPU.

Bind the GPU backend to a Launcher's `metal_kernel`, and all of it runs on a machine without a GPU, checked.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from . import compiler
from .mlx_text import Argument, Kernel, Template, generate

ORDERS = ("first to last", "last to first")  # of the threads, the SIMD groups and the threadgroups
GARBAGE = 0xFF  # what memory holds that nobody has written: NaN as a float, -1 as an int


class KernelError(Exception):
    """A kernel did what it must not; the message names kernel, thread, buffer and line."""


class _Buffer(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("data", ctypes.c_void_p),
        ("bytes", ctypes.c_ulong),
        ("granule", ctypes.c_ulong),
        ("writable", ctypes.c_int),
        ("filled", ctypes.c_int),
    )


class Launcher:
    """Runs kernels in one order of threads. `change` may alter one first: to show that a fault is noticed."""

    def __init__(self, order: str = ORDERS[0], change: Callable[[Kernel], Kernel] | None = None) -> None:
        self.order = ORDERS.index(order)
        self.change = change
        self.launched: dict[str, int] = {}  # how often each kernel ran

    def metal_kernel(
        self,
        name: str,
        input_names: Sequence[str],
        output_names: Sequence[str],
        source: str,
        header: str = "",
        ensure_row_contiguous: bool = True,
        atomic_outputs: bool = False,
        compile_options: object = None,
    ) -> Callable[..., list[mx.array]]:
        """As mx.fast.metal_kernel."""
        kernel = Kernel(name, tuple(input_names), tuple(output_names), source, header, atomic_outputs)
        if self.change:
            kernel = self.change(kernel)

        def launch(
            *,
            inputs: Sequence[Any],
            output_shapes: Sequence[Sequence[int]],
            output_dtypes: Sequence[Any],
            grid: tuple[int, int, int],
            threadgroup: tuple[int, int, int],
            template: Template | None = None,
            init_value: float | None = None,
            verbose: bool = False,
            stream: object = None,
        ) -> list[mx.array]:
            self.launched[name] = self.launched.get(name, 0) + 1
            arrays = [x if isinstance(x, mx.array) else mx.array(x) for x in inputs]
            return self._run(
                kernel, arrays, output_shapes, output_dtypes, grid, threadgroup, template or (), init_value
            )

        return launch

    def _run(
        self,
        kernel: Kernel,
        inputs: Sequence[mx.array],
        output_shapes: Sequence[Sequence[int]],
        output_dtypes: Sequence[Any],
        grid: tuple[int, int, int],
        threadgroup: tuple[int, int, int],
        template: Template,
        init_value: float | None,
    ) -> list[mx.array]:
        if not all(grid):  # CUDA refuses it
            raise KernelError(f"{kernel.name}: no threads")
        text = generate(kernel, inputs, output_dtypes, template)
        args = [np.asarray(x if x.size else mx.zeros(x.shape, x.dtype)) for x in map(mx.contiguous, inputs)]
        outputs = [_empty(s, d, init_value) for s, d in zip(output_shapes, output_dtypes, strict=True)]
        keep = [_value(argument, args, outputs) for argument in compiler.buffers_of(text)]
        buffers = (_Buffer * len(keep))()
        for slot, argument, array in zip(buffers, compiler.buffers_of(text), keep, strict=True):
            writable = argument.source == "output" or _written_in_place(kernel, argument)
            slot.name, slot.data = argument.name.encode(), array.ctypes.data
            slot.bytes, slot.granule = array.nbytes, array.itemsize
            slot.writable, slot.filled = writable, argument.source != "output" or init_value is not None
        threads = [min(t, g) for t, g in zip(threadgroup, grid, strict=True)]  # as MLX dispatches
        reason = ctypes.create_string_buffer(1000)
        three = ctypes.c_uint32 * 3
        failed = compiler.runtime().gs_run(
            compiler.library(text).gs_entry,
            buffers,
            len(keep),
            three(*grid),
            three(*threads),
            self.order,
            reason,
            len(reason),
        )
        if failed:
            raise KernelError(f"{kernel.name}: {reason.value.decode()}")
        return [mx.array(array) for array in outputs]


def _written_in_place(kernel: Kernel, argument: Argument) -> bool:
    """Whether the text makes a pointer to write with out of this input. MLX passes inputs as const."""
    cast = rf"\(\s*(volatile\s+)?device\s+[\w<>]+\s*\*\s*\)\s*{argument.name}\b"
    return argument.source == "input" and re.search(cast, kernel.source) is not None


def _empty(shape: Sequence[int], dtype: mx.Dtype, init_value: float | None) -> np.ndarray:
    array = np.asarray(mx.zeros(tuple(shape), dtype)).copy()
    if init_value is None:
        array.reshape(-1).view(np.uint8)[...] = GARBAGE
    else:
        array[...] = init_value
    return array


def _value(argument: Argument, inputs: list[np.ndarray], outputs: list[np.ndarray]) -> np.ndarray:
    """What the argument points at."""
    if argument.source == "output":
        return outputs[argument.index]
    array = inputs[argument.index]
    if argument.source == "input":
        return array
    strides = [s // array.itemsize for s in array.strides]
    values = {"shape": array.shape, "strides": strides, "ndim": [array.ndim]}[argument.source]
    return np.array(values, np.int64 if argument.source == "strides" else np.int32)
