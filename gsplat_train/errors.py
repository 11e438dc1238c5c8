# SPDX-License-Identifier: Apache-2.0
"""Errors that the user can do something about.

Each message is one line: what was given, what is allowed, what to do. The command line prints it without a
traceback and exits with the class's `exit_code`; any other exception is a bug and keeps its traceback.
"""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

MOST = 1000  # characters of a message: what a file holds may be quoted in it
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


class UserError(Exception):
    """Bad usage or bad input. The message becomes one line without control characters, and no endless one."""

    exit_code = 2

    def __init__(self, message: str = "") -> None:
        super().__init__(one_line(message))


def one_line(message: str) -> str:
    """A message as a terminal can show it; of one that is too long the beginning and the end."""
    line = _CONTROL.sub(" ", message)
    return line if len(line) <= MOST else f"{line[: MOST * 7 // 10]} ... {line[-MOST // 4 :]}"


def words_of(error: BaseException) -> str:
    """What an exception of a library says, for a line of one's own: no Python."""
    if isinstance(error, KeyError) and error.args:
        name = str(error.args[0])
        return name if " " in name else f"{name} is missing"
    return str(error) or type(error).__name__


@contextmanager
def ending_in_one_line(program: str) -> Iterator[None]:
    """Of a script: a UserError inside becomes its line on standard error and its exit code, as of a command."""
    try:
        yield
    except UserError as error:
        print(f"{program}: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None


class BackendUnavailable(UserError):
    """The chosen backend cannot run on this machine."""

    exit_code = 3


class TrainingDiverged(UserError):
    """The loss or a gradient is no longer finite; the last good state is saved."""

    exit_code = 4


class StorageError(UserError):
    """The disk is full or not writable; the last good state is kept."""

    exit_code = 5


class OutOfMemory(UserError):
    """No memory is left, of the processor or of the GPU; the state is saved where it can be read."""

    exit_code = 6


class DevicesLost(UserError):
    """Another of the processes that train together is gone or no longer answers; the last checkpoint is kept."""

    exit_code = 7


class Torn(MemoryError):
    """Memory ran out in the middle of an edit of rows: some are moved, others are not. Nobody may save that."""


class Interrupted(UserError):
    """Ctrl-C, SIGTERM or SIGHUP; the state is saved."""

    exit_code = 130


# What MLX says where it finds no memory, as a RuntimeError, and Python where it finds none for a thread.
_NO_MEMORY = re.compile(
    "Unable to allocate|Attempting to allocate|Insufficient Memory|out of memory|bad_alloc|can't start new thread",
    re.IGNORECASE,
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out: Python's own, NumPy's, MLX's or CUDA's."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and _NO_MEMORY.search(str(error)) is not None
    )


# What MLX says where another process of its ring is gone, as a RuntimeError.
_LOST = re.compile(r"\[ring\]|connection to a peer|\[jaccl\]|NCCL", re.IGNORECASE)


def is_lost_device(error: BaseException) -> bool:
    """Whether an exception says that another process, with which this one trains, can no longer be reached."""
    return isinstance(error, RuntimeError) and _LOST.search(str(error)) is not None
