# SPDX-License-Identifier: Apache-2.0
"""A 3D Gaussian Splatting trainer on MLX.

The public names are below; they load on first use, so that importing is fast.
"""

import os
import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .datasets import load_scene
    from .evaluate import load_model
    from .gaussians import Gaussians
    from .render import render
    from .scene import Camera, Scene

# Where the hardware can (NVIDIA, Apple from M5 on), MLX rounds the factors of float32 products of matrices to
# TF32's ten bits, unless told otherwise before the first one.
os.environ.setdefault("MLX_ENABLE_TF32", "0")

__version__ = "0.1.0"
__all__ = ["Camera", "Gaussians", "Scene", "load_model", "load_scene", "render"]

_HOMES = {
    "Camera": "scene",
    "Gaussians": "gaussians",
    "Scene": "scene",
    "load_model": "evaluate",
    "load_scene": "datasets",
    "render": "render",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


class _Package(ModuleType):
    """Importing the submodule `render` would bind that name to the module; it stays the function."""

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(
            name, value.render if name == "render" and isinstance(value, ModuleType) else value
        )


sys.modules[__name__].__class__ = _Package
