# SPDX-License-Identifier: Apache-2.0
"""One step: render a view, compare it with its photo, differentiate, move the Gaussians.

`train_step` is the whole step in terms of a backend's stages. A backend may bring a fused `train_step` of the
same arguments (less `backend`), which then serves instead; a test holds the two together.

    minimised: (1 - lambda) L1 + lambda (1 - SSIM) + opacity_reg mean(opacities) + scale_reg mean(scales)
"""

from __future__ import annotations

from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from ..backends import Backend
from ..model.gaussians import Gaussians
from ..renderer import render
from ..scene import View
from .optimizer import TrainState, rows
from .strategies import GradStats, rotate


class StepResult(NamedTuple):
    """What a step measured before it moved anything. A loss that is not finite: nothing was moved."""

    loss: float  # (1 - lambda) L1 + lambda (1 - SSIM): without the regularizers
    l1: float
    ssim: float


class Regularizers(NamedTuple):
    """Weights of what is added to the loss (3DGS-MCMC: 0.01 each)."""

    opacity: float  # times mean(opacities)
    scale: float  # times mean(scales)


class Noise(NamedTuple):
    """MCMC's exploration noise, added to the means after Adam."""

    scale: float  # noise_lr times the means' learning rate; 0: none
    seed: int


def train_step(
    backend: Backend,
    state: TrainState,
    view: View,
    *,
    lrs: dict[str, float],
    sh_degree: int,
    ssim_lambda: float,
    background: np.ndarray,
    antialiased: bool,
    regularizers: Regularizers,
    noise: Noise,
    stats: GradStats | None,
    absgrad: bool,
) -> StepResult:
    """Takes `state` one step on; adds to `stats` in place. background [3]; `lrs`: a rate for each group.

    Where the loss is not finite the loss returned is NaN, `state` and `stats` stay as they were. Where a
    gradient is not, the loss is NaN too and `state.step` stays; on `cpp` the Gaussians with finite gradients
    have moved by then.
    """
    settings: dict[str, Any] = {
        "lrs": lrs,
        "sh_degree": sh_degree,
        "ssim_lambda": ssim_lambda,
        "background": background,
        "antialiased": antialiased,
        "regularizers": regularizers,
        "noise": noise,
        "stats": stats,
        "absgrad": absgrad,
    }
    fused = getattr(backend, "train_step", None)
    if fused and view.mask is None:  # the fused ones know no mask
        return StepResult(*fused(state, view, **settings))
    return generic_step(backend, state, view, **settings)


def generic_step(
    backend: Backend,
    state: TrainState,
    view: View,
    *,
    lrs: dict[str, float],
    sh_degree: int,
    ssim_lambda: float,
    background: np.ndarray,
    antialiased: bool,
    regularizers: Regularizers,
    noise: Noise,
    stats: GradStats | None,
    absgrad: bool,
) -> StepResult:
    """`train_step` out of the backend's stages and mx.value_and_grad."""
    assert view.image is not None, f"{view.name} has no photo"
    target = mx.array(view.image)
    mask = None if view.mask is None else mx.array(view.mask)

    def loss_of(gaussians: Gaussians, means2d_probe: mx.array, absgrad_probe: mx.array) -> tuple:
        out = render(
            gaussians, view.camera, backend, sh_degree, mx.array(background), antialiased,
            means2d_probe=means2d_probe, absgrad_probe=absgrad_probe if absgrad else None,
        )  # fmt: skip
        loss, l1, ssim = backend.photometric_loss(out.image, target, ssim_lambda, mask)
        total = loss + regularizers.opacity * gaussians.opacities.mean()
        total = total + regularizers.scale * gaussians.scales.mean()
        return total, loss, l1, ssim, out.projected.radii

    probe = mx.zeros((state.n_splats, 2))
    (total, loss, l1, ssim, radii), (gradients, v_means2d, v_absgrad) = mx.value_and_grad(
        loss_of, argnums=(0, 1, 2)
    )(state.gaussians, probe, probe)
    finite = mx.isfinite(total) & mx.stack([mx.isfinite(leaf).all() for leaf in gradients]).all()
    mx.eval(loss, l1, ssim, radii, gradients, v_means2d, v_absgrad, finite)
    if not finite.item():
        return StepResult(float("nan"), l1.item(), ssim.item())

    if stats is not None:
        visible = (np.asarray(radii) > 0).all(axis=1)
        half = np.array([view.camera.width / 2, view.camera.height / 2], np.float32)
        stats.means2d_norm[visible] += np.linalg.norm(np.asarray(v_means2d)[visible] * half, axis=1)
        stats.absgrad_norm[visible] += np.linalg.norm(np.asarray(v_absgrad)[visible] * half, axis=1)
        stats.count += visible
    state.step += 1
    state.gaussians, state.m, state.v = backend.adam(
        state.gaussians, gradients, state.m, state.v, lrs, state.step
    )
    mx.eval(state.gaussians, state.m, state.v)
    if noise.scale:
        add_noise(state, noise)
    return StepResult(loss.item(), l1.item(), ssim.item())


def add_noise(state: TrainState, noise: Noise) -> None:
    """means += R diag(s^2) R^T n sigmoid(-100 (opacity - 0.005)) scale, n from `normals` (3DGS-MCMC, equation
    8).
    """
    views = rows(state.gaussians)
    gate = 0.5 - 0.5 * np.tanh(50 * (np.asarray(state.gaussians.opacities) - 0.005))  # the sigmoid
    pull = normals(state.n_splats, noise.seed, state.step) * (gate * noise.scale)[:, None]
    inverse = views["quats"] * np.array([1, -1, -1, -1], np.float32)
    along = rotate(inverse, pull) * np.exp(2 * views["log_scales"])
    views["means"] += rotate(views["quats"], along)


def normals(n: int, seed: int, step: int) -> np.ndarray:
    """[n, 3] float32 standard normals that depend on seed, step and index alone, so that resuming needs no
    state.

    Box and Muller's transform of two uniforms, each the counter (index, step, seed, j) through the integer
    hash lowbias32.
    """
    index = np.arange(3 * n, dtype=np.uint32).reshape(n, 3)
    u1, u2 = (_uniforms(index, seed, step, j) for j in (0, 1))
    return (np.sqrt(-2 * np.log(u1)) * np.cos(2 * np.pi * u2)).astype(np.float32)


def _uniforms(index: np.ndarray, seed: int, step: int, j: int) -> Any:
    constant = (step * 0x85EBCA77 + seed * 0xC2B2AE3D + j * 0x27D4EB2F) & 0xFFFFFFFF
    x: Any = index * np.uint32(0x9E3779B1) + np.uint32(constant)
    x = (x ^ (x >> 16)) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * np.uint32(0x846CA68B)
    x ^= x >> 16
    return ((x >> 8) + 0.5) / 2**24
