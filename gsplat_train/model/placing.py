# SPDX-License-Identifier: Apache-2.0
"""How one frame lies in another, in float64, and the file beside a file of splats that says how it lies in the
scene's. NumPy only.

Float32 holds places to 1 part in 10 million: those of a scene with map coordinates (UTM) only to half a metre. So
such a scene's splats are written near the origin, and what was taken off stands beside them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..errors import UserError
from ..scene import Camera, Similarity
from ..storage import atomic_write, parsed, remove
from .frame import moved_camera
from .splats import Splats
from .usable import FINEST

BESIDE = ".frame.json"  # added to the name of a file of splats


class Placing(NamedTuple):
    """x_there = scale rotation x_here + offset."""

    rotation: np.ndarray  # [3, 3]
    scale: float
    offset: np.ndarray  # [3]

    @classmethod
    def of(cls, frame: Similarity) -> Placing:
        """From training's frame to the scene's."""
        return cls(np.eye(3), frame.scale, frame.centre)

    def camera(self, camera: Camera) -> Camera:
        """A camera from here as it stands there."""
        return moved_camera(camera, *self)

    def points(self, points: np.ndarray) -> np.ndarray:
        """Points [..., 3] from here there, in float64."""
        turned = np.asarray(points, np.float64)
        if not np.array_equal(self.rotation, np.eye(3)):
            turned = turned @ self.rotation.T
        return turned * self.scale + self.offset

    def then(self, after: Placing) -> Placing:
        """This one, then `after`, which begins where this one ends."""
        return Placing(after.rotation @ self.rotation, after.scale * self.scale, after.points(self.offset))

    def back(self) -> Placing:
        """From there to here."""
        return Placing(self.rotation.T, 1 / self.scale, -self.rotation.T @ self.offset / self.scale)

    @property
    def moves(self) -> bool:
        """Whether anything lies elsewhere there than here."""
        return bool(self.scale != 1 or self.offset.any() or not np.array_equal(self.rotation, np.eye(3)))


HERE = Placing(np.eye(3), 1.0, np.zeros(3))


def beside_of(path: Path) -> Path:
    """The file that says where the splats of the file `path` lie."""
    return path.with_name(path.name + BESIDE)


@np.errstate(all="ignore")  # a model that has diverged is written as it is
def held_finely(splats: Splats, frame: Placing) -> Placing:
    """In which frame, told by where it lies in the scene's, float32 holds the splats of `frame` finely: the scene's
    own, or one whose origin is a round place amid them.
    """
    means = splats.arrays["means"]
    low, middle, high = frame.points(np.percentile(means, [1, 50, 99], axis=0))
    extent = float(np.linalg.norm(high - low))
    # by the middle: one splat far out, as trained models have, is no reason to move all others
    if not np.abs(middle).max(initial=0.0) * 2.0**-23 > FINEST * extent > 0:
        return HERE  # so is what is not finite
    unit = 10.0 ** np.floor(np.log10(extent))
    return Placing(np.eye(3), 1.0, np.round(middle / unit) * unit)


def write_placing(path: Path, frame: Placing) -> Path | None:
    """Writes beside the file of splats `path` where they lie, x_file = scale rotation x_scene + offset; takes an old
    such file away where they lie in the scene's own frame. Its path, if there is one. frame: from theirs to the
    scene's.
    """
    beside, place = beside_of(path), frame.back()
    if not frame.moves:
        remove(beside)
        return None
    content = {"rotation": place.rotation.tolist(), "scale": place.scale, "offset": place.offset.tolist()}
    with atomic_write(beside) as file:
        file.write(json.dumps(content, indent=1).encode() + b"\n")
    return beside


@np.errstate(all="ignore")  # hostile numbers overflow, and are found out by what comes of them
def read_placing(path: Path) -> Placing:
    """From the frame of the file of splats `path` to the scene's, as it stands beside; HERE where nothing does.
    UserError where it is damaged.
    """
    beside = beside_of(path)
    try:
        content = parsed(beside.read_bytes())
        place = Placing(
            np.array(content["rotation"], np.float64),
            float(content["scale"]),
            np.array(content["offset"], np.float64),
        )
        sound = place.rotation.shape == (3, 3) and place.offset.shape == (3,) and 0 < place.scale < np.inf
        sound = sound and np.isfinite(place.offset).all() and np.linalg.det(place.rotation) > 0
        if not sound or not np.allclose(place.rotation @ place.rotation.T, np.eye(3), atol=1e-6):
            raise ValueError("it is no rotation, scale above 0 and offset")
        frame = place.back()
        if not np.isfinite([frame.scale, *frame.offset]).all():
            raise ValueError(f"a scale of {place.scale:g} is too small for its offset")
    except FileNotFoundError:
        return HERE
    except (OSError, ValueError, KeyError, TypeError, ArithmeticError) as error:
        raise UserError(
            f"{beside} cannot be read ({error}); it says where the splats of {path.name} lie in the scene: "
            "export them again, or take it away"
        ) from None
    return frame
