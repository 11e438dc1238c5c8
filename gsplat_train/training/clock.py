# SPDX-License-Identifier: Apache-2.0
"""The time that counts as training: from the first step to the last, less evaluation, previews and saving."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import mlx.core as mx


class Clock:
    """Adds up seconds over the blocks `going`, without the blocks `stopped` inside them."""

    def __init__(self, seconds: float = 0.0) -> None:
        self._sum = self.before = seconds  # before: of earlier parts of the run
        self._since: float | None = None  # when it went on; None while it stands

    @property
    def seconds(self) -> float:
        return self._sum + (0.0 if self._since is None else time.monotonic() - self._since)

    @contextmanager
    def going(self) -> Iterator[None]:
        self._since = time.monotonic()
        try:
            yield
        finally:
            self._stop()

    @contextmanager
    def stopped(self) -> Iterator[None]:
        was_going = self._since is not None
        self._stop()
        try:
            yield
        finally:
            if was_going:
                self._since = time.monotonic()

    def _stop(self) -> None:
        mx.synchronize()  # what is queued belongs to the steps before
        self._sum, self._since = self.seconds, None
