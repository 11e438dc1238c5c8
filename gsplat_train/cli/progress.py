# SPDX-License-Identifier: Apache-2.0
"""What a run tells while it works: a bar, plain lines, or the log's lines for another program.

Standard output carries results only; everything else goes to standard error.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from ..machine import shows_bars
from ..training.callbacks import Callback
from ..training.clock import stage_summary
from ..training.run_folder import RunFolder, to_json

if TYPE_CHECKING:
    from ..training.protocol import StepResult
    from ..training.trainer import Trainer

MODES = ("bar", "plain", "jsonl")
PLAIN_SECONDS = 10.0  # at most so often a plain line
BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}, {rate_fmt}{postfix}]"  # the time left is a forecast's
BAR_AFTER = 0.5  # seconds; what takes less has no bar
JSON_SECONDS = 0.5  # at most so often a line for programs on what is under way
HOLD_SECONDS = (
    2.0  # so long messages wait, so that of a command that fails at once the error is the only line
)


VIEWER = "open it with any viewer of 3DGS, for example SuperSplat in a browser: https://superspl.at/editor"


class Progress(Callback):
    """mode: bar (tqdm), plain (a line now and then), jsonl (log lines on standard output); None: bar on a
    terminal that can show one.
    """

    def __init__(self, mode: str | None = None, quiet: bool = False) -> None:
        self.mode = mode or ("bar" if shows_bars(sys.stderr) else "plain")
        self.quiet = quiet
        self.held: list[str] = []
        self.hold_until = time.monotonic() + HOLD_SECONDS
        self.bar: tqdm | None = None
        self.total = 0
        self.spoken = -PLAIN_SECONDS
        self.test_psnr: float | None = None
        self.action: tqdm | None = None  # the bar of what is under way beside the steps
        self.action_began = self.last_action = 0.0

    def message(self, line: str) -> None:
        """A line on standard error; of a quiet run only its warnings."""
        if not self.quiet or line.startswith("warning"):
            self.held.append(line)
        if time.monotonic() > self.hold_until:
            self.release()

    def now(self, line: str) -> None:
        """A line that does not wait, whatever is going on."""
        self.release()
        if self.bar is not None:
            self.bar.clear()
        say(line)

    def tell(self, line: str) -> None:
        """A line that does not wait; of a quiet run only its warnings."""
        self.release()
        self.message(line)

    def of(self, what: str) -> Callable[[int, int], None]:
        """`at` of this action."""
        return lambda done, total: self.at(what, done, total)

    def summary(self, values: dict[str, Any]) -> None:
        """The result as a line of JSON on standard output, for programs. Who looks at a terminal has it in words."""
        if self.quiet or self.mode == "jsonl" or not sys.stdout or not sys.stdout.isatty():
            self.result(to_json(values))

    def result(self, line: str) -> None:
        """A line on standard output, of a command that tells results while it works."""
        for bar in (self.action, self.bar):
            if bar is not None:
                bar.clear()
        write_result(line)

    def release(self) -> None:
        """Prints what was held back; from now on nothing is."""
        self.hold_until = 0.0
        for bar in (self.action, self.bar):
            if bar is not None and self.held:
                bar.clear()
        for line in self.held:
            say(line)
        self.held.clear()

    def at(self, what: str, done: int, total: int) -> None:
        """Of a long action, as `evaluating`, `done` of `total` parts are done. A bar; in the plain mode a line now
        and then; in the mode jsonl lines on standard error.
        """
        now, last = time.monotonic(), done >= total
        if done <= 1 or self.action_began == 0:
            self.action_began, self.last_action = now, now
        if self.quiet:
            return
        if self.mode == "jsonl":
            if last or now - self.last_action > JSON_SECONDS:
                self.last_action = now
                say(to_json({"action": what, "done": done, "total": total}))
        elif self.mode == "plain":
            if now - self.last_action > PLAIN_SECONDS:
                self.last_action = now
                left = (now - self.action_began) / done * (total - done)
                say(f"{what}: {done} of {total}, {duration(left)} left")
        elif self.action is not None or now - self.action_began > BAR_AFTER:
            if self.action is None:
                self.release()
                self.action = tqdm(desc=what, total=total, dynamic_ncols=True, leave=False)
            self.action.update(done - self.action.n)
            if last:
                self.action.close()
                self.action = None

    def progress(self, what: str, done: int, total: int) -> None:
        """See Callback.progress."""
        self.at(what, done, total)

    def start(self, trainer: Trainer) -> None:
        """The loop begins."""
        self.release()
        self.total = trainer.config.steps
        self.test_psnr, self.spoken = None, -PLAIN_SECONDS  # of --seeds another run may have ended before
        if self.mode == "bar" and not self.quiet:
            self.bar = tqdm(
                total=self.total,
                initial=trainer.step,
                unit="it",
                dynamic_ncols=True,
                smoothing=0.1,
                bar_format=BAR,
            )

    def step(self, trainer: Trainer, newest: StepResult) -> None:
        """A step is done."""
        if self.bar is not None:
            self.bar.update()

    def record(self, trainer: Trainer, record: dict[str, Any]) -> None:
        """A record of the log."""
        if record.get("test"):
            self.test_psnr = record["test"]["psnr"]
        score = "" if self.test_psnr is None else f", test {self.test_psnr:.2f} dB"
        left = record.get("seconds_left")
        ahead = "" if left is None else f"{duration(left)} left, "
        state = f"{ahead}{record['n_splats']:,} splats, loss {record['loss']:.4f}{score}"
        if self.mode == "jsonl":
            write_result(to_json(record))
        elif self.bar is not None:
            self.bar.set_postfix_str(state, refresh=False)
        elif not self.quiet and (time.monotonic() - self.spoken > PLAIN_SECONDS or "test" in record):
            self.spoken = time.monotonic()
            say(f"step {record['step']}/{self.total}, {record['it_per_s']:.1f} it/s, {state}")

    def end(self, trainer: Trainer) -> None:
        """The loop has ended."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None


def duration(seconds: float) -> str:
    """Seconds as a person says them: 42 s, 3 min 10 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def say(line: str) -> None:
    """A line on standard error. One that has gone away, or is full, does not end the run."""
    try:
        print(line, file=sys.stderr, flush=True)
    except (OSError, ValueError, AttributeError):
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115  # until the process ends


def write_result(line: str) -> None:
    """A line on standard output. A reader that has gone away does not end the run."""
    try:
        print(line, flush=True)
    except (OSError, ValueError, AttributeError):
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # until the process ends


def tell_result(metrics: dict[str, Any], folder: RunFolder, report: Progress) -> None:
    """The result on standard output, and where the model is."""
    from ..training.evaluation import score_lines

    for line in score_lines(metrics):
        report.message(line)
    report.message(f"{metrics['n_splats']:,} splats, {metrics['steps']} steps in {metrics['seconds']:.1f} s")
    report.message(f"{metrics['wall_seconds']:.1f} s in all: {stage_summary(metrics['stage_seconds'])}")
    if report.mode != "jsonl":
        scores = {
            split: metrics[split] and {k: v for k, v in metrics[split].items() if k != "views"}
            for split in ("test", "train")
        }
        report.summary(metrics | scores)
    report.message(f"report: {folder.report}")
    report.message(f"model: {folder.ply}; {VIEWER}")
