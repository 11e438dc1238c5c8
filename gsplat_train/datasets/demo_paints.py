# SPDX-License-Identifier: Apache-2.0
"""Procedural paints of the built-in scene: what colour a place has, in linear light.

A solid's paint takes the place `p`, in units of the solid's half size, and the normal there, both [3, n]
float32 in the solid's own axes, and gives its albedo [3, n]. Paints depend on the place only and have no
detail finer than about a pixel and a half of the views: all of it can be learned.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np

Paint = Callable[[np.ndarray, np.ndarray], np.ndarray]

FLOOR_RADIUS = 2.5
TILE = 0.5
BRICK_ROWS = 3.5  # in half the height of the post
AGATE = ("264653", "2a9d8f", "f1faee", "e9c46a", "f4a261", "e76f51", "7d2e4a")
TURN = 2 * np.pi


def color(text: str) -> np.ndarray:
    """[3, 1] linear, of a web colour such as "c8553d"."""
    return (np.frombuffer(bytes.fromhex(text), np.uint8)[:, None].astype(np.float32) / 255) ** 2.2


def mix(a: np.ndarray, b: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """a where weight is 0, b where it is 1."""
    return a + (b - a) * weight


def smooth(x: np.ndarray) -> np.ndarray:
    """0 below 0, 1 above 1, with a soft way between."""
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


HAZE = color("cfdcec")


@lru_cache
def _lattice() -> np.ndarray:
    return np.random.default_rng(7).random(1 << 16, np.float32)


def noise_at(i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """A fixed random number in [0, 1) for every pair of whole numbers."""
    return _lattice().take((i.astype(np.int32) * 181 + j.astype(np.int32) * 7919) & 0xFFFF)


def noise(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Smooth noise in [0, 1) with features of size 1."""
    i, j = np.floor(x), np.floor(y)
    u, v = smooth(x - i), smooth(y - j)
    low = mix(noise_at(i, j), noise_at(i + 1, j), u)
    return mix(low, mix(noise_at(i, j + 1), noise_at(i + 1, j + 1), u), v)


def planet(p: np.ndarray, normal: np.ndarray) -> np.ndarray:
    x, y, z = normal
    band = 4 * z + 1.1 * noise(2.5 * x + 9 * z, 2.5 * y + 40) + 0.6 * noise(6 * x, 6 * y + 9 * z) + 8
    layer = np.floor(band)
    layers = np.concatenate([color(text) for text in AGATE], axis=1)
    below, above = (layers[:, (layer + k).astype(np.int32) % len(AGATE)] for k in (0, 1))
    return mix(below, above, smooth((band - layer) * 2 - 0.5))


def _face(p: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of a place on the cube [-1, 1]^3: which face (0 to 5) and where on it."""
    axis = np.argmax(np.abs(p), axis=0)
    u = np.where(axis == 0, p[1], p[0])
    v = np.where(axis == 2, p[1], p[2])
    side = np.where(axis == 0, p[0], np.where(axis == 1, p[1], p[2])) > 0
    return (axis * 2 + side).astype(np.float32), u, v


def crate(p: np.ndarray, normal: np.ndarray) -> np.ndarray:
    face, u, v = _face(p)
    edge = np.maximum(np.abs(u), np.abs(v)) > 0.76
    across = np.abs(u) > np.abs(v)
    brace = np.abs(u - v) < 0.2
    plank = np.floor(v * 2.5 + 0.5)
    along, grain = np.where(edge & across, v, u), np.where(edge & across, u, v)
    tone = 0.75 + 0.35 * noise(2 * along + 13 * face, 11 * grain + 5 * plank)
    tone *= np.where(edge | brace, 1.0, 0.62 + 0.25 * noise_at(plank, face))
    gap = ~edge & ~brace & (np.abs(v * 2.5 + 0.5 - np.rint(v * 2.5 + 0.5)) < 0.07)
    rim = np.abs(np.maximum(np.abs(u), np.abs(v)) - 0.76) < 0.03
    nail = (np.abs(np.abs(u) - 0.88) < 0.05) & (np.abs(np.abs(v) - 0.88) < 0.05)
    return color("c98f4e") * np.where(gap | rim | nail, 0.25, tone)


def puzzle(p: np.ndarray, normal: np.ndarray) -> np.ndarray:
    face, u, v = _face(p)
    i, j = np.floor(u * 1.4999 + 1.5), np.floor(v * 1.4999 + 1.5)
    in_sticker = np.maximum(np.abs(u * 1.5 + 1 - i), np.abs(v * 1.5 + 1 - j)) < 0.42
    choice = (noise_at(i + 3 * face, j + 11) * 6).astype(np.int32)
    stickers = np.concatenate(
        [color(c) for c in ("c41e3a", "0051ba", "ffffff", "ff8c1a", "ffd500", "009e60")], 1
    )
    return np.where(in_sticker, stickers[:, choice], 0.05)


def bricks(p: np.ndarray, normal: np.ndarray) -> np.ndarray:
    row = np.floor(p[2] * BRICK_ROWS)
    around = np.arctan2(p[1], p[0]) * (8 / TURN) + 0.5 * (row % 2)
    brick = np.floor(around) % 8
    u, v = around - np.floor(around), p[2] * BRICK_ROWS - row
    mortar = (np.minimum(u, 1 - u) < 0.07) | (np.minimum(v, 1 - v) < 0.1)
    tone = 0.55 + 0.75 * noise_at(brick, row) * noise_at(row + 5, brick + 2)
    top = normal[2] > 0.5
    return np.where(mortar | top, color("c9b9a6"), color("b5533c") * tone)


def checks(p: np.ndarray, normal: np.ndarray) -> np.ndarray:
    longitude = np.floor(np.arctan2(normal[1], normal[0]) * (10 / TURN))
    latitude = np.floor(np.arccos(np.clip(normal[2], -1, 1)) * (12 / TURN))
    return np.where((longitude + latitude) % 2 > 0, color("f4f1de"), color("1d6f8a"))


def spiral(p: np.ndarray, normal: np.ndarray) -> np.ndarray:
    turn = np.arctan2(p[1], p[0]) * (2 / TURN) + 1.8 * p[2]
    return np.where(turn % 2 < 1, color("f7f7f2"), color("d1495b"))


def plain(text: str) -> Paint:
    return lambda p, normal: color(text) * (0.8 + 0.4 * noise(2 * p[0] + 5, 2 * p[1] + 2 * p[2]))


def floor(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Tiles, a mosaic ring and the meadow around them."""
    radius = np.hypot(x, y)
    i, j = np.floor(x / TILE), np.floor(y / TILE)
    u, v = x / TILE - i, y / TILE - j
    grout = np.minimum(np.minimum(u, 1 - u), np.minimum(v, 1 - v)) < 0.045
    veins = 0.72 + 0.4 * noise(5 * x + 3 * noise(3 * x, 3 * y), 5 * y)
    tile = np.where((i + j) % 2 > 0, color("e9dcc3"), color("5f7f86")) * (veins + 0.25 * noise_at(i, j + 90))
    tile = np.where(grout, color("a39a8c"), tile)
    sector = np.floor(np.arctan2(y, x) * (36 / TURN))
    mosaic = np.where(sector % 2 > 0, color("e0a458"), color("5b3a4a"))
    mosaic = np.where(np.abs(radius - FLOOR_RADIUS + 0.14) > 0.1, color("efe6d5"), mosaic)
    patches = noise(1.1 * x + 50, 1.1 * y + 50) * 0.6 + noise(2.3 * x, 2.3 * y) * 0.4
    meadow = mix(color("4a7a3a"), color("92a54c"), smooth(patches * 1.2 - 0.1))
    inside = np.where(radius < FLOOR_RADIUS - 0.28, tile, mosaic)
    return np.where(radius < FLOOR_RADIUS, inside, meadow)


def sky(direction: np.ndarray) -> np.ndarray:
    """Sky, soft clouds and hills, as light: it takes no shading."""
    x, y, z = direction
    height = np.maximum(z, 0)
    clear = mix(HAZE, color("4f8fd6"), smooth(height * 1.9))
    scale = 1 / (height + 0.35)
    cloud = (
        noise(2.2 * x * scale + 20, 2.2 * y * scale + 20) * 0.7 + noise(5 * x * scale, 5 * y * scale) * 0.3
    )
    sky = mix(clear, color("f9f9f9"), 0.7 * smooth(cloud * 2.4 - 1.05) * smooth(height * 6))
    along = np.arctan2(y, x)
    far = 0.10 + 0.035 * np.sin(3 * along + 1) + 0.02 * np.sin(7 * along)
    near = 0.045 + 0.03 * np.sin(4 * along + 4) + 0.012 * np.sin(11 * along + 2)
    sky = mix(sky, color("8fb0c9"), smooth((far - z) * 90 + 0.5))
    sky = mix(sky, color("6c957f"), smooth((near - z) * 90 + 0.5))
    return mix(
        sky, HAZE, smooth(1 - height * 25)
    )  # mist at the foot of the hills, where the meadow ends in it
