# SPDX-License-Identifier: Apache-2.0
"""Photos decoded by threads before the steps that need them: the order of a run is known from its beginning.

What is trained does not depend on it. A view whose photo the stepper keeps on its device is not read again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

from ..scene import Photo, PhotoSource, View
from .photos import ViewSampler

WORKERS = 3  # one reads a file of decoded photos fast enough, where steps leave it the interpreter


class Coming:
    """A photo that a thread is decoding."""

    def __init__(self, source: PhotoSource, future: Future[Photo], ahead: ReadAhead) -> None:
        self.source, self._ahead = source, ahead
        self._future: Future[Photo] | None = future

    def decode(self) -> Photo:
        """See PhotoSource.decode; waits where the thread is not done. Kept for one use: steps have it once."""
        future, ahead = self._future, self._ahead
        if future is None:
            return self.source.decode()
        begun = time.perf_counter()
        photo = future.result()
        ahead.waited += time.perf_counter() - begun
        self._future = None
        return photo


class ReadAhead:
    """The views of a sampler, with photos that are on their way.

    steps: of the run, beyond which nothing is read. kept: whether the photo of a key is on the stepper's device.
    depth: photos ahead, which are in memory.
    """

    def __init__(
        self,
        sampler: ViewSampler,
        steps: int,
        kept: Callable[[tuple[int, int]], bool],
        depth: int,
        wanted: Callable[[int], bool] = lambda step: True,
    ) -> None:
        self.wanted = wanted
        self.sampler, self.steps, self.kept, self.depth = sampler, steps, kept, depth
        self.waited = 0.0  # seconds that steps have waited for photos
        self._pool = ThreadPoolExecutor(WORKERS, "photos")
        self._coming: dict[int, View] = {}
        self._next = 0

    def at(self, step: int) -> View:
        """The view of the step after `step` steps."""
        if step not in self._coming and self._next != step:  # the first, or another than was foreseen
            self._coming, self._next = {}, step
        while self._next < min(step + self.depth, self.steps):
            view = self.sampler.at(self._next)
            self._coming[self._next] = self._started(view) if self.wanted(self._next) else view
            self._next += 1
        return self._coming.pop(step, None) or self.sampler.at(step)

    def _started(self, view: View) -> View:
        if view.photo is None or isinstance(view.photo, Photo) or self.kept(view.key):
            return view
        return replace(view, photo=Coming(view.photo, self._pool.submit(view.photo.decode), self))

    def close(self) -> None:
        """Ends the threads; waits for what they are reading."""
        self._coming = {}
        self._pool.shutdown(cancel_futures=True)
