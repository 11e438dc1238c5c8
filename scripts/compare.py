# SPDX-License-Identifier: Apache-2.0
"""Trains variants of the settings on scenes with several seeds, each as an ordinary run, and tabulates what came out.

    python scripts/compare.py scripts/variants.toml --scenes fern,plush --seeds 0,1,2 --jobs 6 --out runs/compare

A variant is a table of the TOML file: settings by name, where "x2" means twice what the scene has and "10%" that much
of its steps; `why` is for the reader. Runs that are there are not repeated, so a comparison can be cut short and gone
on with; the table holds those that are done. With several jobs the seconds of a run are longer than alone: compare
them within a table only.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from gsplat_train.config import Config, configure, value_of

DATA = Path(os.environ.get("GS_DATA", "data"))
# Scene -> what gs-train is given, and the settings of the comparison.
SCENES: dict[str, tuple[str, dict[str, Any]]] = {
    "fern": ("fern", {}),  # 100,000 splats, 7,000 steps
    "plush": (str(DATA / "plush"), {"max_splats": 300_000, "steps": 7000}),
    "plush30": (str(DATA / "plush"), {"max_splats": 300_000, "steps": 30_000}),
    "lego": (str(DATA / "lego"), {"max_splats": 100_000, "steps": 7000, "background": "white"}),
    "demo": ("demo", {}),
}
QUIET = {"eval_every": 1_000_000, "checkpoint_every": 1_000_000, "preview_views": 0, "eval_train_views": 1}
BASE = "base"  # the variant that differences are to
SCORES = ("psnr", "ssim", "n_splats", "seconds")


class Run(NamedTuple):
    """One training."""

    scene: str
    variant: str
    seed: int

    def folder(self, out: Path) -> Path:
        """Where it is kept."""
        return out / self.scene / f"{self.variant}-{self.seed}"


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("variants", type=Path, help="a TOML file, a table a variant")
    parser.add_argument("--scenes", default="fern,plush", help=f"of {', '.join(SCENES)}")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--only", default="", help="names of variants; else all")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--out", type=Path, default=Path("runs/compare"))
    parser.add_argument("--limit", type=float, default=1e9, help="seconds after which no training is begun")
    parser.add_argument("--table", action="store_true", help="train nothing, print the table")
    given = parser.parse_args()
    variants = tomllib.loads(given.variants.read_text("utf-8"))
    names = given.only.split(",") if given.only else list(variants)
    runs = [
        Run(scene, name, int(seed))
        for seed in given.seeds.split(",")  # all variants with the first seed, then with the next
        for name in names
        for scene in given.scenes.split(",")
    ]
    end = time.monotonic() + given.limit
    if not given.table:
        with ThreadPoolExecutor(given.jobs) as pool:
            for line in pool.map(lambda run: train(run, variants[run.variant], given, end), runs):
                if line:
                    print(line, file=sys.stderr, flush=True)
    rows = tabulate(runs, given.out)
    given.out.mkdir(parents=True, exist_ok=True)
    text = markdown(rows, variants)
    (given.out / "table.json").write_text(json.dumps(rows, indent=1), "utf-8")
    (given.out / "table.md").write_text(text, "utf-8")
    print(text)


def train(run: Run, settings: Mapping[str, Any], given: argparse.Namespace, end: float) -> str:
    """Trains one variant unless it is there or time is up; a line that tells how it went."""
    folder = run.folder(given.out)
    kept = folder.with_name(f"{folder.name}.json")
    if kept.exists() or time.monotonic() > end:
        return ""
    scene, own = SCENES[run.scene]
    chosen = {**QUIET, **own, **resolved(settings, configure(scene, own))}
    command = [
        sys.executable,
        "-m",
        "gsplat_train",
        "train",
        scene,
        "--out",
        str(folder),
        "--overwrite",
        "--quiet",
    ]
    command += ["--backend", given.backend, "--seed", str(run.seed)]
    for key, value in chosen.items():
        command += ["--set", f"{key}={str(value).lower() if isinstance(value, bool) else value}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return f"{run.scene} {run.variant} {run.seed}: exit {done.returncode}: {done.stderr.strip()[-600:]}"
    metrics = json.loads((folder / "metrics.json").read_text("utf-8"))
    kept.write_text(json.dumps(metrics), "utf-8")
    shutil.rmtree(folder)  # checkpoints and splats of hundreds of runs would fill the disk
    return (
        f"{run.scene} {run.variant} {run.seed}: {metrics['test']['psnr']:.3f} dB, {metrics['seconds']:.1f} s"
    )


def resolved(settings: Mapping[str, Any], config: Config) -> dict[str, Any]:
    """The settings of a variant, those like "x2" multiplied out."""
    result = {}
    for key, value in settings.items():
        if isinstance(value, dict):  # what an owner owns
            result |= resolved({f"{key}.{name}": inner for name, inner in value.items()}, config)
            continue
        if isinstance(value, str) and value[:1] == "x" and value[1:2].isdigit():
            now = value_of(config, key)
            value = type(now)(now * float(value[1:]))
        elif isinstance(value, str) and value.endswith("%"):
            value = round(config.steps * float(value[:-1]) / 100)
        if key != "why":
            result[key] = value
    return result


def tabulate(runs: Iterable[Run], out: Path) -> list[dict[str, Any]]:
    """For each scene and variant: seeds, mean, standard deviation, and the mean difference to the base on the same
    seeds with its standard error."""
    found: dict[tuple[str, str], dict[int, dict[str, float]]] = {}
    for run in runs:
        kept = run.folder(out)
        kept = kept.with_name(f"{kept.name}.json")
        if kept.exists():
            metrics = json.loads(kept.read_text("utf-8"))
            scores = {name: metrics["test"].get(name, metrics.get(name)) for name in SCORES}
            found.setdefault((run.scene, run.variant), {})[run.seed] = scores
    rows = []
    for (scene, variant), by_seed in sorted(found.items(), key=lambda item: item[0][0]):
        base = found.get((scene, BASE), {})
        row: dict[str, Any] = {"scene": scene, "variant": variant, "seeds": sorted(by_seed)}
        for name in SCORES:
            values = [scores[name] for scores in by_seed.values()]
            row[name] = statistics.fmean(values)
            row[f"{name}_sd"] = statistics.stdev(values) if len(values) > 1 else 0.0
            more = [scores[name] - base[seed][name] for seed, scores in by_seed.items() if seed in base]
            row[f"{name}_more"] = statistics.fmean(more) if more else None
            row[f"{name}_error"] = statistics.stdev(more) / len(more) ** 0.5 if len(more) > 1 else None
        rows.append(row)
    return rows


def markdown(rows: list[dict[str, Any]], variants: Mapping[str, Any]) -> str:
    """The table as text, best first within a scene."""
    lines = [
        "| scene | variant | seeds | PSNR | more than base | SSIM | more | splats | seconds |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in sorted(rows, key=lambda row: (row["scene"], -row["psnr"])):
        gain = "" if row["psnr_more"] is None else f"{row['psnr_more']:+.3f}"
        gain += "" if row["psnr_error"] is None else f" +- {row['psnr_error']:.3f}"
        more = "" if row["ssim_more"] is None else f"{row['ssim_more']:+.4f}"
        lines.append(
            f"| {row['scene']} | {row['variant']} | {len(row['seeds'])} | {row['psnr']:.3f} +- {row['psnr_sd']:.3f} "
            f"| {gain} | {row['ssim']:.4f} | {more} | {row['n_splats']:,.0f} | {row['seconds']:.1f} |"
        )
    why = [f"* {name}: {settings['why']}" for name, settings in variants.items() if "why" in settings]
    return "\n".join([*lines, "", *why, ""])


if __name__ == "__main__":
    main()
