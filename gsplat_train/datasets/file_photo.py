# SPDX-License-Identifier: Apache-2.0
"""A photo that stays in its file until it is asked for: decoded, reduced, undistorted and masked then."""

from __future__ import annotations

import math
import threading
import weakref
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..errors import UserError
from ..scene import Photo
from . import cache, masks, undistort
from .decode import PLAIN_PIXELS, dim, open_picture, pixels, read
from .undistort import Warp, covered, resample

# Bytes that decoding takes for each pixel of a file, and of the picture it becomes (scripts/bench_memory.py)
FILE_PIXEL, PIXEL, WARPED_PIXEL = 16, 3, 8
MADE_AGAIN = (
    2.0  # pixels of a file for one of the picture, up to which making it takes less time than the cache
)
CACHE_VERSION = "undistorted 2"  # part of the key: a new one where the same photo would come out different


@dataclass(frozen=True, eq=False)
class FilePhoto:
    """A photo that is made from its file when asked for; while somebody holds the result, it is not made again."""

    path: Path
    size: tuple[int, int]  # to which the file is reduced: width, height
    turn: bool = False  # as the EXIF tag says
    warp: Warp | None = None
    out: tuple[int, int] | None = None  # the picture's width and height; None: as `size`
    holes: bool = False  # the warp leaves pixels that the photo does not show
    mask: Path | None = None
    mask_mode: str = "ignore"
    invert_masks: bool = False
    alpha_mode: str = "transparent"
    use_cache: bool = True
    _made: list[Any] = field(default_factory=lambda: [None, threading.Lock()], repr=False)

    def decode(self) -> Photo:
        """The pixels; UserError where the file can no longer be read."""
        return self.make()[0]

    def make(self) -> tuple[Photo, bool]:
        """The pixels, and whether they came from the cache on disk."""
        with self._made[1]:
            kept = self._made[0] and self._made[0]()
            if kept is not None:
                return kept, True
            photo, cached = self._make()
            self._made[0] = weakref.ref(photo)
            return photo, cached

    def cost(self, file_size: tuple[int, int]) -> int:
        """Bytes that making it takes, about, from a file of that size."""
        sides = max(self.size, self.out or self.size, key=math.prod)
        return FILE_PIXEL * math.prod(file_size) + (WARPED_PIXEL if self.warp else PIXEL) * math.prod(sides)

    def stamp(self) -> str:
        """What the result is made of, as far as that can be told without reading the files; UserError without them."""
        settings = (CACHE_VERSION, self.size, self.turn, self.warp, self.out, self.holes)
        modes = (self.mask_mode, self.invert_masks, self.alpha_mode)
        return repr((settings, modes, _stamp(self.path), self.mask and _stamp(self.mask)))

    def _make(self) -> tuple[Photo, bool]:
        data = read(self.path)
        width, height = self.out or self.size
        name = None
        if self.warp and self.use_cache and self._is_worth_keeping(data):
            settings = (CACHE_VERSION, self.size, self.turn, self.warp, width, height)
            name = cache.key(data, repr((*settings, "bare") if self._bare else settings))
            if (kept := cache.read(name, (height, width))) is not None:
                return self._finished(kept), True
        if self.warp and self.warp.wraps:
            picture = _panorama(self.path, self.path.stat().st_mtime_ns, self.turn, self._bare, *self.size)
        else:
            image, alpha = pixels(open_picture(self.path, data), self.path, self.turn, self._bare)
            picture = _reduced(image if alpha is None else np.dstack([image, alpha]), *self.size)
        if self.warp:
            picture = resample(picture, self.warp, width, height)
            if name:
                cache.write(name, picture)
        return self._finished(picture), False

    def _is_worth_keeping(self, data: bytes) -> bool:
        """Whether reading the result from the cache takes less time than making it again: of panoramas and of photos
        much larger than their pictures, and of all without the compiled module.
        """
        if self.warp is None or self.warp.wraps or undistort.native is None:
            return True
        file = open_picture(self.path, data)
        return file.width * file.height > MADE_AGAIN * math.prod(self.out or self.size)

    def _finished(self, picture: np.ndarray) -> Photo:
        """The photo with the masks that apply to it."""
        image, alpha = picture, None
        if picture.shape[2] == 4:
            alpha = picture[:, :, 3].copy()
            image = np.minimum(
                picture[:, :, :3], alpha[:, :, None]
            )  # filters overshoot, each plane on its own
        solid = None
        if self.alpha_mode == "mask" and alpha is not None:
            solid, alpha = np.where(alpha >= masks.HALF, 255, 0).astype(np.uint8), None
        mask = self._mask()
        if self.mask_mode == "transparent" and mask is not None and self.mask is not None:
            image, alpha = dim(image, mask), mask if alpha is None else np.minimum(alpha, mask)
            mask = self._uncovered()
        if solid is not None:
            mask = solid if mask is None else np.minimum(mask, solid)
        return Photo(image, mask, alpha)

    @property
    def _bare(self) -> bool:
        return self.alpha_mode == "ignore"

    def _mask(self) -> np.ndarray | None:
        if self.mask is None:
            return self._uncovered()
        picture = open_picture(self.mask, read(self.mask), PLAIN_PIXELS)
        if not same_shape(
            picture.width, picture.height, *self.size
        ):  # before it is decoded: it might be a bomb
            raise UserError(
                f"mask {self.mask} is {picture.width}x{picture.height}, another shape than its photo {self.path}; "
                "replace it or take it away"
            )
        try:
            mask = masks.counts(picture, self.invert_masks)
        except (OSError, ValueError, SyntaxError) as error:
            raise UserError(f"mask {self.mask} is damaged ({error}); replace it or take it away") from error
        mask = np.asarray(Image.fromarray(mask).resize(self.size, Image.Resampling.NEAREST))
        return covered(mask, self.size, self.warp, *(self.out or self.size)) if self.warp else mask

    def _uncovered(self) -> np.ndarray | None:
        if not (self.warp and self.holes):
            return None
        return covered(None, self.size, self.warp, *(self.out or self.size))


def _stamp(path: Path) -> tuple[str, ...]:
    """A file's path and what changes whenever its content does."""
    try:
        status = path.stat()
    except OSError as error:
        raise UserError(f"photo {path} cannot be read: {error.strerror}") from error
    return (
        str(path.resolve()),
        *(str(n) for n in (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)),
    )


def same_shape(width: int, height: int, other_width: int, other_height: int) -> bool:
    """Whether one size is the other resized, each side rounded to whole pixels."""
    ratio = (width / other_width) / (height / other_height)
    return bool(abs(np.log(ratio)) <= 1 / min(width, other_width) + 1 / min(height, other_height))


def _reduced(image: np.ndarray, width: int, height: int) -> np.ndarray:
    if image.shape[:2] == (height, width):
        return image
    # Alpha on its own: pillow would weigh the colours with it, which they are already.
    parts = [image[:, :, :3], image[:, :, 3]] if image.shape[2] == 4 else [image]
    small = [
        Image.fromarray(np.ascontiguousarray(part)).resize((width, height), Image.Resampling.LANCZOS)
        for part in parts
    ]
    return np.dstack([np.asarray(part) for part in small])


@lru_cache(maxsize=2)
def _panorama(path: Path, stamp: int, turn: bool, bare: bool, width: int, height: int) -> np.ndarray:
    """A reduced panorama, decoded once for its six sides."""
    image, alpha = pixels(open_picture(path, read(path)), path, turn, bare)
    return _reduced(image if alpha is None else np.dstack([image, alpha]), width, height)
