# SPDX-License-Identifier: Apache-2.0
"""The GPU kernels as a table: where each one's text lies, what it reads and writes, how many threads it takes.

The text is Metal (csrc/kernels), the body of a function whose signature MLX writes. CUDA gets the same text behind
cuda_shim.h. Lengths are expressions in the names of `Sizes`; every array has at least 8 elements, because MLX
puts a shorter one into Metal's constant space.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

TILE = 16  # px; csrc/constants.h
BUCKET, INTERSECT_GROUP = 64, 256  # csrc/kernels/gpu.h


@dataclass(frozen=True)
class Sizes:
    """What the lengths of arrays and the numbers of groups depend on."""

    n: int  # Gaussians
    rest: int  # rows of shN, K - 1
    width: int
    height: int
    capacity: int  # intersections that there is room for

    @property
    def names(self) -> dict[str, int]:
        """The names that a length may use."""
        tiles_x, tiles_y = -(-self.width // TILE), -(-self.height // TILE)
        tiles = tiles_x * tiles_y
        return {
            "n": self.n,
            "state": self.n * (14 + 3 * self.rest),  # the packed parameters of n Gaussians
            "area": self.width * self.height,
            "tiles_x": tiles_x,
            "tiles_y": tiles_y,
            "tiles": tiles,
            "capacity": self.capacity,
            "buckets": self.capacity // BUCKET + tiles,
            "groups": -(-self.n // INTERSECT_GROUP),
            "flags": -(-self.n // 128),
        }


@dataclass(frozen=True)
class Array:
    """An argument: its name, its element type by MLX's name, its length as an expression."""

    name: str
    dtype: str
    length: str

    def count(self, names: dict[str, int]) -> int:
        return max(8, int(eval(self.length, {"max": max}, names)))


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

    @property
    def body(self) -> str:
        """The path of the text within csrc."""
        return f"kernels/{self.name}.metal"


def _arrays(text: str) -> tuple[Array, ...]:
    """'name dtype length; ...' -> Arrays."""
    return tuple(Array(*item.strip().split(" ", 2)) for item in text.split(";") if item.strip())


_SIZES = "sizes int32 16;"
_CAMERA = "camera float32 32;"
_SETTINGS = "settings float32 32;"
_TILES = "ids int32 capacity; offsets int32 tiles + 1; buckets uint32 tiles + 1;"
_SPLATS = "records float32 12 * n;"

KERNELS = {
    spec.name: spec
    for spec in (
        KernelSpec(
            "project",
            _arrays("params float32 state;" + _CAMERA + _SIZES),
            _arrays(_SPLATS + "counters uint32 tiles + 8"),
            128,
            "-(-max(n, tiles + 8) // 128)",
        ),
        KernelSpec(
            "intersect",
            _arrays(_SPLATS + "counters uint32 tiles + 8;" + _SIZES),
            _arrays("entries uint32 4 * capacity; spans uint32 2 * n; group_counts uint32 groups"),
            256,
            "groups",
            counted_up=("counters",),
        ),
        KernelSpec(
            "scan",
            _arrays(
                "counters uint32 tiles + 8; group_counts uint32 groups; status_in uint32 8; flags uint32 flags;"
                + _SIZES
            ),
            _arrays(
                "offsets int32 tiles + 1; buckets uint32 tiles + 1; group_starts uint32 groups; status uint32 8"
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
                "keys uint32 2 * capacity; slot_splats uint32 capacity; offsets int32 tiles + 1; buckets uint32 tiles + 1"
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
            _arrays(_SPLATS + _TILES + _SETTINGS + _SIZES),
            _arrays(
                "image float32 3 * area; final_t float32 area; checkpoints float32 1024 * buckets; used uint32 tiles"
            ),
            256,
            "tiles",
            math_mode="fast",
        ),
        KernelSpec(
            "ssim",
            _arrays("image float32 3 * area; target uint8 3 * area;" + _SIZES),
            _arrays("maps float32 9 * area; partials float32 6 * tiles"),
            256,
            "3 * tiles",
        ),
        KernelSpec(
            "loss",
            _arrays(
                "image float32 3 * area; target uint8 3 * area; maps float32 9 * area; partials float32 6 * tiles;"
                + _SETTINGS
                + _SIZES
            ),
            _arrays("v_image float32 3 * area; loss float32 8"),
            256,
            "3 * tiles",
        ),
        KernelSpec(
            "backward",
            _arrays(
                _SPLATS
                + _TILES
                + "slots uint32 capacity; bucket_tiles uint32 buckets; used uint32 tiles;"
                + "checkpoints float32 1024 * buckets; image float32 3 * area; final_t float32 area;"
                + "v_image float32 3 * area; v_alpha float32 area;"
                + _SIZES
            ),
            _arrays("slot_grads float32 12 * capacity"),
            128,
            "-(-buckets // 4)",
            template=("ALPHA", "ABSGRAD"),
            math_mode="fast",
        ),
        KernelSpec(
            "update",
            _arrays(
                "params float32 state; m float32 state; v_in float32 state;"
                + _SPLATS
                + "spans uint32 2 * n; group_starts uint32 groups; slot_grads float32 12 * capacity;"
                + "status uint32 8; loss float32 8; stats_in float32 3 * n;"
                + _CAMERA
                + _SETTINGS
                + _SIZES
            ),
            _arrays(
                "new_params float32 state; new_m float32 state; new_v float32 state;"
                "flags uint32 flags; stats float32 3 * n"
            ),
            128,
            "flags",
            template=("STATS",),
        ),
        KernelSpec(
            "splat_grads",
            _arrays(_SPLATS + "slots_of uint32 2 * n; slot_grads float32 12 * capacity;" + _SIZES),
            _arrays(
                "v_means2d float32 2 * n; v_conics float32 3 * n; v_colors float32 3 * n; v_opacities float32 n;"
                "v_abs float32 2 * n"
            ),
            128,
            "flags",
        ),
        KernelSpec(
            "project_vjp",
            _arrays(
                "params float32 state;"
                + _SPLATS
                + "v_means2d float32 2 * n; v_conics float32 3 * n; v_depths float32 n; v_colors float32 3 * n;"
                + "v_opacities float32 n;"
                + _CAMERA
                + _SIZES
            ),
            _arrays("grads float32 state"),
            128,
            "flags",
        ),
    )
}


@cache
def source_folder() -> Path:
    """csrc: inside the installed package, else beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "csrc", package.parent / "csrc"):
        if (folder / "kernels").is_dir():
            return folder
    raise FileNotFoundError(f"the kernels' text is neither in {package / 'csrc'} nor beside {package}")


@cache
def body(name: str) -> str:
    """The body of kernel `name`."""
    return (source_folder() / KERNELS[name].body).read_text()


@cache
def header(*, cuda: bool) -> str:
    """What stands before every kernel: kernels/gpu.h with all that it includes; for CUDA behind the shim."""
    root, seen = source_folder(), set()

    def expand(path: Path) -> str:
        if path in seen:
            return ""
        seen.add(path)
        lines = []
        for line in path.read_text().splitlines():
            if line.startswith('#include "'):
                lines.append(expand((path.parent / line.split('"')[1]).resolve()))
            elif not line.startswith(("#pragma once", "//")):
                lines.append(line)
        return "\n".join(lines) + "\n"

    start = expand(root / "cuda_shim.h") if cuda else ""
    return start + expand((root / "kernels/gpu.h").resolve())


@cache
def arguments(name: str, sizes: Sizes, template: tuple[bool, ...] = ()) -> dict[str, Any]:
    """The keyword arguments of a call of kernel `name` in MLX, all but the inputs."""
    import mlx.core as mx

    spec, names = KERNELS[name], sizes.names
    call: dict[str, Any] = {
        "output_shapes": [(array.count(names),) for array in spec.outputs],
        "output_dtypes": [getattr(mx, array.dtype) for array in spec.outputs],
        "grid": (int(eval(spec.groups, {"max": max}, names)) * spec.threads, 1, 1),
        "threadgroup": (spec.threads, 1, 1),
    }
    if spec.template:
        call["template"] = list(zip(spec.template, template or [False] * len(spec.template), strict=True))
    return call
