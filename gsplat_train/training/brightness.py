# SPDX-License-Identifier: Apache-2.0
"""How differently photos are exposed, measured before training: what the scene's points look like in each photo.

    log colour of point i in photo v = what the point is + what the photo makes of it + (shine, occlusion, noise)

Both are found in turn as means in which what lies far off hardly counts (weights of Geman and McClure 1987), and
ever less is near (graduated, as Blake and Zisserman 1987), so that points which something hides in a photo do no
harm. Points behind others are left out first. Photos are read small, and of many only some.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from ..scene import Photo, View

POINTS = 3000  # of the scene, at most, where the gains are what is wanted ...
FEW_POINTS = 1000  # ... and where the question is only whether photos differ
PHOTOS = 64  # are read for that question
WIDTH = 256  # pixels, to which a photo is averaged
FEWEST = 100  # points that a photo must show
LOW, HIGH = 10, 245  # of 255: darker is noise, brighter may be saturated
EXPLAINED = 0.05  # of a log colour: what is off by less
ROUNDS = 60
NEAR = (
    0.5,
    0.03,
)  # of a log colour, from the first round to the last: what is farther off was something else
CELLS, BEHIND = 40, 1.05  # across a photo; a point so much deeper than the nearest in its cell may be hidden


class Brightness(NamedTuple):
    """What was measured. gains: [V, 3], log, of zero mean over the photos that show enough points; 0 for others."""

    gains: np.ndarray
    measurable: np.ndarray  # [V] bool: these
    spread: float  # the largest of the channels' standard deviations over these photos
    better: (
        float  # how many times as much the gains explain as their absence: noise is not explained by gains
    )


def measure(views: Sequence[View], points: np.ndarray, seed: int = 0, most: int = POINTS) -> Brightness:
    """The log gain of each view's photo against what all photos show of `points` [P, 3], of at most `most` of them."""
    none = Brightness(np.zeros((len(views), 3)), np.zeros(len(views), bool), 0.0, 1.0)
    if len(points) < FEWEST:
        return none
    if len(points) > most:
        points = points[np.sort(np.random.default_rng(seed).choice(len(points), most, replace=False))]
    seen = np.stack([_log_colours(view, points) for view in views])  # [V, P, 3], NaN where not seen
    measurable = np.isfinite(seen[..., 0]).sum(axis=1) >= FEWEST
    if measurable.sum() < 2:
        return none
    seen = seen[measurable]
    seen = seen[:, np.isfinite(seen[..., 0]).sum(axis=0) >= 2]
    gains, explained = _fit(seen.astype(np.float32), True)
    rows = np.zeros((len(views), 3))
    rows[measurable] = gains
    better = explained / max(_fit(seen.astype(np.float32), False)[1], 1e-6)
    return Brightness(rows, measurable, float(gains.std(axis=0).max()), better)


def _fit(seen: np.ndarray, with_gains: bool) -> tuple[np.ndarray, float]:
    """(gains [V, 3], share of what is explained) of log colours [V, P, 3], NaN where not seen: reweighted least
    squares in which ever less counts as near. Without gains the points alone shall explain.
    """
    seen = np.ascontiguousarray(np.moveaxis(seen, 2, 0))  # [3, V, P]: sums run over what lies side by side
    there = np.isfinite(seen)
    own, shown = np.zeros((3, seen.shape[2]), seen.dtype), there.any(axis=(0, 1))
    if shown.any():  # of points that no photo shows NumPy would warn
        own[:, shown] = np.nan_to_num(np.nanmedian(seen[:, :, shown], axis=1))
    gains = np.zeros(seen.shape[:2], np.float32)
    values, counted = np.where(there, seen, 0), there.astype(np.float32)
    for near in np.geomspace(*NEAR, ROUNDS, dtype=np.float32):
        for axis, part in ((2, gains), (1, own)) if with_gains else ((1, own),):
            rest = values - gains[:, :, None] - own[:, None]
            weight = np.square(rest * (1 / near)) + 1
            weight = np.divide(counted, np.square(weight, out=weight), out=weight)
            rest *= weight
            part += rest.sum(axis=axis) / np.maximum(weight.sum(axis=axis), 1e-6)
        gains -= gains.mean(axis=1, keepdims=True)
    return gains.T, float((np.abs(values - gains[:, :, None] - own[:, None])[there] < EXPLAINED).mean())


def some(views: Sequence[View]) -> list[View]:
    """At most PHOTOS of the views, evenly."""
    n = min(PHOTOS, len(views))
    return [views[i] for i in np.linspace(0, len(views) - 1, n).round().astype(int)]


def _log_colours(view: View, points: np.ndarray) -> np.ndarray:
    """[P, 3] log of what the photo shows where the points lie; NaN outside, behind, masked, dark or saturated."""
    camera, photo = view.camera, view.pixels
    image, counts = _small(photo)
    place = points @ camera.viewmat[:3, :3].T + camera.viewmat[:3, 3]
    with np.errstate(all="ignore"):
        uv = (place @ camera.K.T)[:, :2] / place[:, 2:]
    scale = np.array([image.shape[1] / camera.width, image.shape[0] / camera.height])
    at = np.floor(np.nan_to_num(uv, nan=-1.0, posinf=-1.0, neginf=-1.0) * scale)
    inside = (place[:, 2] > 0) & ((at >= 0) & (at < [image.shape[1], image.shape[0]])).all(axis=1)
    inside &= _in_front(at, place[:, 2], inside, image.shape[1] / CELLS)
    x, y = np.where(inside[:, None], at, 0).astype(int).T
    colours = image[y, x]
    fine = inside & counts[y, x] & (colours >= LOW).all(axis=1) & (colours <= HIGH).all(axis=1)
    return np.where(fine[:, None], np.log(np.maximum(colours, 1e-3)), np.nan)


def _in_front(at: np.ndarray, depth: np.ndarray, inside: np.ndarray, cell: float) -> np.ndarray:
    """[P] bool: which points are about as near as the nearest in their cell, a square of `cell` pixels."""
    x, y = (np.where(inside[:, None], at, 0) / cell).astype(int).T
    key = y * (x.max(initial=0) + 1) + x
    nearest = np.full(key.max(initial=0) + 1, np.inf)
    np.minimum.at(nearest, key[inside], depth[inside])
    return inside & (depth <= BEHIND * nearest[key])


def _small(photo: Photo) -> tuple[np.ndarray, np.ndarray]:
    """The photo [h, w, 3] float64 averaged to WIDTH pixels, and which of its pixels count everywhere, [h, w]."""
    height, width = photo.image.shape[:2]
    size = (min(WIDTH, width), max(round(height * min(WIDTH, width) / width), 1))
    image = np.asarray(Image.fromarray(photo.image).resize(size, Image.Resampling.BOX), np.float64)
    counts = np.ones(image.shape[:2], bool)
    for plane, least in ((photo.mask, 1), (photo.alpha, 255)):  # what is partly see-through is over black
        if plane is not None:
            whole = Image.fromarray(((plane >= least) * 255).astype(np.uint8))
            counts &= np.asarray(whole.resize(size, Image.Resampling.BOX)) == 255
    return image, counts
