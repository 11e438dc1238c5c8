# SPDX-License-Identifier: Apache-2.0
"""The world of the built-in scene: solids on a round floor under a sky, ray-cast with a sun and soft shadows.

Nothing here knows of Gaussians. Layout: vectors are [3, n] float32 (contiguous rows, so that NumPy is fast);
z is up, the floor is z = 0; light is linear.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from . import demo_paints as paints
from .demo_paints import HAZE, Paint, mix, smooth

SKY_RADIUS = 24.0
SUN = np.array([0.52, -0.42, 0.74], np.float32) / np.float32(np.linalg.norm([0.52, -0.42, 0.74]))
SUNLIGHT = np.array([[1.21], [1.09], [0.90]], np.float32)
SKYLIGHT = np.array([[0.32], [0.38], [0.47]], np.float32)
SHADOW_REACH = 3.8  # the floor beyond lies in the sun
FLOOR_GRID = 640  # samples of light along that square's side, one to a pixel of the nearest views
PENUMBRA = np.float32(0.09)  # half width of a shadow's edge, in units of the chord through the solid


@dataclass(frozen=True)
class Solid:
    """A convex solid: `half` is half its size along its own axes, which are turned by `yaw` about z.

    shape: "ball" or "box", or "post", a cylinder along z. gloss: strength of the highlight.
    """

    shape: str
    centre: tuple[float, float, float]
    half: tuple[float, float, float]
    paint: Paint
    yaw: float = 0.0
    gloss: float = 0.0

    @property
    def radius(self) -> float:
        """Of a ball around the centre that holds the solid."""
        return self.half[0] if self.shape == "ball" else float(np.linalg.norm(self.half))

    def turned(self, vectors: np.ndarray, back: bool = False) -> np.ndarray:
        """World directions [3, n] in the solid's axes, or back."""
        if not self.yaw:
            return vectors
        cosine, sine = np.float32(np.cos(self.yaw)), np.float32(np.sin(-self.yaw if back else self.yaw))
        x, y, z = vectors
        return np.stack([cosine * x + sine * y, cosine * y - sine * x, z])

    def local(self, places: np.ndarray) -> np.ndarray:
        """World places [3, n] in the solid's axes."""
        return self.turned(places - np.array(self.centre, np.float32)[:, None])

    def chord(self, origin: np.ndarray, direction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where rays (own axes) enter and leave; leave < enter where they miss, by more the wider."""
        with np.errstate(divide="ignore", invalid="ignore"):
            if self.shape == "box":
                return _slabs(origin, direction, self.half)
            flat = 2 if self.shape == "post" else 3  # a post is a disc swept along z
            enter, leave = _round(origin[:flat], direction[:flat], self.half[0])
            if self.shape == "post":
                low, high = _slabs(origin[2:], direction[2:], self.half[2:])
                return np.maximum(enter, low), np.minimum(leave, high)
            return enter, leave

    def normal(self, p: np.ndarray) -> np.ndarray:
        """[3, n], own axes, at places on the surface."""
        if self.shape == "ball":
            return p / np.float32(self.half[0])
        scaled = np.abs(p) / np.array(self.half, np.float32)[:, None]
        if self.shape == "post":
            side = np.stack([p[0], p[1], np.zeros_like(p[2])]) / np.float32(self.half[0])
            cap = np.stack([np.zeros_like(p[2]), np.zeros_like(p[2]), np.sign(p[2])])
            return np.where(scaled[2] > np.hypot(p[0], p[1]) / np.float32(self.half[0]), cap, side)
        return np.sign(p) * (scaled == scaled.max(axis=0))

    def distance(self, p: np.ndarray) -> np.ndarray:
        """How far places (own axes) outside are from the surface."""
        if self.shape == "ball":
            return np.sqrt(dot(p, p)) - np.float32(self.half[0])
        if self.shape == "post":
            p = np.stack([np.hypot(p[0], p[1]), np.zeros_like(p[2]), p[2]])
        outside = np.maximum(np.abs(p) - np.array(self.half, np.float32)[:, None], 0)
        return np.sqrt(dot(outside, outside))


def dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """[n] of vectors [2 or 3, n]; several times as fast as a sum along the short axis."""
    total = a[0] * b[0]
    for k in range(1, len(a)):
        total = total + a[k] * b[k]
    return total


def _round(origin: np.ndarray, direction: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
    a = dot(direction, direction)
    middle = -dot(origin, direction) / a
    squared = (np.float32(radius**2) - dot(origin, origin)) / a + middle * middle
    half = np.sign(squared) * np.sqrt(np.abs(squared))
    return middle - half, middle + half


def _slabs(
    origin: np.ndarray, direction: np.ndarray, half: tuple[float, ...]
) -> tuple[np.ndarray, np.ndarray]:
    middle = -origin / direction
    reach = np.array(half, np.float32)[:, None] / np.abs(direction)
    enter, leave = middle - reach, middle + reach
    for k in range(1, len(enter)):
        enter[0], leave[0] = np.maximum(enter[0], enter[k]), np.minimum(leave[0], leave[k])
    return enter[0], leave[0]


def _ring(n: int, radius: float, phase: float) -> list[tuple[float, float]]:
    angles = phase + np.arange(n) * (2 * np.pi / n)
    return [(float(radius * np.cos(a)), float(radius * np.sin(a))) for a in angles]


MARBLES = ("e63946", "f4a261", "e9c46a", "2a9d8f", "457b9d", "9b5de5", "f15bb5", "00bbf9", "8ac926")
SOLIDS = (
    Solid("ball", (-0.55, 0.35, 0.62), (0.62, 0.62, 0.62), paints.planet),
    Solid("box", (0.75, 0.50, 0.40), (0.40, 0.40, 0.40), paints.crate, yaw=0.5),
    Solid("box", (0.70, 0.46, 1.05), (0.25, 0.25, 0.25), paints.puzzle, yaw=1.2),
    Solid("post", (0.05, -0.85, 0.55), (0.27, 0.27, 0.55), paints.bricks),
    Solid("ball", (0.05, -0.85, 1.28), (0.18, 0.18, 0.18), paints.plain("e0a83a"), gloss=0.5),
    Solid("ball", (1.05, -0.55, 0.30), (0.30, 0.30, 0.30), paints.checks, gloss=0.3),
    Solid("box", (-0.95, -0.70, 0.16), (0.26, 0.16, 0.16), paints.crate, yaw=-0.4),
    *(
        Solid("ball", (x, y, 0.11), (0.11, 0.11, 0.11), paints.plain(tint), gloss=0.3)
        for tint, (x, y) in zip(MARBLES, _ring(len(MARBLES), 1.6, 0.3), strict=True)
    ),
    *(Solid("post", (x, y, 0.38), (0.06, 0.06, 0.38), paints.spiral) for x, y in _ring(10, 2.12, 0.0)),
)

CENTRES = np.array([solid.centre for solid in SOLIDS], np.float32)
RADII = np.array([solid.radius for solid in SOLIDS], np.float32)
FLOOR, SKY = -1, -2  # beside the indices of SOLIDS


def nearest(origin: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What rays from `origin` [3] in unit `directions` [3, n] meet first: how far away, and its index.

    The index is one of SOLIDS, or FLOOR or SKY. Fastest for narrow bundles of rays.
    """
    origin = np.asarray(origin, np.float32)
    o = origin[:, None]
    along = dot(o, directions)
    sky = np.sqrt(along * along - dot(o, o) + np.float32(SKY_RADIUS**2)) - along
    with np.errstate(divide="ignore"):
        floor = -origin[2] / directions[2]
    on_floor = (floor > 0) & (floor < sky)
    distance, index = np.where(on_floor, floor, sky), np.where(on_floor, FLOOR, SKY)
    axis = directions.mean(axis=1)
    axis /= np.linalg.norm(axis) or np.float32(
        1
    )  # rays all round sum to nothing: no solid is outside of them
    towards = CENTRES - origin
    far = np.linalg.norm(towards, axis=1)
    angle = np.arccos(np.clip(towards @ axis / far, -1, 1))
    spread = np.arccos(np.clip((axis @ directions).min(), -1, 1)) + np.arcsin(np.minimum(RADII / far, 1))
    for i in np.flatnonzero(angle < spread + 1e-3):  # the others lie outside the bundle of rays
        solid = SOLIDS[i]
        enter, leave = solid.chord(solid.local(o), solid.turned(directions))
        closer = (leave > enter) & (enter > 0) & (enter < distance)
        distance, index = np.where(closer, enter, distance), np.where(closer, i, index)
    return distance, index


def cast(origin: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Light [3, n] along rays from `origin` [3] in unit `directions` [3, n], and how far [n] it comes."""
    origin = np.asarray(origin, np.float32)
    distance, index = nearest(origin, directions)
    places = origin[:, None] + distance * directions
    light = np.empty_like(directions)
    for i in np.unique(index):
        here = index == i
        p = places[:, here]
        if i == SKY:
            light[:, here] = paints.sky(p / np.float32(SKY_RADIUS))
        elif i == FLOOR:
            light[:, here] = _floor_light(p)
        else:
            solid = SOLIDS[i]
            own = solid.local(p)
            own_normal = solid.normal(own)
            normal = solid.turned(own_normal, back=True)
            albedo = solid.paint(own / np.array(solid.half, np.float32)[:, None], own_normal)
            lit = albedo * _lighting(p, normal, solid)
            if solid.gloss:
                view = directions[:, here]
                mirrored = view - 2 * dot(view, normal) * normal
                lit += solid.gloss * SUNLIGHT * np.maximum(SUN @ mirrored, 0) ** 24
            light[:, here] = lit
    return light, distance


def _floor_light(places: np.ndarray) -> np.ndarray:
    x, y, _ = places
    scale = np.float32(FLOOR_GRID / (2 * SHADOW_REACH))
    u = np.clip((x + SHADOW_REACH) * scale - 0.5, 0, FLOOR_GRID - 1.001)
    v = np.clip((y + SHADOW_REACH) * scale - 0.5, 0, FLOOR_GRID - 1.001)
    column, row = np.floor(u), np.floor(v)
    corner, u, v = (row * FLOOR_GRID + column).astype(np.int32), u - column, v - row
    a, b, c, d = (floor_lighting().take(corner + k, axis=1) for k in (0, 1, FLOOR_GRID, FLOOR_GRID + 1))
    light = mix(mix(a, b, u), mix(c, d, u), v)
    return mix(paints.floor(x, y) * light, HAZE, smooth((np.hypot(x, y) - 3) / (SKY_RADIUS - 4)))


@lru_cache
def floor_lighting() -> np.ndarray:
    """[3, FLOOR_GRID^2] what falls on the floor in the square +-SHADOW_REACH: the same in all views."""
    block = 40
    blocks = np.empty((3, FLOOR_GRID // block, block, FLOOR_GRID // block, block), np.float32)
    centres = (np.arange(FLOOR_GRID, dtype=np.float32) + 0.5) * (2 * SHADOW_REACH / FLOOR_GRID) - SHADOW_REACH
    centres = centres.reshape(-1, block)
    for i, rows in enumerate(centres):
        for j, columns in enumerate(centres):
            y, x = np.meshgrid(rows, columns, indexing="ij")
            places = np.stack([x.ravel(), y.ravel(), np.zeros(block * block, np.float32)])
            up = np.zeros_like(places)
            up[2] = 1
            blocks[:, i, :, j] = _lighting(places, up, None).reshape(3, block, block)
    return blocks.reshape(3, -1)


def _lighting(places: np.ndarray, normals: np.ndarray, receiver: Solid | None) -> np.ndarray:
    """Sun and sky [3, n] at places on the receiver (None: the floor)."""
    sun = np.maximum(SUN @ normals, 0)
    open_sky = np.float32(0.6) + np.float32(0.4) * normals[2]
    if receiver:
        open_sky *= 1 - np.float32(0.4) * np.exp(places[2] * -5)  # the floor is dark where solids stand on it
    middle = places.mean(axis=1)
    offsets = places - middle[:, None]
    extent = np.sqrt(dot(offsets, offsets).max())
    towards = CENTRES - middle
    sunwards = towards @ SUN
    aside = np.linalg.norm(towards - sunwards[:, None] * SUN, axis=1)
    reach = extent + RADII
    is_near = np.linalg.norm(towards, axis=1) < reach + 0.5
    may_shade = (sunwards > -reach) & (aside < reach + 0.2)
    for i in np.flatnonzero(is_near | may_shade):
        solid = SOLIDS[i]
        if solid is receiver:
            continue  # convex: its normals have told its own shadow
        own = solid.local(places)
        if is_near[i]:
            open_sky *= 1 - np.float32(0.5) * np.exp(solid.distance(own) * -6)
        if may_shade[i]:
            enter, leave = solid.chord(own, solid.turned(SUN[:, None]))
            sun *= 1 - smooth((leave - np.maximum(enter, 0)) / (2 * PENUMBRA) + 0.5)
    return SUNLIGHT * sun + SKYLIGHT * open_sky
