# SPDX-License-Identifier: Apache-2.0
"""What a step uses of a processor: its clock, its memory's speed, and how full the lanes of blending are."""

from __future__ import annotations

import ctypes
import mmap
import platform
import statistics
import threading
import time
from typing import Any

import mlx.core as mx
import numpy as np

from gsplat_train.model.gaussians import Gaussians
from gsplat_train.scene import Camera

STATE_BYTES = 59 * 6 * 4  # a Gaussian of SH degree 3: parameters and both moments, each read and written once
LOG2_ALPHA_MIN, LOG2_ALPHA_MAX, LEAST_TRANSMITTANCE = -7.99435344, -0.00144342, 1e-4  # csrc/constants.h


def of_steps(
    backend: Any,
    counts: dict[str, float],
    n: int,
    gaussians: Gaussians,
    cameras: list[Camera],
    tiles: int = 32,
) -> dict[str, Any]:
    """The share of the machine that a step uses, from the backend's statistics of one; {} if it keeps none.

    Cycles are those of all threads in a whole stage, lists and stores included, at the clock measured here
    and now. The backward pass's evaluations and the useful lanes come from a sample of tiles, counted again
    in NumPy.
    """
    if "evaluations" not in counts:
        return {}
    threads, clock = backend.thread_count(), clock_hz()
    use = lane_use(backend, gaussians, cameras, tiles)
    forward = counts["evaluations"]
    backward = counts.get("backward_evaluations", forward * use["backward"] / max(use["forward"], 1))
    scale = scale_gb_s(threads)
    state = n * STATE_BYTES / max(counts["update"], 1e-9) / 1e9
    share: dict[str, Any] = {"evaluations": round(forward), "backward_evaluations": round(backward)}
    if clock:
        share["clock_ghz"] = round(clock / 1e9, 3)
        cycles = {k: counts[k] * threads * clock for k in ("forward", "backward")}
        share["cycles_per_evaluation"] = {
            "forward": round(cycles["forward"] / max(forward, 1), 2),
            "backward": round(cycles["backward"] / max(backward, 1), 2),
        }
    share["useful_lanes"] = {
        k: round(use["lanes"] / (16 * max(use[k], 1)), 3) for k in ("forward", "backward")
    }
    return share | {
        "state_gb_s": round(state, 2),
        "scale_gb_s": round(scale, 2),
        "state_share": round(state / scale, 3),
    }


def clock_hz(rounds: int = 10) -> float | None:
    """Core cycles a second, from a chain of dependent 64-bit multiplications: three cycles each on x86-64
    processors since 2008 (of AMD: since Zen). The time-stamp counter has a constant rate of its own, which
    is not the core's. None elsewhere, or where the system forbids memory that is both written and run."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return None
    count, chain = 20_000, 16
    code = (
        b"\x48\x89\xf9"  # mov rcx, rdi
        + b"\x48\x0f\xaf\xc0" * chain  # imul rax, rax
        + b"\x48\xff\xc9"  # dec rcx
        + b"\x75" + bytes([256 - (4 * chain + 5)])  # jnz to the first imul
        + b"\xc3"  # ret
    )  # fmt: skip
    try:
        page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    except (OSError, AttributeError):
        return None
    page.write(code)
    run = ctypes.CFUNCTYPE(None, ctypes.c_uint64)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
    best = float("inf")
    for _ in range(rounds):  # the quickest: the others were interrupted
        start = time.perf_counter()
        run(count)
        best = min(best, time.perf_counter() - start)
    return 3 * chain * count / best


def scale_gb_s(threads: int, megabytes: int = 256, rounds: int = 7) -> float:
    """STREAM's "scale" in place, a *= s, on `threads` threads: GB read and written a second, the median of
    `rounds`."""
    parts = np.array_split(np.ones(megabytes << 18, np.float32), threads)
    times = []
    for _ in range(rounds):
        team = [
            threading.Thread(target=np.multiply, args=(part, np.float32(1.0)), kwargs={"out": part})
            for part in parts
        ]
        start = time.perf_counter()
        for thread in team:
            thread.start()
        for thread in team:
            thread.join()
        times.append(time.perf_counter() - start)
    return 2 * (megabytes << 20) / statistics.median(times) / 1e9


def lane_use(
    backend: Any, gaussians: Gaussians, cameras: list[Camera], sample: int, seed: int = 0
) -> dict[str, int]:
    """What blending `sample` tiles of each camera's picture takes.

    forward: evaluations of a splat at a block of 4x4 pixels (the splat reaches the block, and a pixel there
    is not yet opaque). backward: those where it contributed, the only ones of that pass. lanes: the pixels
    where it did.
    """
    use = {"forward": 0, "backward": 0, "lanes": 0}
    rng = np.random.default_rng(seed)
    for camera in cameras:
        size = camera.width, camera.height
        projected = backend.project(
            gaussians, camera.viewmat, camera.K, *size, sh_degree=0, antialiased=False
        )
        ids, offsets = map(np.asarray, backend.isect_tiles(projected, *size))
        mx.eval(projected)
        means, conics, opacities = map(np.asarray, (projected.means2d, projected.conics, projected.opacities))
        columns = -(-camera.width // 16)
        for tile in rng.permutation(len(offsets) - 1)[:sample]:
            chosen = ids[offsets[tile] : offsets[tile + 1]]
            corner = np.array([tile % columns, tile // columns], np.float32) * 16
            inside = np.minimum(size - corner, 16).astype(int)
            count_tile(use, means[chosen] - corner, conics[chosen], np.log2(opacities[chosen]), inside)
    return use


def count_tile(
    use: dict[str, int], means: np.ndarray, conics: np.ndarray, log2_o: np.ndarray, inside: np.ndarray
) -> None:
    """Adds a tile's counts to `use`: the blending of csrc/cpu/rasterize.h without its order of work.

    means [S, 2] px from the tile's corner, conics [S, 3], log2_o [S], front to back; inside [2]: how many of
    the tile's columns and rows of pixels the picture has.
    """
    half_log2e = np.float32(-0.72134752)
    centre = np.arange(16, dtype=np.float32) + 0.5
    dx, dy = centre - means[:, :1], centre - means[:, 1:]  # [S, 16]
    a, b, c = (half_log2e * k * conics[:, j, None, None] for j, k in enumerate((1, 2, 1)))
    x, y = dx[:, None, :], dy[:, :, None]
    e = log2_o[:, None, None] + x * (a * x + b * y) + c * y * y
    hit = e > LOG2_ALPHA_MIN
    alpha = np.where(hit, np.exp2(np.minimum(e, LOG2_ALPHA_MAX)), 0)
    open_at_first = np.zeros((1, 16, 16), np.float32)
    open_at_first[:, : inside[1], : inside[0]] = 1
    t = np.concatenate([open_at_first, open_at_first * np.cumprod(1 - alpha, axis=0)])
    live = blocks(t > LEAST_TRANSMITTANCE)  # [S + 1, 4, 4, 16]
    lanes = blocks(hit) & live[1:]
    reach = (log2_o - LOG2_ALPHA_MIN)[:, None, None] * 1.0001 + 1e-4
    x0, y0 = x[:, :, ::4], y[:, ::4, :]
    reached = least_on_rectangle(-a, -b, -c, x0, x0 + 3, y0, y0 + 3) <= reach
    use["forward"] += int((reached & live[:-1].any(axis=3)).sum())
    use["backward"] += int(lanes.any(axis=3).sum())
    use["lanes"] += int(lanes.sum())


def blocks(tile: np.ndarray) -> np.ndarray:
    """[S, 16, 16] -> [S, 4, 4, 16]: rows and columns of blocks, then their pixels."""
    return tile.reshape(-1, 4, 4, 4, 4).swapaxes(2, 3).reshape(-1, 4, 4, 16)


def least_on_rectangle(
    a: np.ndarray,
    b: np.ndarray,
    c: np.ndarray,
    x0: np.ndarray,
    x1: np.ndarray,
    y0: np.ndarray,
    y1: np.ndarray,
) -> np.ndarray:
    """The least of a x^2 + b x y + c y^2 over [x0, x1] x [y0, y1]: as csrc/blend.h."""
    ex, ey = np.clip(0, x0, x1), np.clip(0, y0, y1)
    y, x = np.clip(-b / (2 * c) * ex, y0, y1), np.clip(-b / (2 * a) * ey, x0, x1)
    return np.minimum(a * ex * ex + y * (b * ex + c * y), c * ey * ey + x * (b * ey + a * x))
