# SPDX-License-Identifier: Apache-2.0
"""The kernels on NVIDIA's GPUs, through mx.fast.cuda_kernel: the Metal text behind csrc/cuda_shim.h."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx

from . import unavailable
from ._gpu import Engine
from ._gpu_step import Steps
from ._kernels import KernelSpec, body, header
from .python import adam

__all__ = ["adam", "isect_tiles", "photometric_loss", "project", "rasterize", "settle", "train_step"]

if not mx.cuda.is_available():
    raise unavailable("cuda")


def make(spec: KernelSpec) -> Callable[..., list[mx.array]]:
    """MLX's callable for a kernel."""
    inputs, outputs = [a.name for a in spec.inputs], [a.name for a in spec.outputs]
    return mx.fast.cuda_kernel(f"gs_{spec.name}", inputs, outputs, body(spec.name), header(cuda=True))


engine = Engine(make)
project, isect_tiles, rasterize = engine.project, engine.isect_tiles, engine.rasterize
photometric_loss = engine.photometric_loss
_steps = Steps(engine)
train_step, settle = _steps.train_step, _steps.settle
