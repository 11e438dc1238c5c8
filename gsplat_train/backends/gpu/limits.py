# SPDX-License-Identifier: Apache-2.0
"""How much the kernels can count and the device can hold, how a run divides it, and the lines that say so."""

from __future__ import annotations

from functools import cache, lru_cache

import mlx.core as mx

from ...errors import OutOfMemory, UserError
from ...machine import in_words
from ...training.protocol import Bounds
from .kernels import INDICES, KERNELS, Sizes

WINDOW = 16  # steps between two looks at the status, at most; the host is at most twice as many ahead
LISTS_SHARE = 2  # of the memory, 1 / LISTS_SHARE may hold what one step makes of its intersections
# Where the settings say nothing of memory:
SHARE = 4  # 1 / SHARE of it may hold what steps under way leave, ...
UNDER_WAY = 4 << 30  # ... and no more than this, for few long steps keep a GPU as busy as many, ...
LEAST_WINDOW = 2  # ... but for this window
PHOTO_SHARE = 4  # 1 / PHOTO_SHARE of it may hold photos
HEADROOM, LITTLE_HEADROOM = 1.5, 1.25  # room for more intersections than there were: views differ
ROOMY = 8  # the former where lists with it take less than 1 / ROOMY of the memory
ROOMS = 3  # bits of the number of Gaussians that arrays have room for: four sizes from one power of two to the next
AREA_ARRAYS, SLOT = 9, 12  # numbers of the longest array a pixel (`maps`) and an intersection (`slot_grads`)


# The kernels of a fused step, in order.
STEP = (
    "project", "colour", "intersect", "scan", "scatter", "tile_sort", "forward", "ssim", "loss", "backward", "update",
    "update_shn",
)  # fmt: skip


@cache
def device_memory() -> int:
    """Bytes that the device has; 8 GB if MLX does not say."""
    info = mx.device_info()
    return int(info.get("total_memory") or info.get("memory_size") or 8 << 30)


@lru_cache(maxsize=256)
def step_bytes(sizes: Sizes) -> int:
    """What the kernels of a step write."""
    names, itemsize = sizes.names, {"uint8": 1}
    return sum(a.count(names) * itemsize.get(a.dtype, 4) for name in STEP for a in KERNELS[name].outputs)


@cache
def _intersection_bytes() -> int:
    """What an intersection adds to a step."""
    few, many = (step_bytes(Sizes(1, 0, 16, 16, capacity)) for capacity in (0, 1 << 20))
    return (many - few) >> 20


def state_bytes(n: int, rest: int) -> int:
    """Parameters and both moments of `n` splats."""
    return 3 * 4 * (14 + 3 * rest) * n


@lru_cache(maxsize=256)
def _largest_launch(sizes: Sizes) -> int:
    """The bytes that one kernel of a step writes, at most."""
    names = sizes.names
    return max(sum(4 * a.count(names) for a in spec.outputs) for spec in KERNELS.values())


class Budget:
    """How much of the device's memory a run may take, and who gets what of it."""

    def __init__(self, bounds: Bounds | None = None) -> None:
        self.bounds = bounds or Bounds()

    @property
    def total(self) -> int:
        """Bytes for all."""
        bound, device = self.bounds.gpu_memory, device_memory()
        if not bound:
            return device
        return int(bound * device) if bound <= 1 else int(bound)

    def window(self, sizes: Sizes) -> int:
        """Steps between two looks at the status: what twice as many leave is held at once. 0: there is room for one
        step only, and each is waited for.
        """
        step = 2 * step_bytes(sizes)
        if self.bounds.gpu_memory:
            room = self.total - state_bytes(sizes.n, sizes.rest) - self.photos(sizes)
            return max(0, min(WINDOW, room // step))
        else:
            room = min(self.total // SHARE, max(UNDER_WAY, LEAST_WINDOW * step))
        return max(1, min(WINDOW, room // step))

    def rows(self, n: int) -> int:
        """How many Gaussians the arrays of `n` have room for: up to a quarter more, of few different numbers, and no
        more than there will ever be. While splats grow, graphs and memory of one size serve for several refinements.
        """
        step = 1 << max(0, n.bit_length() - ROOMS)
        return max(n, min(-(-n // step) * step, self.bounds.most_splats or n))

    def photos(self, sizes: Sizes) -> int:
        """Bytes for photos: of what a bound leaves beside the state and one step, half. The others are brought there
        at each use.
        """
        if not self.bounds.gpu_memory:
            return self.total // PHOTO_SHARE
        return max(0, self.total - state_bytes(sizes.n, sizes.rest) - step_bytes(sizes)) // 2

    def most_intersections(self) -> int:
        """How many of one view's intersections the kernels can number and the memory can hold."""
        return min(INDICES // SLOT, self.total // LISTS_SHARE // _intersection_bytes())

    def headroom(self, needed: int) -> float:
        """What to multiply `needed` intersections by."""
        roomy = ROOMY * HEADROOM * needed * _intersection_bytes() < self.total
        return HEADROOM if roomy or not self.bounds.gpu_memory else LITTLE_HEADROOM

    def hold(self, sizes: Sizes) -> None:
        """Tells MLX, which waits for steps under way where they hold more, and frees what it kept for later. One launch
        passes the limit before MLX looks at it.
        """
        memory, cached = _mlx_limits()
        if self.bounds.gpu_memory:
            memory = cached = max(self.total - _largest_launch(sizes), self.total // 2)
        mx.set_memory_limit(memory)
        mx.set_cache_limit(cached)

    def check(self, n: int, rest: int) -> None:
        """UserError where `n` splats, one intersection each, do not fit at the size of the largest photo."""
        (width, height), total = self.bounds.size, self.total
        if not width * height:
            return
        none, needed = (
            state_bytes(count, rest) + step_bytes(Sizes(count, rest, width, height, max(8, count)))
            for count in (0, n)
        )
        if needed <= total:
            return
        fits = max(0, total - none) * n // (needed - none) // 1000 * 1000 if n else 0
        whose = "gpu_memory allows" if self.bounds.gpu_memory else "this GPU has"
        less = (
            f"--max-splats {fits} fits, or smaller photos (--max-size)"
            if fits
            else "smaller photos (--max-size)"
        )
        raise UserError(
            f"{n:,} splats and photos of {width}x{height} take at least {in_words(needed)} of the GPU's memory, "
            f"{whose} {in_words(total)}; {less}"
        )


@cache
def _mlx_limits() -> tuple[int, int]:
    """MLX's own, of memory and of what it keeps of that for later, before anything was set."""
    both = []
    for change in (mx.set_memory_limit, mx.set_cache_limit):
        both.append(change(1 << 40))
        change(both[-1])
    return both[0], both[1]


def check_intersections(needed: int, most: int) -> None:
    """OutOfMemory where a view has more intersections than there can be room for."""
    if needed > most:
        count = "over 2^31" if needed >= 1 << 31 else f"{needed:,}"
        raise OutOfMemory(
            f"the splats of one view touch {count} tiles of 16x16 pixels in all, {most:,} fit on this GPU; take "
            "fewer or smaller splats (--max-splats) or smaller pictures (--max-size)"
        )


def check_sizes(sizes: Sizes) -> None:
    """UserError where an array would be longer than the kernels can count."""
    most_pixels, most_splats = INDICES // AREA_ARRAYS, INDICES // max(14, 3 * sizes.rest)
    if sizes.width * sizes.height > most_pixels:
        raise UserError(
            f"a picture on the GPU can have {most_pixels:,} pixels, got {sizes.width}x{sizes.height}; take a smaller "
            "one (--max-size)"
        )
    if sizes.n > most_splats:
        raise UserError(
            f"the GPU can hold {most_splats:,} splats of this SH degree, got {sizes.n:,}; take fewer (--max-splats)"
        )
