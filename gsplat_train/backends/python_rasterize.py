# SPDX-License-Identifier: Apache-2.0
"""The blending of the `python` backend: every splat of a tile at each of its pixels, in plain MLX, and its
VJP.

Enter: splats on the screen, each tile's list of them. Leave: image, alpha. Notation: a batch holds T tiles
with chunks of C splats and P = 256 pixels; alpha_i = min(0.999, o_i exp(-sigma_i)), T_i = product over j < i
of (1 - alpha_j), w_i = alpha_i T_i, image = sum of w_i c_i + T background (Kerbl et al. 2023, equation 3).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import e, log2
from typing import Any, NamedTuple, cast

import mlx.core as mx
import numpy as np

from . import Projected, Tiles

ALPHA_MIN = 1 / 255
ALPHA_MAX = 0.999
TRANSMITTANCE_MIN = 1e-4
TILE = 16
TILES_AT_ONCE, CHUNK = 16, 32  # a [T, C, P] array of 512 kB stays in the cache


def rasterize(
    projected: Projected,
    tiles: Tiles,
    background: mx.array,
    width: int,
    height: int,
    *,
    absgrad_probe: mx.array | None = None,
) -> tuple[mx.array, mx.array]:
    """image [H, W, 3] and alpha [H, W, 1] = 1 - T at the pixel's end; see Backend.rasterize.

    Evaluates batch by batch, and the VJP replays each batch: memory grows with the longest list, not with
    all.
    """
    wants_absgrad = absgrad_probe is not None
    probe = absgrad_probe if wants_absgrad else mx.zeros_like(projected.means2d)

    @mx.custom_function
    def blend(means2d, conics, colors, opacities, background, probe):  # type: ignore[no-untyped-def]
        records = _records(means2d, conics, colors, opacities)
        order, pieces = [], []
        for batch in _batches(tiles, width):
            passing = running = mx.ones((len(batch.tiles), 1, TILE * TILE))
            color = mx.zeros((len(batch.tiles), TILE * TILE, 3))
            for chunk in _chunks(records, batch):
                alphas, before, passing, running = _alphas(chunk, passing, running)
                color = color + (alphas * before).swapaxes(1, 2) @ chunk.colors
                color, passing, running = map(_settled, (color, passing, running))
            order.append(batch.tiles)
            pieces.append(mx.concatenate([color, passing.swapaxes(1, 2)], axis=2))
        picture = _to_image(mx.concatenate(pieces), mx.concatenate(order), width, height)
        return picture[..., :3] + picture[..., 3:] * background, 1 - picture[..., 3:]

    @blend.vjp
    def blend_vjp(primals, cotangents, outputs):  # type: ignore[no-untyped-def]
        means2d, conics, colors, opacities, background, _ = primals
        (v_image, v_alpha), (_, alpha) = cotangents, outputs
        records = _records(means2d, conics, colors, opacities)
        v_passing = (v_image * background).sum(axis=2, keepdims=True) - v_alpha
        pixels = _to_tiles(mx.concatenate([v_image, v_passing], axis=2))
        ids, sums = [mx.zeros(0, dtype=mx.int32)], [mx.zeros((0, 11))]
        for batch in _batches(tiles, width):
            v_pixel = pixels[batch.tiles]  # [T, P, 4]
            v_color, v_passing = v_pixel[..., :3], v_pixel[:, None, :, 3]
            passing = running = mx.ones(v_passing.shape)
            replay = []
            for chunk in _chunks(records, batch):
                alphas, before, passing, running = map(_settled, _alphas(chunk, passing, running))
                replay.append((chunk, alphas, before))
            behind = passing * v_passing  # what all that lies behind the chunk brings to the loss
            for chunk, alphas, before in reversed(replay):
                weights = alphas * before
                parts = weights * (chunk.colors @ v_color.swapaxes(1, 2))
                behinds = behind + scan(mx.cumsum, parts, axis=1, reverse=True, inclusive=False)
                behind = _settled(behinds[:, :1] + parts[:, :1])
                # dL / d ln alpha: its own light, less what it takes from all behind it; none through the cap
                v_log = (parts - behinds * alphas / (1 - alphas)) * (alphas < ALPHA_MAX)
                ids.append(chunk.ids.flatten())
                sums.append(_settled(_chunk_vjp(chunk, v_log, weights @ v_color, wants_absgrad)))
        total = mx.zeros((len(records), 11)).at[mx.concatenate(ids)].add(mx.concatenate(sums))[:-1]
        v_means2d, v_conics, v_colors, v_log, absgrad = mx.split(total, (2, 5, 8, 9), axis=1)
        v_opacities = mx.where(opacities > 0, v_log[:, 0] / opacities, 0)
        v_background = ((1 - alpha) * v_image).sum(axis=(0, 1))
        return v_means2d, v_conics, v_colors, v_opacities, v_background, absgrad

    means2d, conics, _, _, colors, opacities = projected
    return cast(tuple[mx.array, mx.array], blend(means2d, conics, colors, opacities, background, probe))


def scan(function: Callable[..., mx.array], values: mx.array, axis: int = 0, **options: Any) -> mx.array:
    """mx.cumsum or mx.cumprod. Not of an axis that is one long: MLX 0.32.4 on CUDA takes the stride of such an axis,
    which may be anything, and writes beyond the array's end.
    """
    if values.shape[axis] > 1:
        return function(values, axis=axis, **options)
    if options.get("inclusive", True):
        return values
    return mx.zeros_like(values) if function is mx.cumsum else mx.ones_like(values)


def _settled(values: mx.array) -> mx.array:
    """An evaluated copy. In a VJP `mx.eval` alone keeps all that the values were made of: 2.3 GB on Fern."""
    return mx.array(np.asarray(values))


class _Batch(NamedTuple):
    """Tiles with about as many splats each."""

    tiles: mx.array  # [T] which
    corners: mx.array  # [T, 2] px, centre of the first pixel
    ids: mx.array  # [T, L] splats, front to back; the padding, -1, is the last row of `_records`


class _Chunk(NamedTuple):
    """The next splats of a batch's tiles."""

    ids: mx.array  # [T, C]
    conics: mx.array  # [T, C, 3]
    colors: mx.array  # [T, C, 3]
    log2_opacities: mx.array  # [T, C]
    dx: mx.array  # [T, C, 16] px, from the mean to the centres of the tile's columns
    dy: mx.array  # [T, C, 16] and rows


def _records(means2d: mx.array, conics: mx.array, colors: mx.array, opacities: mx.array) -> mx.array:
    """[N + 1, 9] means2d, conics, colors, log2(opacity); the last row is a splat of opacity 0."""
    records = mx.concatenate([means2d, conics, colors, mx.log2(opacities)[:, None]], axis=1)
    return mx.concatenate([records, mx.array([[0.0] * 8 + [-mx.inf]])])


def _batches(tiles: Tiles, width: int) -> Iterator[_Batch]:
    """All tiles, sorted by their number of splats so that little is padding."""
    offsets, ids = np.array(tiles.offsets), np.append(np.array(tiles.ids), -1)
    counts, columns = np.diff(offsets), -(-width // TILE)
    by_count = np.argsort(counts, kind="stable")
    for start in range(0, len(by_count), TILES_AT_ONCE):
        which = by_count[start : start + TILES_AT_ONCE]
        place = np.arange(counts[which].max())
        padded = ids[np.where(place < counts[which, None], offsets[which, None] + place, -1)]
        corners = np.stack([which % columns, which // columns], axis=1) * TILE + 0.5
        yield _Batch(mx.array(which), mx.array(corners.astype(np.float32)), mx.array(padded))


def _chunks(records: mx.array, batch: _Batch) -> Iterator[_Chunk]:
    """The batch's splats, CHUNK at a time, front to back."""
    axis = mx.arange(TILE, dtype=mx.float32)
    for start in range(0, batch.ids.shape[1], CHUNK):
        ids = batch.ids[:, start : start + CHUNK]
        means2d, conics, colors, log2_opacities = mx.split(records[ids], (2, 5, 8), axis=2)
        corner = batch.corners[:, None] - means2d  # [T, C, 2]
        yield _Chunk(
            ids, conics, colors, log2_opacities[..., 0], corner[..., :1] + axis, corner[..., 1:] + axis
        )


def _alphas(
    chunk: _Chunk, passing: mx.array, running: mx.array
) -> tuple[mx.array, mx.array, mx.array, mx.array]:
    """(alpha [T, C, P], 0 where nothing is blended; T before each splat; `passing` and `running` behind the
    chunk).

    passing [T, 1, P] is T. running is T as if no pixel ended: it only falls, so a pixel has ended exactly
    where blending would have brought `running` to 1e-4.
    """
    a, b, c = (chunk.conics[..., i, None, None] for i in range(3))
    dx, dy = (
        chunk.dx[..., None, :],
        chunk.dy[..., None],
    )  # sigma below: parts of a row or a column first, they are small
    sigma = 0.5 * a * dx * dx + (0.5 * c * dy * dy + b * dy * dx)
    exponent = chunk.log2_opacities[..., None, None] - log2(e) * sigma
    alphas = mx.minimum(mx.power(2.0, exponent), ALPHA_MAX).flatten(
        2
    )  # MLX's exp on a CPU takes twice as long
    alphas = alphas * (alphas >= ALPHA_MIN)  # mx.where takes twice as long
    runnings = running * scan(mx.cumprod, 1 - alphas, axis=1)
    alphas = alphas * (runnings > TRANSMITTANCE_MIN)
    before = passing * scan(mx.cumprod, 1 - alphas, axis=1, inclusive=False)
    return alphas, before, before[:, -1:] * (1 - alphas[:, -1:]), runnings[:, -1:]


def _chunk_vjp(chunk: _Chunk, v_log: mx.array, v_colors: mx.array, wants_absgrad: bool) -> mx.array:
    """[T * C, 11], summed over the tile's pixels: v_means2d, v_conics, v_colors, dL / d ln alpha, absgrad.

    From v_log [T, C, P] = dL / d ln alpha and v_colors [T, C, 3]. d ln alpha = -d sigma, d mean = -d dx.
    """
    dx, dy = chunk.dx, chunk.dy
    v_log = v_log.reshape(*v_log.shape[:2], TILE, TILE)
    by_column, by_row = v_log.sum(axis=2), v_log.sum(axis=3)
    x, y = (by_column * dx).sum(axis=2), (by_row * dy).sum(axis=2)
    xx, yy = (by_column * dx * dx).sum(axis=2), (by_row * dy * dy).sum(axis=2)
    xy = ((v_log * dx[..., None, :]).sum(axis=3) * dy).sum(axis=2)
    a, b, c = (chunk.conics[..., i] for i in range(3))
    absgrad_x = absgrad_y = mx.zeros_like(x)
    if wants_absgrad:
        ax, bx = (a[..., None] * dx)[..., None, :], (b[..., None] * dx)[..., None, :]
        by, cy = (b[..., None] * dy)[..., None], (c[..., None] * dy)[..., None]
        absgrad_x = mx.abs(v_log * (ax + by)).sum(axis=(2, 3))
        absgrad_y = mx.abs(v_log * (bx + cy)).sum(axis=(2, 3))
    geometry = [a * x + b * y, b * x + c * y, -0.5 * xx, -xy, -0.5 * yy]
    rest = [by_row.sum(axis=2), absgrad_x, absgrad_y]
    return mx.concatenate([mx.stack(geometry, axis=2), v_colors, mx.stack(rest, axis=2)], axis=2).flatten(
        0, 1
    )


def _to_image(blocks: mx.array, order: mx.array, width: int, height: int) -> mx.array:
    """[H, W, D] from tiles [n, P, D] that are in the order `order`."""
    columns, rows = -(-width // TILE), -(-height // TILE)
    blocks = blocks[mx.argsort(order)].reshape(rows, columns, TILE, TILE, -1)
    return blocks.swapaxes(1, 2).reshape(rows * TILE, columns * TILE, -1)[:height, :width]


def _to_tiles(image: mx.array) -> mx.array:
    """[n, P, D] tiles from an image [H, W, D], zeros beyond its borders."""
    height, width, depth = image.shape
    columns, rows = -(-width // TILE), -(-height // TILE)
    image = mx.pad(image, [(0, rows * TILE - height), (0, columns * TILE - width), (0, 0)])
    return image.reshape(rows, TILE, columns, TILE, depth).swapaxes(1, 2).reshape(-1, TILE * TILE, depth)
