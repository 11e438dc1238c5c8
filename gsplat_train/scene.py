# SPDX-License-Identifier: Apache-2.0
"""Plain data that every reader produces and every other part consumes: Camera, View, Scene, Similarity.

Notation: `viewmat` [4, 4] maps world to camera in OpenCV axes (x right, y down, z forward), `camtoworld` is
its inverse; `K` [3, 3] is in pixels with pixel centres at +0.5, so the picture covers [0, width] x [0,
height]. Lengths are in the scene's own unit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from .errors import UserError

ROTATION_TOLERANCE = 1e-3  # of R^T R = I: float32 and rounded JSON pass, scaled or sheared matrices do not


@dataclass(frozen=True, eq=False)
class Camera:
    """A pinhole camera. Takes arrays or nested lists; UserError where they are no camera.

    viewmat [4, 4] float64: world -> camera, a rotation and a translation. K [3, 3] float64: pixels, no skew.
    """

    viewmat: np.ndarray
    K: np.ndarray
    width: int
    height: int

    def __post_init__(self) -> None:
        viewmat, K = _matrix("viewmat", self.viewmat, 4), _matrix("K", self.K, 3)
        rotation = viewmat[:3, :3]
        sheared = np.abs(rotation.T @ rotation - np.eye(3)).max() > ROTATION_TOLERANCE
        if sheared or np.linalg.det(rotation) < 0 or not np.allclose(viewmat[3], [0, 0, 0, 1]):
            raise UserError("viewmat must be a rotation and a translation, with 0 0 0 1 as last row")
        if not (K[0, 0] > 0 and K[1, 1] > 0) or not np.allclose([*K[2], K[0, 1], K[1, 0]], [0, 0, 1, 0, 0]):
            raise UserError("K must be [[fx, 0, cx], [0, fy, cy], [0, 0, 1]] with fx, fy > 0")
        for side in ("width", "height"):
            value = getattr(self, side)
            if not value >= 1 or not float(value).is_integer():
                raise UserError(f"camera {side} must be a whole number of pixels from 1, got {value}")
            object.__setattr__(self, side, int(value))
        object.__setattr__(self, "viewmat", viewmat)
        object.__setattr__(self, "K", K)

    @property
    def position(self) -> np.ndarray:
        """[3] centre of the camera in the world."""
        return -self.viewmat[:3, :3].T @ self.viewmat[:3, 3]

    @property
    def camtoworld(self) -> np.ndarray:
        """[4, 4] camera -> world."""
        matrix = np.eye(4)
        matrix[:3, :3] = self.viewmat[:3, :3].T
        matrix[:3, 3] = self.position
        return matrix

    def resized(self, width: int, height: int) -> Camera:
        """The same camera for a picture of another size: each axis of K scales on its own."""
        scale = np.array([[width / self.width], [height / self.height], [1.0]])
        return replace(self, K=self.K * scale, width=width, height=height)


@dataclass(frozen=True, eq=False)
class Photo:
    """The pixels of a photo, in memory."""

    image: np.ndarray  # [H, W, 3] uint8; over black where it is see-through
    mask: np.ndarray | None = None  # [H, W] uint8: which pixels count (not 0); None: all
    alpha: np.ndarray | None = None  # [H, W] uint8: how opaque the photo is; None: everywhere

    def decode(self) -> Photo:
        """Itself."""
        return self

    @property
    def matte(self) -> np.ndarray | None:
        """`alpha`; None where the photo is opaque everywhere."""
        return None if self.alpha is None or self.alpha.min(initial=255) == 255 else self.alpha

    def over(self, background: np.ndarray | Sequence[float]) -> np.ndarray:
        """[H, W, 3] float32, 0 to 1: the photo over a background colour [3]."""
        ground = np.asarray(background, np.float32)
        image = self.image.astype(np.float32)
        if (matte := self.matte) is not None and ground.any():
            image += (255 - matte.astype(np.float32))[:, :, None] * ground
        return image / 255

    def shown(self, background: np.ndarray | Sequence[float]) -> np.ndarray:
        """[H, W, 3] uint8: the photo over a background colour [3], as a picture of it would be written."""
        if self.matte is None or not np.any(background):
            return self.image
        return np.rint(255 * self.over(background)).clip(0, 255).astype(np.uint8)


class PhotoSource(Protocol):
    """A photo that is read when it is needed, from a file for example. `Photo` is one too."""

    def decode(self) -> Photo:
        """The pixels; UserError where they can no longer be had."""
        ...


@dataclass(frozen=True, eq=False)
class View:
    """A camera and, where there is one, its photo. A view is known by (`index`, `level`): what belongs to it
    on a device is kept under that key. `photo` may be given as an array [H, W, 3] uint8.
    """

    name: str
    camera: Camera
    photo: PhotoSource | None = None
    index: int = -1  # among its scene's views, sorted by name; Scene sets it
    level: int = 0  # how often the photo was halved
    group: str = ""  # of views that were taken at once, as parts of one panorama: all are held out, or none

    def __post_init__(self) -> None:
        if isinstance(self.photo, np.ndarray):
            object.__setattr__(self, "photo", Photo(self.photo))

    @property
    def key(self) -> tuple[int, int]:
        """(index, level): what tells this view from all others of its scene."""
        return self.index, self.level

    @property
    def pixels(self) -> Photo:
        """The photo, decoded; UserError where the view has none."""
        if self.photo is None:
            raise UserError(f"view {self.name} has no photo")
        return self.photo.decode()

    @property
    def image(self) -> np.ndarray | None:
        """[H, W, 3] uint8 of the photo, decoded; None without one."""
        return None if self.photo is None else self.photo.decode().image

    @property
    def mask(self) -> np.ndarray | None:
        """[H, W] uint8: which pixels of the photo count; None: all."""
        return None if self.photo is None else self.photo.decode().mask


@dataclass(frozen=True, eq=False)
class Similarity:
    """How training's frame lies in the scene's: x_scene = x_train * scale + centre [3]."""

    centre: np.ndarray
    scale: float

    @classmethod
    def around(cls, cameras: Sequence[Camera], points: np.ndarray) -> Similarity:
        """With the mean camera at the origin and the farthest at distance 1; points [P, 3]."""
        positions = np.stack([camera.position for camera in cameras])
        centre = positions.mean(axis=0)
        scale = float(np.linalg.norm(positions - centre, axis=1).max())
        distances = np.linalg.norm(points - centre, axis=1)
        depth = float(np.median(distances)) if len(distances) else 1.0
        if scale <= 1e-6 * depth:  # one camera, or a tripod: only the points know the scale
            scale = depth if depth > 0 else 1.0
        return cls(centre, scale)

    def to_train(self, x: np.ndarray) -> np.ndarray:
        """Points [..., 3] of the scene's frame in training's."""
        return (x - self.centre) / self.scale

    def to_scene(self, x: np.ndarray) -> np.ndarray:
        """Points [..., 3] of training's frame in the scene's."""
        return x * self.scale + self.centre

    def camera_to_train(self, camera: Camera) -> Camera:
        """The same camera in training's frame: depths shrink by `scale`, pixels stay."""
        viewmat = camera.viewmat.copy()
        viewmat[:3, 3] = (viewmat[:3, :3] @ self.centre + viewmat[:3, 3]) / self.scale
        return replace(camera, viewmat=viewmat)

    def camera_to_scene(self, camera: Camera) -> Camera:
        """The inverse of `camera_to_train`."""
        viewmat = camera.viewmat.copy()
        viewmat[:3, 3] = viewmat[:3, 3] * self.scale - viewmat[:3, :3] @ self.centre
        return replace(camera, viewmat=viewmat)


def evenly(views: Sequence[View], n: int) -> list[View]:
    """At most `n` of the views, from the first to the last."""
    chosen = np.unique(np.linspace(0, len(views) - 1, min(n, len(views))).round().astype(int))
    return [views[i] for i in chosen]


@dataclass(frozen=True, eq=False)
class Scene:
    """Views, sorted by name, and the reconstruction's points [P, 3] float64 with their colors [P, 3] uint8.

    undistort: None, or {"zoom", "kernel"} as metrics.json shows it. test_names: the views that the scene's
    own files hold out, by name; None where they do not say.
    """

    name: str
    views: tuple[View, ...]
    points: np.ndarray
    colors: np.ndarray
    undistort: dict[str, Any] | None = None
    test_names: frozenset[str] | None = None

    def __post_init__(self) -> None:
        views = sorted(self.views, key=lambda view: view.name)
        indexed = tuple(replace(view, index=i) for i, view in enumerate(views))
        object.__setattr__(self, "views", indexed)
        object.__setattr__(self, "points", np.asarray(self.points, np.float64))
        object.__setattr__(self, "colors", np.asarray(self.colors, np.uint8))
        n = len(self.points)
        if self.points.shape != (n, 3) or self.colors.shape != (n, 3):
            shapes = f"{self.points.shape} and {self.colors.shape}"
            raise UserError(f"points and colors of a scene must both be [P, 3], got {shapes}")

    def split(self, test_every: int = 8) -> tuple[tuple[View, ...], tuple[View, ...]]:
        """(train, test): the views of `test_names`, else every `test_every`-th from the first, are held out.

        0 holds out none, whatever the scene says. Views of one group are held out together.
        """
        if test_every < 0:
            raise UserError(f"test_every must be 0 (hold out none) or more, got {test_every}")
        if test_every and self.test_names is not None:
            chosen = {view.group or view.name for view in self.views if view.name in self.test_names}
        else:
            groups = list(dict.fromkeys(view.group or view.name for view in self.views))
            chosen = set(groups[::test_every]) if test_every else set()
        held = [(view.group or view.name) in chosen for view in self.views]
        test = tuple(view for view, out in zip(self.views, held, strict=True) if out)
        train = tuple(view for view, out in zip(self.views, held, strict=True) if not out)
        if not train:
            raise UserError(
                f"scene {self.name} has {len(self.views)} views and holds out {len(test)}, which leaves none "
                "to train on; add photos, or set test_every=0 to hold out none"
            )
        return train, test

    @property
    def extent(self) -> float:
        """1.1 times the distance from the mean camera to the farthest (3DGS's getNerfppNorm)."""
        return 1.1 * self._frame().scale

    def normalized(self) -> tuple[Scene, Similarity]:
        """This scene with the mean camera at the origin and the farthest at distance 1, and the way back.

        Training happens in this frame, because MCMC's noise and scale regulariser are not scale-free.
        """
        frame = self._frame()
        views = tuple(replace(view, camera=frame.camera_to_train(view.camera)) for view in self.views)
        return replace(self, views=views, points=frame.to_train(self.points)), frame

    def _frame(self) -> Similarity:
        if not self.views:
            raise UserError(f"scene {self.name} has no views")
        return Similarity.around([view.camera for view in self.views], self.points)


def _matrix(name: str, value: Any, size: int) -> np.ndarray:
    """`value` as a finite float64 matrix [size, size]; UserError otherwise."""
    try:
        matrix = np.array(value, np.float64)
    except (TypeError, ValueError):
        matrix = np.empty(0)
    if matrix.shape != (size, size):
        got = f"shape {matrix.shape}" if matrix.size else "something else"
        raise UserError(f"{name} must be a [{size}, {size}] matrix of numbers, got {got}")
    if not np.isfinite(matrix).all():
        raise UserError(f"{name} must be finite, got NaN or infinity in it")
    return matrix
