# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C, SIGTERM and a terminal that is closed: they end a training run with its state saved."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

PATIENCE = 3  # the signal of this number ends the program at once


@contextmanager
def stopping(stop: Callable[[], None], say: Callable[[str], None]) -> Iterator[None]:
    """While inside, SIGINT, SIGTERM and SIGHUP (unless nohup has it ignored) call `stop`, and are acknowledged at
    once; the third one does what the first would have done before. After one the program is to end: more are
    ignored.
    """
    received = 0

    def note(number: int, frame: Any) -> None:
        nonlocal received
        received += 1
        if received >= PATIENCE:
            signal.signal(number, previous[number])
            signal.raise_signal(number)
        say(
            "stopping after this step, then saving"
            if received == 1
            else "still saving; once more ends the program at once and loses the steps since the last checkpoint"
        )
        stop()

    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    previous: dict[int, Any] = {number: signal.signal(number, note) for number in numbers}
    try:
        yield
    finally:
        for (
            number,
            handler,
        ) in previous.items():  # one more while the program ends shall not change how it ends
            signal.signal(number, signal.SIG_IGN if received else handler)
