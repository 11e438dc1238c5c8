# SPDX-License-Identifier: Apache-2.0
"""The Metal backend on the emulation: every stage and the whole training step, each access checked."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace

import mlx.core as mx

from gsplat_train.backends import python
from gsplat_train.backends.gpu import scoring
from gsplat_train.backends.gpu.engine import Engine
from gsplat_train.backends.gpu.kernels import KernelSpec
from gsplat_train.backends.gpu.stepper import GpuStepper
from gsplat_train.backends.gpu.text import body, header

from .launcher import ORDERS, Launcher
from .mlx_text import Kernel

FIRST_CAPACITY = 4096  # intersections; tests are small, and memory that nobody needs takes time to watch


def backend(order: str = ORDERS[0], change: Callable[[Kernel], Kernel] | None = None) -> SimpleNamespace:
    """A backend of its own; `launcher` is what runs its kernels, `engine` knows its capacities."""
    launcher = Launcher(order, change)

    def make(spec: KernelSpec) -> Callable[..., list[mx.array]]:
        inputs, outputs = [array.name for array in spec.inputs], [array.name for array in spec.outputs]
        return launcher.metal_kernel(spec.name, inputs, outputs, body(spec.name), header(cuda=False))

    engine = Engine(make)
    engine.first_capacity = FIRST_CAPACITY
    return SimpleNamespace(
        FUSED_GROUPS=frozenset(),
        launcher=launcher,
        engine=engine,
        project=engine.project,
        isect_tiles=engine.isect_tiles,
        rasterize=engine.rasterize,
        photometric_loss=engine.photometric_loss,
        score=partial(scoring.score, engine),
        show=partial(scoring.show, engine),
        adam=python.adam,
        stepper=partial(GpuStepper, engine),
    )
