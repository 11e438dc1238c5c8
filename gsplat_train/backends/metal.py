# SPDX-License-Identifier: Apache-2.0
"""The kernels on Apple silicon, through mx.fast.metal_kernel."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import mlx.core as mx

from . import unavailable
from .gpu import scoring
from .gpu.engine import Engine
from .gpu.kernels import KernelSpec
from .gpu.stepper import GpuStepper
from .gpu.text import body, header
from .python import adam

__all__ = [
    "FUSED_GROUPS", "adam", "deterministic", "isect_tiles", "photometric_loss", "project", "rasterize", "score",
    "show", "stepper",
]  # fmt: skip

if not mx.metal.is_available():
    raise unavailable("metal")


def make(spec: KernelSpec) -> Callable[..., Any]:
    """MLX's callable for a kernel."""
    inputs, outputs = [a.name for a in spec.inputs], [a.name for a in spec.outputs]
    kernel = mx.fast.metal_kernel(
        f"gs_{spec.name}",
        inputs,
        outputs,
        body(spec.name),
        header(cuda=False),
        compile_options={"math_mode": spec.math_mode},
    )
    return cast(Callable[..., Any], kernel)


engine = Engine(make, mx.compile)
project, isect_tiles, rasterize = engine.project, engine.isect_tiles, engine.rasterize
photometric_loss = engine.photometric_loss
score, show = partial(scoring.score, engine), partial(scoring.show, engine)
deterministic = True
FUSED_GROUPS: frozenset[str] = frozenset()


def stepper(state: Any, bounds: Any = None) -> GpuStepper:
    """See Backend.stepper."""
    return GpuStepper(engine, state, bounds)
