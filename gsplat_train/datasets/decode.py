# SPDX-License-Identifier: Apache-2.0
"""Picture files -> pixels: what can be in a file, and what cannot, in one line each."""

from __future__ import annotations

import ctypes
import ctypes.util
import io
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from ..errors import UserError
from .files import LFS_HEAD

REMEDY = "replace it or take it out of the folder"
ORIENTATION = 0x0112  # EXIF's tag
TURNED = (5, 6, 7, 8)  # its values that swap width and height

Image.MAX_IMAGE_PIXELS = None  # large photos are no attacks; what is one is told by `open_picture`
MODEST_PIXELS = 30_000_000  # no bomb, whatever the file's bytes: 240 MB while decoded ...
PLAIN_PIXELS = 179_000_000  # ... and pillow's own limit, for masks, which may be all white
PIXELS_A_BYTE = (
    200  # larger pictures that have more for each byte of their file are no photos: JPEGs have 20 at most
)


def decode(path: Path) -> np.ndarray:
    """A picture file as [H, W, 3] uint8, over black where it is transparent. UserError where it cannot be read."""
    return pixels(open_picture(path, read(path)), path)[0]


def read(path: Path) -> bytes:
    """The bytes of a photo."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"photo {path} cannot be read: {error.strerror}") from error


def open_picture(path: Path, data: bytes, modest: int = MODEST_PIXELS) -> Image.Image:
    """The header only: pillow decodes when asked for pixels. modest: pixels that any file may have."""
    if data.startswith(LFS_HEAD):
        raise UserError(f"photo {path} is a Git LFS pointer, not the photo; run git lfs pull")
    try:
        picture = Image.open(io.BytesIO(data))
    except MemoryError:
        raise
    except Exception as error:  # pillow raises whatever its parsers meet
        raise UserError(f"photo {path} is not a picture pillow can read; {REMEDY}") from error
    if picture.format == "TIFF":
        _hush_libtiff()
    count = picture.width * picture.height
    if count > modest and count > PIXELS_A_BYTE * len(data):
        raise UserError(
            f"photo {path} would be {picture.width:,} x {picture.height:,} pixels out of {len(data):,} bytes, which no "
            f"photo is; {REMEDY}"
        )
    return picture


@cache
def _hush_libtiff() -> None:
    """Keeps libtiff from writing on standard error by itself; pillow raises what matters. Where it is not found, it is
    part of pillow's own module or not used.
    """
    package = Path(Image.__file__).parent
    found = [*package.parent.glob("pillow.libs/libtiff-*"), *package.glob(".dylibs/libtiff.*")]
    for name in found or filter(None, [ctypes.util.find_library("tiff")]):
        with suppress(OSError, AttributeError):
            library = ctypes.CDLL(str(name))
            library.TIFFSetErrorHandler(None)
            library.TIFFSetWarningHandler(None)


def header(path: Path, ask: Callable[[int, int], bool]) -> tuple[int, int, bool]:
    """Width and height of a photo without its pixels, and whether viewers show it turned by 90 degrees, as its
    EXIF tag tells them. The tag is looked for only where `ask(width, height)` wants to know.
    """
    try:
        with open(path, "rb") as file:
            if file.read(len(LFS_HEAD)) == LFS_HEAD:
                open_picture(path, LFS_HEAD)
            file.seek(0)
            picture = Image.open(file)
            width, height = picture.size
            return width, height, ask(width, height) and picture.getexif().get(ORIENTATION) in TURNED
    except (UserError, MemoryError):
        raise
    except OSError as error:
        if error.errno is None:  # pillow's own
            raise UserError(f"photo {path} is not a picture pillow can read; {REMEDY}") from error
        raise UserError(f"photo {path} cannot be read: {error.strerror}") from error
    except Exception as error:  # pillow raises whatever its parsers meet
        raise UserError(f"photo {path} is not a picture pillow can read; {REMEDY}") from error


def pixels(
    picture: Image.Image, path: Path, turn: bool = False, bare: bool = False
) -> tuple[np.ndarray, np.ndarray | None]:
    """[H, W, 3] uint8, over black where it is transparent, and alpha [H, W] uint8; None: opaque everywhere.

    turn: as the EXIF tag says. bare: the colours as they stand in the file, whatever alpha says, and no alpha.
    """
    try:
        picture.load()
        if turn:
            picture = ImageOps.exif_transpose(picture)
        return _to_rgb(picture, bare)
    except UserError as error:
        raise UserError(f"photo {path}: {error}") from None
    except MemoryError:
        raise
    except Exception as error:
        raise UserError(f"photo {path} is damaged ({error}); {REMEDY}") from error


def _to_rgb(picture: Image.Image, bare: bool) -> tuple[np.ndarray, np.ndarray | None]:
    if picture.mode.startswith("I"):  # 16 bits a pixel; pillow's own conversion would clip at 255
        grey = np.rint(np.clip(np.asarray(picture, np.float64) / 257, 0, 255)).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2), None
    if picture.mode == "F":
        raise UserError("has 32-bit pixels, whose range is unknown; convert it to 8 bits")
    if picture.has_transparency_data:
        rgba = np.asarray(picture.convert("RGBA"))
        alpha = rgba[:, :, 3]
        if bare:
            return rgba[:, :, :3].copy(), None
        if alpha.min() < 255:
            return dim(rgba[:, :, :3], alpha), alpha.copy()
        return rgba[:, :, :3].copy(), None
    return np.array(picture.convert("RGB")), None


def dim(image: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """A picture [H, W, 3] over black."""
    return np.rint(np.asarray(image, np.float32) * (alpha[:, :, None].astype(np.float32) / 255)).astype(
        np.uint8
    )
