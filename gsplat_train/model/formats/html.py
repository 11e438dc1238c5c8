# SPDX-License-Identifier: Apache-2.0
"""Splats as one page that shows them: opened from disk in any browser with WebGL2, without a network.

The splats lie in it as an SPZ of version 3 in base64, beside a viewer of this project's own (viewer/*.js) and
where that begins. What is read back is the SPZ.
"""

from __future__ import annotations

import base64
import binascii
import html
import json
from math import atan
from pathlib import Path
from string import Template
from typing import Any

from ...errors import UserError
from ...storage import atomic_write, parsed
from ..opening import Opening, opening
from ..splats import Splats
from . import spz

SCRIPTS = ("unpack.js", "sort.js", "draw.js", "walk.js", "start.js")
BEFORE, AFTER = b'<script type="text/plain" id="splats">', b"</script>"
OPENING = b'<script type="application/json" id="opening">'


def write(
    path: Path,
    splats: Splats,
    *,
    place: Opening | None = None,
    title: str = "Gaussian splats",
    background: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> None:
    """Writes a page, all or nothing; StorageError where the disk refuses.

    place: where it opens; without it, before the middle of the splats. background: display-encoded, 0 to 1.
    """
    place = opening(splats) if place is None else place
    folder = Path(__file__).parent / "viewer"
    page = Template((folder / "page.html").read_text("utf-8")).substitute(
        title=html.escape(title),
        opening=_script_text(_to_json(place, background)),
        splats=base64.b64encode(spz.to_bytes(splats)).decode(),
        scripts="\n".join((folder / name).read_text("utf-8") for name in SCRIPTS),
    )
    with atomic_write(path) as file:
        file.write(page.encode())


def read(path: Path) -> Splats:
    """Reads the splats of a page that `write` made; UserError where it is none."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    start = data.find(BEFORE)
    end = data.find(AFTER, start)
    if start < 0 or end < 0 or not data.rstrip().endswith(b"</html>"):
        raise UserError(f"{path} is no page of splats that gs-export wrote, or truncated")
    try:
        content = base64.b64decode(data[start + len(BEFORE) : end], validate=True)
    except binascii.Error as error:
        raise UserError(f"{path} is damaged: {error}") from None
    return spz.from_bytes(path, content)._replace(up=_up_of(data))


def _to_json(place: Opening, background: tuple[float, float, float]) -> dict[str, Any]:
    cameras = [
        {
            "rotation": camera.viewmat[:3, :3].ravel().tolist(),
            "position": camera.position.tolist(),
            "fov_x": 2 * atan(camera.width / (2 * camera.K[0, 0])),
            "fov_y": 2 * atan(camera.height / (2 * camera.K[1, 1])),
        }
        for camera in place.cameras
    ]
    target, up = place.target.tolist(), list(place.up)
    return {
        "cameras": cameras, "first": place.first, "target": target, "up": up, "background": list(background),
    }  # fmt: skip


def _up_of(data: bytes) -> tuple[float, float, float] | None:
    start = data.find(OPENING)
    end = data.find(AFTER, start)
    try:
        x, y, z = parsed(data[start + len(OPENING) : end])["up"]
        return float(x), float(y), float(z)
    except (ValueError, TypeError, KeyError, OverflowError):
        return None


def _script_text(value: dict[str, Any]) -> str:
    """JSON that cannot end the script that it stands in."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")
