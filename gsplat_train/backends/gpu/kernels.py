# SPDX-License-Identifier: Apache-2.0
"""The GPU kernels as a table: what each one reads and writes, and how many threads it takes.

Lengths are expressions in the names of `Sizes`; every array has at least 8 elements, because MLX puts a
shorter one into Metal's constant space. Their text: _kernel_text.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache
from types import CodeType
from typing import Any

from .text import body, header

__all__ = ["KERNELS", "Array", "KernelSpec", "Sizes", "arguments", "body", "header"]

TILE = 16  # px; csrc/constants.h
BUCKET, INTERSECT_GROUP, COUNT_BLOCK = 32, 256, 4096  # csrc/kernels/gpu.h
INDICES = 1 << 32  # the kernels index arrays by uint32
DIMENSION = 1 << 31  # MLX counts a dimension of an array by int32
ROW = 1024  # numbers in a row of an array that has more


@dataclass(frozen=True)
class Sizes:
    """What the lengths of arrays and the numbers of groups depend on."""

    n: int  # Gaussians
    rest: int  # rows of shN, K - 1
    width: int
    height: int
    capacity: int  # intersections that there is room for
    views: int = 1  # of a step
    # Numbers a Gaussian of a view's gradients: 17 with the sums of density control. Of take and put: words of a row.
    parts: int = 14
    before: int = 0  # Gaussians before a refinement. Of take and put: rows of the whole array.

    @property
    def names(self) -> dict[str, int]:
        """The names that a length may use."""
        tiles_x, tiles_y = -(-self.width // TILE), -(-self.height // TILE)
        tiles = tiles_x * tiles_y
        return {
            "n": self.n,
            "before": self.before,
            "rest": self.rest,
            "bands": 3 * self.rest * self.n,  # numbers in shN
            "area": self.width * self.height,
            "tiles_x": tiles_x,
            "tiles_y": tiles_y,
            "tiles": tiles,
            "blocks": -(-self.width // 32) * tiles_y,  # of 32x16 pixels, for the loss
            "capacity": self.capacity,
            "buckets": self.capacity // BUCKET + tiles,
            "groups": -(-self.n // INTERSECT_GROUP),
            "flags": -(-self.n // 128),
            "views": self.views,
            "parts": self.parts,
            "count_blocks": -(-self.n // COUNT_BLOCK),
            "row": 8 + self.parts * self.n,  # numbers of a view's gradients
        }


@dataclass(frozen=True)
class Array:
    """An argument: its name, its element type by MLX's name, its length as an expression."""

    name: str
    dtype: str
    length: str

    def count(self, names: dict[str, int]) -> int:
        return max(8, value(self.length, names))


def value(expression: str, names: dict[str, int]) -> int:
    """An expression of the table in the names of `Sizes`."""
    return int(eval(_code(expression), {"max": max}, names))


@cache
def _code(expression: str) -> CodeType:
    return compile(expression, expression, "eval")


@dataclass(frozen=True)
class KernelSpec:
    """A kernel. `groups` (an expression) groups of `threads` threads, in one dimension."""

    name: str
    inputs: tuple[Array, ...]
    outputs: tuple[Array, ...]
    threads: int
    groups: str
    template: tuple[str, ...] = ()  # names of bool template arguments
    counted_up: tuple[str, ...] = ()  # inputs that it adds to with atomics
    math_mode: str = "safe"  # Metal's; "fast" assumes that every number is finite
    registers: int = 0  # CUDA's, of a thread at most; 0 for as many as the compiler likes


def _arrays(text: str) -> tuple[Array, ...]:
    """'name dtype length; ...' -> Arrays."""
    return tuple(Array(*item.strip().split(" ", 2)) for item in text.split(";") if item.strip())


_SIZES = "sizes int32 16;"
_CAMERA = "camera float32 32;"
_SETTINGS = "settings float32 32;"
_TILES = "ids int32 capacity; offsets int32 tiles + 1; buckets uint32 tiles + 1;"
_PARAMS = "params float32 14 * n; shn float32 bands;"
_SPLATS = "records float32 8 * n;"
# mask: 0 where a pixel does not count; matte: how opaque the photo is. Without MASK, MATTE: any array, not read.
_PICTURES = "image float32 3 * area; target uint8 3 * area; mask uint8 area;"
_MATTED = _PICTURES + "matte uint8 area;"
_SEEN = "radii int32 2 * n; colours float32 4 * n;"
# Where a splat's gradients lie, and how the step stands.
_SLOTS = (
    "spans uint32 2 * n; group_starts uint32 groups; slot_grads float32 12 * capacity;"
    "status uint32 8; loss float32 8;"
)
_COUNTS = "counts uint32 n;"
_NEW_BANDS = "new_shn float32 bands; new_m float32 bands; new_v float32 bands"

KERNELS = {
    spec.name: spec
    for spec in (
        KernelSpec(
            "project",
            _arrays("params float32 14 * n;" + _CAMERA + _SIZES),
            _arrays(_SPLATS + "radii int32 2 * n; counters uint32 8 * tiles + 8"),
            128,
            "-(-max(n, tiles + 8) // 128)",
        ),
        KernelSpec(
            "colour",
            _arrays(_PARAMS + "radii int32 2 * n;" + _CAMERA + _SIZES),
            _arrays("colours float32 4 * n"),
            128,
            "flags",
        ),
        KernelSpec(
            "intersect",
            _arrays(_SPLATS + "radii int32 2 * n; counters uint32 8 * tiles + 8;" + _SIZES),
            _arrays("entries uint32 4 * capacity; spans uint32 2 * n; group_counts uint32 groups"),
            256,
            "groups",
            counted_up=("counters",),
        ),
        KernelSpec(
            "scan",
            _arrays(
                "counters uint32 8 * tiles + 8; group_counts uint32 groups; status_in uint32 8;"
                "flags uint32 flags;" + _SIZES
            ),
            _arrays(
                "offsets int32 tiles + 1; buckets uint32 tiles + 1; group_starts uint32 groups;"
                "status uint32 8"
            ),
            1024,
            "1",
        ),
        KernelSpec(
            "scatter",
            _arrays(
                "entries uint32 4 * capacity; offsets int32 tiles + 1; group_starts uint32 groups;"
                + _SPLATS
                + _SIZES
            ),
            _arrays("keys uint32 2 * capacity; slot_splats uint32 capacity"),
            256,
            "-(-capacity // 256)",
        ),
        KernelSpec(
            "tile_sort",
            _arrays(
                "keys uint32 2 * capacity; slot_splats uint32 capacity; offsets int32 tiles + 1;"
                "buckets uint32 tiles + 1"
            ),
            _arrays(
                "ids int32 capacity; slots uint32 capacity; bucket_tiles uint32 buckets;"
                "ping uint32 2 * capacity; pong uint32 2 * capacity"
            ),
            256,
            "tiles",
        ),
        KernelSpec(
            "forward",
            _arrays(_SPLATS + "colours float32 4 * n;" + _TILES + _SETTINGS + _SIZES),
            _arrays(
                "image float32 3 * area; final_t float32 area; checkpoints float32 1024 * buckets;"
                "used uint32 8 * tiles"
            ),
            128,
            "2 * tiles",
            math_mode="fast",
        ),
        KernelSpec(
            "ssim",
            _arrays(_MATTED + _SETTINGS + _SIZES),
            _arrays("maps float32 9 * area; partials float32 6 * blocks"),
            128,
            "3 * blocks",
            template=("MASK", "MATTE"),
        ),
        KernelSpec(
            "loss",
            _arrays(_MATTED + "maps float32 9 * area; partials float32 6 * blocks;" + _SETTINGS + _SIZES),
            _arrays("v_image float32 3 * area; loss float32 8"),
            128,
            "3 * blocks",
            template=("MASK", "MATTE"),
        ),
        KernelSpec(
            "score",
            _arrays(_PICTURES + "status uint32 8;" + _SIZES),
            _arrays("picture uint8 3 * area; sums_and_status uint32 6 * blocks + 8"),
            128,
            "3 * blocks",
            template=("ALONE", "MASK"),
        ),
        KernelSpec(
            "backward",
            _arrays(
                _SPLATS
                + "colours float32 4 * n;"
                + _TILES
                + "slots uint32 capacity; bucket_tiles uint32 buckets; used uint32 8 * tiles;"
                + "checkpoints float32 1024 * buckets; image float32 3 * area; final_t float32 area;"
                + "v_image float32 3 * area; v_alpha float32 area;"
                + _SIZES
            ),
            _arrays("slot_grads float32 12 * capacity"),
            32,
            "buckets",
            template=("ALPHA", "ABSGRAD"),
            math_mode="fast",
            registers=72,
        ),
        KernelSpec(
            "update",
            _arrays(
                _PARAMS
                + "m float32 14 * n; v_in float32 14 * n;"
                + _SEEN
                + _SLOTS
                + "stats_in float32 3 * n;"
                + _CAMERA
                + _SETTINGS
                + _SIZES
            ),
            _arrays(
                "new_params float32 14 * n; new_m float32 14 * n; new_v float32 14 * n;"
                "colour float32 8 * n;"
                "flags uint32 flags; stats float32 3 * n"
            ),
            128,
            "flags",
            template=("STATS",),
            registers=80,
        ),
        KernelSpec(
            "update_shn",
            _arrays(
                "shn float32 bands; m float32 bands; v_in float32 bands; colour float32 8 * n;"
                + _SETTINGS
                + _SIZES
            ),
            _arrays(_NEW_BANDS),
            256,
            "flags",
        ),
        KernelSpec(
            "gradients",
            _arrays(_PARAMS + _SEEN + _SLOTS + _CAMERA + _SIZES),
            _arrays("view float32 row"),
            128,
            "flags",
            template=("STATS",),
            registers=80,
        ),
        KernelSpec(
            "combine",
            _arrays(
                "params float32 14 * n; m float32 14 * n; v_in float32 14 * n; views float32 views * row;"
                + "status uint32 8; stats_in float32 3 * n;"
                + _SETTINGS
                + _SIZES
            ),
            _arrays(
                "new_params float32 14 * n; new_m float32 14 * n; new_v float32 14 * n; moving uint32 n;"
                "flags uint32 flags; stats float32 3 * n; new_status uint32 8; loss float32 8"
            ),
            128,
            "flags",
            template=("STATS",),
        ),
        KernelSpec(
            "combine_shn",
            _arrays(
                "params float32 14 * n; shn float32 bands; m float32 bands; v_in float32 bands;"
                + "views float32 views * row; moving uint32 n; cameras float32 32 * views;"
                + _SETTINGS
                + _SIZES
            ),
            _arrays(_NEW_BANDS),
            256,
            "flags",
        ),
        KernelSpec(
            "move",
            _arrays("params float32 14 * before; shn float32 3 * rest * before; source int32 n;" + _SIZES),
            _arrays("new_params float32 14 * n; new_shn float32 bands"),
            256,
            "flags",
        ),
        KernelSpec(
            "take",
            _arrays("words uint32 parts * before; rows int32 n;" + _SIZES),
            _arrays("taken uint32 parts * n"),
            256,
            "-(-parts * n // 256)",
        ),
        KernelSpec(
            "put",
            _arrays(
                "words uint32 parts * before; rows int32 n; order uint32 n; values uint32 parts * n;" + _SIZES
            ),
            _arrays("new_words uint32 parts * before"),
            256,
            "-(-parts * before // 256)",
        ),
        KernelSpec(
            "block_sums", _arrays(_COUNTS + _SIZES), _arrays("sums uint64 count_blocks"), 256, "count_blocks"
        ),
        KernelSpec(
            "prefix_sums",
            _arrays(_COUNTS + "sums uint64 count_blocks;" + _SIZES),
            _arrays("total_to uint64 n"),
            256,
            "count_blocks",
        ),
        KernelSpec(
            "positions",
            _arrays(_COUNTS + "sums uint64 count_blocks;" + _SIZES),
            _arrays("found int32 parts"),
            256,
            "count_blocks",
        ),
        KernelSpec(
            "draw",
            _arrays("total_to uint64 before; stream uint32 8;" + _SIZES),
            _arrays("drawn int32 n"),
            128,
            "flags",
        ),
        KernelSpec(
            "mark",
            _arrays("total_to uint64 before; stream uint32 8; few int32 8;" + _SIZES),
            _arrays("marks uint32 before"),
            128,
            "flags",
        ),
        KernelSpec(
            "weigh",
            _arrays("logits float32 n; table uint32 65537; limits float32 8;" + _SIZES),
            _arrays("weights uint32 n"),
            128,
            "flags",
        ),
        KernelSpec(
            "halve",
            _arrays("params float32 14 * before; rows int32 n; how float32 8;" + _SIZES),
            _arrays("new_means float32 6 * n; new_log_scales float32 6 * n; new_logits float32 2 * n"),
            128,
            "flags",
        ),
        KernelSpec(
            "splat_grads",
            _arrays(
                _SPLATS
                + "spans uint32 2 * n; group_starts uint32 groups; slot_grads float32 12 * capacity;"
                + _SIZES
            ),
            _arrays(
                "v_means2d float32 2 * n; v_conics float32 3 * n; v_colors float32 3 * n;"
                "v_opacities float32 n;"
                "v_abs float32 2 * n"
            ),
            128,
            "flags",
        ),
        KernelSpec(
            "project_vjp",
            _arrays(
                _PARAMS
                + _SEEN
                + "v_means2d float32 2 * n; v_conics float32 3 * n; v_depths float32 n;"
                + "v_colors float32 3 * n; v_opacities float32 n;"
                + _CAMERA
                + _SIZES
            ),
            _arrays("grads float32 14 * n; grads_shn float32 bands"),
            128,
            "flags",
        ),
    )
}


def shape_of(count: int) -> tuple[int, ...]:
    """An array of at least `count` elements, in rows where there are too many for one dimension."""
    return (count,) if count < DIMENSION else (-(-count // ROW), ROW)


@lru_cache(maxsize=1 << 14)  # a thousand sizes of photos, fifteen kernels
def arguments(name: str, sizes: Sizes, template: tuple[bool, ...] = ()) -> dict[str, Any]:
    """The keyword arguments of a call of kernel `name` in MLX, all but the inputs."""
    import mlx.core as mx

    spec, names = KERNELS[name], sizes.names
    call: dict[str, Any] = {
        "output_shapes": [shape_of(array.count(names)) for array in spec.outputs],
        "output_dtypes": [getattr(mx, array.dtype) for array in spec.outputs],
        "grid": (value(spec.groups, names) * spec.threads, 1, 1),
        "threadgroup": (spec.threads, 1, 1),
    }
    if spec.template:
        call["template"] = list(zip(spec.template, template or [False] * len(spec.template), strict=True))
    return call
