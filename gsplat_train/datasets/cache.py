# SPDX-License-Identifier: Apache-2.0
"""Pictures that took long to make, kept on disk under a key of everything they were made from; a GPU's kernels too.

A file of the cache is a PNG, the photos of a whole scene as they are in memory (photo_store.py), or a kernel's machine
code. It appears complete or not at all, is checked when read, and may be deleted. All of them together take no more
than `limit`: what was not used for the longest time goes first. Another run that reads what goes still has it open.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import shutil
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from ..errors import UserError
from ..machine import bytes_of
from ..storage import atomic_write, cache_folder

CODE = ".code"
ENDINGS = (".png", ".photos", CODE)
LEFT = ".tmp"  # ends what a writer has not finished
LIMIT = 40_000_000_000  # bytes; GS_CACHE_SIZE is another
SPARE = 2_000_000_000  # bytes of the disk that the cache never takes: checkpoints need them
DIGEST = 32  # bytes of SHA-256
COUNTED_AGAIN = 200_000_000  # bytes written since the folder was looked at, after which it is again

_writing = threading.Lock()
_left: dict[Path, int] = {}  # bytes of a folder for which there is room, as was last seen


class Entry(NamedTuple):
    """A file of the cache."""

    path: Path
    bytes: int
    used: float  # when, in seconds since 1970


def key(*parts: bytes | str) -> str:
    """A name for what the parts determine."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogateescape") if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def limit() -> int:
    """Bytes that the cache may take: GS_CACHE_SIZE; UserError where that is no size."""
    text = os.environ.get("GS_CACHE_SIZE")
    if not text:
        return LIMIT
    try:
        return bytes_of(text)
    except ValueError:
        raise UserError(
            f"GS_CACHE_SIZE must be a size such as 40G, or 0 for no cache, got {text!r}"
        ) from None


def entries() -> list[Entry]:
    """What is there, in the order in which it will go."""
    found = []
    with suppress(OSError):
        for path in cache_folder().iterdir():
            if path.suffix in ENDINGS:
                with suppress(OSError):  # another process took it away
                    status = path.stat()
                    found.append(Entry(path, status.st_size, status.st_mtime))
    return sorted(found, key=lambda entry: (entry.used, entry.path.name))


def used(path: Path) -> None:
    """Notes that a file was used now: the time of its last reading is kept by few systems."""
    with suppress(OSError):
        os.utime(path)


def make_room(count: int) -> str | None:
    """Removes what was used least of late until `count` more bytes have room; None, or why there is none."""
    most = limit()
    if count > most:
        return f"the cache may take {most / 1e9:.1f} GB (GS_CACHE_SIZE)"
    remove_leftovers()
    there = entries()
    total = sum(entry.bytes for entry in there)
    helps = _free() + total >= count + SPARE  # otherwise all of them would go, and for nothing
    while helps and there and (total + count > most or _free() < count + SPARE):
        total -= there[0].bytes
        with suppress(OSError):
            there[0].path.unlink()
        there.pop(0)
    free = _free()
    if helps and total + count > most:
        return "the cache's files cannot be removed"
    if free < count + SPARE:
        return f"{max(free, 0) / 1e9:.1f} GB of disk are free in {cache_folder()}"
    return None


def clear() -> tuple[int, int]:
    """Empties the cache: how many files and bytes went. StorageError is none: what cannot be removed stays."""
    count = size = 0
    for entry in entries():
        with suppress(OSError):
            entry.path.unlink()
            count, size = count + 1, size + entry.bytes
    remove_leftovers()
    return count, size


def remove_leftovers() -> None:
    """Removes what killed writers left; what a living one writes is locked by it."""
    with suppress(OSError):
        for path in cache_folder().iterdir():
            if path.name.endswith(LEFT):
                with suppress(OSError):
                    _remove_unlocked(path)


def _remove_unlocked(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
    finally:
        os.close(descriptor)


def _free() -> int:
    """Bytes free where the cache is or will be; 0 where that cannot be told."""
    folder = cache_folder()
    for place in (folder, *folder.parents):
        with suppress(OSError):
            return shutil.disk_usage(place).free
    return 0


def read(name: str, sides: tuple[int, int]) -> np.ndarray | None:
    """The picture [H, W, 3], or with alpha [H, W, 4], uint8 of that key and these sides (H, W); None where there
    is none or it is damaged.
    """
    path = cache_folder() / f"{name}.png"
    try:
        data = path.read_bytes()
        Image.open(io.BytesIO(data)).verify()  # the checksums; decoding alone does not look at them
        picture = np.array(Image.open(io.BytesIO(data)))
    except Exception:  # whatever a damaged PNG makes pillow raise: the picture is made again
        return None
    fits = picture.ndim == 3 and picture.shape[:2] == sides and picture.shape[2] in (3, 4)
    if not fits or picture.dtype != np.uint8:
        return None
    used(path)
    return picture


def write(name: str, picture: np.ndarray) -> bool:
    """Keep a picture; False where the disk or the limit does not allow it, which costs time and nothing else."""
    path = cache_folder() / f"{name}.png"
    try:
        if not _has_room(picture.nbytes + picture.nbytes // 32 + 1000):  # a PNG of noise is a little larger
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=LEFT, delete=False) as file:
            temporary = Path(file.name)
            try:
                with suppress(OSError):  # a file system without locks
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                Image.fromarray(picture).save(file, "PNG", compress_level=1)
                file.flush()
                os.replace(temporary, path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
    except OSError:
        return False
    return True


def _has_room(count: int) -> bool:
    """Whether so many bytes may be written; the folder is looked at only now and then."""
    slack, folder = min(COUNTED_AGAIN, limit() // 16), cache_folder()
    with _writing:
        _left[folder] = min(_left.get(folder, 0), slack) - count
        if _left[folder] >= 0:
            return True
        _left[folder] = slack if make_room(count + slack) is None else 0
        return _left[folder] > 0 or make_room(count) is None


def read_code(name: str) -> bytes | None:
    """The machine code of that key; None where there is none or it is damaged."""
    path = cache_folder() / f"{name}{CODE}"
    try:
        data = path.read_bytes()
    except OSError:
        return None
    if hashlib.sha256(data[DIGEST:]).digest() != data[:DIGEST]:
        return None
    used(path)
    return data[DIGEST:]


def write_code(name: str, code: bytes) -> None:
    """Keeps machine code, behind its digest, where the disk and the limit allow it."""
    try:
        if _has_room(len(code) + DIGEST):
            cache_folder().mkdir(parents=True, exist_ok=True)
            with atomic_write(cache_folder() / f"{name}{CODE}") as file:
                file.write(hashlib.sha256(code).digest() + code)
    except (OSError, UserError):  # a GS_CACHE_SIZE that is no size is told elsewhere: no GPU is at fault
        return
