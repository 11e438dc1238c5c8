# SPDX-License-Identifier: Apache-2.0
"""Whether cameras, photos and points belong together: what a point's colour is, and what the photos show there.

Enters: views and points. Notation: `uv` [n, 2] are positions in a picture as shares of its width and height, so
that neither its size nor a reduced copy matters. All of it takes milliseconds for a few thousand points.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from ..scene import Camera, Photo, View

SIDE = 512  # pixels of the longer side of a reduced photo: enough for the colours of points
CELLS, SLACK = 24, 0.1  # parts of a picture's side, and of a depth: points farther behind are taken as hidden
MIN_SEEN = 30  # points in a view from which its correlation tells something
FEWEST_LEVELS = 2.0  # of 255, spread of colours below which they tell nothing


class SmallView(NamedTuple):
    """A view as the check sees it: where it stands, and a small copy of its photo."""

    view: int  # its index in the scene
    viewmat: np.ndarray  # [4, 4]
    K: np.ndarray  # [3, 3], for pictures of size 1 x 1
    image: np.ndarray  # [h, w, 3] uint8
    counts: np.ndarray | None  # [h, w] bool: which pixels count; None: all
    aspect: float  # width / height

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """uv [n, 2] and depths [n] of points [n, 3]."""
        seen = points @ self.viewmat[:3, :3].T + self.viewmat[:3, 3]
        with np.errstate(all="ignore"):
            uv = seen[:, :2] / seen[:, 2:] * np.diag(self.K)[:2] + self.K[:2, 2]
        return uv, seen[:, 2]

    def sees(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which points [n, 3] lie in front and inside the picture, as indices [m], and their uv [m, 2]."""
        uv, depths = self.project(points)
        with np.errstate(invalid="ignore"):
            inside = (depths > 0) & (uv > 0).all(axis=1) & (uv < 1).all(axis=1)
        index = np.flatnonzero(inside)
        return index, uv[index]

    def shows(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `sees`, without the points that others probably hide: behind the nearest of a part of the picture."""
        index, uv = self.sees(points)
        depths = points[index] @ self.viewmat[2, :3] + self.viewmat[2, 3]
        cell = (uv[:, 1] * CELLS).astype(int) * CELLS + (uv[:, 0] * CELLS).astype(int)
        nearest = np.full(CELLS * CELLS, np.inf)
        np.minimum.at(nearest, cell, depths)
        front = depths <= nearest[cell] * (1 + SLACK)
        return index[front], uv[front]

    def pixels(self, uv: np.ndarray) -> np.ndarray:
        """Colours [m, 3] uint8 of the photo."""
        row, column = self._places(uv)
        return self.image[row, column]

    def counted(self, uv: np.ndarray) -> np.ndarray:
        """bool [m]: whether the photo counts there."""
        if self.counts is None:
            return np.ones(len(uv), bool)
        row, column = self._places(uv)
        return self.counts[row, column]

    def moved(self, viewmat: np.ndarray | None = None, K: np.ndarray | None = None) -> SmallView:
        """The same photo with another camera."""
        return self._replace(
            viewmat=self.viewmat if viewmat is None else viewmat, K=self.K if K is None else K
        )

    @property
    def position(self) -> np.ndarray:
        """[3] the camera's centre."""
        return -self.viewmat[:3, :3].T @ self.viewmat[:3, 3]

    def _places(self, uv: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        height, width = self.image.shape[:2]
        row = np.minimum((uv[:, 1] * height).astype(int), height - 1)
        return row, np.minimum((uv[:, 0] * width).astype(int), width - 1)


def in_picture(camera: Camera, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which points [n, 3] lie in front and inside the picture, as indices [m], and their pixels [m, 2]."""
    places = points @ camera.viewmat[:3, :3].T + camera.viewmat[:3, 3]
    with np.errstate(all="ignore"):
        pixels = (places @ camera.K.T)[:, :2] / places[:, 2:]
        inside = (pixels > 0).all(axis=1) & (pixels < [camera.width, camera.height]).all(axis=1)
    index = np.flatnonzero(inside & (places[:, 2] > 0))
    return index, pixels[index]


def spread(n: int, limit: int) -> list[int]:
    """At most `limit` of 0 .. n - 1, evenly spread."""
    return list(range(n)) if n <= limit else np.unique(np.linspace(0, n - 1, limit).astype(int)).tolist()


def small_views_of(
    views: Sequence[View], limit: int, *, side: int = SIDE, also: Sequence[int] | np.ndarray = ()
) -> list[SmallView]:
    """At most `limit` of the views, evenly spread, and those of `also`; those without a photo are left out.

    side: pixels that photos are reduced to, 0 for none, which takes no time; photos that are not in memory are
    reduced to SIDE even so, for copies of them would fill it.
    """
    small_views = []
    for i in sorted({*spread(len(views), limit), *map(int, also)}):
        view = views[i]
        if view.photo is None:
            continue
        photo, camera = view.pixels, view.camera
        height, width = photo.image.shape[:2]
        most = side or (0 if isinstance(view.photo, Photo) else SIDE)
        factor = max(1, -(-max(width, height) // most)) if most else 1
        image = np.asarray(Image.fromarray(photo.image).reduce(factor)) if factor > 1 else photo.image
        counts = None
        for part in (photo.mask, photo.alpha):
            if part is not None:
                solid = part[factor // 2 :: factor, factor // 2 :: factor] > 127
                solid = np.pad(solid, [(0, 1), (0, 1)], mode="edge")[: image.shape[0], : image.shape[1]]
                counts = solid if counts is None else counts & solid
        K = camera.K * [[1 / camera.width], [1 / camera.height], [1]]
        small_views.append(SmallView(i, camera.viewmat, K, image, counts, camera.width / camera.height))
    return small_views


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's correlation of colours [n, 3] with others, the channels together but each about its mean.

    NaN where there are too few, or where one of the two hardly varies.
    """
    if len(a) < MIN_SEEN:
        return float("nan")
    a, b = (x.astype(np.float32) for x in (a, b))
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    if a.std() < FEWEST_LEVELS or b.std() < FEWEST_LEVELS:
        return float("nan")
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))


def median_colors(
    small_views: Sequence[SmallView], points: np.ndarray, *, hidden: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Colours [n, 3] uint8 of points as the photos show them, the median over views; and how many showed each.

    Points that no photo shows are mid-grey. hidden: those that others hide are shown as well.
    """
    n = len(points)
    owners, values = [], []
    for small_view in small_views:
        index, uv = small_view.sees(points) if hidden else small_view.shows(points)
        counted = small_view.counted(uv)
        owners.append(index[counted])
        values.append(small_view.pixels(uv[counted]))
    owner = np.concatenate(owners) if owners else np.empty(0, int)
    value = np.concatenate(values) if values else np.empty((0, 3), np.uint8)
    seen = np.bincount(owner, minlength=n)
    start = np.cumsum(seen) - seen
    colors = np.full((n, 3), 128, np.uint8)
    for channel in range(3):
        order = np.lexsort((value[:, channel], owner))
        middle = order[(start + seen // 2)[seen > 0]]
        colors[seen > 0, channel] = value[middle, channel]
    return colors, seen


class Agreement(NamedTuple):
    """How points and photos agree, by view; NaN where nothing can be said."""

    shares: np.ndarray  # [V] of the points, that lie in the picture
    own: np.ndarray  # [V] correlation of the points' colours with the view's photo
    others: float  # the same with the photos of other views, median

    @property
    def share(self) -> float:
        """The median over views."""
        return float(np.median(self.shares)) if len(self.shares) else 0.0

    @property
    def usual(self) -> float:
        """The median correlation; NaN where fewer than a third of the views tell it."""
        finite = self.own[~np.isnan(self.own)]
        return float(np.median(finite)) if len(finite) >= max(1, len(self.own) / 3) else float("nan")

    @property
    def without_colors(self) -> Agreement:
        """The same where colours tell nothing."""
        return self._replace(own=np.full(len(self.own), np.nan), others=float("nan"))

    def of(self, kept: Sequence[bool]) -> Agreement:
        """That of some of the views."""
        return self._replace(shares=self.shares[np.array(kept)], own=self.own[np.array(kept)])


def agree(small_views: Sequence[SmallView], points: np.ndarray, colors: np.ndarray | None) -> Agreement:
    """How the colours of points are those of the photos.

    colors: [n, 3]; None takes them from every second view and judges the others by them.
    """
    judged = list(range(len(small_views)))
    finite = np.ones(len(points), bool)
    if colors is None:
        colors, seen = median_colors(small_views[::2], points)
        finite, judged = seen > 0, judged[1::2]
    sights = [small_view.shows(points) for small_view in small_views]
    own, others = np.full(len(small_views), np.nan), []
    for i, k in enumerate(judged):
        index, uv = sights[k]
        counted = finite[index] & small_views[k].counted(uv)
        index, uv = index[counted], uv[counted]
        own[k] = correlation(colors[index], small_views[k].pixels(uv))
        steps = {len(judged) // 2, len(judged) // 3} - {0}
        others += [
            correlation(colors[index], small_views[judged[(i + step) % len(judged)]].pixels(uv))
            for step in steps
        ]
    tell = [value for value in others if not np.isnan(value)]
    shares = np.array([len(small_view.sees(points)[0]) / max(1, len(points)) for small_view in small_views])
    return Agreement(shares, own, float(np.median(tell)) if tell else float("nan"))


def with_others_photos(small_views: Sequence[SmallView], step: int) -> list[SmallView]:
    """The cameras, each with the photo of another."""
    n = len(small_views)
    others = [small_views[(i + step) % n] for i in range(n)]
    return [
        small_view._replace(image=o.image, counts=o.counts)
        for small_view, o in zip(small_views, others, strict=True)
    ]
