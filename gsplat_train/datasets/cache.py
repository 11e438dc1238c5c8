# SPDX-License-Identifier: Apache-2.0
"""Pictures that took long to make, kept on disk under a key of everything they were made from.

A file of the cache is a PNG. It appears complete or not at all, is checked when read, and may be deleted.
"""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from ..storage import cache_folder


def key(*parts: bytes | str) -> str:
    """A name for what the parts determine."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def read(name: str, sides: tuple[int, int]) -> np.ndarray | None:
    """The picture [H, W, 3], or with alpha [H, W, 4], uint8 of that key and these sides (H, W); None where there
    is none or it is damaged.
    """
    try:
        data = (cache_folder() / f"{name}.png").read_bytes()
        Image.open(io.BytesIO(data)).verify()  # the checksums; decoding alone does not look at them
        picture = np.array(Image.open(io.BytesIO(data)))
    except Exception:  # whatever a damaged PNG makes pillow raise: the picture is made again
        return None
    fits = picture.ndim == 3 and picture.shape[:2] == sides and picture.shape[2] in (3, 4)
    return picture if fits and picture.dtype == np.uint8 else None


def write(name: str, picture: np.ndarray) -> bool:
    """Keep a picture; False where the disk does not allow it, which costs time and nothing else."""
    path = cache_folder() / f"{name}.png"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
            temporary = Path(file.name)
            try:
                Image.fromarray(picture).save(file, "PNG", compress_level=1)
                file.close()
                os.replace(temporary, path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
    except OSError:
        return False
    return True
