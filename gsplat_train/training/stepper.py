# SPDX-License-Identifier: Apache-2.0
"""Who takes the steps of a run. A backend makes a `Stepper` for a state and an objective that it can fuse;
otherwise `GenericStepper` serves, out of the backend's stages: slower, and equal.

What a stepper promises is in protocol.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import mlx.core as mx
import numpy as np

from ..backends import Backend
from ..backends.python import adam as scaled_adam
from ..model.gaussians import Gaussians
from ..model.quaternions import rotate
from ..renderer import render
from ..scene import Photo, View
from .crew import ALONE, in_order
from .draws import NOISE, Key, hashed
from .objective import Objective, Seen
from .plan import NAMES, Statistics, StepPlan
from .protocol import Bounds, Stepper, StepResult
from .rows import SUMS, HostPopulation, Population, TrainState, rows, zero_sums

T = TypeVar("T")


def make_stepper(
    backend: Backend, state: TrainState, objective: Objective, bounds: Bounds | None = None
) -> Stepper:
    """The backend's own stepper where it fuses this objective, otherwise the generic one."""
    groups = objective.groups if objective.is_fused_by(backend) else {}
    fused: Stepper | None = (
        backend.stepper(state, bounds, groups) if groups else backend.stepper(state, bounds)
    )
    if fused is not None and objective.is_fused_by(backend):
        return fused
    return GenericStepper(backend, state, objective)


class GenericStepper:
    """Steps out of a backend's stages and mx.value_and_grad."""

    def __init__(self, backend: Backend, state: TrainState, objective: Objective | None = None) -> None:
        self.backend, self.state = backend, state
        self.objective = objective or Objective()
        self.crew = ALONE
        self.last = StepResult(math.nan, math.nan, math.nan)

    @property
    def step(self) -> int:
        return self.state.step

    @property
    def n_splats(self) -> int:
        return self.state.n_splats

    def has_photo(self, key: tuple[int, int]) -> bool:
        """See Stepper.has_photo."""
        return False

    def result(self) -> StepResult:
        """See Stepper.result."""
        return self.last

    def look(self) -> TrainState:
        """See Stepper.look."""
        return self.state

    def refine(self, change: Callable[[Population], T]) -> T:
        """See Stepper.refine."""
        return change(HostPopulation(self.state))

    def take(self, view: View, plan: StepPlan, *more: View) -> StepResult:
        """See Stepper.take."""
        self.last = (
            self._step_over((view, *more), plan) if more or not self.crew.fuses else self._step(view, plan)
        )
        return self.last

    def _step(self, view: View, plan: StepPlan) -> StepResult:
        """A step on one view."""
        result, leaves, seen = self._gradients(view, plan)
        if not result.is_finite:
            return result
        if plan.statistics is not Statistics.NONE:
            self._count(*_counted(view, *seen))
        self._move(leaves, plan)
        return result

    def _step_over(self, views: tuple[View, ...], plan: StepPlan) -> StepResult:
        """A step on several: their gradients are added in order, whoever made them, and divided by their number."""
        state, groups = self.state, self.objective.groups.values()
        shapes = [*(leaf.shape for leaf in state.gaussians), *(group.values.shape for group in groups)]
        counts = [3, *(math.prod(shape) for shape in shapes)]
        if plan.statistics is not Statistics.NONE:
            counts += [state.n_splats] * len(SUMS)
        rows = np.zeros((self.crew.each if self.crew.size > 1 else len(views), sum(counts)), np.float32)
        for row, view in zip(rows, self.crew.own(views), strict=False):
            result, leaves, seen = self._gradients(view, plan)
            parts = [np.array(result[:3], np.float32), *map(np.asarray, leaves)]
            if plan.statistics is not Statistics.NONE:
                parts += _counted(view, *seen)
            row[:] = np.concatenate([part.reshape(-1) for part in parts])
        rows = self.crew.gather(rows)[: len(views)]
        parts = np.split(in_order(rows), np.cumsum(counts[:-1]))
        result = StepResult(*(parts[0] / np.float32(len(views))).tolist())
        if not result.is_finite:
            return result
        shares = zip(parts[1 : 1 + len(shapes)], shapes, strict=True)
        if plan.statistics is not Statistics.NONE:
            self._count(*parts[-len(SUMS) :])
        self._move([mx.array(leaf.reshape(shape) / np.float32(len(views))) for leaf, shape in shares], plan)
        return result

    def _gradients(
        self, view: View, plan: StepPlan
    ) -> tuple[StepResult, list[mx.array], tuple[mx.array, ...]]:
        """Of a view: what it measured (NaN where a gradient is not finite), the gradients of the leaves and of the
        groups, and (radii, gradients of the means on the screen, absolute ones).
        """
        state, photo = self.state, view.pixels
        target = _target(photo, plan.background)
        mask = None if photo.mask is None else mx.array(photo.mask)
        groups, camera = self.objective.groups, self.objective.camera(view)

        def loss_of(gaussians: Gaussians, probes: list[mx.array], values: dict[str, mx.array]) -> tuple:
            absgrad = probes[1] if plan.statistics is Statistics.ABSGRADIENTS else None
            out = render(
                gaussians, camera, self.backend, plan.sh_degree, plan.background, plan.antialiased,
                means2d_probe=probes[0], absgrad_probe=absgrad,
            )  # fmt: skip
            for name, group in groups.items():
                if (behind := group.behind(values[name], view, camera)) is not None:
                    out = out._replace(image=out.image + (1 - out.alpha) * behind)
                shown = group.image(values[name], view, out.image)
                if (
                    photo.matte is not None
                ):  # what shines through is the step's background, and not the scene's
                    ground = mx.array(plan.background).reshape(1, 1, 3)
                    shown -= (1 - out.alpha) * (group.image(values[name], view, ground) - ground)
                out = out._replace(image=group.beside(shown, mx.array(photo.image)))
            seen = Seen(gaussians, out, view, photo, plan)
            total, parts = self.objective.loss(self.backend, seen, mask, target)
            return total, parts, out.projected.radii

        probe = mx.zeros((state.n_splats, 2))
        values = {name: mx.array(group.values) for name, group in groups.items()}
        (total, (loss, l1, ssim), radii), gradients = mx.value_and_grad(loss_of, argnums=(0, 1, 2))(
            state.gaussians, [probe, probe], values
        )
        moves, (v_means2d, v_absgrad), v_groups = gradients
        for name, group in groups.items():
            rows = group.from_splats(view, state.gaussians, moves, camera, plan.sh_degree)
            v_groups[name] = v_groups[name] if rows is None else rows
        leaves = [*moves, *v_groups.values()]
        finite = mx.isfinite(total) & mx.stack([mx.isfinite(leaf).all() for leaf in leaves]).all()
        mx.eval(loss, l1, ssim, radii, leaves, v_means2d, v_absgrad, finite)
        measured = loss.item() if finite.item() else math.nan
        return StepResult(measured, l1.item(), ssim.item()), leaves, (radii, v_means2d, v_absgrad)

    def _move(self, leaves: list[mx.array], plan: StepPlan) -> None:
        """Adam's step and the noise, on the gradients of the leaves and of the groups."""
        state, views = self.state, plan.views
        state.step += views
        rates = dict(zip(NAMES, plan.rates, strict=True))
        moves = Gaussians(*leaves[: len(NAMES)])
        adam = self.backend.adam if views == 1 else partial(scaled_adam, views=views)
        state.gaussians, state.m, state.v = adam(state.gaussians, moves, state.m, state.v, rates, state.step)
        mx.eval(state.gaussians, state.m, state.v)
        if plan.noise:
            add_noise(state, plan.noise, plan.seed)
        for (name, group), gradient in zip(self.objective.groups.items(), leaves[len(NAMES) :], strict=True):
            group.step(np.asarray(gradient), plan.group_rates[name], state.step, views)

    def _count(self, *added: np.ndarray) -> None:
        """Adds to the sums."""
        sums = self.state.sums = self.state.sums or zero_sums(self.state.n_splats)
        for name, array in zip(SUMS, added, strict=True):
            sums[name] += array


def _counted(view: View, radii: mx.array, v_means2d: mx.array, v_absgrad: mx.array) -> list[np.ndarray]:
    """What a view adds to each of SUMS, [N]: nothing for the Gaussians that it does not show."""
    visible = (np.asarray(radii) > 0).all(axis=1)
    half = np.array([view.camera.width / 2, view.camera.height / 2], np.float32)
    counted = np.zeros((len(SUMS), radii.shape[0]), np.float32)
    for array, v in zip(counted, (v_means2d, v_absgrad), strict=False):
        array[visible] = np.linalg.norm(np.asarray(v)[visible] * half, axis=1)
    counted[-1] = visible
    return list(counted)


def _target(photo: Photo, background: tuple[float, float, float]) -> mx.array:
    """What the render shall be: the photo over the render's own background; uint8 where that makes no difference."""
    plain = photo.matte is None or not any(background)
    return mx.array(photo.image if plain else photo.over(background))


# The noise, Adam and the sums stand here in NumPy and MLX, in csrc/cpu/update.h and in csrc/kernels/update.metal:
# that is the price of fusion. tests/test_train_step.py and tests/test_gpu.py hold the three together.


def add_noise(state: TrainState, scale: float, seed: int) -> None:
    """means += R diag(s^2) R^T n sigmoid(-100 (opacity - 0.005)) scale, n from `normals` (3DGS-MCMC, equation
    8).
    """
    views = rows(state.gaussians)
    gate = 0.5 - 0.5 * np.tanh(50 * (np.asarray(state.gaussians.opacities) - 0.005))  # the sigmoid
    pull = normals(state.n_splats, seed, state.step) * (gate * scale)[:, None]
    inverse = views["quats"] * np.array([1, -1, -1, -1], np.float32)
    along = rotate(inverse, pull) * np.exp(2 * views["log_scales"])
    views["means"] += rotate(views["quats"], along)


def normals(n: int, seed: int, step: int) -> np.ndarray:
    """[n, 3] float32 standard normals that depend on seed, step and index alone, so that resuming needs no
    state; the two uniforms of each in float64.
    """
    index = np.arange(3 * n, dtype=np.uint32).reshape(n, 3)
    u1, u2 = (((hashed(np, index, Key(seed, step, NOISE + j)) >> 8) + 0.5) / 2**24 for j in (0, 1))
    return (np.sqrt(-2 * np.log(u1)) * np.cos(2 * np.pi * u2)).astype(np.float32)
