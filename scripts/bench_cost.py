# SPDX-License-Identifier: Apache-2.0
"""How the cost of a training step grows: the random scene over splats, pixels, threads; a JSON object a line.

Every entry is `bench.py cell` in a process of its own, so that its peak memory is its own; plot_cost.py
draws them. After them {"what": "growth"}: `exponent`, the slope of log time over log splats (or log pixels)
by least squares, and `exponent_last`, the same between the two largest; {"what": "memory"}: bytes a splat,
the slope of peak memory between two numbers of splats; {"what": "threads"}: the speed-up.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

Cell = dict[str, Any]


def table(
    backend: str, ns: list[int], sizes: list[tuple[int, int]], threads: list[int], seconds: float, seed: int
) -> None:
    cells = []
    for n in ns:
        for width, height in sizes:
            for count in threads:
                cells.append(cell(backend, n, width, height, count, seconds, seed))
                print(json.dumps(cells[-1]), flush=True)
    for line in [*growth(cells), *speed_up(cells), *memory(cells)]:
        print(json.dumps(line), flush=True)


def cell(backend: str, n: int, width: int, height: int, threads: int, seconds: float, seed: int) -> Cell:
    """One entry, measured in a process of its own."""
    options = {"backend": backend, "n": n, "width": width, "height": height, "seconds": seconds, "seed": seed}
    command = [sys.executable, str(Path(__file__).with_name("bench.py")), "cell"]
    for name, value in options.items():
        command += [f"--{name}", str(value)]
    done = subprocess.run(
        command, env=os.environ | {"GS_THREADS": str(threads)}, stdout=subprocess.PIPE, check=True
    )
    return json.loads(done.stdout)


def growth(cells: list[Cell]) -> Iterator[Cell]:
    """The exponents over splats for each size, and over pixels for each number of splats."""
    for (threads, width, height), group in grouped(cells, "threads", "width", "height"):
        points = [(c["n"], c["ms_median"]) for c in group]
        yield from fitted({"over": "splats", "threads": threads, "width": width, "height": height}, points)
    for (threads, n), group in grouped(cells, "threads", "n"):
        points = [(c["width"] * c["height"], c["ms_median"]) for c in group]
        yield from fitted({"over": "pixels", "threads": threads, "n": n}, points)


def fitted(line: Cell, points: list[tuple[float, float]]) -> Iterator[Cell]:
    if len(points) > 1:
        logs = sorted((math.log(x), math.log(y)) for x, y in points)
        yield {"what": "growth", **line, "exponent": slope(logs), "exponent_last": slope(logs[-2:])}


def slope(points: list[tuple[float, float]]) -> float:
    """Of the line through the points by least squares."""
    mean_x, mean_y = (sum(p[i] for p in points) / len(points) for i in (0, 1))
    covariance = sum((x - mean_x) * (y - mean_y) for x, y in points)
    return round(covariance / sum((x - mean_x) ** 2 for x, _ in points), 3)


def speed_up(cells: list[Cell]) -> Iterator[Cell]:
    """How many times faster than the fewest threads."""
    for (n, width, height), group in grouped(cells, "n", "width", "height"):
        fewest = min(group, key=lambda c: c["threads"])
        for other in group:
            if other is not fewest:
                line = {"what": "threads", "n": n, "width": width, "height": height}
                ratio = round(fewest["ms_median"] / other["ms_median"], 3)
                yield line | {"from": fewest["threads"], "to": other["threads"], "speed_up": ratio}


def memory(cells: list[Cell], least: int = 100_000) -> Iterator[Cell]:
    """Bytes a splat of the peak, between the smallest number of splats from `least` on and the largest."""
    for (threads, width, height), group in grouped(cells, "threads", "width", "height"):
        group = sorted((c for c in group if c["n"] >= least), key=lambda c: c["n"])
        if len(group) > 1:
            first, last = group[0], group[-1]
            per_splat = (last["peak_bytes"] - first["peak_bytes"]) / (last["n"] - first["n"])
            line = {"what": "memory", "threads": threads, "width": width, "height": height}
            yield line | {"from": first["n"], "to": last["n"], "bytes_per_splat": round(per_splat)}


def grouped(cells: Iterable[Cell], *names: str) -> Iterator[tuple[tuple[Any, ...], list[Cell]]]:
    def key(c: Cell) -> tuple[Any, ...]:
        return tuple(c[name] for name in names)

    for values, group in groupby(sorted(cells, key=key), key):
        yield values, list(group)
