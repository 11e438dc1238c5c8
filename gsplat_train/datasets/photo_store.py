# SPDX-License-Identifier: Apache-2.0
"""The photos of a scene that is larger than memory, as they are once decoded, in one file of the cache.

The file: the planes of each photo one after another (image [H, W, 3], mask [H, W], alpha [H, W], all uint8), an
index in JSON, and 24 bytes: where the index begins (8), its length (4) and CRC-32 (4), and `MAGIC`. Photos are read
by plain reads into a few buffers that are used again: a mapped file would count as memory of the process.
"""

from __future__ import annotations

import fcntl
import json
import os
import struct
import threading
import time
import weakref
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..scene import Photo, PhotoSource
from ..storage import cache_folder, parsed
from . import cache
from .blank import blank
from .file_photo import FilePhoto
from .photo_buffers import Buffers

MAGIC = b"photos 2"
FOOTER = struct.Struct("<QII8s")
BUFFERS = 16  # photos that may lie in memory: those ahead of training, and a few more
STALLED = 60.0  # seconds without a byte after which another run's writing is no longer waited for


class Place(NamedTuple):
    """Where a photo lies in the file."""

    offset: int
    height: int
    width: int
    mask: bool
    alpha: bool
    check: int  # CRC-32 of its bytes
    counted: float  # share of the pixels that count
    blank: str  # as blank.blank says

    @property
    def bytes(self) -> int:
        return self.height * self.width * (3 + self.mask + self.alpha)


class PhotoStore:
    """A file of photos, open for reading. ValueError or OSError where it is none, or is damaged."""

    def __init__(self, path: Path, log: Callable[[str], None] = lambda line: None) -> None:
        self.path, self.log = path, log
        self.buffers = Buffers(0)
        self.descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        weakref.finalize(self, os.close, self.descriptor)
        size = os.fstat(self.descriptor).st_size
        begin, length, check, magic = FOOTER.unpack(
            os.pread(self.descriptor, FOOTER.size, max(size - FOOTER.size, 0))
        )
        index = os.pread(self.descriptor, length, begin) if begin + length + FOOTER.size == size else b""
        if magic != MAGIC or zlib.crc32(index) != check:
            raise ValueError("no file of photos, or a damaged one")
        self.places = [Place(*place) for place in parsed(index)]
        self._warned = False

    @property
    def bytes(self) -> int:
        """Of all photos."""
        return sum(place.bytes for place in self.places)

    def photos(self, sources: Sequence[PhotoSource]) -> list[StoredPhoto]:
        """The photos, each with what it is made from."""
        largest = max((place.bytes for place in self.places), default=0)
        self.buffers.most = max(self.buffers.most, BUFFERS * largest)
        return [StoredPhoto(self, place, source) for place, source in zip(self.places, sources, strict=True)]

    def read(self, place: Place) -> Photo | None:
        """A photo; None, and said once, where the file can no longer be read or is damaged."""
        room = self.buffers.take(place.bytes)
        try:
            done = 0
            while done < place.bytes:
                got = os.preadv(self.descriptor, [room.data[done:]], place.offset + done)
                if got == 0:
                    raise OSError("it was cut short")
                done += got
            if zlib.crc32(room.data) != place.check:
                raise OSError("it is damaged")
        except OSError as error:
            if not self._warned:
                self._warned = True
                self.log(f"warning: {self.path} cannot be read ({error}); photos are decoded again instead")
            return None
        pixels = place.height * place.width
        sides = (place.height, place.width)
        planes = [
            room[(3 + i) * pixels : (4 + i) * pixels].reshape(sides)
            for i in range(2)[: place.mask + place.alpha]
        ]
        image = room[: 3 * pixels].reshape(*sides, 3)
        return Photo(image, planes[0] if place.mask else None, planes[place.mask] if place.alpha else None)


@dataclass(frozen=True, eq=False)
class StoredPhoto:
    """A photo in a store; where that fails it is made from its file again."""

    store: PhotoStore
    place: Place
    source: PhotoSource
    _held: list[Any] = field(default_factory=lambda: [None, threading.Lock()], repr=False)

    def decode(self) -> Photo:
        """See PhotoSource.decode. While somebody holds the result, it is not read again."""
        with self._held[1]:
            photo = self._held[0] and self._held[0]()
            if photo is None:
                photo = self.store.read(self.place) or self.source.decode()
                self._held[0] = weakref.ref(photo)
            return photo


class Writer:
    """A store being written. Where the disk refuses, the rest is not written, and `finish` says so."""

    def __init__(self, name: str, file: Any, path: Path, log: Callable[[str], None]) -> None:
        self.name, self.file, self.path, self.log = name, file, path, log
        self.end, self.lock = 0, threading.Lock()
        self.error: OSError | None = None

    def add(self, photo: Photo) -> Place:
        """Where the photo was put. From any thread."""
        planes = [plane for plane in (photo.image, photo.mask, photo.alpha) if plane is not None]
        data = b"".join(np.ascontiguousarray(plane, np.uint8).tobytes() for plane in planes)
        with self.lock:
            offset = self.end
            self.end += len(data)
        try:
            _write(self.file.fileno(), data, offset)
        except OSError as error:
            self.error = error
        return unwritten(photo, offset, zlib.crc32(data))

    def __enter__(self) -> None:
        """While photos are added: what ends that leaves nothing."""

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is not None:
            self.abandon()

    def finish(self, places: Sequence[Place]) -> PhotoStore | None:
        """The store, complete and on the disk; None, and said, where that was not possible."""
        index = json.dumps(places).encode()
        end = FOOTER.pack(self.end, len(index), zlib.crc32(index), MAGIC)
        try:
            if self.error is not None:
                raise self.error
            _write(self.file.fileno(), index + end, self.end)
            os.fsync(self.file.fileno())
            os.replace(self.path, path_of(self.name))
            self.file.close()
            return PhotoStore(path_of(self.name), self.log)
        except (OSError, ValueError) as error:
            self.abandon()
            self.log(_not_kept(getattr(error, "strerror", None) or str(error)))
            return None

    def abandon(self) -> None:
        """Nothing stays of it."""
        with suppress(OSError):
            self.path.unlink()
        self.file.close()


def unwritten(photo: Photo, offset: int = 0, check: int = 0) -> Place:
    """What is known of a photo that is in no store."""
    height, width = photo.image.shape[:2]
    counted = 1.0 if photo.mask is None else float((photo.mask > 0).mean())
    planes = photo.mask is not None, photo.alpha is not None
    return Place(offset, height, width, *planes, check, counted, blank(photo))


def path_of(name: str) -> Path:
    """Where the store of that key is."""
    return cache_folder() / f"{name}.photos"


def claim(
    sources: Sequence[FilePhoto], size: int, log: Callable[[str], None]
) -> tuple[PhotoStore | None, Writer | None]:
    """The store of these photos, or else who may write it, of about `size` bytes. Neither, and said, where the disk
    has no room. Waits for another run that writes it.
    """
    name, count = cache.key(*(source.stamp() for source in sources)), len(sources)
    if store := _opened(name, count, log):
        return store, None
    if why := cache.make_room(size):
        log(_not_kept(why))
        return None, None
    try:
        writer = _locked(name, log)
        store = _opened(name, count, log)  # of the run that was waited for
        if store and writer:
            writer.abandon()
        return (store, None) if store else (None, writer)
    except OSError as error:
        log(_not_kept(error.strerror or str(error)))
        return None, None


def _opened(name: str, count: int, log: Callable[[str], None]) -> PhotoStore | None:
    path = path_of(name)
    try:
        store = PhotoStore(path, log)
        if len(store.places) != count:
            raise ValueError(f"{len(store.places)} photos in it, {count} expected")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, TypeError, struct.error) as error:
        log(f"warning: {path} is damaged ({error}); it is written again")
        with suppress(OSError):
            path.unlink()
        return None
    cache.used(path)
    return store


def _locked(name: str, log: Callable[[str], None]) -> Writer | None:
    """The right to write: a lock on the unfinished file, which a killed writer loses. None where one that lives
    writes no more.
    """
    path = path_of(name).with_suffix(".photos" + cache.LEFT)
    path.parent.mkdir(parents=True, exist_ok=True)
    said_waiting, grown, length = False, time.monotonic(), -1
    while True:
        file = open(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+b", buffering=0)  # noqa: SIM115
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            now = os.fstat(file.fileno()).st_size
            file.close()
            if now != length:
                grown, length = time.monotonic(), now
            if time.monotonic() - grown > STALLED:
                log(_not_kept("the run that writes them has stopped"))
                return None
            if not said_waiting:
                log("photos: another run is writing them to the cache; waiting for it")
            said_waiting = True
            time.sleep(0.1)
            continue
        except OSError:  # a file system without locks
            file.close()
            path = path.with_name(f"{path.stem}.{os.getpid()}{cache.LEFT}")
            return Writer(name, open(path, "w+b", buffering=0), path, log)
        if _is_at(path, file.fileno()):
            file.truncate(0)
            return Writer(name, file, path, log)
        file.close()  # its writer has finished, or given up, between our two looks


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.fstat(descriptor).st_ino == path.stat().st_ino
    except OSError:
        return False


def _write(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _not_kept(why: str) -> str:
    return f"warning: decoded photos are not kept on disk ({why}); they are decoded again at each use"
