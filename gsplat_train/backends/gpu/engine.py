# SPDX-License-Identifier: Apache-2.0
"""The stages as JIT kernels for any MLX GPU, with their VJPs; _gpu_step.py has the whole training step.

An `Engine` is bound to one of MLX's kernel makers (metal.py, cuda.py). The kernels are in csrc/kernels, their
table in kernels.py. Notation as in backends: N Gaussians, M intersections, images [H, W, C]. A splat's
record is 8 floats: means2d, conic, opacity, depth, 0. Stages take and return arrays of exact
length, so `isect_tiles` waits for M.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import mlx.core as mx
import numpy as np

from ...losses import check_mask
from ...losses import photometric_loss as _reference_loss
from ...model.gaussians import Gaussians
from .. import Projected, Tiles
from .kernels import BUCKET, KERNELS, KernelSpec, Sizes, arguments
from .limits import Budget, check_intersections, check_sizes

__all__ = ["KERNELS", "Engine", "KernelSpec", "Sizes"]

FIRST_CAPACITY = 1 << 16  # intersections; it grows by what is needed
MOST_COMPILED = 100  # graphs: each holds its kernels' code
MOST_SIZES = 10_000


class TileLists(Tiles):
    """Tiles as `isect_tiles` makes them, with what the backward pass needs beside them."""

    extra: dict[str, Any]


class Engine:
    """The stages on one kind of GPU. make: a spec -> MLX's callable for it; compile: mx.compile where it can
    trace these.
    """

    def __init__(
        self,
        make: Callable[[KernelSpec], Callable[..., list[mx.array]]],
        compile: Callable[[Callable[..., Any]], Callable[..., Any]] = lambda function: function,
    ) -> None:
        self._make, self._compile = make, compile
        self._compiled: dict[Any, Callable[..., Any]] = {}
        self._kernels: dict[str, Callable[..., list[mx.array]]] = {}
        self._sizes: dict[Any, mx.array] = {}
        self.first_capacity = FIRST_CAPACITY
        self._capacity: dict[tuple[int, int], int] = {}
        self._per_pixel = 0.0  # intersections there was room for, where room was made last
        self.budget = Budget()

    def run(self, name: str, sizes: Sizes, inputs: list[mx.array], template: tuple[bool, ...] = ()) -> Any:
        """The outputs of one launch, not waited for."""
        return self.kernel(name)(inputs=inputs, **arguments(name, sizes, template))

    def kernel(self, name: str) -> Callable[..., list[mx.array]]:
        """What MLX has for a kernel."""
        kernel = self._kernels.get(name)
        if kernel is None:
            kernel = self._kernels[name] = self._make(KERNELS[name])
        return kernel

    def compiled(self, function: Callable[..., Any], sizes: Sizes, *fixed: Any) -> Callable[..., Any]:
        """function(engine, sizes, *fixed, ..) of arrays, its graph kept: MLX copies a kernel's code at each call.

        Where there are more than MOST_COMPILED sizes of photos, the others' graphs are made at each call.
        """
        key, plain = (sizes, function, *fixed), partial(function, self, sizes, *fixed)
        graph = self._compiled.get(key)
        if graph is None:
            make_room(self._compiled, MOST_COMPILED, sizes.n)
            if len(self._compiled) >= MOST_COMPILED:
                return (
                    plain  # views come in turns: whatever was dropped would be traced again before it is used
                )
            graph = self._compiled[key] = self._compile(plain)
        return graph

    # ---- sizes, as the kernels read them ----

    def sizes(self, sizes: Sizes, degree: int = 0, antialiased: bool = False) -> mx.array:
        """int32 [16], in device memory, made once. sizes: of what there is; arrays may have room for more."""
        key = (sizes, degree, antialiased)
        if key not in self._sizes:
            names = sizes.names
            values = [
                sizes.n, sizes.width, sizes.height, names["tiles_x"], names["tiles_y"], sizes.rest, degree,
                int(antialiased), sizes.capacity, names["buckets"], names["groups"], names["flags"], sizes.views,
                sizes.parts, sizes.before, 0,
            ]  # fmt: skip
            check_sizes(sizes)
            make_room(self._sizes, MOST_SIZES, sizes.n)
            if len(self._sizes) >= MOST_SIZES:
                self._sizes.clear()
            self._sizes[key] = on_device(mx.array(values, dtype=mx.int32))
        return self._sizes[key]

    def capacity(self, width: int, height: int) -> int:
        """How many intersections there is room for in a picture of this size.

        Of a size that has not been seen, as many a pixel as the last that had to grow needed: where every photo
        has a size of its own, each would else find too little room once.
        """
        capacity = self._capacity.get((width, height))
        if capacity is not None:
            return capacity
        guess = int(self._per_pixel * width * height)
        return max(self.first_capacity, min(rounded(guess), self.budget.most_intersections()))

    def grow(self, width: int, height: int, needed: int) -> int:
        """Makes room for `needed` intersections and some more; the new capacity.

        OutOfMemory where there can be no room for so many.
        """
        most = self.budget.most_intersections()
        check_intersections(needed, most)
        capacity = min(rounded(int(needed * self.budget.headroom(needed))), most)
        self._capacity[width, height] = max(capacity, needed, self.capacity(width, height))
        self._per_pixel = self._capacity[width, height] / (width * height)
        return self._capacity[width, height]

    def forget(self) -> None:
        """Starts from `first_capacity` again."""
        self._capacity.clear()
        self._per_pixel = 0.0

    # ---- the stages of Backend ----

    def project(
        self,
        gaussians: Gaussians,
        viewmat: np.ndarray,
        K: np.ndarray,
        width: int,
        height: int,
        *,
        sh_degree: int,
        antialiased: bool,
    ) -> Projected:
        """See Backend.project."""
        n, rest = gaussians.means.shape[0], gaussians.shN.shape[1]
        if n == 0:
            two, three, none = mx.zeros((0, 2)), mx.zeros((0, 3)), mx.zeros(0)
            return Projected(two, three, none, mx.zeros((0, 2), mx.int32), three, none)
        sizes = Sizes(n, rest, width, height, 8)
        view_inputs = [camera_array(viewmat, K), self.sizes(sizes, sh_degree, antialiased)]

        @mx.custom_function
        def forward(params: mx.array, shn: mx.array) -> tuple[mx.array, ...]:
            records, radii, _ = self.run("project", sizes, [params, *view_inputs])
            (colours,) = self.run("colour", sizes, [params, shn, radii, *view_inputs])
            rows, colors = records[: 8 * n].reshape(n, 8), colours[: 4 * n].reshape(n, 4)[:, :3]
            return rows[:, 0:2], rows[:, 2:5], rows[:, 6], colors, rows[:, 5], radii.view(mx.float32), colours

        @forward.vjp
        def vjp(primals: Any, cotangents: Any, outputs: Any) -> tuple[mx.array, ...]:
            v_means2d, v_conics, v_depths, v_colors, v_opacities = (c.reshape(-1) for c in cotangents[:5])
            v = [v_means2d, v_conics, v_depths, v_colors, v_opacities]
            seen = [outputs[5].view(mx.int32), outputs[6]]
            return tuple(self.run("project_vjp", sizes, [*primals, *seen, *v, *view_inputs]))

        function: Any = forward
        means2d, conics, depths, colors, opacities, bits, _ = function(*pack(gaussians))
        radii = mx.stop_gradient(mx.stop_gradient(bits).view(mx.int32))[: 2 * n].reshape(n, 2)
        return Projected(means2d, conics, depths, radii, colors, opacities)

    def isect_tiles(self, projected: Projected, width: int, height: int) -> Tiles:
        """See Backend.isect_tiles."""
        means2d, conics, depths, radii, _, opacities = (mx.stop_gradient(leaf) for leaf in projected)
        n = means2d.shape[0]
        tiles = Sizes(n, 0, width, height, 8).names["tiles"]
        if n == 0:
            return Tiles(mx.zeros(0, mx.int32), mx.zeros(tiles + 1, mx.int32))
        records, radii = _records(means2d, conics, depths, opacities), at_least_eight(radii.reshape(-1))
        while True:
            sizes = Sizes(n, 0, width, height, self.capacity(width, height))
            counters = mx.arange(8 * tiles + 8).astype(mx.uint32) * 0
            lists = self.bins(sizes, self.sizes(sizes), records, radii, counters, START, no_flags(sizes))
            state, needed = np.asarray(lists["status"])[:2].tolist()
            if state == 0:
                break
            self.grow(width, height, needed)
        tile_lists = TileLists(lists["ids"][:needed], lists["offsets"][: tiles + 1])
        tile_lists.extra = lists | {"sizes": sizes}
        return tile_lists

    def bins(
        self,
        sizes: Sizes,
        size_array: mx.array,
        records: Any,
        radii: Any,
        counters: Any,
        status: Any,
        flags: Any,
    ) -> dict[str, mx.array]:
        """Stage 2: intersect, scan, scatter, tile_sort; all that they leave, by name."""
        run = self.run
        entries, spans, group_counts = run("intersect", sizes, [records, radii, counters, size_array])
        # After `intersect`, which counts them up: group_counts orders the two.
        offsets, buckets, group_starts, status = run(
            "scan", sizes, [counters, group_counts, status, flags, size_array]
        )
        keys, slot_splats = run("scatter", sizes, [entries, offsets, group_starts, records, size_array])
        ids, slots, bucket_tiles, _, _ = run("tile_sort", sizes, [keys, slot_splats, offsets, buckets])
        return {
            "spans": spans, "offsets": offsets, "buckets": buckets, "group_starts": group_starts,
            "status": status, "ids": ids, "slots": slots, "bucket_tiles": bucket_tiles,
        }  # fmt: skip

    def rasterize(
        self,
        projected: Projected,
        tiles: Tiles,
        background: mx.array,
        width: int,
        height: int,
        *,
        absgrad_probe: mx.array | None = None,
    ) -> tuple[mx.array, mx.array]:
        """See Backend.rasterize."""
        n = projected.means2d.shape[0]
        if n == 0:
            image = mx.broadcast_to(background, (height, width, 3))
            return image, mx.zeros((height, width, 1))
        lists = tiles.extra if isinstance(tiles, TileLists) else _lists_of(tiles, n, width, height)
        sizes: Sizes = lists["sizes"]
        size_array = self.sizes(sizes)
        binned = [lists["ids"], lists["offsets"], lists["buckets"]]

        @mx.custom_function
        def forward(*args: mx.array) -> tuple[mx.array, ...]:
            means2d, conics, depths, colors, opacities, bg = args[:6]
            records = _records(means2d, conics, depths, opacities)
            padded = at_least_eight(mx.concatenate([colors, mx.zeros((n, 1))], axis=1).reshape(-1))
            settings = mx.concatenate([mx.zeros(12), bg, mx.zeros(17)])
            image, final_t, checkpoints, used = self.run(
                "forward", sizes, [records, padded, *binned, settings, size_array]
            )
            final_t, image = final_t[: height * width], image[: 3 * height * width]
            alpha = (1.0 - final_t).reshape(height, width, 1)
            return image.reshape(height, width, 3), alpha, final_t, checkpoints, used, records, padded

        @forward.vjp
        def vjp(primals: Any, cotangents: Any, outputs: Any) -> tuple[mx.array, ...]:
            image, _, final_t, checkpoints, used, records, padded = outputs
            v_image, v_alpha = cotangents[0], cotangents[1]
            inputs = [records, padded, *binned, lists["slots"], lists["bucket_tiles"], used, checkpoints]
            inputs += [image.reshape(-1), final_t, v_image.reshape(-1), v_alpha.reshape(-1), size_array]
            (grads,) = self.run("backward", sizes, inputs, (True, len(primals) > 6))
            v_means2d, v_conics, v_colors, v_opacities, v_abs = self.run(
                "splat_grads", sizes, [records, lists["spans"], lists["group_starts"], grads, size_array]
            )
            v = [
                v_means2d[: 2 * n].reshape(n, 2),
                v_conics[: 3 * n].reshape(n, 3),
                mx.zeros_like(primals[2]),
                v_colors[: 3 * n].reshape(n, 3),
                v_opacities[:n],
                (final_t[:, None] * v_image.reshape(-1, 3)).sum(axis=0),
            ]
            return tuple(v) if len(primals) == 6 else (*v, v_abs[: 2 * n].reshape(n, 2))

        args = [projected.means2d, projected.conics, projected.depths, projected.colors, projected.opacities]
        args.append(background)
        if absgrad_probe is not None:
            args.append(absgrad_probe)
        function: Any = forward
        return function(*args)[:2]

    def photometric_loss(
        self, image: mx.array, target: mx.array, ssim_lambda: float, mask: mx.array | None = None
    ) -> tuple[mx.array, mx.array, mx.array]:
        """See Backend.photometric_loss. With a target that is not uint8: the reference's."""
        if target.dtype != mx.uint8 or image.shape != target.shape:
            return _reference_loss(image, target, ssim_lambda, mask)
        height, width, _ = image.shape
        sizes = Sizes(1, 0, width, height, 8)
        photo, counting, template = target.reshape(-1), None, (mask is not None, False)
        counts = photo
        if mask is not None:
            check_mask(mask, image)
            counts = (mx.array(mask) > 0).astype(mx.uint8).reshape(-1)
            counting = int(np.asarray(counts).sum())
        size_array, settings = (
            self.sizes(sizes),
            mx.array(loss_settings(ssim_lambda, width, height, counting)),
        )

        # The value and its gradient come from one pass; l1 and ssim are for the log and pass no gradient.
        @mx.custom_function
        def loss(image: mx.array) -> tuple[mx.array, mx.array]:
            pictures = [image.reshape(-1), photo, counts, photo]
            maps, partials = self.run("ssim", sizes, [*pictures, settings, size_array], template)
            inputs = [*pictures, maps, partials, settings, size_array]
            v_image, values = self.run("loss", sizes, inputs, template)
            return values, v_image

        @loss.vjp
        def vjp(image: Any, cotangents: Any, outputs: Any) -> mx.array:
            return (outputs[1][: 3 * height * width] * cotangents[0][:1]).reshape(height, width, 3)

        function: Any = loss
        values, _ = function(image)
        passive = mx.stop_gradient(values)
        return number(values, 0), number(passive, 1), number(passive, 2)


def number(values: mx.array, i: int) -> mx.array:
    """values[i], as a slice: for an index MLX on CUDA compiles a kernel when it is first used, 3 s."""
    return values[i : i + 1].reshape(())


def rounded(count: int) -> int:
    """Up, so that few capacities differ."""
    return -(-count // 4096) * 4096


def make_room(cache: dict[Any, Any], most: int, n: int) -> None:
    """Where `most` are in the cache, forgets what is of another number of Gaussians; keys begin with Sizes."""
    if len(cache) >= most:
        for key in [key for key in cache if key[0].n != n]:
            del cache[key]


START = mx.zeros(8, mx.uint32)  # the status before the first step


def no_flags(sizes: Sizes) -> mx.array:
    """The flags of an update that has not been."""
    return mx.zeros(max(8, sizes.names["flags"]), mx.uint32)


def on_device(array: mx.array) -> mx.array:
    """A copy that an operation of the GPU writes: what the host made lies in managed memory. It does not wait, for
    steps may be under way.
    """
    array = array + mx.zeros_like(array)
    mx.async_eval(array)
    return array


def pack(gaussians: Gaussians, rows: int = 0) -> tuple[mx.array, mx.array]:
    """The first five leaves behind each other, and shN, flat: what the kernels call `params` and `shn`. rows: Gaussians
    that there shall be room for, behind those that there are.
    """
    params, shn = [leaf.reshape(-1) for leaf in gaussians[:5]], gaussians.shN.reshape(-1)
    if (more := rows - gaussians.means.shape[0]) > 0:
        params.append(mx.zeros(14 * more))
        shn = mx.concatenate([shn, mx.zeros(3 * gaussians.shN.shape[1] * more)])
    return mx.concatenate(params), at_least_eight(shn)


def at_least_eight(array: mx.array) -> mx.array:
    """Zeros behind a shorter one, which becomes flat; see kernels.py."""
    if array.size >= 8:
        return array
    return mx.concatenate([array.reshape(-1), mx.zeros(8 - array.size, array.dtype)])


def unpack(params: mx.array, shn: mx.array, n: int, rest: int) -> Gaussians:
    """The inverse of `pack`, in memory of its own."""
    ends, shapes = [0, 3, 7, 10, 11, 14], [(n, 3), (n, 4), (n, 3), (n,), (n, 1, 3)]
    parts = zip(ends[:-1], ends[1:], shapes, strict=True)
    leaves = [mx.contiguous(params[a * n : b * n].reshape(shape)) for a, b, shape in parts]
    leaves.append(mx.contiguous(shn[: 3 * rest * n].reshape(n, rest, 3)))
    return Gaussians(*leaves)


def camera_array(viewmat: np.ndarray, K: np.ndarray, once: bool = False) -> mx.array:
    """float32 [32]: rotation, translation, position, fx, fy, cx, cy. once: not for the device's own memory."""
    rotation, translation = np.asarray(viewmat, np.float64)[:3, :3], np.asarray(viewmat, np.float64)[:3, 3]
    values = np.zeros(32, np.float32)
    values[:9], values[9:12] = rotation.reshape(-1), translation
    values[12:15] = -np.linalg.solve(rotation, translation)
    values[15:19] = K[0][0], K[1][1], K[0][2], K[1][2]
    return mx.array(values) if once else on_device(mx.array(values))


def loss_settings(ssim_lambda: float, width: int, height: int, counting: int | None = None) -> np.ndarray:
    """The entries of `settings` that the loss needs, in float32 [32]. counting: pixels of the mask."""
    settings = np.zeros(32, np.float32)
    count = 3 * (width * height if counting is None else max(counting, 1))
    settings[15:19] = loss_numbers(ssim_lambda, count)
    return settings


def loss_numbers(ssim_lambda: float, count: int) -> tuple[float, float, float, float]:
    """What a loss of `count` numbers has in the settings: weights of L1 and SSIM, lambda, count."""
    return (1 - ssim_lambda) / count, -ssim_lambda / count, ssim_lambda, count


def _records(means2d: Any, conics: Any, depths: Any, opacities: Any) -> mx.array:
    """[8 N] records of splats given as arrays."""
    columns = [means2d, conics, opacities[:, None], depths[:, None], mx.zeros_like(depths)[:, None]]
    return mx.concatenate(columns, axis=1).reshape(-1)


def _lists_of(tiles: Tiles, n: int, width: int, height: int) -> dict[str, Any]:
    """What goes with tile lists that somebody else made; on the host."""
    ids, offsets = np.asarray(tiles.ids), np.asarray(tiles.offsets)
    m = len(ids)
    sizes = Sizes(n, 0, width, height, max(8, m))
    order = np.argsort(ids, kind="stable")
    slots = np.zeros(max(8, m), np.uint32)
    slots[order] = np.arange(m, dtype=np.uint32)
    counts = np.bincount(ids, minlength=n)
    per_tile = -(-np.diff(offsets) // BUCKET)
    buckets = np.concatenate([[0], np.cumsum(per_tile)]).astype(np.uint32)
    bucket_tiles = np.zeros(sizes.names["buckets"] + 8, np.uint32)
    bucket_tiles[: buckets[-1]] = np.repeat(np.arange(len(per_tile)), per_tile)
    spans = np.stack([np.cumsum(counts) - counts, counts], axis=1).astype(np.uint32).reshape(-1)
    group_starts = np.zeros(sizes.names["groups"] + 8, np.uint32)  # `spans` counts from the first of all
    padded = np.zeros(max(8, m), np.int32)
    padded[:m] = ids
    arrays = {"ids": padded, "slots": slots, "buckets": buckets, "bucket_tiles": bucket_tiles,
              "spans": spans, "group_starts": group_starts}  # fmt: skip
    return {name: mx.array(a) for name, a in arrays.items()} | {"offsets": tiles.offsets, "sizes": sizes}
