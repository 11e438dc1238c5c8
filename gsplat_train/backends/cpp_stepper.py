# SPDX-License-Identifier: Apache-2.0
"""The whole training step in one native call, in place on the parameters; nothing runs ahead."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np

from .. import _csrc
from ..machine import memory
from ..model.gaussians import Gaussians
from ..scene import Camera, View
from ..training.crew import ALONE, in_order
from ..training.plan import Statistics, StepPlan
from ..training.protocol import Bounds, StepResult, T
from ..training.rows import SUMS, HostPopulation, Population, Room, TrainState, zero_sums
from .cpp_planes import alpha_plane, mask_plane, photo_planes
from .kept import Kept

if TYPE_CHECKING:
    from ..training.groups import Group

NO_GROUPS: Mapping[str, Group] = MappingProxyType({})
PHOTO_BYTES = 4 << 30
SPARE, MOST = 0.5, 1 << 62  # rows, of those there are, when there is no room for more
WHOLE_SHARE = 4  # room for all rows at once where it takes less than 1 / WHOLE_SHARE of the memory
NAN = float("nan")
HEADER, FLOATS, FLOATS_WITH_SUMS = 16, 14, 17  # numbers of a view's gradients: csrc/cpu/kernels.h
MEASURED, EXPOSURE, POSE = slice(0, 3), slice(3, 9), slice(9, 15)  # in the header


class CppStepper:
    """See training.stepper.Stepper."""

    def __init__(
        self,
        pipeline: Any,
        state: TrainState,
        bounds: Bounds | None = None,
        groups: Mapping[str, Group] = NO_GROUPS,
    ) -> None:
        self.pipeline, self.state = pipeline, state
        self.exposure, self.poses = groups.get("exposure"), groups.get("poses")
        self.kept = Kept(PHOTO_BYTES if bounds is None or bounds.photos is None else bounds.photos)
        most = bounds.reached or bounds.most_splats if bounds else 0
        per_splat = 12 * (14 + 3 * state.gaussians.shN.shape[1])  # bytes of the state
        whole = 0 < most * per_splat < memory().limit // WHOLE_SHARE
        self.room = Room(SPARE, most or MOST, _csrc, whole)
        self._trees: list[list[np.ndarray]] | None = None  # the state's arrays, for writing
        self.last = StepResult(NAN, NAN, NAN, True)
        self.crew = ALONE
        self._rows: np.ndarray | None = None  # gradients of the views of a step over several

    @property
    def step(self) -> int:
        return self.state.step

    @property
    def n_splats(self) -> int:
        return self.state.n_splats

    def has_photo(self, key: tuple[int, int]) -> bool:
        """See Stepper.has_photo."""
        return key in self.kept

    def result(self) -> StepResult:
        """See Stepper.result."""
        return self.last

    def look(self) -> TrainState:
        """See Stepper.look."""
        self._trees = None  # whoever looks may also put other arrays there
        return self.state

    def refine(self, change: Callable[[Population], T]) -> T:
        """See Stepper.refine."""
        self._make_room()
        return change(HostPopulation(self.look(), self.room))

    def _make_room(self) -> None:
        """For all rows that there will be, before a refinement has to."""
        if self.room.whole:
            self.room.reserve(self.state, self.state.n_splats)

    def take(self, view: View, plan: StepPlan, *more: View) -> StepResult:
        """See Stepper.take."""
        state = self.state
        if self._trees is None:
            self._make_room()
            self._trees = _in_place(state.gaussians, state.m, state.v)
        wanted = plan.statistics is not Statistics.NONE
        if wanted and not state.sums:
            state.sums = zero_sums(state.n_splats)
        sums = tuple(state.sums[name] for name in SUMS) if wanted else None
        if more or not self.crew.fuses:
            self.last = self._over((view, *more), self._trees, sums, plan)
            return self.last
        native = _native(plan)
        shot = self._prepared(view, native)
        loss, l1, ssim, updated, v_exposure, pose = self.pipeline.train_step(*self._trees, shot, native, sums)
        if updated:
            state.step += 1
            self._move_groups([view], [v_exposure], [pose], plan)
            self.last = StepResult(loss, l1, ssim, True)
        else:  # of a gradient that is not finite the others have moved already
            self.last = StepResult(NAN, l1, ssim, not np.isfinite(loss))
        return self.last

    def _over(self, views: tuple[View, ...], trees: Any, sums: Any, plan: StepPlan) -> StepResult:
        """A step over several views, some of them maybe another process's: gradients first, then one update."""
        n, crew, native = self.n_splats, self.crew, _native(plan)
        rows = crew.each if crew.size > 1 else len(views)
        self._rows = fitting(self._rows, rows, HEADER + (FLOATS if sums is None else FLOATS_WITH_SUMS) * n)
        for row, view in zip(self._rows, crew.own(views), strict=False):
            shot = self._prepared(view, native)
            loss, l1, ssim, whole, v_exposure, pose = self.pipeline.view_gradients(
                trees[0], shot, native, row
            )
            row[:HEADER] = 0
            row[MEASURED] = loss if whole else NAN, l1, ssim
            row[EXPOSURE] = v_exposure if v_exposure is not None else 0
            row[POSE] = pose if pose is not None else 0
        together = crew.gather(self._rows)[: len(views)]
        loss, l1, ssim = (in_order(together[:, MEASURED]) / np.float32(len(views))).tolist()
        if not np.isfinite(loss):
            return StepResult(NAN, l1, ssim, True)
        positions = np.array([self._camera(view).position for view in views], np.float32)
        if not self.pipeline.combine(*trees, together, positions, native, sums):
            return StepResult(NAN, l1, ssim, False)
        self.state.step += len(views)
        self._move_groups(views, together[:, EXPOSURE], together[:, POSE], plan)
        return StepResult(loss, l1, ssim, True)

    def _camera(self, view: View) -> Camera:
        return view.camera if self.poses is None else self.poses.camera(view, view.camera)

    def _prepared(self, view: View, native: Any) -> Any:
        """The view's shot, its camera where it is now, and `native` told what to do for the groups."""
        shot = self.kept.get(view.key, lambda: _shot(view))
        if self.exposure is not None:
            native.exposure = _exposure(self.exposure, view)
        if self.poses is not None:
            native.pose = True
            shot.look(np.ascontiguousarray(self._camera(view).viewmat, np.float32))
        return shot

    def _move_groups(self, views: Sequence[View], exposure: Any, pose: Any, plan: StepPlan) -> None:
        """A step of the groups there are, by what the native code made of these views, [views, 6] each."""
        if self.exposure is not None:
            self._expose(self.exposure, views, np.array(exposure), plan)
        if self.poses is not None:
            gradient = np.zeros(self.poses.values.shape, np.float32)
            for view, row in zip(views, pose, strict=True):
                gradient[self.poses.row[view.name]] -= np.array(row, np.float32) / len(views)
            self.poses.step(gradient, plan.group_rates["poses"], self.state.step, plan.views)

    def _expose(self, group: Group, views: Sequence[View], gradients: np.ndarray, plan: StepPlan) -> None:
        """A step of the exposures, by the gradients [views, 6] of these views'."""
        gradient = np.zeros(group.values.shape, np.float32)
        for view, row in zip(views, gradients, strict=True):
            gradient[group.row[view.name]] += row / len(views)
        if group.mode == "gain":
            gradient[:, 3:] = 0
        group.step(gradient, plan.group_rates["exposure"], self.state.step, plan.views)


def fitting(rows: np.ndarray | None, count: int, length: int) -> np.ndarray:
    """`rows` if it is [count, length], else another such array."""
    return (
        rows if rows is not None and rows.shape == (count, length) else np.zeros((count, length), np.float32)
    )


def _exposure(group: Group, view: View) -> list[float]:
    """Gain, then offset, of the view's photo."""
    row = group.values[group.row[view.name]]
    offset = np.zeros(3, np.float32) if group.mode == "gain" else row[3:]
    return [*np.exp(row[:3]).tolist(), *offset.tolist()]


def _native(plan: StepPlan) -> Any:
    """The plan as the native code reads it, field by field."""
    native = _csrc.StepPlan()
    native.number, native.sh_degree, native.rates = plan.number, plan.sh_degree, plan.rates
    native.views = plan.views
    native.ssim_lambda, native.antialiased = plan.ssim_lambda, plan.antialiased
    native.opacity_weight, native.scale_weight = plan.opacity_weight, plan.scale_weight
    native.background = plan.background
    native.noise, native.seed = plan.noise, plan.seed & 0xFFFFFFFF
    native.absgrad = plan.statistics is Statistics.ABSGRADIENTS
    return native


def _shot(view: View) -> tuple[Any, int]:
    """A view's camera and photo as the native code takes them, and their bytes."""
    camera, photo = view.camera, view.pixels
    planes = photo_planes(photo.image)
    mask = None if photo.mask is None else mask_plane(photo.mask)
    alpha = None if (matte := photo.matte) is None else alpha_plane(matte)
    viewmat, K = (np.ascontiguousarray(matrix, np.float32) for matrix in (camera.viewmat, camera.K))
    shot = _csrc.Shot(viewmat, K, camera.width, camera.height, planes, mask, alpha)
    return shot, sum(plane.nbytes for plane in (planes, mask, alpha) if plane is not None)


def _in_place(*trees: Gaussians) -> list[list[np.ndarray]]:
    """Views of evaluated trees, for writing: never of a copy; the module refuses what is not contiguous."""
    mx.eval(trees)
    return [[np.asarray(leaf) for leaf in tree] for tree in trees]
