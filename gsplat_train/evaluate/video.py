# SPDX-License-Identifier: Apache-2.0
"""Videos, through PyAV (extra `[video]`): H.264 in .mp4, VP9 in .webm."""

from __future__ import annotations

import os
import queue
import threading
from fractions import Fraction
from importlib import util
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from ..errors import UserError
from ..storage import storage

CODECS = {
    ".mp4": ("libx264", "mp4", {"crf": "18", "preset": "medium"}),
    ".webm": ("libvpx-vp9", "webm", {"crf": "28", "b": "0", "row-mt": "1", "cpu-used": "4"}),
}
WAITING = 8  # frames that wait for the encoder before the renderer does


def check_video(path: Path) -> None:
    """UserError where a video of that name cannot be written."""
    if path.suffix.lower() not in CODECS:
        raise UserError(f"cannot write {path}: a video's name ends in {' or '.join(CODECS)}")
    if path.is_dir():
        raise UserError(f"cannot write {path}: it is a folder")
    if util.find_spec("av") is None:
        raise UserError("videos need PyAV, which is not installed; run: pip install 'gsplat-train[video]'")


class Video:
    """A video that becomes `path` when it is complete; a thread of its own encodes. A context manager.

    Sides are cut to even numbers, which the codecs ask for.
    """

    def __init__(self, path: Path, fps: float, width: int, height: int) -> None:
        check_video(path)
        self.path, self.fps = path, fps
        self.size = (max(width // 2 * 2, 2), max(height // 2 * 2, 2))
        self.temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self.frames: queue.Queue[np.ndarray | None] = queue.Queue(WAITING)
        self.error: BaseException | None = None
        self.all_taken = False  # by the encoder: no frame comes any more
        self.thread = threading.Thread(target=self._encode, name="encoder", daemon=True)

    def __enter__(self) -> Video:
        with storage(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.temporary.touch()  # before anything is rendered: the encoder writes its first bytes late
        self.thread.start()
        return self

    def add(self, picture: np.ndarray) -> None:
        """The next frame, [H, W, 3] uint8; waits where the encoder is far behind."""
        self.frames.put(picture)
        if self.error is not None:
            raise self.error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.frames.put(None)
        self.thread.join()
        if kind is not None or self.error is not None:
            self.temporary.unlink(missing_ok=True)
            if kind is None and self.error is not None:
                raise self.error
            return
        with storage(self.path):
            os.replace(self.temporary, self.path)

    def _encode(self) -> None:
        try:
            with storage(self.path):
                self._write()
        except BaseException as error:
            self.error = error
            while not self.all_taken:  # whoever adds must not wait for ever, nor this thread for what came
                self._next()

    def _next(self) -> np.ndarray | None:
        """The next frame; None after the last."""
        picture = self.frames.get()
        self.all_taken = picture is None
        return picture

    def _write(self) -> None:
        import av

        codec, container, options = CODECS[self.path.suffix.lower()]
        flags = {"movflags": "+faststart"} if container == "mp4" else {}
        with av.open(str(self.temporary), "w", format=container, options=flags) as file:
            rate = Fraction(self.fps).limit_denominator(1001)
            stream: Any = file.add_stream(codec, rate=rate, options=options)
            stream.width, stream.height = self.size
            stream.pix_fmt = "yuv420p"
            stream.codec_context.thread_count = 0  # as many as there are processors
            while (picture := self._next()) is not None:
                cut = np.ascontiguousarray(picture[: self.size[1], : self.size[0]])
                for packet in stream.encode(av.VideoFrame.from_ndarray(cut, format="rgb24")):
                    file.mux(packet)
            for packet in stream.encode():
                file.mux(packet)
