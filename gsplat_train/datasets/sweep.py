# SPDX-License-Identifier: Apache-2.0
"""Cameras judged by their photos alone, where a scene has no points: some photos draw them, the others are asked.

Plain things tell little: a point of one colour agrees with all photos wherever it is, and a single edge between two
shades correlates by chance. So it is measured first what can be told apart in the photos (`detail`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .agreement import FEWEST_LEVELS, SmallView, correlation
from .conventions import POSES
from .points import SEED, UNDECIDED, counted_places, draw

APART, PAIRS = (
    0.04,
    200,
)  # of the width, between places of a photo that are compared for detail; so many a photo
TELLING = 0.3  # detail below which photos tell little: plain boxes have 0.14 to 0.19, photos of real scenes 0.5 to 0.9
DIM, NOISE = 0.2, 1.5  # of dark photos' spread, and of their noise: the least difference that is detail
MORE = 0.1  # of the points in the outlines of what is see-through, by which a mistake shows where colours tell little


class Sweep(NamedTuple):
    """How photos that no drawn point was chosen by agree with the points."""

    agreement: float  # median correlation of colours; NaN where they tell nothing. Right cameras give more than wrong
    inside: (
        float  # share of the points in a picture that its photo counts, the median: 1 where all pixels count
    )


def sweep(small_views: Sequence[SmallView], n: int = 2000) -> Sweep:
    """Every second view draws the points, the others judge them."""
    points, colors = draw(small_views[::2], n)
    found, inside = [], []
    for small_view in small_views[1::2]:
        index, uv = small_view.sees(points)
        found.append(correlation(colors[index], small_view.pixels(uv)))
        if len(uv):
            inside.append(small_view.counted(uv).mean())
    found = [value for value in found if not np.isnan(value)]
    return Sweep(
        float(np.median(found)) if found else float("nan"), float(np.median(inside)) if inside else 0.0
    )


def without_mistake(small_views: Sequence[SmallView], telling: bool, as_is: Sweep) -> tuple[float, str, str]:
    """The agreement without the mistake of `conventions` whose undoing gives most, what it is, and how to mend it.

    telling: whether the photos have detail. Without it one edge correlates by chance, with wrong cameras as well, up to
    0.42; a mistake is then one only if its undoing brings clearly more points into the outlines. (-1, "", "") if none.
    """
    best = -1.0, "", ""
    for what, mend, change in POSES:
        found = sweep([small.moved(change(small.viewmat)) for small in small_views])
        if found.agreement > best[0] and (telling or found.inside > as_is.inside + MORE):
            best = found.agreement, what, mend
    return best


def tell(small_views: Sequence[SmallView], *, dim: bool = False) -> bool:
    """Whether the photos have detail to judge cameras by. dim: dark photos' counts, where it is no noise."""
    return detail(small_views, dim=dim) >= TELLING


def detail(small_views: Sequence[SmallView], *, dim: bool = False) -> float:
    """The share of the photos' counted places whose colour is another a short way off: what can be told apart.

    Where there is hardly any, points of a ray agree with the other photos wherever they are, and whatever the
    cameras. Colours are means over three by three pixels, without most of their noise.
    """
    random = np.random.default_rng(SEED)
    differences, noise, colors = [np.empty(0)], [np.empty(0)], [np.empty((0, 3))]
    for small_view in small_views:
        uv, angle = counted_places(small_view, PAIRS, random), random.uniform(0, 2 * np.pi, PAIRS)
        away = uv + APART * np.column_stack([np.cos(angle), small_view.aspect * np.sin(angle)])
        (here, rough, counted), (there, _, too) = _smooth(small_view, uv), _smooth(small_view, away)
        both = counted & too
        differences.append(np.abs(here - there).mean(axis=1)[both])
        noise.append(rough[both])
        colors.append(here[both])
    apart = np.concatenate(differences)
    if not len(apart):
        return 0.0
    own = max(DIM * np.concatenate(colors).std(axis=0).mean(), NOISE * np.median(np.concatenate(noise)))
    least = np.clip(own, FEWEST_LEVELS, UNDECIDED) if dim else UNDECIDED
    return float((apart > least).mean())


def _smooth(small_view: SmallView, uv: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of 3 x 3 pixels round uv: the mean [n, 3], how far two halves of them, as on a chessboard, are from one another
    [n], and whether all are in the picture and count [n].
    """
    height, width = small_view.image.shape[:2]
    halves, counted = np.zeros((2, len(uv), 3), np.float32), np.ones(len(uv), bool)
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            place = uv + np.array([right / width, down / height])
            inside = ((place >= 0) & (place < 1)).all(axis=1)
            place = np.where(inside[:, None], place, 0)
            halves[(down + right) % 2] += small_view.pixels(place)
            counted &= inside & small_view.counted(place)
    return halves.sum(axis=0) / 9, np.abs(halves[0] / 5 - halves[1] / 4).mean(axis=1), counted
