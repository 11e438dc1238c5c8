# SPDX-License-Identifier: Apache-2.0
"""What a preparation tells while it works: messages, and for each stage a bar with the time left."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..machine import shows_bars

MODES = ("bar", "plain", "jsonl")
PLAIN_SECONDS = 10.0  # at most so often a plain line


class Reporter:
    """mode: bar, plain (a line now and then), jsonl (one object a line on standard output); None: bar on a
    terminal that can show one. `warnings` and `seconds` of the stages are kept for the report.
    """

    def __init__(self, mode: str | None = None, quiet: bool = False) -> None:
        self.mode = mode or ("bar" if shows_bars(sys.stderr) else "plain")
        self.quiet = quiet
        self.warnings: list[str] = []
        self.seconds: dict[str, float] = {}
        self.bar: Any = None  # the one on the screen

    def message(self, line: str) -> None:
        """A line on standard error."""
        if not self.quiet:
            self._print(line)

    def warning(self, line: str) -> None:
        """A line on standard error, of a quiet run too."""
        self.warnings.append(line)
        self._print(f"warning: {line}")

    def _print(self, line: str) -> None:
        if self.bar is not None:
            self.bar.clear()
        print(line, file=sys.stderr, flush=True)

    @contextmanager
    def stage(self, title: str, total: int, unit: str = "photos") -> Iterator[Stage]:
        """A part of the work that takes `total` units."""
        stage = Stage(self, title, total, unit)
        started = time.monotonic()
        try:
            yield stage
        finally:
            stage.close()
            took = time.monotonic() - started
            self.seconds[title] = round(self.seconds.get(title, 0.0) + took, 2)
        if self.mode == "plain":
            self.message(f"{title}: {stage.done:,} {unit} in {duration(took)}")


class Stage:
    """How far a part of the work is."""

    def __init__(self, reporter: Reporter, title: str, total: int, unit: str) -> None:
        self.reporter, self.title, self.total, self.unit = reporter, title, total, unit
        self.done = self.first = 0
        self.started = self.spoken = time.monotonic()
        self.bar: Any = None
        if reporter.mode == "bar" and not reporter.quiet:
            from tqdm import tqdm

            self.bar = reporter.bar = tqdm(desc=title, total=total, unit=f" {unit}", dynamic_ncols=True)

    def begin(self, total: int, done: int = 0) -> None:
        """Now it is known how much there is, and what an earlier run has done of it."""
        self.total, self.done, self.first = total, done, done
        self.started = time.monotonic()
        if self.bar is not None:
            self.bar.reset(total)
            self.bar.initial = self.bar.n = done
            self.bar.refresh()

    def at(self, done: int) -> None:
        """`done` units are ready, never fewer than before."""
        step = min(done, self.total) - self.done
        if step <= 0:
            return
        self.done += step
        now = time.monotonic()
        if self.bar is not None:
            self.bar.update(step)
        elif self.reporter.mode == "jsonl":
            left = self.seconds_left(now)
            record = {"stage": self.title, "done": self.done, "total": self.total, "seconds_left": left}
            print(json.dumps(record), flush=True)
        elif now - self.spoken > PLAIN_SECONDS:
            self.spoken = now
            line = f"{self.title}: {self.done:,} of {self.total:,} {self.unit}"
            self.reporter.message(f"{line}, {duration(self.seconds_left(now))} left")

    def seconds_left(self, now: float) -> float:
        """At the speed so far."""
        rate = (self.done - self.first) / max(now - self.started, 1e-9)
        return round((self.total - self.done) / rate, 1) if rate else 0.0

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.reporter.bar = None


def duration(seconds: float) -> str:
    """12 s, 3 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
