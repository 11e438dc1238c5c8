# SPDX-License-Identifier: Apache-2.0
"""Draws the table of `bench.py cost`: the time of a step over splats and pixels. Needs the extra `bench`.

python scripts/plot_cost.py cost.jsonl docs/images/cost.svg
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

COLORS = ["#0b6e99", "#c4661f", "#5a8f29", "#8e3b8a", "#444444"]


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    lines = [json.loads(line) for line in Path(sys.argv[1]).read_text().splitlines() if line.strip()]
    cells = [line for line in lines if line["what"] == "cell"]
    if not cells:
        sys.exit(f"{sys.argv[1]} holds no line of `bench.py cost`")
    draw(
        cells, {key(line): line["exponent"] for line in lines if line["what"] == "growth"}, Path(sys.argv[2])
    )


def key(line: dict[str, Any]) -> tuple[Any, ...]:
    """Names a curve."""
    if line["over"] == "splats":
        return "splats", line["threads"], (line["width"], line["height"])
    return "pixels", line["threads"], line["n"]


def draw(cells: list[dict[str, Any]], exponents: dict[tuple[Any, ...], float], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.hashsalt": "gsplat_train", "svg.fonttype": "none", "font.size": 9})
    from matplotlib import pyplot

    figure, (over_splats, over_pixels) = pyplot.subplots(
        1, 2, figsize=(9.5, 4), sharey=True, layout="constrained"
    )
    most = max(c["threads"] for c in cells)
    for threads in sorted({c["threads"] for c in cells}):
        style = "-" if threads == most else ":"
        own = [c for c in cells if c["threads"] == threads]
        for color, size in zip(COLORS, sorted({(c["width"], c["height"]) for c in own}), strict=False):
            some = sorted((c["n"], c["ms_median"]) for c in own if (c["width"], c["height"]) == size)
            exponent = exponents.get(("splats", threads, size))
            label = f"{size[0]}x{size[1]}" + (f", exponent {exponent:.2f}" if exponent is not None else "")
            curve(over_splats, some, color, style, label if threads == most else None)
        for color, n in zip(COLORS, sorted({c["n"] for c in own}), strict=False):
            some = sorted((c["width"] * c["height"], c["ms_median"]) for c in own if c["n"] == n)
            exponent = exponents.get(("pixels", threads, n))
            label = f"{n:,} splats" + (f", exponent {exponent:.2f}" if exponent is not None else "")
            curve(over_pixels, some, color, style, label if threads == most else None)
    over_splats.set_xlabel("splats")
    over_splats.set_ylabel("ms a training step")
    over_pixels.set_xlabel("pixels")
    for axes in (over_splats, over_pixels):
        axes.set(xscale="log", yscale="log")
        axes.grid(True, which="both", color="#dddddd", linewidth=0.5)
        axes.legend(frameon=False, fontsize=8)
    counts = sorted({c["threads"] for c in cells})
    names = [f"{t} thread{'s' if t > 1 else ''}{'' if t == most else ' dotted'}" for t in counts]
    figure.suptitle(f"{cells[0]['backend']}, {cells[0]['machine']}; {', '.join(names)}", fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)


def curve(axes: Any, points: list[tuple[float, float]], color: str, style: str, label: str | None) -> None:
    xs, ys = zip(*points, strict=True)
    axes.plot(xs, ys, style, color=color, marker="o", markersize=3, linewidth=1.3, label=label)


if __name__ == "__main__":
    main()
