# SPDX-License-Identifier: Apache-2.0
"""Photos larger than memory: the file of decoded photos, its cache, two runs at once, killed writers, bad disks."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from colmap_files import CAMERAS, IMAGES, POINTS, binary_files, write_scene
from PIL import Image

from gsplat_train.datasets import cache, load_scene, photo_store
from gsplat_train.datasets.images import FilePhoto
from gsplat_train.datasets.photo_buffers import Buffers
from gsplat_train.datasets.photo_store import StoredPhoto
from gsplat_train.errors import UserError
from gsplat_train.scene import Photo

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def good(tmp_path):
    folder = write_scene(tmp_path / "scene", binary_files(CAMERAS, IMAGES, POINTS))
    (folder / "masks").mkdir()
    mask = np.zeros((30, 40), np.uint8)
    mask[:, :17] = 255
    Image.fromarray(mask).save(folder / "masks" / "b.png")
    half = np.full((30, 40, 4), 99, np.uint8)
    half[:9, :, 3] = 255
    Image.fromarray(half).save(folder / "images" / "a.png")
    return folder


def paged(folder, lines=None, **options):
    """The scene as if there was hardly any memory."""
    return load_scene(folder, memory=1000, log=(lines if lines is not None else []).append, **options)


def check_same(scene, other):
    for view, listed in zip(scene.views, other.views, strict=True):
        photo, expected = view.pixels, listed.pixels
        for plane in ("image", "mask", "alpha"):
            np.testing.assert_array_equal(getattr(photo, plane), getattr(expected, plane))


def test_photos_come_from_one_file_as_they_would_from_memory(good, own_cache):
    kept, lines = load_scene(good), []
    scene = paged(good, lines)
    assert all(isinstance(view.photo, StoredPhoto) for view in scene.views)
    assert [path.suffix for path in own_cache.iterdir()] == [".photos"]
    assert any("read when needed from" in line for line in lines)
    check_same(scene, kept)
    photo = scene.views[0].photo.decode()
    assert scene.views[0].photo.decode() is photo, "not read twice while somebody holds it"


def test_the_second_time_nothing_is_decoded(good, monkeypatch):
    first, lines, again = paged(good, lines := []), lines, []
    monkeypatch.setattr(FilePhoto, "make", lambda self: pytest.fail("decoded"))
    scene = paged(good, again)
    check_same(scene, first)
    output = lambda lines: [line for line in lines if "%" in line or "transparent" in line]  # noqa: E731
    assert output(lines) == output(again) != []


@pytest.mark.parametrize("what", ["photo", "mask", "setting", "same size, same time"])
def test_what_would_come_out_different_is_another_file(good, own_cache, what):
    paged(good)
    options = {}
    if what == "photo":
        Image.new("RGB", (40, 30), "red").save(good / "images" / "a.png")
    elif what == "mask":
        Image.new("L", (40, 30), 255).save(good / "masks" / "b.png")
    elif what == "setting":
        options = {"mask_mode": "off"}
    else:
        path = good / "images" / "a.png"
        data, stamp = bytearray(path.read_bytes()), path.stat()
        path.write_bytes(bytes(data))
        os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    scene = paged(good, **options)
    assert len(list(own_cache.glob("*.photos"))) == 2
    check_same(scene, load_scene(good, **options))


@pytest.mark.parametrize("what", ["a byte", "the index", "cut", "empty", "no file of photos"])
def test_a_damaged_file_is_found_and_costs_time_only(good, own_cache, what):
    paged(good)
    (path,) = own_cache.glob("*.photos")
    data = bytearray(path.read_bytes())
    if what == "a byte":
        data[5] ^= 1
    elif what == "the index":
        data[-40] ^= 1
    elif what == "cut":
        del data[-7:]
    else:
        data = bytearray() if what == "empty" else bytearray(b"x" * 99)
    path.write_bytes(data)
    lines = []
    check_same(paged(good, lines), load_scene(good))
    warnings = [line for line in lines if line.startswith("warning: ") and ".photos" in line]
    assert len(warnings) == 1 and "is damaged" in warnings[0]


def test_a_file_cut_while_it_is_read_is_said_once(good, own_cache):
    lines = []
    scene = paged(good, lines)
    (path,) = own_cache.glob("*.photos")
    os.truncate(path, 10)
    check_same(scene, load_scene(good))
    assert sum("cannot be read (it was cut short)" in line for line in lines) == 1


def test_a_file_that_is_removed_while_it_is_read_is_still_there(good, own_cache):
    scene = paged(good)
    assert cache.clear()[0] == 1
    assert not list(own_cache.iterdir())
    for path in (good / "images").rglob("*.png"):
        path.unlink()
    assert [view.image.shape for view in scene.views] == [(30, 40, 3)] * 3


@pytest.mark.parametrize(
    "fault", ["no room", "read-only", "full while written", "no cache", "a file in its place"]
)
def test_without_room_on_disk_photos_are_decoded_again(good, own_cache, monkeypatch, fault):
    if fault == "no room":
        monkeypatch.setattr(cache, "_free", lambda: cache.SPARE + 100)
    elif fault == "no cache":
        monkeypatch.setenv("GS_CACHE_SIZE", "0")
    elif fault == "a file in its place":
        own_cache.write_text("")
    else:
        number = errno.EROFS if fault == "read-only" else errno.ENOSPC
        written = []

        def refuse(*args):
            written.append(args)
            if fault == "read-only" or len(written) > 2:
                raise OSError(number, os.strerror(number))

        monkeypatch.setattr(photo_store, "_write", refuse)
    lines = []
    scene = paged(good, lines)
    check_same(scene, load_scene(good))
    assert all(isinstance(view.photo, FilePhoto) for view in scene.views)
    assert sum(line.startswith("warning: decoded photos are not kept on disk (") for line in lines) == 1
    assert own_cache.is_file() or not list(own_cache.glob("*"))


WRITE = """
import os, sys, time
from gsplat_train.datasets import load_scene, photo_store
real = photo_store._write
def slow(descriptor, data, offset):
    real(descriptor, data[: len(data) // 2], offset)
    print("half", flush=True)
    time.sleep(float(sys.argv[2]))
    real(descriptor, data, offset)
photo_store._write = slow
load_scene(sys.argv[1], memory=1000)
print("done", flush=True)
"""


def writer(folder, seconds):
    """Another process that writes the photos, each with a pause in its middle."""
    return subprocess.Popen(
        [sys.executable, "-c", WRITE, str(folder), str(seconds)],
        stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def test_a_killed_writer_leaves_no_half_file(good, own_cache):
    process = writer(good, 60)
    assert process.stdout.readline() == "half\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert [path.suffix for path in own_cache.iterdir()] == [".tmp"]
    check_same(paged(good), load_scene(good))
    assert [path.suffix for path in own_cache.iterdir()] == [".photos"]


def test_a_second_run_waits_for_the_first_ones_file(good, own_cache, monkeypatch):
    process = writer(good, 0.2)
    assert process.stdout.readline() == "half\n"
    cache.clear()  # what a living writer has is not taken
    monkeypatch.setattr(FilePhoto, "make", lambda self: pytest.fail("decoded"))
    lines = []
    scene = paged(good, lines)
    assert any("waiting for it" in line for line in lines)
    assert process.wait() == 0 and len(list(own_cache.iterdir())) == 1
    monkeypatch.undo()
    check_same(scene, load_scene(good))


def test_a_run_that_writes_no_more_is_not_waited_for(good, monkeypatch):
    process = writer(good, 60)
    assert process.stdout.readline() == "half\n"
    monkeypatch.setattr(photo_store, "STALLED", 0.3)
    lines = []
    scene = paged(good, lines)
    process.kill()
    process.wait()
    assert any("the run that writes them has stopped" in line for line in lines)
    check_same(scene, load_scene(good))


# ---- the cache's bound ----


def put(folder, name, size, age):
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_bytes(bytes(size))
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_what_was_used_least_of_late_goes_first(own_cache, monkeypatch):
    monkeypatch.setenv("GS_CACHE_SIZE", "10kB")
    old, mid, new = (put(own_cache, f"{i}.png", 3000, 100 - i) for i in range(3))
    other = put(own_cache, "verdicts.json", 5000, 1000)
    cache.used(old)
    assert cache.make_room(4000) is None
    assert old.exists() and new.exists() and other.exists() and not mid.exists()
    assert cache.make_room(10_001) == "the cache may take 0.0 GB (GS_CACHE_SIZE)"
    assert cache.make_room(10_000) is None and cache.entries() == [] and other.exists()


def test_pictures_are_bounded_too(own_cache, monkeypatch):
    assert cache.write("before", np.zeros((60, 80, 3), np.uint8))
    monkeypatch.setenv("GS_CACHE_SIZE", "60kB")
    rng = np.random.default_rng(0)
    for i in range(9):
        assert cache.write(f"{i}", rng.integers(0, 256, (60, 80, 3), np.uint8))
        assert sum(entry.bytes for entry in cache.entries()) <= 60_000
    assert cache.read("8", (60, 80)) is not None and cache.read("0", (60, 80)) is None


def test_a_size_that_is_none_is_said(monkeypatch):
    monkeypatch.setenv("GS_CACHE_SIZE", "much")
    with pytest.raises(
        UserError, match="GS_CACHE_SIZE must be a size such as 40G, or 0 for no cache, got 'much'"
    ):
        cache.limit()


# ---- buffers ----


def test_buffers_are_used_again_once_nobody_holds_them():
    buffers = Buffers(3000)
    first = buffers.take(1000)
    address = first.ctypes.data
    part = first[10:20].reshape(2, 5)
    del first
    second = buffers.take(1000)
    assert second.ctypes.data != address, "a part is still held"
    del part
    assert buffers.take(900).ctypes.data == address
    held = [buffers.take(1000) for _ in range(5)]
    assert len({array.ctypes.data for array in held}) == 5, "beyond the bound they are made anew"
    assert sum(len(slot) for slot, _ in buffers._slots) <= 3000
    Buffers(0).take(10)[:] = 1


def test_copies_take_what_fits_best():
    """So that the same arrays, copied again in any order, need nothing new."""
    buffers, arrays = Buffers(1 << 20), [np.arange(n, dtype=np.float32) for n in (1, 300, 20, 0)]
    copies = [buffers.copy(array) for array in arrays]
    there = buffers.bytes
    arrays[1][:] = -1
    assert (copies[1] == np.arange(300)).all() and [len(copy) for copy in copies] == [1, 300, 20, 0]
    del copies
    kept = [buffers.copy(array) for array in reversed(arrays)]
    assert buffers.bytes == there and (kept[2] == -1).all()


def test_many_threads_read_what_is_theirs(good):
    scene, expected = paged(good), [view.image.copy() for view in load_scene(good).views]
    wrong = []

    def read(k):
        for i in range(200):
            view = scene.views[(i * k) % 3]
            if not np.array_equal(view.photo.decode().image, expected[(i * k) % 3]):
                wrong.append(view.name)

    threads = [threading.Thread(target=read, args=(k,)) for k in (1, 2, 4, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_photo_in_memory_is_itself():
    photo = Photo(np.zeros((2, 2, 3), np.uint8))
    assert photo.decode() is photo


def test_where_nothing_helps_nothing_goes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A disk so full that an empty cache would not be enough."""
    monkeypatch.setenv("GS_CACHE", str(tmp_path))
    cache.write_code("kept", b"x" * 1000)
    monkeypatch.setattr(cache, "_free", lambda: cache.SPARE - 2000)
    assert "are free" in str(cache.make_room(500)) and len(cache.entries()) == 1
    monkeypatch.setattr(cache, "_free", lambda: cache.SPARE + 500 - 1000 * len(cache.entries()))
    assert cache.make_room(500) is None and cache.entries() == [], "where it does, what was used least goes"
