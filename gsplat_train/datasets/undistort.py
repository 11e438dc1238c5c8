# SPDX-License-Identifier: Apache-2.0
"""From a photo through a lens to the photo that a pinhole camera would have taken.

A pinhole picture spans the photo's rectangle through a pinhole whose fx and fy are the photo's by a `zoom`. Where
nobody chooses it, it is the smallest at which the new border falls inside the photo, so that no pixel has to be
invented. The picture is as large as the photo's pixels per degree on the axis ask for (`growth`); one that shows a
little less than the photo, through a lens without angles, keeps the photo's size.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np

from ..errors import UserError
from .lenses import Lens, opencv

native: Callable[..., None] | None = None  # the compiled module's; without it NumPy does the same
with suppress(ImportError):
    from .. import _csrc

    native = getattr(_csrc, "resample", None)  # a module of an older build lacks it

MAX_ZOOM = 8.0  # beyond it less than 2 % of the photo is left: such a model is wrong
# To which the corners of fisheyes' pictures reach: beyond it they are stretched.
WIDE = np.tan(np.radians(60))
WIDER_STEP = 1.01  # of the search from 1 downwards
ZOOM_STEP = 1.002  # of that upwards: insideness need not be monotone in zoom where the model folds over
BLOCK_PIXELS = 1 << 15  # resampled at a time: more leave the cache, fewer let threads wait for each other
KEPT, KEPT_PIXELS = 2, 1 << 21  # cameras, and pixels of a picture, for which is kept where each pixel lies
MAX_GROWTH = 2.0  # of a picture beside its photo, as COLMAP's undistorter has it: beyond it little is new
GROWTH_STEP = 0.05  # so that cameras which differ a little have pictures of one size
EDGE = 0.1  # pixels: so far beyond the photo may the outer centres of a picture lie that is larger
NEAR_AXIS = 1e-4  # in focal lengths: there each lens is a pinhole to eight digits
SPARSE = 16  # of so many border pixels one is asked whether the lens folds over sideways

Distortion = tuple[float, float, float, float]  # OpenCV's k1, k2, p1, p2


def as_lens(lens: Lens | Distortion) -> Lens:
    """The lens itself, or that of OpenCV's k1, k2, p1, p2."""
    return lens if isinstance(lens, Lens) else opencv(*lens)


class Warp(Hashable, Protocol):
    """Where each place of a new picture lies in the photo."""

    def positions(self, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions in the photo of (u, v) in the picture, pixels with centres at +0.5; NaN where there is none."""
        ...

    @property
    def wraps(self) -> bool:
        """Whether the photo's left side goes on at its right."""
        ...


@dataclass(frozen=True)
class Straighten:
    """From a photo with fx, fy, cx, cy and a lens to the pinhole picture zoomed by `zoom`, `size` times as large."""

    intrinsics: tuple[float, float, float, float]
    lens: Lens
    zoom: float
    wraps: bool = False
    size: tuple[float, float] = (1.0, 1.0)  # across and down

    def positions(self, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See Warp.positions."""
        fx, fy, cx, cy = self.intrinsics
        across, down = self.size
        x, y = (u / across - cx) / (self.zoom * fx), (v / down - cy) / (self.zoom * fy)
        x, y = np.broadcast_arrays(x, y)
        a, b = self.lens.distort(x, y)
        if (reach := self.lens.reach()) < np.inf:
            a = np.where(x * x + y * y <= reach * reach, a, np.nan)
        return a * fx + cx, b * fy + cy


def straighten(K: np.ndarray, lens: Lens, zoom: float, size: tuple[float, float] = (1.0, 1.0)) -> Straighten:
    """The warp of a camera [3, 3] and its lens to a picture `size` times as large as the photo."""
    return Straighten((float(K[0, 0]), float(K[1, 1]), float(K[0, 2]), float(K[1, 2])), lens, zoom, size=size)


def growth(lens: Lens, zoom: float) -> float:
    """How many times as large as the photo a picture is that has the photo's pixels per degree on the axis."""
    (a,), _ = lens.distort(np.array([NEAR_AXIS]), np.zeros(1))
    (b,), _ = lens.distort(np.array([-NEAR_AXIS]), np.zeros(1))
    return float(a - b) / (2 * NEAR_AXIS) / zoom


def find_zoom(K: np.ndarray, width: int, height: int, lens: Lens | Distortion) -> float:
    """The smallest zoom at which the pinhole picture's border maps inside [0, width] x [0, height], without the
    lens folding over before, and its corners lie no farther from the axis than WIDE (at 1 they may, of a lens that
    does not show angles).
    """
    warp = straighten(K, as_lens(lens), 1.0)
    return _find_zoom(warp.intrinsics, width, height, warp.lens)


@lru_cache(maxsize=256)  # a camera is mostly that of many photos
def _find_zoom(intrinsics: tuple[float, float, float, float], width: int, height: int, lens: Lens) -> float:
    fx, fy, cx, cy = intrinsics
    u, v = np.arange(width) + 0.5, np.arange(height) + 0.5
    border_u = np.concatenate([u, u, np.full(height, 0.5), np.full(height, width - 0.5)])
    border_v = np.concatenate([np.full(width, 0.5), np.full(width, height - 0.5), v, v])
    x, y = (border_u - cx) / fx, (border_v - cy) / fy
    few_x, few_y = (np.append(side[::SPARSE], side[[0, width - 1, width, 2 * width - 1]]) for side in (x, y))
    sideways = any(lens.tangential) or any(lens.prism)
    reach = lens.reach()

    def inside(zoom: float) -> bool:
        if not np.hypot(x, y).max() <= zoom * reach:
            return False
        a, b = Straighten(intrinsics, lens, zoom).positions(border_u, border_v)
        if not ((a >= 0) & (a <= width) & (b >= 0) & (b <= height)).all():
            return False
        return not sideways or lens.is_sound(few_x / zoom, few_y / zoom)

    lowest = float(np.hypot(x, y).max() / WIDE)
    if lens.stretch == "none":
        lowest = min(lowest, 1.0)
    low = high = max(lowest, 1.0)
    with np.errstate(all="ignore"):
        while low > lowest and inside(low):
            low, high = max(lowest, low / WIDER_STEP), low
        while not inside(high):
            low, high = high, high * ZOOM_STEP
            if high > MAX_ZOOM:
                raise UserError(
                    f"the lens ({described(lens)}) leaves nothing of the {width}x{height} photo; "
                    "correct the camera, or set undistort=false"
                )
        for _ in range(40):  # to the last bit of the step
            middle = 0.5 * (low + high)
            low, high = (low, middle) if inside(middle) else (middle, high)
    return high


def zoom_of_fov(K: np.ndarray, width: int, height: int, fov: float) -> float:
    """The zoom at which the longer side of the pinhole picture spans `fov` degrees."""
    focal, side = (K[0, 0], width) if width >= height else (K[1, 1], height)
    return float(side / 2 / np.tan(np.radians(fov) / 2) / focal)


def chosen_zoom(K: np.ndarray, width: int, height: int, lens: Lens, fov: float) -> float:
    """That of `fov` degrees, or where it is 0 that which the lens allows."""
    return zoom_of_fov(K, width, height, fov) if fov else find_zoom(K, width, height, lens)


def picture_sizes(
    K: np.ndarray, file_size: tuple[int, int], lens: Lens, fov: float, limit: int
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Width and height to which a photo is reduced, and those of its picture, whose longer side is at most `limit` (0:
    none). A wide lens's picture, or that of a chosen field, has the photo's pixels per degree on the axis.
    """
    grown = min(growth(lens, chosen_zoom(K, *file_size, lens, fov)), MAX_GROWTH)
    grown = max(1, round(grown / GROWTH_STEP)) * GROWTH_STEP
    if not fov and lens.stretch == "none":
        grown = max(grown, 1.0)
    size = at_most(round(limit / min(grown, 1)), file_size)
    return size, at_most(limit, (max(1, round(size[0] * grown)), max(1, round(size[1] * grown))))


def at_most(limit: int, size: tuple[int, int]) -> tuple[int, int]:
    """The size, reduced where its longer side is above the limit (0: none)."""
    factor = min(1.0, limit / max(size)) if limit else 1.0
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def described(lens: Lens) -> str:
    """The numbers of a lens that are not zero, for a message."""
    parts = {
        "k": lens.radial,
        "d": lens.divisor,
        "p": lens.tangential,
        "s": lens.prism,
        lens.stretch: lens.shape,
    }
    nonzero = [f"{name}{i}={x:g}" for name, xs in parts.items() for i, x in enumerate(xs, 1) if x]
    return ", ".join(nonzero) or lens.stretch


def undistort(image: np.ndarray, K: np.ndarray, lens: Lens | Distortion, zoom: float) -> np.ndarray:
    """The pinhole picture of a photo, both [H, W, C] uint8, of the same size."""
    height, width = image.shape[:2]
    return resample(image, straighten(K, as_lens(lens), zoom), width, height)


def resample(image: np.ndarray, warp: Warp, width: int, height: int) -> np.ndarray:
    """The picture [height, width, C] uint8 of a photo [H, W, C]: bicubic (Catmull-Rom), edges clamped.

    Where the photo shows nothing the picture is what is nearest, or 0: `covered` tells. The compiled module, where it
    is there, does what NumPy would, to the byte: many threads of NumPy wait for each other at each small operation.
    """
    channels, image = image.shape[2], np.ascontiguousarray(image)
    result = np.empty((height, width, channels), np.uint8)
    if native is None:
        # Gathers by channel are the fastest.
        planes = np.ascontiguousarray(image.reshape(-1, channels).T, np.float32)
    for top, x, y in _places(warp, width, height):
        block = result[top : top + len(x)]
        if native is not None:
            native(image, x, y, warp.wraps, block)
        else:
            sampled = _sample(planes, image.shape[1], image.shape[0], x.ravel(), y.ravel(), warp.wraps)
            block[:] = sampled.T.reshape(block.shape)
    return result


def _places(warp: Warp, width: int, height: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """(first row, x, y) of each block of the picture's rows: where [rows, width] its pixels lie in the photo."""
    kept = kept_places(warp, width, height) if width * height <= KEPT_PIXELS else None
    for block in _blocks(width, height):
        yield block.start, *(_places_of_rows(warp, width, block) if kept is None else kept[:, block])


def _blocks(width: int, height: int) -> list[slice]:
    """The rows that are resampled at a time."""
    rows = max(1, BLOCK_PIXELS // width)
    return [slice(top, min(top + rows, height)) for top in range(0, height, rows)]


@lru_cache(maxsize=KEPT)
def kept_places(warp: Warp, width: int, height: int) -> np.ndarray:
    """[2, height, width]: x and y. A camera is mostly that of many photos; who has loaded them clears the cache."""
    places = np.empty((2, height, width))
    for block in _blocks(width, height):
        places[:, block] = _places_of_rows(warp, width, block)
    return places


def _places_of_rows(warp: Warp, width: int, rows: slice) -> np.ndarray:
    u, v = np.arange(width) + 0.5, np.arange(rows.start, rows.stop)[:, None] + 0.5
    return np.stack(warp.positions(u, v))


def covered(
    mask: np.ndarray | None, sides: tuple[int, int], warp: Warp, width: int, height: int
) -> np.ndarray:
    """[height, width] uint8, 255 where the picture shows a pixel of the photo that counts, else 0.

    mask [H, W]: which pixels of the photo count (not 0), None: all. sides: the photo's width and height.
    """
    u = np.arange(width) + 0.5
    result = np.empty((height, width), np.uint8)
    rows = max(1, BLOCK_PIXELS // width)
    for top in range(0, height, rows):
        v = np.arange(top, min(top + rows, height))[:, None] + 0.5
        x, y = warp.positions(u, v)
        with np.errstate(invalid="ignore"):
            shown = (x >= -EDGE) & (x <= sides[0] + EDGE) & (y >= -EDGE) & (y <= sides[1] + EDGE)
        if mask is not None:
            column = np.clip(_finite(x), 0, sides[0] - 1).astype(np.int64)
            row = np.clip(_finite(y), 0, sides[1] - 1).astype(np.int64)
            shown = shown & (mask[row, column] > 0)
        result[top : top + rows] = np.where(shown, 255, 0)
    return result


def _finite(x: np.ndarray) -> np.ndarray:
    return np.nan_to_num(x, nan=0.0, posinf=1e9, neginf=-1e9).clip(-1e9, 1e9)


def _sample(
    planes: np.ndarray, width: int, height: int, x: np.ndarray, y: np.ndarray, wraps: bool
) -> np.ndarray:
    """uint8 [C, n]: planes [C, H * W] at the places (x, y) [n], pixels with centres at +0.5."""
    x, y = _finite(x) - 0.5, _finite(y) - 0.5
    column, row = np.floor(x), np.floor(y)
    weights_x = _catmull_rom((x - column).astype(np.float32))
    weights_y = _catmull_rom((y - row).astype(np.float32))
    columns = [
        (np.mod(column + k, width) if wraps else np.clip(column + k, 0, width - 1)).astype(np.int64)
        for k in (-1, 0, 1, 2)
    ]
    rows = [np.clip(row + k, 0, height - 1).astype(np.int64) * width for k in (-1, 0, 1, 2)]
    total = np.zeros((len(planes), len(x)), np.float32)
    for start, weight_y in zip(rows, weights_y, strict=True):
        line = np.zeros_like(total)
        for offset, weight_x in zip(columns, weights_x, strict=True):
            line += planes.take(start + offset, axis=1) * weight_x
        total += line * weight_y
    return np.rint(np.clip(total, 0, 255)).astype(np.uint8)


def _catmull_rom(t: np.ndarray) -> tuple[np.ndarray, ...]:
    """Weights of the samples at -1, 0, 1, 2 for the fraction t: Keys' cubic convolution with a = -0.5."""
    t2, t3 = t * t, t * t * t
    return (
        -0.5 * t3 + t2 - 0.5 * t,
        1.5 * t3 - 2.5 * t2 + 1,
        -1.5 * t3 + 2 * t2 + 0.5 * t,
        0.5 * t3 - 0.5 * t2,
    )
