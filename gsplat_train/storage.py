# SPDX-License-Identifier: Apache-2.0
"""Writing files so that a reader finds all of one or nothing, whatever happens meanwhile."""

from __future__ import annotations

import codecs
import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from .errors import StorageError, UserError

_LEFT = re.compile(r"\..+\.\d+\.tmp")  # names that `atomic_write` gives
# What Notepad and PowerShell put before a text.
MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
PROGRAM = "gsplat_train"  # stands in each PNG that is written, as its Software
NAME_BYTES = 235  # of a file's name: file systems take 255, `atomic_write` adds up to 20 while it writes


def cache_folder() -> Path:
    """GS_CACHE, else gsplat_train in XDG_CACHE_HOME, else in ~/.cache. Where the user has no home: a folder that cannot
    be made, so that nothing is kept.
    """
    if override := os.environ.get("GS_CACHE"):
        return Path(override)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gsplat_train"
    except RuntimeError:
        return Path(os.devnull) / "gsplat_train"


def file_name(stem: str, end: str) -> str:
    """`stem` + `end`; of a stem too long for a file system the beginning and a hash of all of it."""
    if len(os.fsencode(stem + end)) <= NAME_BYTES:
        return stem + end
    end = f"-{hashlib.sha256(os.fsencode(stem)).hexdigest()[:8]}{end}"
    return os.fsencode(stem)[: NAME_BYTES - len(os.fsencode(end))].decode("utf-8", "ignore") + end


@contextmanager
def storage(path: Path) -> Iterator[None]:
    """Turns what the file system refuses (a full disk, no permission) into a StorageError naming `path`."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}; {_cure(error)}") from error


def _cure(error: OSError) -> str:
    """What to do about what the file system refused."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "free space there or choose another folder"
    return "choose another folder, or make it one that can be written to"


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which becomes `path` once it is complete and on the disk; on an error `path` stays as
    it was.

    Makes the folder. StorageError where that or the writing fails.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with storage(path):
        os.makedirs(path.parent, exist_ok=True)
        try:
            with open(temporary, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):  # of a read-only file system; the first error is the one to tell
                temporary.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, whose entries become those of `path` once all are there; otherwise `path` is as it was.

    UserError where `path` holds something, StorageError where it cannot be written.
    """
    is_new = not path.exists()
    if not is_new and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{path} exists and is not an empty folder; choose another")
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path, prefix=".") as work:
            yield Path(work)
            for entry in sorted(Path(work).iterdir()):
                entry.replace(path / entry.name)
    except BaseException as error:
        if is_new:
            shutil.rmtree(path, ignore_errors=True)
        if not isinstance(error, OSError):
            raise
        raise StorageError(f"{path} cannot be written: {error.strerror or error}; {_cure(error)}") from error


def append_line(path: Path, line: str) -> None:
    """Adds a line to a file; a crash may cut it short. StorageError where that fails."""
    with storage(path), open(path, "ab") as file:
        file.write(line.encode() + b"\n")


def remove(path: Path) -> None:
    """Removes a file, if it is there; StorageError where that is not allowed."""
    with storage(path), suppress(FileNotFoundError):
        os.unlink(path)


def remove_leftovers(folder: Path) -> int:
    """Removes what killed writers left of `atomic_write` in a folder where nobody writes now; how many files."""
    count = 0
    with suppress(OSError):
        for path in folder.iterdir():
            if _LEFT.fullmatch(path.name):
                with suppress(OSError):
                    path.unlink()
                    count += 1
    return count


def encoding_of(head: bytes) -> str:
    """How a text that begins so is written."""
    return next((name for mark, name in MARKS if head.startswith(mark)), "utf-8")


def text_of(data: bytes, errors: str = "strict") -> str:
    """The text in a file's bytes, whatever mark is before it; strict, or what cannot be read is replaced."""
    encoding = encoding_of(data)
    return data.decode(encoding, "replace" if encoding == "utf-16" and errors != "strict" else errors)


def parsed(text: str | bytes) -> Any:
    """What JSON says; ValueError where it is none, or so deep that Python gives up on it."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def is_file(path: Path) -> bool:
    """Whether a file is there; False too where no file can have that name."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def home_expanded(path: str | os.PathLike[str]) -> Path:
    """The path with ~ and ~user replaced; UserError where there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(
            f"{os.fspath(path)}: there is no user of that name here; write ./~ for a file called so"
        ) from None


def _sync_folder(folder: Path) -> None:
    """Puts a rename on the disk, where the file system can."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)
