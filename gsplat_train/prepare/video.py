# SPDX-License-Identifier: Apache-2.0
"""A video -> its sharpest frames, evenly spread, written upright as JPEG.

The time is cut into windows and each window gives its sharpest frame: the variance of a Laplacian of the
grey picture at 480 pixels (Pech-Pacheco et al. 2000). Frames much less sharp than their neighbours, and
frames that show the same as the one before, are left out and counted.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..errors import UserError
from ..storage import atomic_write
from .photos import FEWEST, ONE_COLOR, SAME, NoScene, Photo, encode, thumbnail

VIDEO_SUFFIXES = {".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".mts", ".3gp", ".insv"}
MOST_FRAMES = 200  # unless asked for more
MOST_PER_SECOND = 6.0  # closer frames show the same
JUDGED_AT = 480  # pixels of the longer side
BLURRED = 0.3  # of the median sharpness of the frames around
AROUND = 10  # frames on each side
COMPLETE = 0.95  # of the frames; some files announce a few too many


@dataclass(frozen=True)
class Frames:
    """What came out of a video."""

    photos: list[Photo]
    seconds: float  # of the video, as far as it could be read
    decoded: int
    blurred: int
    repeated: int
    warnings: list[str]


@dataclass
class _Window:
    """The sharpest frame so far of a part of the time; once the part is over, a file and its thumbnail."""

    sharpness: float
    time: float
    frame: Any
    file: Path | None = None
    size: tuple[int, int] = (0, 0)
    thumbnail: np.ndarray | None = None

    def finish(self, file: Path) -> None:
        """Writes the frame; video frames are large, so no more than two are held."""
        picture = to_picture(self.frame)
        with atomic_write(file) as stream:
            stream.write(encode(picture, ".jpg"))
        self.file, self.size, self.thumbnail, self.frame = file, picture.size, thumbnail(picture), None


def is_video(path: Path) -> bool:
    """Whether a file is called like a video."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def require_av() -> Any:
    """The module `av`; UserError that says how to get it."""
    if importlib.util.find_spec("av") is None:
        raise UserError("reading a video needs PyAV: pip install 'gsplat-train[video]'")
    import av

    av.logging.set_level(av.logging.PANIC)
    return av


def extract(
    path: Path,
    target: Path,
    frames: int | None,
    fps: float | None,
    begin: Callable[[int], Callable[[int], None]],
) -> Frames:
    """Writes the chosen frames as target/frame_00001.jpg ...; `begin` gets the number of frames that will be
    decoded and returns what is told how many are.

    frames: how many windows; fps: windows a second; neither: up to 200 windows, at most 6 a second.
    NoScene where the file is no video or too little of it can be read.
    """
    av = require_av()
    length, count = _length(av, path)
    windows = frames or (MOST_FRAMES if fps is None else round(length * fps))
    if frames is None and fps is None:
        windows = min(windows, int(length * MOST_PER_SECOND))
    windows = max(1, min(windows, count))
    if windows < FEWEST:
        raise NoScene(
            f"{path} gives {windows} frames ({length:.1f} s of video); at least {FEWEST} are needed: film "
            "longer, or ask for more by --frames or --fps"
        )
    at = begin(count)
    best: dict[int, _Window] = {}
    warnings = []
    decoded, last, damage = 0, 0.0, False
    for frame in _decode(av, path):
        if frame is None:
            damage = True
            break
        time = frame.time if frame.time is not None else decoded * length / count
        last = max(last, time)
        index = min(windows - 1, max(0, int(time / length * windows + 1e-6)))
        sharpness = _sharpness(frame)
        if index not in best:
            _finish(best, target)
        if index not in best or (best[index].frame is not None and sharpness > best[index].sharpness):
            best[index] = _Window(sharpness, time, frame)
        decoded += 1
        at(decoded)
    _finish(best, target)
    if damage or decoded < count * COMPLETE:
        warnings.append(
            f"{path} could be read up to {last:.1f} of {length:.1f} s only, the rest is missing or damaged; "
            "the frames before that are used"
        )
    photos, blurred, repeated = _choose([best[i] for i in sorted(best)], path, target)
    if len(photos) < FEWEST:
        raise NoScene(
            f"{path} gives {len(photos)} frames that can be used, of {decoded} decoded ({blurred} blurred, "
            f"{repeated} show one colour or the same as the one before); at least {FEWEST} are needed: move "
            "the camera around the scene"
        )
    return Frames(photos, last, decoded, blurred, repeated, warnings)


def _length(av: Any, path: Path) -> tuple[float, int]:
    """Seconds and frames of the video, from its packets: what a header says may be missing or wrong."""
    try:
        with av.open(str(path)) as container:
            stream = next((s for s in container.streams if s.type == "video"), None)
            if stream is None:
                raise NoScene(f"{path} holds no pictures; give a video or a folder of photos")
            times = []
            try:
                for packet in container.demux(stream):
                    if packet.pts is not None and packet.size:
                        times.append(float(packet.pts * packet.time_base))
            except av.FFmpegError:
                pass  # cut off: what came before counts
            rate = float(stream.average_rate or 30)
            declared = stream.frames
    except NoScene:
        raise
    except (av.FFmpegError, OSError, ValueError) as error:
        raise NoScene(
            f"{path} is no video that can be read ({type(error).__name__}); if it was cut off while it was "
            "recorded or copied, get it again"
        ) from error
    if not times:
        raise NoScene(f"{path} holds no frames; give a video or a folder of photos")
    count = max(len(times), declared or 0)
    return max(max(times) + 1 / rate, count / rate if declared else 0.0), count


def _decode(av: Any, path: Path) -> Any:
    """The frames, and at last None where damage ended them."""
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            yield from container.decode(stream)
    except av.FFmpegError:
        yield None


def _finish(best: dict[int, _Window], target: Path) -> None:
    """Writes what is still a frame."""
    for index, window in best.items():
        if window.frame is not None:
            window.finish(target / f"window_{index:05d}.jpg")


def _sharpness(frame: Any) -> float:
    """The variance of the Laplacian of the grey picture, reduced to 480 pixels."""
    factor = min(1.0, JUDGED_AT / max(frame.width, frame.height))
    width, height = (max(16, round(side * factor) // 2 * 2) for side in (frame.width, frame.height))
    grey = frame.reformat(width=width, height=height, format="gray").to_ndarray().astype(np.float32)
    laplacian = 4 * grey[1:-1, 1:-1] - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] - grey[1:-1, 2:]
    return float(laplacian.var())


def to_picture(frame: Any) -> Image.Image:
    """A frame as it is meant to be seen: square pixels, turned by what the file says."""
    picture: Image.Image = frame.to_image()
    shape = getattr(frame, "sample_aspect_ratio", None)
    if shape and shape > 0 and shape != 1:
        picture = picture.resize((max(1, round(picture.width * float(shape))), picture.height))
    turn = round((getattr(frame, "rotation", 0) or 0) / 90) % 4  # quarters, counterclockwise
    turns = (None, Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270)
    return picture if not turn else picture.transpose(turns[turn])  # type: ignore[arg-type]


def _choose(windows: list[_Window], path: Path, target: Path) -> tuple[list[Photo], int, int]:
    """What is kept, renamed in order, and how many were blurred and how many repeated; those are deleted."""
    sharpness = np.array([window.sharpness for window in windows])
    photos: list[Photo] = []
    blurred = repeated = 0
    before: np.ndarray | None = None
    for i, window in enumerate(windows):
        assert window.file is not None and window.thumbnail is not None
        around = sharpness[max(0, i - AROUND) : i + AROUND + 1]
        if sharpness[i] < BLURRED * np.median(around):
            blurred += 1
            window.file.unlink()
            continue
        still = before is not None and np.abs(window.thumbnail - before).mean() < SAME
        if still or window.thumbnail.std() < ONE_COLOR:
            repeated += 1
            window.file.unlink()
            continue
        before = window.thumbnail
        name = f"frame_{len(photos) + 1:05d}.jpg"
        window.file.replace(target / name)
        photos.append(Photo(name, f"{path.name} at {window.time:.2f} s", *window.size, "video"))
    return photos, blurred, repeated
