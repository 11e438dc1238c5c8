# SPDX-License-Identifier: Apache-2.0
"""Points for a scene that has none, or whose points have no colours: drawn and coloured from the photos.

A point is drawn as a pixel of a photo and the depth at which the other photos agree best with it: a plane sweep
(Collins 1996, "A space-sweep approach to true multi-image matching") of a few thousand rays. It needs no
features and no matching, and where the photos tell nothing it is a random point of what the cameras see.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..scene import Scene, View
from .agreement import SmallView, median_colors, small_views_of

N_POINTS = 20_000
MAX_VIEWS = 128  # that are looked at
DEPTHS = 32  # tried on a ray
WITNESSES = 6  # other photos that a depth is compared with
MIN_WITNESSES = 2  # that must see a point
UNDECIDED = 6.0  # levels of 255 by which the nearest depth must agree better than the farthest: where photos
# tell nothing (sky, a plain wall) a point is better far, where it hides nothing
SEED = 0
INWARD = 0.5  # share of the cameras that look at one place, from which the scene is there
NEAR, FAR = 0.3, 2.5  # of the distance to what the cameras look at, where they look inward
AHEAD = 0.5, 100.0  # of the distances between neighbouring cameras, where they do not
DOME = 10.0  # times the reach of the cameras: as far as anything that panoramas show needs to be
DOME_CELLS, DOME_SHARE = 12, 60  # parts of a side's width without a point get points, so many on a whole side
BLACK_SHARE = (
    0.15  # of the points: above the 5 and 8 % of Fern and plush, which lose 0.07 dB by their true colours
)
LIGHT = 40  # of 255: no black
UNCOLOURED_SPREAD = 1.0  # of 255: colours that differ less are none


def looked_at(views: Sequence[View | SmallView]) -> tuple[np.ndarray, float]:
    """The place [3] nearest to all optical axes, and the share of the cameras that have it before them."""
    viewmats = np.stack([v.camera.viewmat if isinstance(v, View) else v.viewmat for v in views])
    forward = viewmats[:, 2, :3]
    positions = -np.einsum("nji,nj->ni", viewmats[:, :3, :3], viewmats[:, :3, 3])
    across = np.eye(3) - forward[:, :, None] * forward[:, None, :]
    A, b = across.sum(axis=0), np.einsum("nij,nj->i", across, positions)
    place = np.linalg.lstsq(A, b, rcond=1e-9)[0]
    ahead = np.einsum("ni,ni->n", place - positions, forward) > 0
    return place, float(ahead.mean())


def have_colors(colors: np.ndarray) -> bool:
    """Whether points' colours tell anything: not all black, grey or of any one colour."""
    return len(colors) == 0 or bool(colors.std(axis=0).max() > UNCOLOURED_SPREAD)


def draw_points(
    views: Sequence[View], n: int = N_POINTS, ranges: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """`n` points [n, 3] and colors [n, 3] uint8 in what the cameras see together, with a fixed seed.

    ranges: near and far depth [V, 2] of each view, where they are known.
    """
    small_views = small_views_of(views, MAX_VIEWS)
    return draw(
        small_views, n, None if ranges is None else ranges[[small_view.view for small_view in small_views]]
    )


def draw(
    small_views: Sequence[SmallView], n: int, ranges: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """As draw_points, of reduced photos."""
    random = np.random.default_rng(SEED)
    ranges = depth_ranges(small_views) if ranges is None else ranges
    points, colors = [], []
    for k, small_view in enumerate(small_views):
        share = n * (k + 1) // len(small_views) - n * k // len(small_views)
        uv = counted_places(small_view, share, random)
        near, far = ranges[k]
        steps = (np.arange(DEPTHS)[:, None] + random.uniform(size=(DEPTHS, share))) / DEPTHS
        depths = 1 / (1 / far + (1 / near - 1 / far) * steps)  # [DEPTHS, share], even in parallax
        rays = np.column_stack([(uv - small_view.K[:2, 2]) / np.diag(small_view.K)[:2], np.ones(share)])
        along = rays @ small_view.viewmat[:3, :3]
        places = small_view.position + depths[:, :, None] * along
        pixels = small_view.pixels(uv)
        cost = _disagreement(places.reshape(-1, 3), np.tile(pixels, (DEPTHS, 1)), _witnesses(small_views, k))
        best = (cost.reshape(DEPTHS, share) + UNDECIDED * steps).argmin(axis=0)
        points.append(places[best, np.arange(share)])
        colors.append(pixels)
    return np.concatenate(points), np.concatenate(colors)


def depth_ranges(small_views: Sequence[SmallView]) -> np.ndarray:
    """Near and far depth [V, 2] of what each camera is likely to show."""
    place, share = looked_at(small_views)
    positions = np.stack([small_view.position for small_view in small_views])
    forward = np.stack([small_view.viewmat[2, :3] for small_view in small_views])
    distances = np.einsum("ni,ni->n", place - positions, forward)
    between = np.linalg.norm(positions[:, None] - positions[None], axis=2)
    apart = np.linalg.norm(positions - positions.mean(axis=0), axis=1).max()
    if share > INWARD and apart > 0 and np.median(distances) < AHEAD[1] * apart:
        usual = np.median(distances[distances > 0])
        distances = np.where(distances > 0.2 * usual, distances, usual)
        half = np.array(
            [0.5 / min(small_view.K[0, 0], small_view.K[1, 1]) for small_view in small_views]
        )  # tangent of half the view's angle
        near = np.maximum(NEAR, 1 - half)  # what all cameras see lies in a ball of that radius
        return distances[:, None] * np.column_stack([near, np.full(len(small_views), FAR)])
    gaps = np.sort(between + np.diag(np.full(len(small_views), np.inf)), axis=1)[:, 0]
    step = np.median(gaps[np.isfinite(gaps)]) if len(small_views) > 1 else 0.0
    step = max(float(step), 0.1 * float(apart)) or 1.0
    return np.tile([[AHEAD[0] * step, AHEAD[1] * step]], (len(small_views), 1))


def counted_places(small_view: SmallView, n: int, random: np.random.Generator) -> np.ndarray:
    """uv [n, 2] of random pixels, of those that count where there are any."""
    if small_view.counts is None or not small_view.counts.any():
        return random.uniform(size=(n, 2))
    rows, columns = np.nonzero(small_view.counts)
    chosen = random.integers(len(rows), size=n)
    height, width = small_view.counts.shape
    jitter = random.uniform(size=(n, 2))
    return np.column_stack([(columns[chosen] + jitter[:, 0]) / width, (rows[chosen] + jitter[:, 1]) / height])


def _witnesses(small_views: Sequence[SmallView], k: int) -> list[SmallView]:
    """The photos to compare with: of the views that look the same way the nearest."""
    forward = np.stack([small_view.viewmat[2, :3] for small_view in small_views])
    positions = np.stack([small_view.position for small_view in small_views])
    apart = np.linalg.norm(positions - positions[k], axis=1)
    usual = np.median(apart) or 1.0
    cost = apart / usual + 2 * (1 - forward @ forward[k])
    cost[k] = np.inf
    order = np.argsort(cost, kind="stable")[: min(WITNESSES, len(small_views) - 1)]
    return [small_views[i] for i in order]


def _disagreement(points: np.ndarray, pixels: np.ndarray, witnesses: Sequence[SmallView]) -> np.ndarray:
    """[n] how far the witnesses' colours are from the pixels', the better half of them, in levels of 255."""
    n = len(points)
    differences = np.full((max(1, len(witnesses)), n), np.inf, np.float32)
    for row, small_view in zip(differences, witnesses, strict=False):
        index, uv = small_view.sees(points)
        off = np.abs(small_view.pixels(uv).astype(np.int16) - pixels[index]).sum(axis=1) / 3
        off[~small_view.counted(uv)] = 255
        row[index] = off
    differences.sort(axis=0)
    least = min(MIN_WITNESSES, len(differences))
    half = max(least, len(differences) // 2)
    seen = np.isfinite(differences).sum(axis=0)
    total = np.where(np.isfinite(differences[:half]), differences[:half], 0).sum(axis=0)
    cost = total / np.clip(seen, 1, half)
    return np.where(seen >= least, cost, 255 + cost)


def own_colors(scene: Scene, which: np.ndarray | None = None) -> tuple[np.ndarray, int]:
    """Colours [P, 3] uint8 of the scene's points as its photos show them, and how many points none shows.

    which: bool [P], the points that are asked for (None: all); the others keep their colours.
    """
    small_views = small_views_of(scene.views, MAX_VIEWS)
    which = np.ones(len(scene.points), bool) if which is None else which
    points = scene.points[which]
    found, seen = median_colors(small_views, points)
    if (unseen := seen == 0).any():
        found[unseen], seen[unseen] = median_colors(small_views, points[unseen], hidden=True)
    colors = scene.colors.copy()
    colors[which] = found
    return colors, int((seen == 0).sum())


def wrongly_black(scene: Scene) -> np.ndarray:
    """bool [P]: black points, where so many are black in colour photos that black is no colour but the lack of one."""
    black = np.asarray(~scene.colors.any(axis=1))
    if black.mean() < BLACK_SHARE:
        return np.zeros(len(black), bool)
    found, seen = median_colors(small_views_of(scene.views, MAX_VIEWS), scene.points[black])
    light = (found.max(axis=1) > LIGHT)[seen > 0]
    return black if len(light) and light.mean() > 0.5 else np.zeros(len(black), bool)


def company(small_views: Sequence[SmallView], points: np.ndarray) -> float:
    """How many of the cameras see a point, on average: 1 for drawn points where each sees its own only."""
    return float(sum(len(small_view.sees(points)[0]) for small_view in small_views) / max(1, len(points)))


def dome(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Far points [n, 3] and colors [n, 3] uint8 where panoramas look and no point of the scene is: sky and distance.

    Without them splats of the scene's middle fill those sides, near the cameras, and stand in the way of other
    views. Measured on the built-in world, six sides of 153x153: 20.8 dB on clean pinhole views, 18.6 without.
    """
    small_views = [
        small_view
        for small_view in small_views_of(scene.views, MAX_VIEWS)
        if scene.views[small_view.view].group
    ]
    positions = np.stack([view.camera.position for view in scene.views])
    reach = np.linalg.norm(positions - positions.mean(axis=0), axis=1).max()
    if not small_views or not reach > 0:
        return np.empty((0, 3)), np.empty((0, 3), np.uint8)
    random = np.random.default_rng(SEED)
    points, colors = [], []
    for small_view in small_views:
        _, uv = small_view.sees(scene.points)
        full = np.zeros((DOME_CELLS, DOME_CELLS), bool)
        full[(uv[:, 1] * DOME_CELLS).astype(int), (uv[:, 0] * DOME_CELLS).astype(int)] = True
        rows, columns = np.nonzero(~full)
        chosen = random.permutation(len(rows))[: DOME_SHARE * len(rows) // full.size]
        corner = np.column_stack([columns[chosen], rows[chosen]])
        uv = (corner + random.uniform(size=corner.shape)) / DOME_CELLS
        uv = uv[small_view.counted(uv)]
        rays = np.column_stack([(uv - small_view.K[:2, 2]) / np.diag(small_view.K)[:2], np.ones(len(uv))])
        rays /= np.linalg.norm(rays, axis=1, keepdims=True)
        points.append(small_view.position + DOME * reach * rays @ small_view.viewmat[:3, :3])
        colors.append(small_view.pixels(uv))
    return np.concatenate(points), np.concatenate(colors)


def with_own_colors(scene: Scene) -> tuple[Scene, str]:
    """The scene with the photos' colours for points that have none, and what to say of it ("": nothing)."""
    colored = have_colors(scene.colors)
    bare = wrongly_black(scene) if colored else np.ones(len(scene.points), bool)
    if not bare.any():
        return scene, ""
    found, unseen = own_colors(scene, bare)
    which = f"{bare.sum():,} black ones have" if colored else "they have"
    hidden = f"; {unseen:,} are in none and grey" if unseen else ""
    what = f"points: {which} no colours of their own; taken from the photos (the median over views){hidden}"
    return replace(scene, colors=found), what


def with_dome(scene: Scene) -> tuple[Scene, str]:
    """The scene with the points of `dome`, and what to say of it ("": nothing)."""
    points, colors = dome(scene)
    if not len(points):
        return scene, ""
    both = np.concatenate([scene.points, points]), np.concatenate([scene.colors, colors])
    what = f"points: {len(points):,} added far away, where panoramas show none"
    return replace(scene, points=both[0], colors=both[1]), what
