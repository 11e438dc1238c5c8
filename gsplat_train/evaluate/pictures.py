# SPDX-License-Identifier: Apache-2.0
"""Pictures of what was trained, as PNG; threads compress them while the next is rendered."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

from ..errors import UserError
from ..storage import PROGRAM, atomic_write

ERROR_GAIN = 4.0  # the preview shows errors brighter by this
THREADS = min(4, os.cpu_count() or 1)
WAITING = 2  # pictures a thread that wait for it before the renderer does
CELL = 480  # pixels, the width of a picture on a sheet
SHEET_ROWS = 12  # views on one sheet
CAPTION = 18  # pixels
HEAD = 200  # bytes of a PNG that hold this


def write_preview(path: Path, photo: np.ndarray, picture: np.ndarray) -> None:
    """A PNG of the photo, the render and their difference, side by side."""
    write_png(path, np.concatenate([photo, picture, error_of(photo, picture)], axis=1))


def error_of(photo: np.ndarray, picture: np.ndarray) -> np.ndarray:
    """[H, W, 3] uint8: how far the two are apart, brighter by ERROR_GAIN."""
    difference = np.abs(photo.astype(np.int16) - picture) * ERROR_GAIN
    return np.minimum(difference, 255).astype(np.uint8)


def write_png(path: Path, picture: np.ndarray) -> None:
    """Writes [H, W, 3] (or 4: with opacity) uint8, all or nothing. The file says what wrote it."""
    text = PngInfo()
    text.add_text("Software", PROGRAM)
    with atomic_write(path) as file:
        Image.fromarray(picture).save(file, "PNG", pnginfo=text, compress_level=4)


def keep_others_pictures(targets: Iterable[Path]) -> None:
    """UserError where one of the files to be written is there and was not written by `write_png`: a photo."""
    for path in targets:
        try:
            with open(path, "rb") as file:
                head = file.read(HEAD)
        except OSError:  # it is not there; otherwise writing it tells what is wrong
            continue
        if PROGRAM.encode() not in head:
            raise UserError(
                f"{path} is there, and does not say that this program wrote it: it is kept; name another --out, or "
                "move it"
            )


def with_alpha(image: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """[H, W, 4] uint8 of a render [H, W, 3] over black with its alpha [H, W]: colours not multiplied by it."""
    straight = np.clip(image / np.maximum(alpha, 1 / 255)[:, :, None], 0, 1)
    return np.rint(255 * np.concatenate([straight, alpha[:, :, None]], axis=2)).astype(np.uint8)


class Writers:
    """Threads that run what they are given, in its order, not too far behind. A context manager; the first error comes
    out.
    """

    def __init__(self, threads: int = THREADS, waiting: int = WAITING) -> None:
        self.pool = ThreadPoolExecutor(threads, "writer")
        self.most = waiting * threads
        self.waiting: deque[Future[Any]] = deque()

    def __enter__(self) -> Writers:
        return self

    def add(self, write: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Calls `write` soon; waits where too many are under way."""
        future = self.pool.submit(write, *arguments)
        self.waiting.append(future)
        while len(self.waiting) > self.most:
            self.waiting.popleft().result()
        return future

    def check(self) -> None:
        """The error of what has failed since, if any has. Does not wait."""
        while self.waiting and self.waiting[0].done():
            self.waiting.popleft().result()

    def finish(self) -> None:
        """Waits for all, though one fails; its error."""
        wait(self.waiting)
        self.check()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.pool.shutdown(cancel_futures=kind is not None)
        if kind is None:
            self.check()


class Row(NamedTuple):
    """A row of a sheet: pictures side by side, and what is said of them."""

    caption: str
    pictures: Sequence[np.ndarray]  # [H, W, 3] uint8 each


def reduced(picture: np.ndarray, width: int = CELL) -> np.ndarray:
    """The picture at most `width` pixels wide."""
    if picture.shape[1] <= width:
        return picture
    size = (width, max(round(picture.shape[0] * width / picture.shape[1]), 1))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))


def write_sheets(path: Path, rows: Sequence[Row]) -> list[Path]:
    """Writes rows of pictures as PNGs, SHEET_ROWS on each: `path`, then with _2, _3 ... in the name."""
    written = []
    for first in range(0, len(rows), SHEET_ROWS):
        name = path if first == 0 else path.with_stem(f"{path.stem}_{first // SHEET_ROWS + 1}")
        write_png(name, _sheet(rows[first : first + SHEET_ROWS]))
        written.append(name)
    return written


def _sheet(rows: Sequence[Row]) -> np.ndarray:
    width = max(sum(picture.shape[1] for picture in row.pictures) for row in rows)
    heights = [CAPTION + max(picture.shape[0] for picture in row.pictures) for row in rows]
    sheet = Image.new("RGB", (width, sum(heights)), "white")
    pen, top = ImageDraw.Draw(sheet), 0
    for row, height in zip(rows, heights, strict=True):
        caption = row.caption.encode("ascii", "replace").decode()
        pen.text((4, top + 3), caption, fill="black")
        left = 0
        for picture in row.pictures:
            sheet.paste(Image.fromarray(picture), (left, top + CAPTION))
            left += picture.shape[1]
        top += height
    return np.asarray(sheet)
