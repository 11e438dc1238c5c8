# SPDX-License-Identifier: Apache-2.0
"""The kernels of the GPU backends as texts: each with the types and sizes that it is launched with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any, NamedTuple

import mlx.core as mx

from gsplat_train.backends.gpu import kernels as _kernels
from gsplat_train.backends.gpu import text as _kernel_text

from .mlx_text import Kernel, Template, Text, generate

SMALL = _kernels.Sizes(n=5, rest=15, width=40, height=28, capacity=100)
SMALLEST = _kernels.Sizes(n=0, rest=0, width=1, height=1, capacity=0)


class Launch(NamedTuple):
    """What a call hands over with a kernel."""

    kernel: Kernel
    inputs: Sequence[mx.array]
    output_dtypes: Sequence[Any]
    template: Template

    @property
    def text(self) -> Text:
        return generate(self.kernel, self.inputs, self.output_dtypes, self.template)


def launches(name: str, sizes: _kernels.Sizes = SMALL) -> Iterator[Launch]:
    """Kernel `name` with each combination of its template's values, inputs of zeros."""
    spec = _kernels.KERNELS[name]
    kernel = Kernel(
        name,
        tuple(array.name for array in spec.inputs),
        tuple(array.name for array in spec.outputs),
        _kernel_text.body(name),
        _kernel_text.header(cuda=False),
    )
    inputs = [mx.zeros((array.count(sizes.names),), getattr(mx, array.dtype)) for array in spec.inputs]
    for values in product([False, True], repeat=len(spec.template)):
        call = _kernels.arguments(name, sizes, values)
        yield Launch(kernel, inputs, call["output_dtypes"], call.get("template", ()))
