# SPDX-License-Identifier: Apache-2.0
"""Several processes over mx.distributed: a ring of sockets between processors or Macs, NCCL between NVIDIA GPUs, JACCL.

They are started by `mlx.launch` or by `gs-train --devices`, which say by environment variables who each one is. Only
`all_gather` is used: it moves bytes. Every process calls it equally often and in the same order.

A process that is gone, or that waits for ever, would leave the others waiting: whoever has waited for LIMIT seconds
ends its own process.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from ..errors import DevicesLost, UserError
from .callbacks import Callback
from .crew import ALONE, Crew

LIMIT = 20.0  # seconds without an answer: all shall have ended within 30
FIRST_LIMIT = 300.0  # until the first one: others may still load their photos or compile their kernels
LONG_LIMIT = 120.0  # while the first process writes a checkpoint
BEAT = 2.0  # seconds between two signs of life of one that evaluates
PIECE = 1 << 26  # bytes that are handed on at once
FOLDER = "GS_DEVICES_FOLDER"  # see cli/devices.py


def join(environment: Mapping[str, str] = os.environ) -> Crew:
    """This process's company, as the environment says; ALONE where it says nothing.

    UserError where the others cannot be reached.
    """
    if not environment.get("MLX_RANK"):
        return ALONE
    limit = limit_of(environment.get("GS_DEVICES_LIMIT") or str(LIMIT))
    means = "nccl" if "NCCL_HOST_IP" in environment else "ring"
    means = "jaccl" if "MLX_JACCL_COORDINATOR" in environment else means
    try:
        group = mx.distributed.init(strict=True, backend=means)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"process {environment['MLX_RANK']} cannot reach the others ({means}): {error}; see docs/devices.md"
        ) from None
    return Company(group, means, limit) if group.size() > 1 else ALONE


def limit_of(text: str) -> float:
    """The seconds that GS_DEVICES_LIMIT says; UserError where it says none."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds <= 1e6:  # nor where it is not a number
        raise UserError(
            f"GS_DEVICES_LIMIT must be seconds, from 1 to a million, got {text!r}; unset it for {LIMIT:g}"
        )
    return seconds


class Company(Crew):
    """One of several processes. means: ring, jaccl or nccl."""

    def __init__(self, group: Any, means: str = "ring", limit: float = LIMIT) -> None:
        self.group, self.means = group, means
        self.rank, self.size = group.rank(), group.size()
        self.limit = limit
        self.root = Path()  # the run's folder, on the first process's machine
        self._stream: Any = mx.gpu if means == "nccl" else mx.cpu
        self._allowed = FIRST_LIMIT
        self._since: float | None = None  # when the wait under way began
        self._others_wait, self._beaten = False, 0.0
        threading.Thread(target=self._watch, daemon=True, name="watchdog").start()

    def deal(self, batch: int) -> int:
        """The views of a step, `batch` if it can be dealt evenly; from now on `each` takes its part. UserError where 1
        would not do either.
        """
        if batch % self.size:
            if batch > 1:
                raise UserError(
                    f"steps over batch={batch} views cannot be dealt to {self.size} devices; give a multiple of "
                    f"{self.size}, or leave batch out"
                )
            batch = self.size
        self.each = batch // self.size
        return batch

    # ---- what a stepper and a trainer need: see Crew ----

    def gather(self, rows: Any) -> Any:
        """See Crew.gather."""
        if isinstance(rows, mx.array):
            return mx.distributed.all_gather(rows, group=self.group, stream=self._stream)
        with self.waiting():
            together = mx.distributed.all_gather(mx.array(rows), group=self.group, stream=self._stream)
            mx.eval(together)
        return np.asarray(together)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """See Crew.waiting."""
        outer, self._since = self._since, self._since or time.monotonic()
        try:
            yield
        finally:
            self._since = outer

    def agree(self, wish: bool, all_here: bool) -> bool:
        """See Crew.agree."""
        if not all_here:
            return False
        wished = bool(self.gather(np.array([[wish]], np.float32)).any())
        self._allowed = self.limit  # all have taken their first steps
        return wished

    def least(self, count: int) -> int:
        """See Crew.least."""
        return int(self.gather(np.array([[min(count, 2**31 - 1)]], np.int32)).min())

    def first_does(self, work: Callable[[], object], others: Callable[[], object]) -> None:
        """See Crew.first_does. What the first one raises ends it, and so the others."""
        if self.rank == 0:
            self._others_wait = True
            try:
                work()
            finally:
                self._others_wait = False
            self._report_line(0.0)
            return
        others()
        allowed, self._allowed = self._allowed, max(self._allowed, LONG_LIMIT)
        while self._report_line(0.0):  # it goes on
            pass
        self._allowed = allowed

    def beat(self) -> None:
        """A sign of life of the first process, while the others wait for what it does."""
        if self._others_wait and time.monotonic() - self._beaten > BEAT:
            self._beaten = time.monotonic()
            self._report_line(1.0)

    def _report_line(self, value: float) -> float:
        """What the first process says."""
        return float(self.gather(np.array([[value]], np.float32))[0, 0])

    def alike(self, **what: bytes) -> None:
        """See Crew.alike."""
        digests = [hashlib.sha256(value).digest() for value in what.values()]
        rows = self.gather(np.frombuffer(b"".join(digests), np.uint8).astype(np.float32)[None])
        for i, name in enumerate(what):
            part = rows[:, 32 * i : 32 * (i + 1)]
            if (part != part[0]).any():
                raise UserError(
                    f"the devices do not see the same {name.replace('_', ' ')}; give all the same scene, settings, "
                    "kind of device, and versions of this program and of MLX"
                )

    # ---- what the first process knows, for all ----

    def share(self, data: bytes = b"") -> bytes:
        """The first process's bytes."""
        count = int(self.gather(np.array([[len(data)]], np.int64))[0, 0])
        pieces = []
        for begin in range(0, count, PIECE):
            size = min(PIECE, count - begin)
            own = (
                np.frombuffer(data[begin : begin + size], np.uint8)
                if self.rank == 0
                else np.zeros(size, np.uint8)
            )
            pieces.append(self.gather(own[None])[0].tobytes())
        return b"".join(pieces)

    def share_files(self, folder: Path, paths: list[Path]) -> list[Path]:
        """The first process's files, which the others write into `folder`; where they are."""
        names = json.loads(self.share(json.dumps([path.name for path in paths]).encode()))
        if self.rank == 0:
            for path in paths:
                self.share(path.read_bytes())
            return paths
        for name in names:
            (folder / Path(name).name).write_bytes(self.share())
        return [folder / Path(name).name for name in names]

    # ---- the end of others ----

    def _watch(self) -> None:
        while True:
            time.sleep(0.5)
            since = self._since
            if since is not None and time.monotonic() - since > self._allowed:
                waited = f"no answer from the other devices for {time.monotonic() - since:.0f} s"
                leave(f"gs-train: process {self.rank} of {self.size}: {waited}{self.where()}")
                os._exit(DevicesLost.exit_code)

    def where(self) -> str:
        """See Crew.where."""
        folder = self.root / "checkpoints"
        there = sorted(folder.glob("step_*.json"))
        return f"; the last checkpoint is {there[-1] if there else f'in {folder}'}, go on with it by --resume"


class Beats(Callback):
    """Signs of life while views are measured."""

    def __init__(self, company: Company) -> None:
        self.company = company

    def progress(self, what: str, done: int, total: int) -> None:
        """See Callback.progress."""
        self.company.beat()


def leave(line: str) -> None:
    """Says why this process ends: on standard error, or to who started it, who says it once."""
    folder = os.environ.get(FOLDER)
    if folder is None:
        print(line, file=sys.stderr, flush=True)
    else:
        Path(folder, f"last-words.{os.environ.get('MLX_RANK', '0')}").write_text(line)
