# SPDX-License-Identifier: Apache-2.0
"""The whole training step on the GPU, ahead of the host: nothing is read back inside a step.

`Ahead` holds the packed parameters and moments of one TrainState while steps are under way, and a journal of
these. Buffers have a fixed capacity. If a view needs more, the device stops changing anything from that step
on; the host sees it some steps later, makes room and repeats those steps in order, so that the result is the
same for any first capacity. It stops the same way at the first loss or gradient that is not finite: the steps
after it are dropped, and the loss reported is NaN.
"""

from __future__ import annotations

from collections import deque
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np

from ...model.gaussians import Gaussians
from .engine import START, Engine, loss_settings, no_flags, on_device, pack, unpack
from .kernels import KERNELS, Sizes

if TYPE_CHECKING:
    from ...scene import View

BATCH = 4  # steps handed to MLX at once: one upload of settings and one graph for all
WINDOW = 16  # steps between two looks at the status; the host is at most twice as many ahead
SHARE = 4  # of the device's memory, 1 / SHARE may hold what steps under way leave; else fewer are
PHOTO_BYTES = 8 << 30
BETA1, BETA2 = 0.9, 0.999  # csrc/constants.h
NAN = (float("nan"), float("nan"), float("nan"))


class Ahead:
    """The steps of one TrainState that the host has asked for and not yet looked at."""

    def __init__(self, engine: Engine, photos: Photos, state: Any) -> None:
        self.engine, self.photos, self.state = engine, photos, state
        trees = (state.gaussians, state.m, state.v)  # settles what another backend may have left
        self.n, self.rest = state.gaussians.means.shape[0], state.gaussians.shN.shape[1]
        self.params, self.m, self.v = map(pack, trees)  # each a pair of flat arrays: all but shN, and shN
        self.first_step = state.step
        self.journal: list[tuple[View, dict[str, Any]]] = []
        self.stats: mx.array | None = None
        self.host_stats: Any = None
        self.last: tuple[float, float, float] = (0.0, 0.0, 0.0)
        self.seen: deque[mx.array] = deque()
        self.loss: mx.array = mx.zeros(8)
        self.failed, self.fresh = False, True
        self._restart()

    def _restart(self) -> None:
        self.status, self.seen = START, deque()
        self.launched = self.looked = 0  # of the journal
        self.batch = 1  # grows to BATCH: after a wait the GPU shall have work soon
        self.flags = no_flags(Sizes(self.n, self.rest, 16, 16, 8))

    def step(self, view: View, settings: dict[str, Any]) -> tuple[float, float, float]:
        """Asks for one more step; the newest loss that the host has seen."""
        self.journal.append((view, settings))
        self.state.step += 1
        count = len(self.journal)
        window = self._window(view)
        if count == 1 or count - self.launched >= min(self.batch, window):
            self._launch_waiting()
            self.batch = min(2 * self.batch, BATCH)
        if count == self.launched and (self.fresh or count - self.looked >= window):
            self.looked, self.fresh = count, False
            self._look(view)
        return NAN if self.failed else self.last

    def _window(self, view: View) -> int:
        """Steps between two looks: WINDOW, fewer where the arrays of so many would fill the memory."""
        width, height = view.camera.width, view.camera.height
        sizes = Sizes(self.n, self.rest, width, height, self.engine.capacity(width, height))
        return max(1, min(WINDOW, _memory() // SHARE // (2 * step_bytes(sizes))))

    def _look(self, view: View) -> None:
        """At the status of WINDOW steps ago, for which nothing waits; after the first step at its own."""
        self.seen.append(self.status)
        if len(self.seen) == 1 and len(self.journal) > 1:
            return
        status = np.asarray(self.seen.popleft())
        if len(self.journal) == 1:
            self.last = _three(self.loss)
        self._make_room(status, view)
        if status[0] != 0:
            self._settle()

    def _make_room(self, status: np.ndarray, view: View) -> None:
        """More capacity before it runs out: intersections grow slowly while a scene is trained."""
        width, height = view.camera.width, view.camera.height
        if status[2] * 1.15 > self.engine.capacity(width, height):
            self.engine.grow(width, height, int(status[2]))

    def _launch_waiting(self) -> None:
        """Hands the steps that were asked for to MLX, all asynchronous."""
        while self.launched < len(self.journal):
            steps = self.journal[self.launched : self.launched + BATCH]
            first = self.first_step + self.launched + 1
            rows = [self._settings(s, view, first + i) for i, (view, s) in enumerate(steps)]
            table = mx.array(np.stack(rows))
            for i, (view, settings) in enumerate(steps):
                self._launch(view, settings, table[i])
            self.launched += len(steps)
            results = (self.params, self.m, self.v, self.flags, self.status, self.loss)
            mx.async_eval(results if self.stats is None else (*results, self.stats))

    def _launch(self, view: View, s: dict[str, Any], settings: mx.array) -> None:
        """One step. settings: the step's row of the table."""
        engine, camera, wanted = self.engine, view.camera, s["stats"] is not None
        if wanted and self.stats is None:
            self.stats, self.host_stats = mx.zeros(3 * max(3, self.n)), s["stats"]
        width, height = camera.width, camera.height
        sizes = Sizes(self.n, self.rest, width, height, engine.capacity(width, height))
        told = engine.sizes(sizes, s["sh_degree"], s["antialiased"])
        inputs = (engine.camera(camera), self.photos.get(view.image), settings, told)
        step = engine.compiled(_kernels_of_a_step, sizes, s["absgrad"], wanted)
        trees, results = step(
            (self.params, self.m, self.v), (self.status, self.flags, self.stats if wanted else None), inputs
        )
        (self.params, self.m, self.v), (self.status, self.flags, stats, self.loss) = trees, results
        if wanted:
            self.stats = stats

    def _settings(self, s: dict[str, Any], view: View, number: int) -> np.ndarray:
        """float32 [32] of step `number` (from 1), in the order of csrc/kernels/gpu.h."""
        out = loss_settings(s["ssim_lambda"], view.camera.width, view.camera.height)
        unbias = 1 / (1 - BETA1**number)
        lrs = s["lrs"]
        out[:6] = [lrs[name] * unbias for name in Gaussians._fields]
        out[6] = 1 / (1 - BETA2**number)
        out[7], out[8] = s["regularizers"].opacity / self.n, s["regularizers"].scale / (3 * self.n)
        out[9] = s["noise"].scale
        out[10:12].view(np.uint32)[:] = s["noise"].seed & 0xFFFFFFFF, number
        out[12:15] = s["background"]
        return out

    def _settle(self) -> None:
        """Waits; repeats what found too little room; notes the newest loss, or that it is not finite."""
        while True:
            self._launch_waiting()
            status, flags = np.asarray(self.status), np.asarray(self.flags)[: -(-self.n // 128)]
            state, done = int(status[0]), int(status[3])
            if state == 0:
                done += 0 if flags.any() else 1
            if state != 1:
                break
            todo = self.journal[done:]
            self.first_step += done
            for camera in {id(view.camera): view.camera for view, _ in todo}.values():
                self.engine.grow(camera.width, camera.height, int(status[2]))
            self.journal = todo
            self._restart()
        if self.journal:
            self._make_room(status, self.journal[-1][0])
        self.failed = done < len(self.journal)
        self.state.step = self.first_step + done
        if not self.failed:
            self.last = _three(self.loss)

    def wait(self) -> tuple[float, float, float]:
        """Waits for all steps; loss, l1 and ssim of the last one, NaN if it could not be done."""
        if self.journal:
            self._settle()
            if not self.failed:  # what is done need not be repeated
                self.first_step, self.journal = self.state.step, []
                self._restart()
            if self.stats is not None:
                sums = np.asarray(self.stats)[: 3 * self.n].reshape(self.n, 3)
                for i, name in enumerate(("means2d_norm", "absgrad_norm", "count")):
                    getattr(self.host_stats, name)[:] += sums[:, i]
                self.stats = None
        return NAN if self.failed else self.last

    def finish(self) -> tuple[float, float, float]:
        """Waits, and gives the state its arrays."""
        result = self.wait()
        trees = [unpack(*packed, self.n, self.rest) for packed in (self.params, self.m, self.v)]
        mx.eval(trees)
        self.state.gaussians, self.state.m, self.state.v = trees
        return result


def _kernels_of_a_step(
    engine: Engine, sizes: Sizes, absgrad: bool, wanted: bool, trees: Any, known: Any, inputs: Any
) -> Any:
    """The kernels, in order. trees: parameters, m, v, each in two arrays; what they are after the step."""
    (params, shn), (m, m_shn), (v, v_shn) = trees
    status, flags, stats = known
    eye, photo, settings, told = inputs
    run = engine.run
    records, radii, counters = run("project", sizes, [params, eye, told])
    (colours,) = run("colour", sizes, [params, shn, radii, eye, told])
    lists = engine.bins(sizes, told, records, radii, counters, status, flags)
    binned = [lists["ids"], lists["offsets"], lists["buckets"]]
    image, final_t, checkpoints, used = run("forward", sizes, [records, colours, *binned, settings, told])
    maps, partials = run("ssim", sizes, [image, photo, photo, told])  # the second: no mask
    v_image, loss = run("loss", sizes, [image, photo, photo, maps, partials, settings, told])
    given = [records, colours, *binned, lists["slots"], lists["bucket_tiles"], used, checkpoints]
    (grads,) = run("backward", sizes, [*given, image, final_t, v_image, final_t, told], (False, absgrad))
    given = [params, shn, m, v, radii, colours, lists["spans"], lists["group_starts"], grads]
    given += [lists["status"], loss, stats if wanted else loss, eye, settings, told]
    params, m, v, colour, flags, stats = run("update", sizes, given, (wanted,))
    if sizes.rest:
        shn, m_shn, v_shn = run("update_shn", sizes, [shn, m_shn, v_shn, colour, settings, told])
    return ((params, shn), (m, m_shn), (v, v_shn)), (lists["status"], flags, stats, loss)


@lru_cache(maxsize=256)
def step_bytes(sizes: Sizes) -> int:
    """What the kernels of a step write."""
    names, itemsize = sizes.names, {"uint8": 1}
    specs = [spec for spec in KERNELS.values() if spec.name not in ("splat_grads", "project_vjp")]
    return sum(a.count(names) * itemsize.get(a.dtype, 4) for spec in specs for a in spec.outputs)


@cache
def _memory() -> int:
    """Bytes that the device has; 8 GB if MLX does not say."""
    told = mx.device_info()
    return int(told.get("total_memory") or told.get("memory_size") or 8 << 30)


def _three(loss: mx.array) -> tuple[float, float, float]:
    """loss, l1, ssim as the kernel leaves them."""
    values = np.asarray(loss)
    return float(values[0]), float(values[1]), float(values[2])


class Photos:
    """uint8 photos in device memory, each uploaded once."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Any, mx.array]] = {}
        self._bytes = 0

    def get(self, photo: np.ndarray | None) -> mx.array:
        """uint8 [3 H W] of a view's photo."""
        assert photo is not None, "the view has no photo"
        known = self._known.get(id(photo))
        if known is None:
            if self._bytes + photo.nbytes > PHOTO_BYTES:
                self._known.clear()
                self._bytes = 0
            known = (photo, on_device(mx.array(np.ascontiguousarray(photo).reshape(-1))))
            self._known[id(photo)] = known
            self._bytes += photo.nbytes
        return known[1]


class Steps:
    """`train_step` and `settle` of a backend."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.photos = engine, Photos()
        self._ahead: Ahead | None = None
        self._last = NAN

    def train_step(self, state: Any, view: View, **settings: Any) -> tuple[float, float, float]:
        """See train_step.train_step. Does not wait for the step: returns the newest loss known."""
        ahead = self._ahead
        if ahead is None or ahead.state is not state or state.settle is None:
            self._finish()
            if state.n_splats == 0:
                return self._empty(state, view, settings)
            ahead = self._ahead = Ahead(self.engine, self.photos, state)
            state.settle = self._finish
        return ahead.step(view, settings)

    def settle(self, state: Any) -> tuple[float, float, float]:
        """Waits for the steps of `state`; loss, l1, ssim of the last, NaN where one could not be done."""
        if self._ahead is not None and self._ahead.state is state:
            self._last = self._ahead.wait()
        return self._last

    def _empty(self, state: Any, view: View, settings: dict[str, Any]) -> tuple[float, float, float]:
        """A step of no Gaussians: the background is all there is."""
        assert view.image is not None, f"{view.name} has no photo"
        photo = mx.array(view.image)
        image = mx.broadcast_to(mx.array(settings["background"]), photo.shape)
        self._last = _three(mx.stack([*self.engine.photometric_loss(image, photo, settings["ssim_lambda"])]))
        state.step += 1
        return self._last

    def _finish(self) -> tuple[float, float, float]:
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            self._last = ahead.finish()
        return self._last
