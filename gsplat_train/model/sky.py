# SPDX-License-Identifier: Apache-2.0
"""A sky: the colour of each direction as spherical harmonics of degree 2, infinitely far behind the splats.

    image(p) = what the splats add + T(p) max(sum_k c_k Y_k(ray(p)) + 0.5, 0)

Files of splats have no place for it. It stands beside them, or becomes far splats (`baked`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from ..errors import UserError
from ..scene import Camera
from ..storage import atomic_write, parsed, remove
from . import frame, sh
from .splats import C0, Splats

DEGREE, NUMBERS = 2, 9  # of the harmonics, and their coefficients a channel
BESIDE = ".sky.json"  # added to the name of a file of splats
FAR, BEYOND = 30.0, 1.5  # baked: times as far as the cameras from their middle, and as all splats but a few
COUNT, OVERLAP, LOGIT = (
    6000,
    0.8,
    6.0,
)  # far splats, their deviation by the distance to the next, their opacity


Colour = tuple[float, float, float]
BLACK, WHITE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


class Sky(NamedTuple):
    """Harmonics of directions in the scene's axes."""

    coefficients: np.ndarray  # [9, 3] float32

    def behind(self, camera: Camera) -> mx.array:
        """[H, W, 3] what the camera sees behind all splats."""
        return colours(mx.array(self.coefficients), camera)

    def turned(self, rotation: np.ndarray) -> Sky:
        """The same sky in axes that are turned."""
        bands = frame.turned_harmonics(self.coefficients[None, 1:], rotation)[0]
        return Sky(np.concatenate([self.coefficients[:1], bands]).astype(np.float32))


Ground = Colour | Sky  # behind the splats


def colour_of(ground: Ground) -> Colour:
    """What see-through photos are laid over: a colour as it is, black where there is a sky."""
    return BLACK if isinstance(ground, Sky) else ground


def colours(coefficients: mx.array, camera: Camera) -> mx.array:
    """[H, W, 3] of coefficients [9, 3], differentiable."""
    K, height, width = camera.K, camera.height, camera.width
    u = (mx.arange(width) + (0.5 - float(K[0, 2]))) / float(K[0, 0])
    v = (mx.arange(height) + (0.5 - float(K[1, 2]))) / float(K[1, 1])
    u, v = mx.broadcast_to(u[None], (height, width)), mx.broadcast_to(v[:, None], (height, width))
    rays = mx.stack([u, v, mx.ones_like(u)], axis=2).reshape(-1, 3)
    rays = rays / mx.linalg.norm(rays, axis=1, keepdims=True)
    rays = rays @ mx.array(camera.viewmat[:3, :3].astype(np.float32))
    shown = mx.maximum(sh.basis(rays, DEGREE) @ coefficients + 0.5, 0.0)
    return shown.reshape(height, width, 3)


def baked(splats: Splats, sky: Sky, cameras: Sequence[Camera] = ()) -> Splats:
    """The splats, and a sphere of far ones that look as the sky, about the cameras (without any, the splats)."""
    means = splats.arrays["means"].astype(np.float64)
    places = np.array([camera.position for camera in cameras]) if len(cameras) else means
    centre = np.median(places, axis=0)
    reach = [FAR * float(np.percentile(np.linalg.norm(places - centre, axis=1), 95))]
    reach += [BEYOND * float(np.percentile(np.linalg.norm(means - centre, axis=1), 99.9))] if splats.n else []
    radius = max(*reach, 1e-6)
    # A spiral from pole to pole spreads points evenly (Swinbank and Purser 2006).
    height = 1 - (2 * np.arange(COUNT) + 1) / COUNT
    angle = np.pi * (3 - np.sqrt(5)) * np.arange(COUNT)
    flat = np.sqrt(1 - height * height)
    directions = np.stack([flat * np.cos(angle), flat * np.sin(angle), height], axis=1)
    shown = np.maximum(frame.basis(directions, DEGREE) @ sky.coefficients + 0.5, 0.0)
    size = OVERLAP * radius * np.sqrt(4 * np.pi / COUNT)
    far = {
        "means": centre + radius * directions,
        "quats": np.tile([1.0, 0.0, 0.0, 0.0], (COUNT, 1)),
        "log_scales": np.full((COUNT, 3), np.log(size)),
        "logit_opacities": np.full(COUNT, LOGIT),
        "sh0": ((shown - 0.5) / C0)[:, None],
        "shN": np.zeros((COUNT, *splats.arrays["shN"].shape[1:])),
    }
    arrays = {
        name: np.concatenate([array, far[name].astype(np.float32)]) for name, array in splats.arrays.items()
    }
    return splats._replace(arrays=arrays)


def sky_beside(path: Path) -> Path:
    """The file that holds the sky behind the splats of the file `path`."""
    return path.with_name(path.name + BESIDE)


def write_sky(path: Path, sky: Sky | None) -> None:
    """Writes beside the file of splats `path` what is behind them; takes an old such file away where nothing is."""
    beside = sky_beside(path)
    if sky is None:
        remove(beside)
        return
    content = {"degree": DEGREE, "coefficients": [[float(x) for x in row] for row in sky.coefficients]}
    with atomic_write(beside) as file:
        file.write(json.dumps(content, indent=1).encode() + b"\n")


def read_sky(path: Path) -> Sky | None:
    """The sky beside the file of splats `path`; None where there is none, UserError where it is damaged."""
    beside = sky_beside(path)
    try:
        return sky_of(parsed(beside.read_bytes())["coefficients"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, ArithmeticError) as error:
        raise UserError(
            f"{beside} cannot be read ({error}); it is the sky behind the splats: take it away to do without"
        ) from None


@np.errstate(over="ignore")  # what leaves float32 is not finite then
def sky_of(numbers: object) -> Sky:
    """The sky of [9, 3] numbers, in any shape; ValueError where they are not so many, or not finite."""
    found = np.array(numbers, np.float32).reshape(-1)
    if found.size != 3 * NUMBERS or not np.isfinite(found).all():
        raise ValueError(f"a sky is {NUMBERS} x 3 finite numbers")
    return Sky(found.reshape(NUMBERS, 3))
