# SPDX-License-Identifier: Apache-2.0
"""More points for a scene whose cameras are known: depths of many pixels, where several photos confirm them.

Features are found at corners only; between them and far away there are none, and a training that begins without
points there fills the space with fog. For pixels of each photo a small patch is compared with its neighbours' at a
hundred depths (the plane sweep of Collins 1996, by correlation), on planes that face the camera and on level ones
(Gallup et al. 2007). A pixel without texture takes the depth of those around it, if its colour agrees there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from ..scene import View
from .orient import cameras_up

N_POINTS = 20_000  # aimed at
SIDE = 480  # pixels of the longer side of the photos that are compared
MOST_A_VIEW = 2500  # pixels tried
DEPTHS = 64
NEIGHBOURS = 5
BEST = 2  # neighbours that must agree: others may not see it
APART = 4.0, 30.0  # degrees between a view and a good neighbour, as seen from the points that both show
REACH = 3  # pixels from the middle of a patch to its border
ALIKE = 0.85  # correlation of the best neighbours' patches
UNIQUE = 0.05  # by which it must be above that at other depths
FLAT = 1.0  # grey levels: the spread of a patch that tells nothing
AROUND = 3  # pixels with a depth that one without takes its own from
SAME_COLOR = 12.0  # levels of 255
NEAREST = 0.7  # of the depth of a view's nearest known points
PARTS = 24  # of a view's pixels, to spread what is tried


class Grey(NamedTuple):
    """A photo as it is compared."""

    picture: np.ndarray  # [H, W] float32
    colors: np.ndarray  # [H, W, 3] uint8
    K: np.ndarray  # [3, 3], in its pixels
    R: np.ndarray  # [3, 3], world to camera
    position: np.ndarray  # [3]

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pixels [..., 2] and depths [...] of points [..., 3]."""
        seen = (points - self.position) @ self.R.T
        depth = seen[..., 2]
        with np.errstate(divide="ignore", invalid="ignore"):
            uv = seen[..., :2] / depth[..., None] * np.diag(self.K)[:2] + self.K[:2, 2]
        return uv, depth


STEPS = np.linspace(-REACH, REACH, 5)
OFFSETS = np.stack(np.meshgrid(STEPS, STEPS, indexing="xy"), axis=-1).reshape(-1, 2).astype(np.float32)
MIDDLE = len(OFFSETS) // 2


def more_points(
    views: Sequence[View],
    points: np.ndarray,
    threads: int,
    begin: Callable[[int], Callable[[int], None]],
) -> tuple[np.ndarray, np.ndarray]:
    """Points [n, 3] and colors [n, 3] uint8, of pinhole views whose cameras and first points [P, 3] are known.

    `begin` gets the number of views and returns what is told how many are done.
    """
    up = cameras_up(np.stack([view.camera.viewmat[:3, :3] for view in views]))
    greys = [_grey(view) for view in views]
    seen = [_seen(grey, points) for grey in greys]
    at = begin(len(greys))
    each = min(MOST_A_VIEW, -(-3 * N_POINTS // (2 * len(greys))))

    def work(k: int) -> tuple[np.ndarray, np.ndarray]:
        return _of_view(k, greys, seen, points, up, each)

    found = []
    pool = ThreadPoolExecutor(max_workers=threads)  # NumPy releases the interpreter
    try:
        for done, result in enumerate(pool.map(work, range(len(greys))), 1):
            found.append(result)
            at(done)
    finally:
        pool.shutdown(cancel_futures=True)
    places, colors = (np.concatenate(part) for part in zip(*found, strict=True))
    if len(places) > N_POINTS:
        chosen = np.sort(np.random.default_rng(0).choice(len(places), N_POINTS, replace=False))
        places, colors = places[chosen], colors[chosen]
    return places, colors


def _grey(view: View) -> Grey:
    image = view.pixels.image
    height, width = image.shape[:2]
    factor = max(1, -(-max(width, height) // SIDE))
    if factor > 1:
        height, width = height // factor, width // factor
        blocks = image[: height * factor, : width * factor].reshape(height, factor, width, factor, 3)
        image = np.rint(blocks.mean(axis=(1, 3), dtype=np.float32)).astype(np.uint8)
    K = view.camera.K.copy()
    K[:2] /= factor
    picture = image @ np.array([0.299, 0.587, 0.114], np.float32)
    return Grey(picture, image, K, view.camera.viewmat[:3, :3], view.camera.position)


def _seen(grey: Grey, points: np.ndarray) -> np.ndarray:
    """Indices of the points that lie in the picture."""
    uv, depth = grey.project(points)
    height, width = grey.picture.shape
    with np.errstate(invalid="ignore"):
        return np.flatnonzero((depth > 0) & (uv > 0).all(axis=1) & (uv < [width, height]).all(axis=1))


def _neighbours(k: int, greys: Sequence[Grey], seen: Sequence[np.ndarray], points: np.ndarray) -> list[int]:
    """The views that show most of the points of view k from directions that differ enough, and not too much."""
    own = points[seen[k]]
    rays = own - greys[k].position
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    mark = np.zeros(len(points), bool)
    scores = np.zeros(len(greys))
    for j, grey in enumerate(greys):
        if j == k:
            continue
        mark[:] = False
        mark[seen[j]] = True
        both = mark[seen[k]]
        other = own[both] - grey.position
        other /= np.linalg.norm(other, axis=1, keepdims=True)
        angles = np.degrees(np.arccos(np.clip((rays[both] * other).sum(axis=1), -1, 1)))
        scores[j] = (np.minimum(angles / APART[0], 1) * np.clip(2 - angles / APART[1], 0, 1)).sum()
    order = np.argsort(-scores, kind="stable")[:NEIGHBOURS]
    return [int(j) for j in order if scores[j] > 0]


def _of_view(
    k: int, greys: Sequence[Grey], seen: Sequence[np.ndarray], points: np.ndarray, up: np.ndarray, each: int
) -> tuple[np.ndarray, np.ndarray]:
    """Points and colors found from one view."""
    grey = greys[k]
    neighbours = [greys[j] for j in _neighbours(k, greys, seen, points)]
    nothing = np.zeros((0, 3)), np.zeros((0, 3), np.uint8)
    if len(neighbours) < 2 or len(seen[k]) < 10:
        return nothing
    height, width = grey.picture.shape
    if min(height, width) < 4 * REACH:
        return nothing
    near = NEAREST * np.quantile(grey.project(points[seen[k]])[1], 0.01)
    inverse = np.linspace(0, 1 / near, DEPTHS + 1)[1:]
    random = np.random.default_rng(k)
    border = REACH + 1
    uv = np.stack([random.integers(border, side - border, each) + 0.5 for side in (width, height)], axis=1)
    patches = _sample(grey.picture, *np.moveaxis(uv[:, None, :] + OFFSETS, 2, 0))
    patches -= patches.mean(axis=1, keepdims=True)
    spread = np.sqrt((patches**2).mean(axis=1))
    textured = np.flatnonzero(spread > FLAT)
    depth = np.full(each, np.nan)
    if len(textured):
        scores = np.full((2, DEPTHS, len(textured)), -1.0, np.float32)
        unit = patches[textured] / (spread[textured, None] * np.sqrt(len(OFFSETS)))
        around = uv[textured, None] + OFFSETS
        rays = np.concatenate(
            [(around - grey.K[:2, 2]) / np.diag(grey.K)[:2], np.ones((*around.shape[:2], 1))], axis=2
        )
        for way, normal in enumerate((grey.R[2], up)):
            for d, w in enumerate(inverse):
                scores[way, d] = _agreement(grey, neighbours, rays, unit, 1 / w, normal)
        depth[textured] = _decide(scores.max(axis=0), inverse)
    _filled(depth, uv, spread, grey, neighbours)
    has_depth = np.isfinite(depth)
    places = _places(grey, uv[has_depth], depth[has_depth])
    row, column = uv[has_depth, 1].astype(int), uv[has_depth, 0].astype(int)
    return places, grey.colors[row, column]


def _places(grey: Grey, uv: np.ndarray, depth: np.ndarray) -> np.ndarray:
    rays = np.concatenate([(uv - grey.K[:2, 2]) / np.diag(grey.K)[:2], np.ones((len(uv), 1))], axis=1)
    return grey.position + (rays * depth[:, None]) @ grey.R


def _agreement(
    grey: Grey,
    neighbours: Sequence[Grey],
    rays: np.ndarray,
    unit: np.ndarray,
    depth: float,
    normal: np.ndarray,
) -> np.ndarray:
    """The mean correlation [n] of patches, as unit vectors [n, S], with the best neighbours', if the middle of each
    is at `depth` on a plane with that normal.
    """
    own = grey.R @ normal
    obliqueness = rays @ (own if own[2] > 0 else -own)
    with np.errstate(divide="ignore", invalid="ignore"):
        depths = depth * np.clip(obliqueness[:, MIDDLE, None] / obliqueness, 0.5, 2.0)
    places = (rays * depths[:, :, None]).reshape(-1, 3).astype(np.float32)
    found = np.full((len(neighbours), len(rays)), -1.0, np.float32)
    for j, other in enumerate(neighbours):
        turn = other.R @ grey.R.T
        shift = other.R @ (grey.position - other.position)
        x, y, z = (places @ (other.K @ turn).T.astype(np.float32) + (other.K @ shift).astype(np.float32)).T
        with np.errstate(divide="ignore", invalid="ignore"):
            u, v = x / z, y / z
        height, width = other.picture.shape
        inside = (u > 1) & (u < width - 1) & (v > 1) & (v < height - 1) & (z > 0)
        index = np.flatnonzero(inside.reshape(len(rays), -1).all(axis=1))
        if len(index):
            seen = _sample(other.picture, *(w.reshape(len(rays), -1)[index] for w in (u, v)))
            seen -= seen.mean(axis=1, keepdims=True)
            size = np.sqrt(np.einsum("ns,ns->n", seen, seen))
            found[j, index] = np.einsum("ns,ns->n", seen, unit[index]) / np.maximum(size, FLAT)
    found.sort(axis=0)
    best = min(BEST, len(neighbours))
    return found[-best:].mean(axis=0)


def _decide(scores: np.ndarray, inverse: np.ndarray) -> np.ndarray:
    """The depth [n] of the best of scores [DEPTHS, n], between the samples by a parabola; NaN where it is poor or
    another is as good.
    """
    n = scores.shape[1]
    every, best = np.arange(n), scores.argmax(axis=0)
    top = scores[best, every]
    apart = np.abs(np.arange(len(scores))[:, None] - best) > 2
    rival = np.where(apart, scores, -1).max(axis=0)
    inner = np.clip(best, 1, len(scores) - 2)
    before, here, after = (scores[inner + step, every] for step in (-1, 0, 1))
    bend = before - 2 * here + after
    shift = np.where(bend < -1e-6, 0.5 * (before - after) / np.minimum(bend, -1e-6), 0)
    place = np.where(inner == best, best + np.clip(shift, -0.5, 0.5), best)
    depth = 1 / np.interp(place, np.arange(len(scores)), inverse)
    return np.where((top > ALIKE) & (top - rival > UNIQUE) & (best < len(scores) - 1), depth, np.nan)


def _filled(
    depth: np.ndarray, uv: np.ndarray, spread: np.ndarray, grey: Grey, neighbours: Sequence[Grey]
) -> None:
    """Gives the pixels that have no texture the mean inverse depth of the nearest that have a depth, where the
    neighbours show the same colour.
    """
    has_depth = np.flatnonzero(np.isfinite(depth))
    wanted = np.flatnonzero(~np.isfinite(depth) & (spread <= 3 * FLAT))
    if len(has_depth) < AROUND or not len(wanted):
        return
    distance = ((uv[wanted, None] - uv[None, has_depth]) ** 2).sum(axis=2)
    nearest = np.argpartition(distance, AROUND - 1, axis=1)[:, :AROUND]
    guess = 1 / (1 / depth[has_depth[nearest]]).mean(axis=1)
    places = _places(grey, uv[wanted], guess)
    own = grey.colors[uv[wanted, 1].astype(int), uv[wanted, 0].astype(int)].astype(np.float32)
    agree = np.zeros(len(wanted), int)
    for other in neighbours:
        at, z = other.project(places)
        height, width = other.picture.shape
        with np.errstate(invalid="ignore"):
            inside = (z > 0) & (at > 0).all(axis=1) & (at < [width, height]).all(axis=1)
        index = np.flatnonzero(inside)
        theirs = other.colors[at[index, 1].astype(int), at[index, 0].astype(int)]
        agree[index] += np.abs(theirs - own[index]).mean(axis=1) < SAME_COLOR
    sound = agree >= min(2, len(neighbours))
    depth[wanted[sound]] = guess[sound]


def _sample(picture: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Bilinear samples at pixel positions, the middle of the first pixel is at 0.5."""
    height, width = picture.shape
    x = np.clip(u - 0.5, 0, width - 1.001).astype(np.float32)
    y = np.clip(v - 0.5, 0, height - 1.001).astype(np.float32)
    column, row = x.astype(np.int32), y.astype(np.int32)
    a, b = x - column, y - row
    flat, first = picture.ravel(), row * width + column
    upper = flat[first] * (1 - a) + flat[first + 1] * a
    lower = flat[first + width] * (1 - a) + flat[first + width + 1] * a
    return upper * (1 - b) + lower * b
