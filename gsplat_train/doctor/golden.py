# SPDX-License-Identifier: Apache-2.0
"""A backend beside the golden scenes: a few splats whose picture, loss and gradients a float64 renderer computed that
shares no code with this program (scripts/make_doctor.py). All stages take part: project, tiles, rasterize, loss,
and back.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import mlx.core as mx
import numpy as np

from ..backends import Backend
from ..model.gaussians import Gaussians
from . import Finding

CASES = ("mixed", "antialiased", "opaque")
# float32 against float64. A pixel: 2e-4, but for one where rounding decides whether a splat of 1/255 counts.
IMAGE, EDGE = 2e-4, 5e-3
LOSS = 1e-5  # relative
# Relative, in 2-norms: 1e-4 on their own; splats that hide each other multiply the rounding.
GRADIENT = 1e-3


def compare(backend: Backend, case: str) -> Finding:
    """How far the backend is from the golden scene `case`."""
    with np.load(str(files(__package__) / f"golden_{case}.npz")) as stored:
        golden = dict(stored)
    try:
        found = numbers(backend, golden)
    except Exception as error:  # whatever a driver or a compiler raises
        return Finding(
            f"golden scene {case}", f"{type(error).__name__}: {' '.join(str(error).split())[:200]}", False
        )
    wrong = list(_wrong(found, golden))
    if wrong:
        return Finding(f"golden scene {case}", "; ".join(wrong), False)
    worst = max(relative(found[name], golden[name]) for name in golden if name.startswith("grad_"))
    off = float(np.abs(found["image"] - golden["image"]).max())
    return Finding(f"golden scene {case}", f"picture within {off:.0e}, gradients within {worst:.0e}", True)


def numbers(backend: Backend, golden: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The picture, the loss and the gradients, under the names that the golden scene has."""
    gaussians = Gaussians(**{name: mx.array(golden[name].astype(np.float32)) for name in Gaussians._fields})
    height, width, _ = golden["image"].shape
    background = mx.array(golden["background"].astype(np.float32))
    target = mx.array(golden["photo"])

    def loss_of(gaussians: Gaussians) -> tuple[mx.array, mx.array]:
        projected = backend.project(
            gaussians, golden["viewmat"], golden["K"], width, height,
            sh_degree=int(golden["sh_degree"]), antialiased=bool(golden["antialiased"]),
        )  # fmt: skip
        tiles = backend.isect_tiles(projected, width, height)
        image, _ = backend.rasterize(projected, tiles, background, width, height)
        return backend.photometric_loss(image, target, float(golden["ssim_lambda"]))[0], image

    (loss, image), gradients = mx.value_and_grad(loss_of)(gaussians)
    mx.eval(loss, image, gradients)
    named: Any = {"loss": loss, "image": image} | {f"grad_{k}": v for k, v in gradients._asdict().items()}
    return {name: np.asarray(array, np.float64) for name, array in named.items()}


def relative(found: np.ndarray, wanted: np.ndarray) -> float:
    """||found - wanted|| / ||wanted||; infinity where a number is not finite."""
    error = float(np.linalg.norm(found - wanted) / (np.linalg.norm(wanted) or 1.0))
    return error if np.isfinite(error) else float("inf")


def _wrong(found: Mapping[str, np.ndarray], golden: Mapping[str, np.ndarray]) -> Any:
    """What is out of tolerance, in words."""
    error = np.abs(found["image"] - golden["image"]).max(axis=2)
    beyond = int((~(error <= IMAGE)).sum())
    if beyond > 1 or not error.max() <= EDGE:
        yield f"{beyond} pixels of the picture are wrong, by up to {error.max():.1e}"
    if not abs(found["loss"] - golden["loss"]) <= LOSS * golden["loss"]:
        yield f"the loss is {float(found['loss']):.6f}, not {float(golden['loss']):.6f}"
    for name in Gaussians._fields:
        off = relative(found[f"grad_{name}"], golden[f"grad_{name}"])
        if not off <= GRADIENT:
            yield f"the gradient of {name} is off by {off:.1e} of its size"
