# SPDX-License-Identifier: Apache-2.0
"""Where the options of gs-export, or the size of the scene, put the splats of the file."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..errors import UserError
from ..model import frame, opening
from ..model.placing import Placing
from ..model.splats import Splats

SMALL, LARGE = 0.05, 500.0  # scene units of the farthest camera, between which packed formats hold any scene


def asked_placing(
    splats: Splats,
    up: str | None,
    rotate: str | None,
    scale: float,
    centre: str | None,
    shifted: Callable[[list[float]], list[float]],
) -> Placing | None:
    """Where --centre, --up, --rotate and --scale, in this order, put the splats; None where nothing moves. shifted:
    places of the scene as the splats have them.
    """
    if up is None and rotate is None and centre is None and scale == 1.0:
        return None
    rotation, origin = np.eye(3), np.zeros(3)
    if up == "auto" and splats.up is None:
        raise UserError("--up auto needs a scene's cameras or a file that says what is up; give X,Y,Z")
    if up is not None:
        direction = splats.up if up == "auto" else frame.tuple_of(numbers_of("--up", up, (3,)))
        rotation = frame.between(np.array(direction), np.array(opening.PLY_UP))
    if rotate is not None:
        x, y, z = numbers_of("--rotate", rotate, (3,))
        rotation = frame.euler((x, y, z)) @ rotation
    if centre == "auto":
        origin = np.median(splats.arrays["means"].astype(np.float64), axis=0)
    elif centre is not None:
        origin = np.array(shifted(numbers_of("--centre", centre, (3,)).tolist()))
    return Placing(rotation, scale, -scale * rotation @ origin)


def of_ordinary_size(size: float, splats: Splats) -> Placing | None:
    """Makes splats of a scene that is tiny or huge as large as training sees them, for formats that pack numbers."""
    if SMALL <= size <= LARGE:
        return None
    return Placing(np.eye(3), 1 / size, -np.median(splats.arrays["means"].astype(np.float64), axis=0) / size)


def numbers_of(option: str, text: str, counts: tuple[int, ...]) -> np.ndarray:
    """The numbers of X,Y,Z; UserError where there are others than `counts` of them, or one is not finite."""
    try:
        values = np.array([float(part) for part in text.replace(" ", ",").split(",") if part], np.float64)
    except ValueError:
        values = np.empty(0)
    if len(values) not in counts or not np.isfinite(values).all():
        wanted = " or ".join(map(str, counts))
        raise UserError(f"{option} takes {wanted} numbers with commas between, got {text!r}")
    return values
