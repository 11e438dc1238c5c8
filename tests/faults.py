# SPDX-License-Identifier: Apache-2.0
"""Faults on purpose: the n-th thing that is written fails, or the process is killed or told to stop there.

Every file of a run passes through `storage` (and the lock through `run_folder`); both call `open` and `os` by those
names, which are replaced here. As a program, `python tests/faults.py ACTION N [SECONDS]` with the arguments of gs-train
behind `--`: ACTION is kill, TERM, INT, HUP or the name of an errno (once) or NAME+ (from then on).
"""

import errno
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gsplat_train import storage
from gsplat_train.training import run_folder


class Faults:
    """Counts what is written; `act(kind)` is called before number `at` (from 1), or from there on with `lasting`."""

    def __init__(
        self, act: Callable[[str], None], at: int = 0, lasting: bool = False, quota: float = float("inf")
    ):
        self.act, self.at, self.lasting, self.quota = act, at, lasting, quota
        self.seen: list[str] = []  # kinds, in order
        self.armed = True
        self.disk: Path | None = None  # a folder that may hold `quota` bytes

    def count(self, kind: str, size: int = 0) -> None:
        """One more; fails here if it is its turn, or if the disk is full."""
        if not self.armed:
            return
        self.seen.append(kind)
        number = len(self.seen)
        full = self.disk is not None and size + used(self.disk) > self.quota
        if number == self.at or (self.lasting and self.at and number > self.at) or full:
            self.act(kind)


def used(folder: Path) -> int:
    """Bytes of the files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


class Os:
    """The module `os`, with what writes counted."""

    def __init__(self, faults: Faults) -> None:
        self.faults = faults

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in ("replace", "fsync", "makedirs", "unlink", "ftruncate", "pwrite"):
            return real

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.faults.count(name)
            return real(*args, **kwargs)

        return counted


class File:
    """A file whose writes are counted."""

    def __init__(self, file: Any, faults: Faults) -> None:
        self.file, self.faults = file, faults

    def __enter__(self) -> "File":
        return self

    def __exit__(self, *error: Any) -> None:
        self.file.close()

    def write(self, data: Any) -> Any:
        """As a disk that is full takes half of it."""
        try:
            self.faults.count("write", memoryview(data).nbytes)
        except OSError:
            self.file.write(memoryview(data).cast("B")[: memoryview(data).nbytes // 2])
            raise
        written = self.file.write(data)
        self.file.flush()
        return written

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


@contextmanager
def injected(faults: Faults) -> Iterator[Faults]:
    """While inside, `storage` and `run_folder` write through `faults`."""

    def counted_open(path: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        faults.count("open")
        return File(open(path, mode, *args, **kwargs), faults)

    real = storage.os, run_folder.os
    storage.os = run_folder.os = Os(faults)  # type: ignore[assignment]
    storage.open = counted_open  # type: ignore[attr-defined]
    try:
        yield faults
    finally:
        storage.os, run_folder.os = real
        del storage.open  # type: ignore[attr-defined]


def failing(name: str) -> Callable[[str], None]:
    """An action that raises the errno of that name."""
    number = getattr(errno, name)

    def act(kind: str) -> None:
        raise OSError(number, os.strerror(number))

    return act


def main() -> None:
    """See the module."""
    split = sys.argv.index("--")
    action, at, *seconds = sys.argv[1:split]
    if action == "kill":
        act: Callable[[str], None] = lambda kind: os.kill(os.getpid(), signal.SIGKILL)  # noqa: E731
    elif action in ("TERM", "INT", "HUP"):
        act = lambda kind: signal.raise_signal(getattr(signal, f"SIG{action}"))  # noqa: E731
    else:
        act = failing(action.rstrip("+"))
    if seconds:  # kill after so long, counted from the start of the program proper
        import threading

        threading.Thread(target=lambda: (time.sleep(float(seconds[0])), act("time")), daemon=True).start()
    from gsplat_train.cli import train

    sys.argv = ["gs-train", *sys.argv[split + 1 :]]
    with injected(Faults(act, int(at), lasting=action.endswith("+"))):
        train.main()


if __name__ == "__main__":
    main()
