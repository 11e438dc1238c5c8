# SPDX-License-Identifier: Apache-2.0
"""Photos that show nothing, all of one colour and most often black: a covered lens, an export that failed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from ..scene import Photo
from .files import shorten

SAMPLES, CELLS = 48, 24  # pixels, and parts, along the longer side, that are looked at
NOISE = 40  # of 255: pixels that spread farther are no noise
BLACK, ONE = (
    12,
    6,
)  # of 255: parts of a photo that shows nothing are darker, or differ by less in each channel
KINDS = ("black", "of one colour")


def blank(photo: Photo) -> str:
    """Which of KINDS the photo is; "" where it shows something, if only an outline of what is see-through.

    A night has lights or shades; means over parts of the photo leave these, and no noise. Microseconds for a photo
    that shows something.
    """
    planes = [photo.image] if photo.alpha is None else [photo.image, photo.alpha]
    height, width = photo.image.shape[:2]
    step = max(max(height, width) // SAMPLES, 1)
    first = min(step // 2, height - 1), min(step // 2, width - 1)
    few = [plane[first[0] :: step, first[1] :: step] for plane in planes]
    for part in few:
        ordered = np.sort(part.reshape(part.shape[0] * part.shape[1], -1).astype(np.int16), axis=0)
        tail = len(ordered) // 20
        if (ordered[-1 - tail] - ordered[tail]).max() > NOISE:
            return ""
    factor = max(max(height, width) // CELLS, 1)
    small = [np.asarray(Image.fromarray(plane).reduce(factor), np.int16) for plane in planes]
    if len(small) > 1 and np.ptp(small[1]) > ONE:
        return ""
    if small[0].max() < BLACK:
        return KINDS[0]
    return KINDS[1] if np.ptp(small[0], axis=(0, 1)).max() <= ONE else ""


def tell(names: Sequence[str], found: Sequence[Sequence[str]], log: Callable[[str], None]) -> None:
    """Warns of the photos that show nothing, where there are some. found: what `blank` says of each one's pictures."""
    kinds = []
    for kind in KINDS:
        if so := [name for name, each in zip(names, found, strict=True) if all(each) and each[0] == kind]:
            are = "is" if len(so) == 1 else "are"
            kinds.append(f"{len(so)} of {len(names)} {are} {kind} ({shorten(so)})")
    if kinds:
        log(
            f"warning: photos that show nothing: {', '.join(kinds)}; they are trained on all the same: take them out, "
            "or export them again"
        )
