# SPDX-License-Identifier: Apache-2.0
"""How much the kernels can count and the device can hold, and the lines that say so."""

from __future__ import annotations

from functools import cache, lru_cache

import mlx.core as mx

from ...errors import OutOfMemory, UserError
from .kernels import INDICES, KERNELS, Sizes

LISTS_SHARE = 2  # of the device's memory, 1 / LISTS_SHARE may hold what one step makes of its intersections
AREA_ARRAYS, SLOT = 9, 12  # numbers of the longest array a pixel (`maps`) and an intersection (`slot_grads`)


@cache
def device_memory() -> int:
    """Bytes that the device has; 8 GB if MLX does not say."""
    info = mx.device_info()
    return int(info.get("total_memory") or info.get("memory_size") or 8 << 30)


@lru_cache(maxsize=256)
def step_bytes(sizes: Sizes) -> int:
    """What the kernels of a step write."""
    names, itemsize = sizes.names, {"uint8": 1}
    specs = [spec for spec in KERNELS.values() if spec.name not in ("splat_grads", "project_vjp", "score")]
    return sum(a.count(names) * itemsize.get(a.dtype, 4) for spec in specs for a in spec.outputs)


@cache
def _intersection_bytes() -> int:
    """What an intersection adds to a step."""
    few, many = (step_bytes(Sizes(1, 0, 16, 16, capacity)) for capacity in (0, 1 << 20))
    return (many - few) >> 20


def most_intersections() -> int:
    """How many of one view's intersections the kernels can number and the device can hold."""
    return min(INDICES // SLOT, device_memory() // LISTS_SHARE // _intersection_bytes())


def check_intersections(needed: int) -> None:
    """OutOfMemory where a view has more intersections than there can be room for."""
    most = most_intersections()
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
