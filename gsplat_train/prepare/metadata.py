# SPDX-License-Identifier: Apache-2.0
"""What a photo's EXIF and XMP say of its camera: focal length, which camera it was, where down is.

Sources: Exif 2.32 (CIPA DC-008); DJI's XMP fields for the angles of a gimbal; Apple's maker note, an IFD
whose tag 8 is the acceleration in g along the telephone's axes (x right, y up, z out of the screen).
"""

from __future__ import annotations

import math
import re
import struct
from typing import Any, NamedTuple

from PIL import Image

FULL_FRAME_DIAGONAL = math.hypot(36, 24)  # mm, of the film that "35 mm equivalent" speaks of
MAKE, MODEL, ORIENTATION, EXIF_IFD = 0x010F, 0x0110, 0x0112, 0x8769
MAKER_NOTE, FOCAL_LENGTH, FOCAL_LENGTH_35 = 0x927C, 0x920A, 0xA405
APPLE_HEAD, APPLE_ACCELERATION = b"Apple iOS\0\0\x01MM", 8
SIGNED_RATIONAL = 10
LOOKS_DOWN = 0.3  # of gravity in the picture's plane; below it the roll is not known
GIMBAL = rb'Gimbal(Pitch|Roll)Degree\s*(?:=\s*"|>)\s*([-+]?[0-9.]+)'


class Metadata(NamedTuple):
    """What is known of a photo; `down` is the direction of gravity in the camera's axes (OpenCV's) after the
    picture was turned upright.
    """

    camera: str = ""  # maker, model and focal length: photos of one lens at one zoom share it
    focal_share: float | None = None  # focal length as a share of the picture's diagonal
    orientation: int = 1
    down: tuple[float, float, float] | None = None


def read_metadata(picture: Image.Image) -> Metadata:
    """Of an opened picture; what is not there or damaged stays unknown."""
    try:
        exif = picture.getexif()
        details: Any = exif.get_ifd(EXIF_IFD)
    except Exception:  # pillow raises whatever its parsers meet
        return Metadata()
    film = _number(details.get(FOCAL_LENGTH_35))
    share = film / FULL_FRAME_DIAGONAL if film and 5 <= film <= 2000 else None
    names = [str(exif.get(tag, "")).strip(" \0") for tag in (MAKE, MODEL)]
    zoom = _number(details.get(FOCAL_LENGTH)) or film
    camera = " ".join([*filter(None, names), *([f"{zoom:g} mm"] if zoom else [])])
    orientation = exif.get(ORIENTATION, 1)
    if orientation not in range(1, 9):
        orientation = 1
    down = gimbal_down(picture.info.get("xmp", b"")) or apple_down(details.get(MAKER_NOTE, b""))
    return Metadata(camera, share, orientation, down)


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return number if math.isfinite(number) and number > 0 else None


def gimbal_down(xmp: Any) -> tuple[float, float, float] | None:
    """Gravity in the camera's axes from a gimbal's pitch (-90 looks down) and roll, in degrees."""
    text = xmp if isinstance(xmp, bytes) else str(xmp).encode()
    angles = {name: float(value) for name, value in re.findall(GIMBAL, text)}
    if b"Pitch" not in angles:
        return None
    pitch, roll = math.radians(angles[b"Pitch"]), math.radians(angles.get(b"Roll", 0.0))
    flat = math.cos(pitch)
    return flat * math.sin(roll), flat * math.cos(roll), -math.sin(pitch)


def apple_down(note: Any) -> tuple[float, float, float] | None:
    """Gravity in the camera's axes from the maker note of an iPhone.

    The picture is upright already, so gravity in its plane is turned by quarters until it points downward.
    """
    vector = _acceleration(note if isinstance(note, bytes) else b"")
    if vector is None:
        return None
    size = math.sqrt(sum(v * v for v in vector))
    if not 0.8 < size < 1.2:  # g: the telephone was being shaken
        return None
    x, y, z = vector[0] / size, -vector[1] / size, -vector[2] / size  # to x right, y down, z forward
    if math.hypot(x, y) < LOOKS_DOWN:
        return None
    while y < abs(x):
        x, y = y, -x
    return x, y, z


def _acceleration(note: bytes) -> list[float] | None:
    """Three signed rationals of an Apple maker note; offsets count from its beginning."""
    if not note.startswith(APPLE_HEAD):
        return None
    try:
        (count,) = struct.unpack_from(">H", note, len(APPLE_HEAD))
        for i in range(count):
            tag, kind, n, at = struct.unpack_from(">HHII", note, len(APPLE_HEAD) + 2 + 12 * i)
            if (tag, kind, n) == (APPLE_ACCELERATION, SIGNED_RATIONAL, 3):
                parts = struct.unpack_from(">6i", note, at)
                return [parts[k] / parts[k + 1] for k in (0, 2, 4)]
    except (struct.error, ZeroDivisionError):
        pass
    return None
