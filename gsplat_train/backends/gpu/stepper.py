# SPDX-License-Identifier: Apache-2.0
"""The whole training step on the GPU, ahead of the host: nothing is read back inside a step.

`Ahead` holds the packed parameters and moments of one TrainState while steps are under way, and a journal of
these. Buffers have a fixed capacity. If a view needs more, the device stops changing anything from that step
on; the host sees it some steps later, makes room and repeats those steps in order, so that the result is the
same for any first capacity. It stops the same way at the first loss or gradient that is not finite: the steps
after it are dropped, and the loss reported is NaN.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import mlx.core as mx
import numpy as np

from ...model.gaussians import Gaussians
from ...scene import View
from ...training.crew import ALONE, Crew
from ...training.plan import Statistics, StepPlan
from ...training.protocol import Bounds, StepResult, T
from ...training.rows import SUMS, HostPopulation, Population, TrainState, zero_sums
from ..kept import Kept
from .engine import (
    START,
    Engine,
    at_least_eight,
    camera_array,
    loss_numbers,
    no_flags,
    on_device,
    pack,
    unpack,
)
from .kernels import Sizes
from .limits import Budget
from .population import GpuPopulation

BATCH = 4  # steps handed to MLX at once: one upload of settings and one graph for all
CAMERA_BYTES = 16 << 20
CAMERA = 128  # bytes of a camera
HALF_TAKEN = 2  # a flag of `update`: a gradient was not finite, and other Gaussians have moved
BETA1, BETA2, EPS = 0.9, 0.999, 1e-15  # csrc/constants.h
REST = (0.0,) * 9  # of a step's settings
NAN = StepResult(math.nan, math.nan, math.nan)


class Ahead:
    """The steps of one TrainState that the host has asked for and not yet looked at."""

    def __init__(
        self, engine: Engine, photos: Kept, cameras: Kept, state: TrainState, crew: Crew = ALONE
    ) -> None:
        self.engine, self.photos, self.cameras, self.state = engine, photos, cameras, state
        self.crew = crew
        trees = (state.gaussians, state.m, state.v)
        self.n, self.rest = state.gaussians.means.shape[0], state.gaussians.shN.shape[1]
        self.room = engine.budget.rows(self.n)  # Gaussians that the arrays have room for
        # Each a pair of flat arrays: all but shN, and shN.
        self.params, self.m, self.v = (pack(tree, self.room) for tree in trees)
        mx.eval(self.params, self.m, self.v)
        empty = [Gaussians(*(mx.zeros((0, *leaf.shape[1:])) for leaf in tree)) for tree in trees]
        del trees
        mx.eval(empty)
        state.gaussians, state.m, state.v = empty  # until `finish`: what they held is held packed
        self.first_step = state.step
        self.journal: list[tuple[tuple[View, ...], StepPlan]] = []
        self.stats: mx.array | None = None
        self.last = StepResult(0.0, 0.0, 0.0)
        self.seen: deque[mx.array] = deque()
        self.loss: mx.array = mx.zeros(8)
        self.failed, self.whole, self.never_looked = False, True, True
        self._restart()

    def _restart(self) -> None:
        self.status, self.seen = START, deque()
        self.launched = self.looked = 0  # of the journal
        self.launched_views = 0  # of these steps
        self.batch = 1  # grows to BATCH: after a wait the GPU shall have work soon
        self.flags = no_flags(Sizes(self.room, self.rest, 16, 16, 8))
        self._divide_memory()

    def _divide_memory(self) -> None:
        """Anew where there are more splats or more intersections: photos make room for them."""
        self._frames: dict[Any, tuple[Sizes, mx.array]] = {}
        self._windows: dict[tuple[int, int], int] = {}
        sizes = self._sizes(*self.engine.budget.bounds.size)
        self.photos.shrink(self.engine.budget.photos(sizes))
        self.engine.budget.hold(sizes)

    def _sizes(self, width: int, height: int, parts: int = 14) -> Sizes:
        """Of the arrays of a view of this size."""
        return Sizes(self.room, self.rest, width, height, self.engine.capacity(width, height), parts=parts)

    def step(self, views: tuple[View, ...], plan: StepPlan) -> StepResult:
        """Asks for one more step; the newest loss that the host has seen. What is decided here depends on nothing
        that only one process of a crew knows: all must gather the same steps in the same order.
        """
        self.journal.append((views, plan))
        self.state.step += len(views)
        count = len(self.journal)
        window = self._window(views)
        if count == 1 or count - self.launched >= min(self.batch, max(window, 1)):
            self._launch_waiting()
            self.batch = min(2 * self.batch, BATCH)
        if count == self.launched and (self.never_looked or count - self.looked >= window):
            self.looked, self.never_looked = count, False
            self._look(views)
        return self._newest()

    def _newest(self) -> StepResult:
        return NAN._replace(whole=self.whole) if self.failed else self.last

    def _window(self, views: tuple[View, ...]) -> int:
        """Steps between two looks, fewer where the arrays of many would fill the memory; 0: no two at a time."""
        window = min(map(self._window_of, _sizes_of(views)))
        return min(window, max(1, window // (self.crew.each if self.crew.size > 1 else len(views))))

    def _window_of(self, size: tuple[int, int]) -> int:
        window = self._windows.get(size)
        if window is None:
            window = self._windows[size] = self.engine.budget.window(self._sizes(*size))
        return window

    def _look(self, views: tuple[View, ...]) -> None:
        """At the status of WINDOW steps ago, for which nothing waits; after the first step at its own."""
        self.seen.append(self.status)
        if len(self.seen) == 1 and len(self.journal) > 1:
            return
        earlier = self.seen.popleft()
        mx.eval(earlier)  # which lets other threads go on, as np.asarray does not
        status = np.asarray(earlier)
        if len(self.journal) == 1:
            self.last = _result(self.loss)
        self._make_room(status, views)
        if status[0] != 0:
            self._settle()

    def _make_room(self, status: np.ndarray, views: tuple[View, ...]) -> None:
        """More capacity before it runs out: intersections grow slowly while a scene is trained."""
        for width, height in _sizes_of(views):
            if status[0] == 0 and status[2] * 1.15 > self.engine.capacity(width, height):
                self.engine.grow(width, height, int(status[2]))
                self._divide_memory()

    def _launch_waiting(self) -> None:
        """Hands the steps that were asked for to MLX, all asynchronous; where no two may be under way each when the one
        before is done. What the host has to do for it is done by then.
        """
        while self.launched < len(self.journal):
            alone, before = self._window(self.journal[self.launched][0]) == 0, self.flags
            steps = self.journal[self.launched : self.launched + (1 if alone else BATCH)]
            number = self.first_step + self.launched_views
            shots, rows, counters = [], [], []
            for views, plan in steps:
                number += len(views)
                # Of a run's last step there may be no view left for this process: it takes one that nobody counts,
                # for the status of the step before.
                own = self.crew.own(views) or views[:1]
                shots.append([(view, *self.photos.get(view.key, partial(_photo, view))) for view in own])
                counted = [
                    shot[-1] for shot in shots[-1]
                ]  # pixels of each view, and one row for the update of all
                counted += [] if self._is_fused(views) else [1]
                rows += [self._settings(plan, counting, number) for counting in counted]
                counters += [(plan.seed & 0xFFFFFFFF, number)] * len(counted)
            numbers = np.array(rows, np.float32)
            numbers.view(np.uint32)[:, 10:12] = counters
            table = iter(mx.array(numbers))
            for (views, plan), shot_of in zip(steps, shots, strict=True):
                if self._is_fused(views):
                    self._launch(shot_of[0], plan, next(table))
                else:
                    self._launch_over(views, shot_of, plan, table)
            self.launched += len(steps)
            self.launched_views = number - self.first_step
            if alone:  # in parts: the GPU begins with the first while MLX makes ready the next
                mx.eval(before)
                mx.async_eval(self.status)
                mx.async_eval(self.loss)
            results = (self.params, self.m, self.v, self.flags, self.status, self.loss)
            mx.async_eval(results if self.stats is None else (*results, self.stats))

    def _is_fused(self, views: tuple[View, ...]) -> bool:
        return len(views) == 1 and self.crew.fuses

    def _views_to(self, count: int) -> int:
        """The number of the last view of the first `count` steps in the journal."""
        return self.first_step + sum(len(views) for views, _ in self.journal[:count])

    def _camera(self, view: View) -> mx.array:
        camera = view.camera
        data: mx.array = self.cameras.get(view.key, lambda: (camera_array(camera.viewmat, camera.K), CAMERA))
        return data

    def _launch(self, shot: Any, plan: StepPlan, settings: mx.array) -> None:
        """One step. settings: the step's row of the table."""
        sizes, inputs, planes = self._inputs(shot, plan, settings)
        absgrad, wanted = plan.statistics is Statistics.ABSGRADIENTS, self._wanted(plan)
        step = self.engine.compiled(_kernels_of_a_step, sizes, absgrad, wanted, planes)
        trees, results = step(
            (self.params, self.m, self.v), (self.status, self.flags, self.stats if wanted else None), inputs
        )
        (self.params, self.m, self.v), (self.status, self.flags, stats, self.loss) = trees, results
        if wanted:
            self.stats = stats

    def _wanted(self, plan: StepPlan) -> bool:
        """Whether the step adds to the sums, which are then there."""
        wanted = plan.statistics is not Statistics.NONE
        if wanted and self.stats is None:
            self.stats = self._sums_so_far()
        return wanted

    def _inputs(
        self, shot: Any, plan: StepPlan, settings: mx.array, parts: int = 14
    ) -> tuple[Sizes, Any, Any]:
        """(sizes, what the kernels of a view read beside the state, whether its photo has a mask, and a matte)."""
        view, photo, mask, matte, _ = shot
        key = view.camera.width, view.camera.height, parts, plan.sh_degree, plan.antialiased
        frame = self._frames.get(key)
        if frame is None:
            sizes = self._sizes(*key[:3])
            frame = sizes, self.engine.sizes(replace(sizes, n=self.n), *key[3:])
            self._frames[key] = frame
        sizes, size_array = frame
        if not any(plan.background):
            matte = None  # the photo is over black already
        hides = [photo if plane is None else plane for plane in (mask, matte)]  # what is not used is not read
        inputs = (self._camera(view), photo, *hides, settings, size_array)
        return sizes, inputs, (mask is not None, matte is not None)

    def _launch_over(
        self, views: tuple[View, ...], own: list[Any], plan: StepPlan, table: Iterator[mx.array]
    ) -> None:
        """One step over several views, of which `own` are this process's: gradients, the others', one update."""
        wanted, absgrad = self._wanted(plan), plan.statistics is Statistics.ABSGRADIENTS
        parts, rows = 17 if wanted else 14, []
        for shot in own:
            sizes, inputs, planes = self._inputs(shot, plan, next(table), parts)
            graph = self.engine.compiled(_kernels_of_a_view, sizes, absgrad, wanted, planes)
            rows.append(graph(self.params, (self.status, self.flags), inputs))
        row_length = 8 + parts * self.n
        if self.crew.size > 1:
            rows += [(mx.zeros(row_length), self.status)] * (self.crew.each - len(rows))
        flat = [row.reshape(1, -1)[:, :row_length] for row, _ in rows]
        together = self.crew.gather(flat[0] if len(flat) == 1 else mx.concatenate(flat)).reshape(-1)
        sizes = Sizes(self.room, self.rest, 16, 16, 8, len(views), parts)
        graph = self.engine.compiled(_kernels_of_an_update, sizes, wanted)
        trees, results = graph(
            (self.params, self.m, self.v),
            (rows[0][1], self.stats if wanted else None),
            (
                together,
                mx.concatenate([self._camera(view) for view in views]),
                next(table),
                self.engine.sizes(replace(sizes, n=self.n), plan.sh_degree, plan.antialiased),
            ),
        )
        (self.params, self.m, self.v), (self.status, self.flags, stats, self.loss) = trees, results
        if wanted:
            self.stats = stats

    def _settings(self, plan: StepPlan, counting: int, number: int) -> list[float]:
        """[32] numbers of step `number` (from 1), in the order of csrc/kernels/gpu.h, but for seed and step, which are
        whole; `counting` pixels count.
        """
        views, unbias = plan.views, 1 / (1 - BETA1**number)
        return [
            *(rate * unbias for rate in plan.rates), 1 / (1 - BETA2**number), plan.opacity_weight / self.n,
            plan.scale_weight / (3 * self.n), plan.noise, 0.0, 0.0, *plan.background,
            *loss_numbers(plan.ssim_lambda, 3 * max(counting, 1)), BETA1**views, BETA2**views,
            EPS / math.sqrt(views), 1 / views, *REST,
        ]  # fmt: skip

    def _settle(self) -> None:
        """Waits; repeats what found too little room; notes the newest loss, or that it is not finite."""
        while True:
            self._launch_waiting()
            mx.eval(self.status, self.flags)  # which lets other threads go on, as np.asarray does not
            status, flags = np.asarray(self.status), np.asarray(self.flags)[: -(-self.n // 128)]
            state, done = int(status[0]), int(status[3])
            trouble = int(flags.max(initial=0)) if state == 0 else int(status[5])
            if state == 0:
                done += 0 if trouble else 1
            if state != 1:
                break
            todo = self.journal[done:]
            self.first_step = self.state.step = self._views_to(done)
            self.journal = []  # should there be no room, the steps that were done stay
            self._restart()
            for width, height in _sizes_of(view for views, _ in todo for view in views):
                self.engine.grow(width, height, int(status[2]))
            self._divide_memory()
            self.journal = todo
        if self.journal:
            self._make_room(status, self.journal[-1][0])
        self.failed = done < len(self.journal)
        self.whole = trouble != HALF_TAKEN
        self.state.step = self._views_to(done)
        if not self.failed:
            self.last = _result(self.loss)

    def wait(self) -> StepResult:
        """Waits for all steps; loss, l1 and ssim of the last one, NaN if it could not be done."""
        if self.journal:
            self._settle()
            if not self.failed:  # what is done need not be repeated
                self.first_step, self.journal = self.state.step, []
                self._restart()
        return self._newest()

    def _sums_so_far(self) -> mx.array:
        """The state's sums as the kernels add to them: three numbers a Gaussian."""
        stats = np.zeros((max(3, self.room), 3), np.float32)
        for i, name in enumerate(SUMS):
            if name in self.state.sums:
                stats[: self.n, i] = self.state.sums[name]
        return mx.array(stats.reshape(-1))

    def finish(self) -> StepResult:
        """Waits, and gives the state its arrays."""
        result = self.wait()
        if self.stats is not None:
            sums = np.array(self.stats)[: 3 * self.n].reshape(self.n, 3)
            self.state.sums = {name: sums[:, i].copy() for i, name in enumerate(SUMS)}
            self.stats = None
        trees = [unpack(*packed, self.n, self.rest) for packed in (self.params, self.m, self.v)]
        mx.eval(trees)
        self.state.gaussians, self.state.m, self.state.v = trees
        return result

    def refine(self, change: Callable[[Population], T]) -> T:
        """Waits, and lets `change` edit the rows, which stay packed where they are."""
        self.wait()
        sums = {}
        if self.state.sums or self.stats is not None:
            self.stats = self._sums_so_far() if self.stats is None else self.stats
            columns = self.stats[: 3 * self.n].reshape(self.n, 3)
            sums = {name: columns[:, i] for i, name in enumerate(SUMS)}
        trees = (self.params, self.m, self.v)
        population = GpuPopulation(self.engine, trees, self.n, self.rest, sums)
        try:
            return change(population)
        finally:  # an edit that was made stays made, also where the next one found no room
            (self.params, self.m, self.v), self.n = population.trees, population.n
            self.room = self.engine.budget.rows(self.n)
            if population.kept_sums is not sums:  # other rows: they begin with empty sums
                self.state.sums, self.stats = zero_sums(self.n) if sums else {}, None
            self._restart()


def _kernels_of_a_step(
    engine: Engine,
    sizes: Sizes,
    absgrad: bool,
    wanted: bool,
    planes: tuple[bool, bool],
    trees: Any,
    carried: Any,
    inputs: Any,
) -> Any:
    """The kernels, in order. trees: parameters, m, v, each in two arrays; what they are after the step.

    planes: whether the photo has a mask, and a matte.
    """
    (params, shn), (m, m_shn), (v, v_shn) = trees
    status, flags, stats = carried
    camera_data, *_, settings, size_array = inputs
    run = engine.run
    seen, status, loss = _kernels_to_slots(engine, sizes, absgrad, planes, trees[0], (status, flags), inputs)
    stepped = [
        params,
        shn,
        m,
        v,
        *seen,
        status,
        loss,
        stats if wanted else loss,
        camera_data,
        settings,
        size_array,
    ]
    params, m, v, colour, flags, stats = run("update", sizes, stepped, (wanted,))
    if sizes.rest:
        shn, m_shn, v_shn = run("update_shn", sizes, [shn, m_shn, v_shn, colour, settings, size_array])
    return ((params, shn), (m, m_shn), (v, v_shn)), (status, flags, stats, loss)


def _kernels_to_slots(
    engine: Engine,
    sizes: Sizes,
    absgrad: bool,
    planes: tuple[bool, bool],
    tree: Any,
    carried: Any,
    inputs: Any,
) -> Any:
    """Those of a view, to the gradients of its intersections: (what sums them up, status, loss)."""
    (params, shn), (status, flags), run = tree, carried, engine.run
    camera_data, photo, mask, matte, settings, size_array = inputs
    records, radii, counters = run("project", sizes, [params, camera_data, size_array])
    (colours,) = run("colour", sizes, [params, shn, radii, camera_data, size_array])
    lists = engine.bins(sizes, size_array, records, radii, counters, status, flags)
    binned = [lists["ids"], lists["offsets"], lists["buckets"]]
    image, final_t, checkpoints, used = run(
        "forward", sizes, [records, colours, *binned, settings, size_array]
    )
    pictures = [image, photo, mask, matte]
    maps, partials = run("ssim", sizes, [*pictures, settings, size_array], planes)
    v_image, loss = run("loss", sizes, [*pictures, maps, partials, settings, size_array], planes)
    rasterized = [records, colours, *binned, lists["slots"], lists["bucket_tiles"], used, checkpoints]
    (grads,) = run(
        "backward", sizes, [*rasterized, image, final_t, v_image, final_t, size_array], (False, absgrad)
    )
    return [radii, colours, lists["spans"], lists["group_starts"], grads], lists["status"], loss


def _kernels_of_a_view(
    engine: Engine,
    sizes: Sizes,
    absgrad: bool,
    wanted: bool,
    planes: tuple[bool, bool],
    tree: Any,
    carried: Any,
    inputs: Any,
) -> Any:
    """(the view's gradients behind their header, status)."""
    seen, status, loss = _kernels_to_slots(engine, sizes, absgrad, planes, tree, carried, inputs)
    read = [*tree, *seen, status, loss, inputs[0], inputs[-1]]
    (row,) = engine.run("gradients", sizes, read, (wanted,))
    return row, status


def _kernels_of_an_update(
    engine: Engine, sizes: Sizes, wanted: bool, trees: Any, carried: Any, inputs: Any
) -> Any:
    """One update by the gradients of several views; returns what _kernels_of_a_step does."""
    (params, shn), (m, m_shn), (v, v_shn) = trees
    (status, stats), (views, cameras, settings, size_array) = carried, inputs
    moved = [params, m, v, views, status, stats if wanted else settings, settings, size_array]
    new, m, v, moving, flags, stats, status, loss = engine.run("combine", sizes, moved, (wanted,))
    if sizes.rest:
        read = [params, shn, m_shn, v_shn, views, moving, cameras, settings, size_array]
        shn, m_shn, v_shn = engine.run("combine_shn", sizes, read)
    return ((new, shn), (m, m_shn), (v, v_shn)), (status, flags, stats, loss)


def _sizes_of(views: Iterable[View]) -> list[tuple[int, int]]:
    """The sizes of their photos, each once, in a fixed order."""
    views = tuple(views)
    if len(views) == 1:
        return [(views[0].camera.width, views[0].camera.height)]
    return sorted({(view.camera.width, view.camera.height) for view in views})


def _result(loss: mx.array) -> StepResult:
    """loss, l1, ssim as the kernel leaves them."""
    values = np.asarray(loss)
    return StepResult(float(values[0]), float(values[1]), float(values[2]))


class GpuStepper:
    """See training.stepper.Stepper. The state's own trees are old while steps are under way."""

    def __init__(self, engine: Engine, state: TrainState, bounds: Bounds | None = None) -> None:
        """UserError where `bounds` are too narrow."""
        self.engine, self.state = engine, state
        engine.budget = Budget(bounds)
        n, rest = state.n_splats, state.gaussians.shN.shape[1]
        engine.budget.check(max(n, engine.budget.bounds.most_splats), rest)
        self.photos = Kept(0)  # until the first steps divide the memory
        self.cameras = Kept(CAMERA_BYTES)
        self.last = StepResult(math.nan, math.nan, math.nan)
        self._ahead: Ahead | None = None
        self.crew = ALONE

    @property
    def step(self) -> int:
        return self.state.step

    @property
    def n_splats(self) -> int:
        return self.state.n_splats if self._ahead is None else self._ahead.n

    def has_photo(self, key: tuple[int, int]) -> bool:
        """See Stepper.has_photo."""
        return key in self.photos

    def take(self, view: View, plan: StepPlan, *more: View) -> StepResult:
        """See Stepper.take."""
        if self.n_splats == 0:
            self.last = self._empty((view, *more), plan)
            return self.last
        if self._ahead is None:
            self._ahead = Ahead(self.engine, self.photos, self.cameras, self.state, self.crew)
        with self.crew.waiting():
            self.last = self._ahead.step((view, *more), plan)
        return self.last

    def result(self) -> StepResult:
        """See Stepper.result."""
        if self._ahead is not None:
            with self.crew.waiting():
                self.last = self._ahead.wait()
        return self.last

    def look(self) -> TrainState:
        """See Stepper.look: ends the run-ahead, for whoever looks may put other arrays there."""
        if self._ahead is not None:
            self.result()
            self.last = (
                self._ahead.finish()
            )  # where it finds no memory, the rows stay packed and are not lost
            self._ahead = None
        return self.state

    def refine(self, change: Callable[[Population], T]) -> T:
        """See Stepper.refine."""
        if self._ahead is None and self.state.n_splats == 0:
            return change(HostPopulation(self.state))
        if self._ahead is None:
            self._ahead = Ahead(self.engine, self.photos, self.cameras, self.state, self.crew)
        return self._ahead.refine(change)

    def _empty(self, views: tuple[View, ...], plan: StepPlan) -> StepResult:
        """A step of no Gaussians: the background is all there is."""
        measured = []
        for view in views:
            photo = view.pixels
            target = mx.array(photo.over(plan.background))
            mask = None if photo.mask is None else mx.array(photo.mask)
            image = mx.broadcast_to(mx.array(plan.background), target.shape)
            measured.append(mx.stack([*self.engine.photometric_loss(image, target, plan.ssim_lambda, mask)]))
        self.state.step += len(views)
        return _result(sum(measured[1:], measured[0]) / len(views))


def _photo(view: View) -> tuple[tuple[mx.array, mx.array | None, mx.array | None, int], int]:
    """(uint8 [3 H W], the mask and the matte uint8 [H W] or None, pixels that count) of a view on the device, and
    their bytes.
    """
    photo = view.pixels
    pixels = on_device(mx.array(np.ascontiguousarray(photo.image).reshape(-1)))
    counts = None if photo.mask is None else (photo.mask > 0).astype(np.uint8)
    mask, matte = (
        None if plane is None else on_device(at_least_eight(mx.array(plane.reshape(-1))))
        for plane in (counts, photo.matte)
    )
    counting = photo.image.shape[0] * photo.image.shape[1] if counts is None else int(counts.sum())
    size = sum(plane.nbytes for plane in (photo.image, counts, photo.matte) if plane is not None)
    return (pixels, mask, matte, counting), size
