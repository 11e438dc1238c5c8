# SPDX-License-Identifier: Apache-2.0
"""A 3D Gaussian Splatting trainer on MLX.

The public names are below; they load on first use, so that importing is fast.
"""

import os
import time
import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .datasets import load_scene, open_scene
    from .errors import Interrupted, UserError
    from .model.gaussians import Gaussians
    from .model.io import load_model
    from .renderer import render
    from .scene import Camera, Scene, View
    from .training.api import train
    from .training.callbacks import Callback

# When this program began, by time.monotonic(). Python does not say when it was started; until here it has computed
# and hardly waited. The age of the process says less: a shell may have become this program by exec, after other work.
BEGAN = time.monotonic() - time.process_time()

# Where the hardware can (NVIDIA, Apple from M5 on), MLX rounds the factors of float32 products of matrices to
# TF32's ten bits, unless told otherwise before the first one.
os.environ.setdefault("MLX_ENABLE_TF32", "0")

# What pillow warns of (odd EXIF, palettes, large photos) is told in this program's own words, or is no matter. Said
# once for the process, because `warnings.catch_warnings` is not for threads.
warnings.filterwarnings("ignore", module=r"PIL(\.|$)")

__version__ = "0.1.0"
__all__ = [
    "Callback",
    "Camera",
    "Gaussians",
    "Interrupted",
    "Scene",
    "UserError",
    "View",
    "load_model",
    "load_scene",
    "open_scene",
    "render",
    "train",
]

_HOMES = {
    "Callback": "training.callbacks",
    "Camera": "scene",
    "Gaussians": "model.gaussians",
    "Interrupted": "errors",
    "Scene": "scene",
    "UserError": "errors",
    "View": "scene",
    "load_model": "model.io",
    "load_scene": "datasets",
    "open_scene": "datasets",
    "train": "training.api",
    "render": "renderer",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value
