# SPDX-License-Identifier: Apache-2.0
"""The whole training step on the GPU, ahead of the host: nothing is read back inside a step.

`Ahead` holds the packed parameters and moments of one TrainState while steps are under way, and a journal of these. Buffers have
a fixed capacity. If a view needs more, the device stops changing anything from that step on; the host sees it some steps
later, makes room and repeats those steps in order, so that the result is the same for any first capacity. It stops the same
way at the first loss or gradient that is not finite: the steps after it are dropped, and the loss reported is NaN.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np

from ..gaussians import Gaussians
from ._gpu import START, Engine, loss_settings, no_flags, on_device, pack, unpack
from ._kernels import Sizes

if TYPE_CHECKING:
    from ..scene import View

WINDOW = 32  # steps between two looks at the status; the host is at most twice as many ahead
PHOTO_BYTES = 8 << 30
BETA1, BETA2 = 0.9, 0.999  # csrc/constants.h
NAN = (float("nan"), float("nan"), float("nan"))


class Ahead:
    """The steps of one TrainState that the host has asked for and not yet looked at."""

    def __init__(self, engine: Engine, photos: Photos, state: Any) -> None:
        self.engine, self.photos, self.state = engine, photos, state
        trees = (state.gaussians, state.m, state.v)  # settles what another backend may have left
        self.n, self.rest = state.gaussians.means.shape[0], state.gaussians.shN.shape[1]
        self.params, self.m, self.v = map(pack, trees)
        self.first_step = state.step
        self.journal: list[tuple[View, dict[str, Any]]] = []
        self.stats: mx.array | None = None
        self.host_stats: Any = None
        self.last: tuple[float, float, float] = (0.0, 0.0, 0.0)
        self.seen: deque[mx.array] = deque()
        self.loss: mx.array = mx.zeros(8)
        self.failed = False
        self._restart()

    def _restart(self) -> None:
        self.status, self.seen = START, deque()
        self.flags = no_flags(Sizes(self.n, self.rest, 16, 16, 8))

    def step(self, view: View, settings: dict[str, Any]) -> tuple[float, float, float]:
        """Asks for one more step; the newest loss that the host has seen."""
        self.journal.append((view, settings))
        self._launch(view, settings, self.first_step + len(self.journal))
        self.state.step += 1
        if len(self.journal) % WINDOW == 0 or len(self.journal) == 1:
            self.seen.append(self.status)
            if len(self.seen) > 1 or len(self.journal) == 1:
                status = np.asarray(self.seen.popleft())
                camera = view.camera
                if status[2] * 1.15 > self.engine.capacity(camera.width, camera.height):
                    self.engine.grow(camera.width, camera.height, int(status[2]))
                if status[0] != 0:
                    self._settle()
        return NAN if self.failed else self.last

    def _launch(self, view: View, s: dict[str, Any], number: int) -> None:
        """One step: eleven kernels, all asynchronous. number: the step's, from 1."""
        engine, camera = self.engine, view.camera
        width, height = camera.width, camera.height
        sizes = Sizes(self.n, self.rest, width, height, engine.capacity(width, height))
        told = engine.sizes(sizes, s["sh_degree"], s["antialiased"])
        eye, photo = engine.camera(camera), self.photos.get(view.image)
        settings = mx.array(self._settings(s, number, width, height))
        run = engine.run

        records, counters = run("project", sizes, [self.params, eye, told])
        lists = engine.bins(sizes, told, records, counters, self.status, self.flags)
        binned = [lists["ids"], lists["offsets"], lists["buckets"]]
        image, final_t, checkpoints, used = run("forward", sizes, [records, *binned, settings, told])
        maps, partials = run("ssim", sizes, [image, photo, told])
        v_image, self.loss = run("loss", sizes, [image, photo, maps, partials, settings, told])
        inputs = [records, *binned, lists["slots"], lists["bucket_tiles"], used, checkpoints]
        (grads,) = run(
            "backward", sizes, [*inputs, image, final_t, v_image, final_t, told], (False, s["absgrad"])
        )
        self.status = lists["status"]
        wanted = s["stats"] is not None
        if wanted and self.stats is None:
            self.stats, self.host_stats = mx.zeros(3 * max(3, self.n)), s["stats"]
        inputs = [self.params, self.m, self.v, records, lists["spans"], lists["group_starts"], grads]
        inputs += [self.status, self.loss, self.stats if wanted else self.loss, eye, settings, told]
        self.params, self.m, self.v, self.flags, stats = run("update", sizes, inputs, (wanted,))
        if wanted:
            self.stats = stats
        mx.async_eval(self.params, self.m, self.v, self.flags, self.status, self.loss, stats)

    def _settings(self, s: dict[str, Any], number: int, width: int, height: int) -> np.ndarray:
        """float32 [32], the order of csrc/kernels/gpu.h."""
        out = loss_settings(s["ssim_lambda"], width, height)
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
            status, flags = np.asarray(self.status), np.asarray(self.flags)
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
            for i, (view, settings) in enumerate(todo):
                self._launch(view, settings, self.first_step + i + 1)
        self.failed = done < len(self.journal)
        self.state.step = self.first_step + done
        if not self.failed:
            self.last = tuple(np.asarray(self.loss)[:3].tolist())

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
        trees = [unpack(packed, self.n, self.rest) for packed in (self.params, self.m, self.v)]
        mx.eval(trees)
        self.state.gaussians, self.state.m, self.state.v = trees
        return result


class Photos:
    """uint8 photos in device memory, each uploaded once."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Any, mx.array]] = {}
        self._bytes = 0

    def get(self, photo: np.ndarray) -> mx.array:
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
        """See train_step.train_step. Returns before the step is done, with the newest loss known; `settle` waits."""
        ahead = self._ahead
        if ahead is None or ahead.state is not state or state.settle is None:
            self._finish()
            if state.n_splats == 0:
                return self._empty(state, view, settings)
            ahead = self._ahead = Ahead(self.engine, self.photos, state)
            state.settle = self._finish
        return ahead.step(view, settings)

    def settle(self, state: Any) -> tuple[float, float, float]:
        """Waits for the steps of `state`; loss, l1, ssim of the last one, NaN where a step could not be done."""
        if self._ahead is not None and self._ahead.state is state:
            self._last = self._ahead.wait()
        return self._last

    def _empty(self, state: Any, view: View, settings: dict[str, Any]) -> tuple[float, float, float]:
        """A step of no Gaussians: the background is all there is."""
        image = mx.broadcast_to(mx.array(settings["background"]), view.image.shape)
        loss = self.engine.photometric_loss(image, mx.array(view.image), settings["ssim_lambda"])
        state.step += 1
        return tuple(value.item() for value in loss)

    def _finish(self) -> tuple[float, float, float]:
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            self._last = ahead.finish()
        return self._last
