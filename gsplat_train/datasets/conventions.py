# SPDX-License-Identifier: Apache-2.0
"""Mistakes that writers of scenes make, each as the change that undoes it: what the check tries when a scene fails.

A mistake has the words for the message and the mend, and makes of the cameras and points as read those that
were meant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import permutations
from typing import NamedTuple

import numpy as np

from .agreement import SmallView
from .colmap_records import quaternion, rotation_matrix

FLIP = np.diag([1.0, -1.0, -1.0, 1.0])  # OpenCV's camera axes <-> OpenGL's
FOCAL_FACTORS = (1 / 8, 1 / 4, 1 / 3, 1 / 2, 1 / 1.5, 1.5, 2, 3, 4, 8)


class Try(NamedTuple):
    """A mistake: what it probably is, how to mend it, and the scene without it."""

    what: str
    mend: str
    small_views: list[SmallView]
    points: np.ndarray


def tries(small_views: Sequence[SmallView], points: np.ndarray) -> Iterator[Try]:
    """What the scene would be without each mistake, one after the other."""
    for what, mend, change in POSES:
        yield Try(
            what, mend, [small_view.moved(change(small_view.viewmat)) for small_view in small_views], points
        )
    for flips, axes in SIGNS:
        mend = f"turn the sign of their {axes}, or export cameras and points from one program"
        yield Try("the points are mirrored or turned", mend, list(small_views), points * flips)
    for order in list(permutations(range(3)))[1:]:
        for turned in np.vstack([np.ones(3), 1 - 2 * np.eye(3)]):
            mend = "export cameras and points with the same axes"
            what = "the points have other axes than the cameras (Y up for Z up)"
            yield Try(what, mend, list(small_views), points[:, order] * turned)
    for what, turn in TURNS:
        mend = "turn the pictures themselves (an EXIF rotation is not applied), or take the originals"
        yield Try(
            f"the photos are {what}", mend, [_turned(small_view, turn) for small_view in small_views], points
        )
    centred = [small_view.moved(K=_intrinsics(small_view.K, 1.0, centre=True)) for small_view in small_views]
    yield Try("the principal point is wrong", "set cx, cy near the middle of the picture", centred, points)
    for factor in FOCAL_FACTORS:
        scaled = [
            small_view.moved(K=_intrinsics(small_view.K, factor, centre=False)) for small_view in small_views
        ]
        what = f"the focal length is wrong by a factor of about {max(factor, 1 / factor):.1f}"
        mend = "it must be in pixels of the width and height that the file gives; is a camera given twice?"
        yield Try(what, mend, scaled, points)
    for axis, what in ((1, "fy"), (0, "fx")):
        square = [view.moved(K=_with_square_pixels(view.K, view.aspect, axis)) for view in small_views]
        what = f"fx and fy are far apart, and {what} is the wrong one"
        yield Try(what, "pixels are square in nearly all cameras: give both the same value", square, points)


def _with_square_pixels(K: np.ndarray, aspect: float, axis: int) -> np.ndarray:
    """Intrinsics of a 1 x 1 picture with the focal length of `axis` made that of the other."""
    meant = K.copy()
    meant[axis, axis] = K[0, 0] * aspect if axis == 1 else K[1, 1] / aspect
    return meant


def _inverted(viewmat: np.ndarray) -> np.ndarray:
    return np.linalg.inv(viewmat)


def _reordered(viewmat: np.ndarray) -> np.ndarray:
    """Of a rotation read from a quaternion xyzw as if it were wxyz, the one that was meant."""
    meant = viewmat.copy()
    x, y, z, w = quaternion(viewmat[:3, :3])
    meant[:3, :3] = rotation_matrix((w, x, y, z))
    return meant


def _centres(viewmat: np.ndarray) -> np.ndarray:
    """Of a camera's centre that was read as its translation, the translation."""
    meant = viewmat.copy()
    meant[:3, 3] = -viewmat[:3, :3] @ viewmat[:3, 3]
    return meant


INVERT = "invert each matrix: COLMAP's images.txt wants world to camera, transforms.json camera to world"
AXES = "negate the second and third of the camera's axes"
POSES: tuple[tuple[str, str, Callable[[np.ndarray], np.ndarray]], ...] = (
    ("the poses are inverted (camera to world for world to camera)", INVERT, _inverted),
    ("the cameras have OpenGL's axes for OpenCV's, or the reverse", AXES, lambda viewmat: FLIP @ viewmat),
    (
        "the poses are inverted and have OpenGL's axes",
        f"{AXES}, then {INVERT}",
        lambda viewmat: FLIP @ np.linalg.inv(viewmat),
    ),
    (
        "the poses are inverted and have OpenGL's axes",
        f"{AXES}, then {INVERT}",
        lambda viewmat: np.linalg.inv(FLIP @ viewmat),
    ),
    (  # what transforms.json's matrices are then, whose axes are OpenGL's
        "the poses are inverted (camera to world for world to camera)",
        INVERT,
        lambda viewmat: FLIP @ np.linalg.inv(viewmat) @ FLIP,
    ),
    ("the quaternions are x y z w for w x y z", "write the real part w first", _reordered),
    (
        "the centres of the cameras stand where translations are wanted",
        "write -R C, with R from world to camera and C the centre",
        _centres,
    ),
)
SIGNS = tuple(
    (np.array(flips, float), axes)
    for flips, axes in (
        ((-1, 1, 1), "x"),
        ((1, -1, 1), "y"),
        ((1, 1, -1), "z"),
        ((1, -1, -1), "y and z"),
        ((-1, -1, 1), "x and y"),
        ((-1, 1, -1), "x and z"),
    )
)
TURNS: tuple[tuple[str, Callable[[np.ndarray], np.ndarray]], ...] = (
    ("upside down", lambda image: image[::-1, ::-1]),
    ("turned by a quarter", lambda image: image.swapaxes(0, 1)[::-1]),
    ("turned by a quarter", lambda image: image.swapaxes(0, 1)[:, ::-1]),
    ("mirrored", lambda image: image[:, ::-1]),
)


def _turned(small_view: SmallView, turn: Callable[[np.ndarray], np.ndarray]) -> SmallView:
    counts = None if small_view.counts is None else turn(small_view.counts)
    return small_view._replace(image=turn(small_view.image), counts=counts)


def _intrinsics(K: np.ndarray, factor: float, *, centre: bool) -> np.ndarray:
    meant = K * [[factor, 1, 1], [1, factor, 1], [1, 1, 1]]
    if centre:
        meant[:2, 2] = 0.5
    return meant
