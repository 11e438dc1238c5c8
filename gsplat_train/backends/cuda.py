# SPDX-License-Identifier: Apache-2.0
"""The kernels on NVIDIA's GPUs: the Metal text behind csrc/cuda_shim.h.

They are compiled by gpu/nvrtc.py; where that does not work, by mx.fast.cuda_kernel. GS_CUDA_KERNELS=mlx asks for
the latter.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache, partial
from typing import Any, cast

import mlx.core as mx

from . import unavailable
from .gpu import nvrtc as _nvrtc
from .gpu import scoring
from .gpu.engine import Engine
from .gpu.kernels import KernelSpec
from .gpu.stepper import GpuStepper
from .gpu.text import body, fingerprint, header
from .python import adam

__all__ = [
    "FUSED_GROUPS", "adam", "deterministic", "isect_tiles", "photometric_loss", "project", "rasterize", "score",
    "show", "stepper",
]  # fmt: skip

if not (hasattr(mx, "cuda") and mx.cuda.is_available()):  # older MLX has no mx.cuda
    raise unavailable("cuda")


OURS = os.environ.get("GS_CUDA_KERNELS") != "mlx"


@cache
def _compiles() -> bool:
    """Whether the kernels can be compiled here."""
    if not OURS:
        return False
    try:
        return bool(_nvrtc.program("scan", ()))
    except (AttributeError, OSError, RuntimeError):
        return False


def make(spec: KernelSpec) -> Callable[..., Any]:
    """MLX's callable for a kernel."""
    if _compiles():
        return _nvrtc.launcher(spec)
    inputs, outputs = [a.name for a in spec.inputs], [a.name for a in spec.outputs]
    # The name changes with the text: MLX before 0.32.1 kept compiled kernels by their names alone.
    name = f"gs_{spec.name}_{fingerprint(spec.name)}"
    kernel = mx.fast.cuda_kernel(name, inputs, outputs, body(spec.name), header(cuda=True))
    return cast(Callable[..., Any], kernel)


if OURS:
    _nvrtc.compile_ahead()
    _nvrtc.reads_files()  # now: kernels are first asked for while MLX traces a step
engine = Engine(make, mx.compile)
project, isect_tiles, rasterize = engine.project, engine.isect_tiles, engine.rasterize
photometric_loss = engine.photometric_loss
score, show = partial(scoring.score, engine), partial(scoring.show, engine)
deterministic = True
FUSED_GROUPS: frozenset[str] = frozenset()


def stepper(state: Any, bounds: Any = None) -> GpuStepper:
    """See Backend.stepper."""
    return GpuStepper(engine, state, bounds)
