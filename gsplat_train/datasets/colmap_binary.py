# SPDX-License-Identifier: Apache-2.0
"""COLMAP's binary model files, little endian: cameras.bin, images.bin, points3D.bin.

No count in a file is believed before it is compared with the file's size, and files are mapped, not read: a
count of 2^60 costs nothing, and the 2D points of images.bin, nearly all of it, are stepped over.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ..errors import UserError
from ..scene import Camera
from .colmap_records import CameraRecord, ImageRecord, Points, quaternion
from .files import LFS_HEAD
from .lenses import PARAMETERS

COUNT = struct.Struct("<Q")
CAMERA = struct.Struct("<iiQQ")  # id, model id, width, height, then the parameters
IMAGE = struct.Struct("<i4d3di")  # id, quaternion wxyz, translation, camera id, then the name and a zero byte
OBSERVATION = np.dtype([("x", "<f8"), ("y", "<f8"), ("point_id", "<i8")])
POINT = np.dtype(
    [("id", "<u8"), ("position", "<f8", 3), ("color", "u1", 3), ("error", "<f8"), ("track_length", "<u8")]
)
TRACK_ENTRY = np.dtype([("image_id", "<i4"), ("observation", "<i4")])
MAX_NAME = 4096  # bytes; longer than any path


class _File:
    """A mapped file with a position; every read past its end is a UserError."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path, self.data, self.at = path, data, 0

    def unpack(self, layout: struct.Struct) -> tuple:
        self.skip(layout.size)
        return layout.unpack_from(self.data, self.at - layout.size)

    def skip(self, size: int) -> None:
        if self.at + size > len(self.data):
            raise self.cut_off()
        self.at += size

    def cut_off(self) -> UserError:
        size = len(self.data)
        return UserError(f"{self.path} ends too early, at byte {size}; it is cut off or not COLMAP's")

    def count(self, what: str, smallest: int) -> int:
        """A count of records of at least `smallest` bytes each."""
        (n,) = self.unpack(COUNT)
        room = (len(self.data) - self.at) // smallest
        if n > room:
            raise UserError(
                f"{self.path} claims {n:,} {what} but has room for {room:,} at most; "
                "it is cut off or not COLMAP's"
            )
        return n


def _open(path: Path) -> _File:
    try:
        with open(path, "rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except ValueError as error:  # an empty file cannot be mapped
        raise UserError(f"{path} is empty") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    if data[: len(LFS_HEAD)] == LFS_HEAD:
        raise UserError(f"{path} is a Git LFS pointer, not the file; run git lfs pull")
    return _File(path, data)


def read_cameras(path: Path) -> list[tuple[int, CameraRecord]]:
    """The cameras of cameras.bin with their ids, in the order of the file."""
    file = _open(path)
    cameras = []
    for _ in range(file.count("cameras", CAMERA.size)):
        camera_id, model_id, width, height = file.unpack(CAMERA)
        if not 0 <= model_id < len(PARAMETERS):
            raise UserError(
                f"{path}: camera {camera_id} has the model id {model_id}; 0 to {len(PARAMETERS) - 1} are known "
                f"(to {list(PARAMETERS)[-1]}): run COLMAP's image_undistorter on it first"
            )
        model, n_params = list(PARAMETERS.items())[model_id]
        params = file.unpack(struct.Struct(f"<{n_params}d"))
        cameras.append((camera_id, CameraRecord(model, width, height, params)))
    return cameras


def read_images(path: Path, log: Callable[[str], None] = lambda line: None) -> list[ImageRecord]:
    """images.bin, in the order of the file, without the 2D points."""
    file = _open(path)
    images: list[ImageRecord] = []
    for _ in range(file.count("images", IMAGE.size + 1 + COUNT.size)):
        _, *pose, camera_id = file.unpack(IMAGE)
        end = file.data.find(b"\0", file.at, file.at + MAX_NAME)
        if end < 0:
            raise UserError(f"{path}: image {len(images) + 1} has no readable name; the file is broken")
        name = os.fsdecode(file.data[file.at : end])
        file.at = end + 1
        file.skip(file.count("2D points", OBSERVATION.itemsize) * OBSERVATION.itemsize)
        images.append(ImageRecord(name, camera_id, tuple(pose[:4]), tuple(pose[4:])))
    return images


def read_points(path: Path) -> Points:
    """points3D.bin, without the tracks."""
    file = _open(path)
    n = file.count("points", POINT.itemsize)
    starts = []
    data, at, length_at = file.data, file.at, POINT.itemsize - COUNT.size
    last = len(data) - POINT.itemsize
    for _ in range(n):  # each start depends on the length of the track before it
        if at > last:
            raise file.cut_off()
        starts.append(at)
        (length,) = COUNT.unpack_from(data, at + length_at)
        at += POINT.itemsize + length * TRACK_ENTRY.itemsize
    if at > len(data):
        raise file.cut_off()
    if not n:
        return Points(np.empty((0, 3)), np.empty((0, 3), np.uint8))
    # A window of bytes at every start, then as records: one gather, whatever the lengths of the tracks.
    windows = np.lib.stride_tricks.sliding_window_view(np.frombuffer(data, np.uint8), POINT.itemsize)
    records = windows[np.array(starts)].view(POINT).reshape(n)
    return Points(records["position"].copy(), records["color"].copy())


def write_model(
    folder: Path,
    cameras: dict[int, CameraRecord],
    images: list[ImageRecord],
    points: Points,
    seen: list[np.ndarray],
    positions2d: list[np.ndarray],
) -> None:
    """Write the three files; ids of images and points count from 1 in their order here.

    seen: for each image the indices of the points it sees; positions2d: where, [S, 2] pixels. The points'
    tracks follow from both.
    """
    ids = list(PARAMETERS)
    with open(folder / "cameras.bin", "wb") as file:
        file.write(COUNT.pack(len(cameras)))
        for camera_id, camera in cameras.items():
            file.write(CAMERA.pack(camera_id, ids.index(camera.model), camera.width, camera.height))
            file.write(np.array(camera.params, "<f8").tobytes())
    with open(folder / "images.bin", "wb") as file:
        file.write(COUNT.pack(len(images)))
        for number, (image, indices, positions) in enumerate(zip(images, seen, positions2d, strict=True), 1):
            file.write(IMAGE.pack(number, *image.quat, *image.translation, image.camera_id))
            file.write(os.fsencode(image.name) + b"\0" + COUNT.pack(len(indices)))
            observations = np.zeros(len(indices), OBSERVATION)
            observations["x"], observations["y"] = positions.T
            observations["point_id"] = indices + 1
            file.write(observations.tobytes())
    with open(folder / "points3D.bin", "wb") as file:
        file.write(COUNT.pack(len(points.positions)))
        entries = np.concatenate([_track_entries(image_id, among) for image_id, among in enumerate(seen, 1)])
        owners = np.concatenate(seen)
        order = np.argsort(owners, kind="stable")
        lengths = np.bincount(owners, minlength=len(points.positions))
        tracks = np.split(entries[order], np.cumsum(lengths)[:-1])
        records = np.zeros(len(points.positions), POINT)
        records["id"] = np.arange(len(records)) + 1
        records["position"], records["color"], records["track_length"] = (
            points.positions,
            points.colors,
            lengths,
        )
        for record, track in zip(records, tracks, strict=True):
            file.write(record.tobytes() + track.tobytes())


def write_pinholes(
    folder: Path,
    cameras: Sequence[tuple[str, Camera]],
    points: Points,
    seen: list[np.ndarray],
    positions2d: list[np.ndarray],
) -> None:
    """`write_model` of pinhole views, each a name and a camera; views alike share a camera's record."""
    records: dict[CameraRecord, int] = {}
    images = []
    for name, camera in cameras:
        K, pose = camera.K.tolist(), camera.viewmat
        record = CameraRecord("PINHOLE", camera.width, camera.height, (K[0][0], K[1][1], K[0][2], K[1][2]))
        number = records.setdefault(record, len(records) + 1)
        images.append(ImageRecord(name, number, quaternion(pose[:3, :3]), tuple(pose[:3, 3].tolist())))
    by_number = {number: record for record, number in records.items()}
    write_model(folder, by_number, images, points, seen, positions2d)


def _track_entries(image_id: int, indices: np.ndarray) -> np.ndarray:
    entries = np.zeros(len(indices), TRACK_ENTRY)
    entries["image_id"], entries["observation"] = image_id, np.arange(len(indices))
    return entries
