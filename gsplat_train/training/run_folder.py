# SPDX-License-Identifier: Apache-2.0
"""The folder of a run: where its files are, and how its records are written.

config.toml, metrics.json, log.jsonl, point_cloud.ply, best.ply, checkpoints/, previews/, while a process works there
run.lock. Everything but the log is written all or nothing; of the log a resumed run drops what came after its
checkpoint.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from .. import __version__
from .. import config as config_module
from ..config import Config
from ..errors import StorageError, UserError
from ..machine import in_words, peak_bytes
from ..model.formats import ply
from ..model.placing import Placing, beside_of, write_placing
from ..model.sky import sky_beside
from ..model.splats import Splats
from ..storage import append_line, atomic_write, parsed, remove, remove_leftovers, storage


class RunFolder:
    """Paths and records of the run in `root`, which need not exist yet."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config = root / "config.toml"
        self.metrics = root / "metrics.json"
        self.log = root / "log.jsonl"
        self.ply = root / "point_cloud.ply"
        self.best = root / "best.ply"
        self.checkpoints = root / "checkpoints"
        self.previews = root / "previews"
        self.report = root / "report.html"
        self.lock = root / "run.lock"
        self._made: list[Path] = []  # by this process; they go again if they stay empty

    def holds_run(self) -> bool:
        """Whether anything of a run is there."""
        return any(
            path.exists() for path in (self.config, self.metrics, self.log, self.ply, self.checkpoints)
        )

    def make(self, exclusively: bool = False) -> None:
        """Makes the folder. exclusively: FileExistsError where it is there already."""
        missing = [path for path in (self.root, *self.root.parents) if not path.exists()]
        try:
            with storage(self.root):
                self.root.mkdir(parents=True)
        except StorageError as error:
            if exclusively and isinstance(error.__cause__, FileExistsError):
                raise error.__cause__ from None
            if not self.root.is_dir():
                raise
        else:
            self._made = missing

    @contextmanager
    def claimed(self, log: Callable[[str], None] = lambda line: None) -> Iterator[None]:
        """Holds the folder for this process: makes it, and a lock in it that names the process. UserError where
        another process has it; the lock of a dead one is taken over, and that is said. A folder that is still
        empty at the end goes again, with those above it that were made for it.
        """
        self.make()
        with storage(self.root):
            descriptor = self._locked(log)
        for folder in (self.root, self.checkpoints, self.previews):
            remove_leftovers(folder)
        try:
            yield
        finally:
            self._release(descriptor)

    def _locked(self, log: Callable[[str], None]) -> int:
        """The lock file, open and locked."""
        while True:
            descriptor = os.open(self.lock, os.O_RDWR | os.O_CREAT, 0o644)
            owner = os.read(descriptor, 200).decode("utf-8", "replace").strip()
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                raise UserError(
                    f"{self.root} is in use by {owner or 'another process'}; wait for it, or give another --out"
                ) from None
            except OSError:  # a file system without locks
                log(f"warning: {self.root} cannot be locked; let no second process work in it")
            if not self.lock.exists() or os.fstat(descriptor).st_ino != self.lock.stat().st_ino:
                os.close(descriptor)  # its owner took it away between our two looks
                continue
            if owner:
                log(f"warning: {owner} left its lock in {self.root} when it ended; taken over")
            try:
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"process {os.getpid()} on {platform.node()}\n".encode(), 0)
            except OSError:  # of a full disk
                self._release(descriptor)
                raise
            return descriptor

    def _release(self, descriptor: int) -> None:
        """Gives the folder back; what was made for it goes, if it is still empty."""
        with suppress(OSError):
            self.lock.unlink(missing_ok=True)
        os.close(descriptor)
        with suppress(OSError):
            for path in self._made:
                path.rmdir()

    def clear(self) -> None:
        """Removes the files of a run, and no others."""
        beside = [of(path) for path in (self.ply, self.best) for of in (beside_of, sky_beside)]
        for path in (self.config, self.metrics, self.log, self.ply, self.best, self.report, *beside):
            remove(path)
        renders = self.root / "renders"  # gs-render's, of the model that goes
        patterns = (
            (self.checkpoints, "step_*"),
            (self.previews, "*.png"),
            (renders, "*.png"),
            (renders, "metrics.json"),
        )
        for folder, pattern in patterns:
            for path in sorted(folder.glob(pattern)):
                remove(path)

    def room(self, size: int) -> str | None:
        """A warning where the disk may not hold files of `size` bytes in all, those that are there counted."""
        there = [self.ply, self.best, *self.checkpoints.glob("*")]
        try:
            more = size - sum(path.stat().st_size for path in there if path.is_file())
            free = shutil.disk_usage(self.root).free
        except OSError:
            return None
        if free >= more:
            return None
        return (
            f"warning: disk: {in_words(free)} free in {self.root}, and checkpoints and models of this run may take "
            f"{in_words(more)}; free space there, or give another --out"
        )

    def write_config(self, config: Config) -> None:
        with atomic_write(self.config) as file:
            file.write(config_module.to_toml(config).encode())

    def write_metrics(self, metrics: dict[str, Any]) -> None:
        with atomic_write(self.metrics) as file:
            file.write(to_json(metrics, indent=1).encode() + b"\n")

    def append_log(self, line: str) -> None:
        append_line(self.log, line)

    def truncate_log(self, step: int) -> None:
        """Drops the lines after `step`, and one that was cut off while written."""
        if not self.log.is_file():
            return
        kept = []
        for line in self.log.read_text("utf-8", errors="replace").splitlines():
            try:
                if parsed(line)["step"] <= step:
                    kept.append(line + "\n")
            except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError):
                continue
        with atomic_write(self.log) as file:
            file.write("".join(kept).encode())


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON, in which a number that is not finite is null."""
    return json.dumps(_finite(value), indent=indent)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_splats(path: Path, splats: Splats, frame: Placing) -> None:
    """Writes a model, and beside it where it lies in the scene where that is elsewhere; frame: from its own to that."""
    write_placing(path, frame)
    ply.write(path, splats)


def remove_splats(path: Path) -> None:
    """Takes a model away, and what stands beside it."""
    remove(path)
    remove(beside_of(path))
    remove(sky_beside(path))


def peak_memory_mb() -> float:
    """Peak resident memory of this process in 10^6 bytes."""
    return round(peak_bytes() / 1e6, 1)


@cache
def origin() -> dict[str, str | None]:
    """The version of this program, and the commit of the checkout that it runs from (None where it is
    installed).
    """
    return {"version": __version__, "commit": _commit()}


def _commit() -> str | None:
    checkout = Path(__file__).parents[2]
    if not (checkout / ".git").exists():
        return None
    command = ["git", "-C", str(checkout), "rev-parse", "--short=12", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
