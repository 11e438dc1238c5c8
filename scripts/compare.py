# SPDX-License-Identifier: Apache-2.0
"""Trains variants of the settings on scenes with several seeds, each as an ordinary run, and tabulates what came out.

    python scripts/compare.py scripts/variants.toml --scenes fern,plush --seeds 0,1,2 --jobs 6 --out runs/compare

A variant is a table of the TOML file: settings by name, where "x2" means twice what the scene has and "10%" that much
of its steps; `why` is for the reader, `scenes` the only ones that it is for, `from` another whose settings it has too.
The variant `gsplat` is that program's own MCMC (scripts/train_gsplat.py) on the same photos, cap and steps.

One job trains in this process, where photos are read and kernels are compiled once; several in processes of their own,
and then the seconds of a run are longer than alone: compare them within a table only. The table is written after each
run. Runs that are there are not repeated, so a comparison can be cut short (--time-limit) and gone on with.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from gsplat_train.config import Config, check, configure, names, value_of
from gsplat_train.datasets import read_scene
from gsplat_train.errors import UserError, ending_in_one_line
from gsplat_train.training.api import train as train_here

DATA = Path(os.environ.get("GS_DATA", "data"))
# Scene -> what gs-train is given, and the settings of the comparison.
SCENES: dict[str, tuple[str, dict[str, Any]]] = {
    "fern": ("fern", {}),  # 100,000 splats, 7,000 steps
    "plush": (str(DATA / "plush"), {"max_splats": 300_000, "steps": 7000}),
    "plush30": (str(DATA / "plush"), {"max_splats": 300_000, "steps": 30_000}),
    "lego": (str(DATA / "lego"), {"max_splats": 100_000, "steps": 7000, "background": "white"}),
    "demo": ("demo", {}),
    # For two cores: what a change does there is a hint of what it does in full.
    "plush_small": (str(DATA / "plush"), {"max_size": 240, "max_splats": 20_000, "steps": 1500}),
}
QUIET = {"eval_every": 1_000_000, "checkpoint_every": 1_000_000, "preview_views": 0, "eval_train_views": 1}
BASE = "base"  # the variant that differences are to
GSPLAT = "gsplat"  # the variant that is another program
SCORES = ("psnr", "ssim", "ms_ssim", "n_splats", "seconds", "wall_seconds")
OF_LOADING = names(Config)[: names(Config).index("init_opacity")]  # settings that decide what is read


class Run(NamedTuple):
    """One training."""

    scene: str
    variant: str
    seed: int

    def folder(self, out: Path) -> Path:
        """Where it trains."""
        return out / self.scene / f"{self.variant}-{self.seed}"

    def kept(self, out: Path) -> Path:
        """Its metrics."""
        return out / self.scene / f"{self.variant}-{self.seed}.json"


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
    parser.add_argument(
        "--time-limit", type=float, default=1e9, help="seconds: no training is begun that would end later"
    )
    parser.add_argument("--table", action="store_true", help="train nothing, print the table")
    args = parser.parse_args()
    try:
        variants = tomllib.loads(args.variants.read_text("utf-8")) | {GSPLAT: {}}
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the variants in {args.variants}: {error}; give a TOML file") from None
    chosen = args.only.split(",") if args.only else [name for name in variants if name != GSPLAT]
    runs = [
        Run(scene, name, int(seed))
        for seed in args.seeds.split(",")  # all variants with the first seed, then with the next
        for name in chosen
        for scene in args.scenes.split(",")
        if scene in variants[name].get("scenes", scene)
    ]
    table = Table(runs, variants, args.out)
    if not args.table:
        comparison = Comparison(args, variants)

        def one(run: Run) -> None:
            if line := comparison.train(run):
                print(line, file=sys.stderr, flush=True)
                table.write()

        if args.jobs == 1:
            for run in runs:
                one(run)
        else:
            with ThreadPoolExecutor(args.jobs) as pool:
                list(pool.map(one, runs))
    print(table.write())


class Comparison:
    """Trains what is not there yet, while there is time."""

    def __init__(self, args: argparse.Namespace, variants: Mapping[str, Any]) -> None:
        self.args, self.variants = args, variants
        self.began, self.took = time.monotonic(), {}  # seconds of the longest run of a scene

    def train(self, run: Run) -> str:
        """Trains one variant unless it is there or time is up; a line that tells how it went."""
        kept = run.kept(self.args.out)
        began = time.monotonic()
        if kept.exists() or began - self.began + self.took.get(run.scene, 0) > self.args.time_limit:
            return ""
        kept.parent.mkdir(parents=True, exist_ok=True)
        try:
            metrics = self._trained(run)
        except (UserError, subprocess.CalledProcessError) as error:
            outcome = (
                error.stderr.strip()[-600:] if isinstance(error, subprocess.CalledProcessError) else error
            )
            return f"{run.scene} {run.variant} {run.seed}: {outcome}"
        kept.write_text(json.dumps(metrics), "utf-8")
        seconds = time.monotonic() - began
        self.took[run.scene] = max(self.took.get(run.scene, 0), seconds)
        outcome = f"{metrics['test']['psnr']:.3f} dB, {metrics['seconds']:.1f} of {seconds:.1f} s"
        return f"{run.scene} {run.variant} {run.seed}: {outcome}"

    def _trained(self, run: Run) -> dict[str, Any]:
        """The metrics."""
        args, (scene, own) = self.args, SCENES[run.scene]
        settings = {**QUIET, **own, "seed": run.seed}
        if run.variant == GSPLAT:
            program = [sys.executable, str(Path(__file__).with_name("train_gsplat.py"))]
            done = subprocess.run(
                [*program, scene, json.dumps(settings)], capture_output=True, text=True, check=True
            )
            metrics: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
            return metrics
        settings |= self._settings(run.variant, configure(scene, own))
        settings["backend"] = args.backend
        if args.jobs > 1:
            return in_a_process(scene, settings, run.folder(args.out))
        config = configure(scene, check(settings, run.variant))
        return train_here(
            read(json.dumps([getattr(config, key) for key in OF_LOADING]), config), config
        ).metrics

    def _settings(self, name: str, config: Config) -> dict[str, Any]:
        """Those of a variant, on top of the one that it is made from."""
        variant = self.variants[name]
        under = self._settings(variant["from"], config) if "from" in variant else {}
        return under | resolved(variant, config)


@cache
def by_key(key: str) -> dict[str, Any]:
    """A place for what was made with that key."""
    return {}


def read(key: str, config: Config) -> Any:
    """The scene, read once for each `key`."""
    place = by_key(key)
    if "scene" not in place:
        place["scene"] = read_scene(config)
    return place["scene"]


def in_a_process(scene: str, settings: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The metrics of a run in a process of its own."""
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
    for key, value in settings.items():
        command += ["--set", f"{key}={str(value).lower() if isinstance(value, bool) else value}"]
    subprocess.run(command, capture_output=True, text=True, check=True)
    metrics: dict[str, Any] = json.loads((folder / "metrics.json").read_text("utf-8"))
    shutil.rmtree(folder)  # checkpoints and splats of hundreds of runs would fill the disk
    return metrics


def resolved(settings: Mapping[str, Any], config: Config) -> dict[str, Any]:
    """The settings of a variant, those like "x2" multiplied out."""
    result = {}
    for key, value in settings.items():
        if key in ("why", "scenes", "from"):
            continue
        if isinstance(value, dict):  # what an owner owns
            result |= resolved({f"{key}.{name}": inner for name, inner in value.items()}, config)
            continue
        if isinstance(value, str) and value[:1] == "x" and value[1:2].isdigit():
            now = value_of(config, key)
            value = type(now)(now * float(value[1:]))
        elif isinstance(value, str) and value.endswith("%"):
            value = round(config.steps * float(value[:-1]) / 100)
        result[key] = value
    return result


class Table:
    """What was found so far."""

    def __init__(self, runs: list[Run], variants: Mapping[str, Any], out: Path) -> None:
        self.runs, self.variants, self.out, self.lock = runs, variants, out, threading.Lock()

    def write(self) -> str:
        """Writes table.json and table.md; the latter."""
        with self.lock:
            rows = tabulate(self.runs, self.out)
            self.out.mkdir(parents=True, exist_ok=True)
            text = markdown(rows, self.variants)
            (self.out / "table.json").write_text(json.dumps(rows, indent=1), "utf-8")
            (self.out / "table.md").write_text(text, "utf-8")
            return text


def tabulate(runs: Iterable[Run], out: Path) -> list[dict[str, Any]]:
    """For each scene and variant: seeds, mean, standard deviation, and the mean difference to the base on the same
    seeds with its standard error."""
    found: dict[tuple[str, str], dict[int, dict[str, float]]] = {}
    for run in runs:
        kept = run.kept(out)
        if kept.exists():
            metrics = json.loads(kept.read_text("utf-8"))
            scores = {name: metrics["test"].get(name, metrics.get(name)) for name in SCORES}
            found.setdefault((run.scene, run.variant), {})[run.seed] = scores
    rows = []
    for (scene, variant), by_seed in sorted(found.items(), key=lambda item: item[0][0]):
        base = found.get((scene, BASE), {})
        row: dict[str, Any] = {"scene": scene, "variant": variant, "seeds": sorted(by_seed)}
        for name in SCORES:
            values = [scores[name] or 0.0 for scores in by_seed.values()]
            row[name] = statistics.fmean(values)
            row[f"{name}_sd"] = statistics.stdev(values) if len(values) > 1 else 0.0
            more = [
                (scores[name] or 0.0) - (base[seed][name] or 0.0)
                for seed, scores in by_seed.items()
                if seed in base
            ]
            row[f"{name}_more"] = statistics.fmean(more) if more else None
            row[f"{name}_error"] = statistics.stdev(more) / len(more) ** 0.5 if len(more) > 1 else None
        rows.append(row)
    return rows


def markdown(rows: list[dict[str, Any]], variants: Mapping[str, Any]) -> str:
    """The table as text, best first within a scene."""
    lines = [
        "| scene | variant | seeds | PSNR, dB | more than base | SSIM | more | MS-SSIM | splats | seconds |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in sorted(rows, key=lambda row: (row["scene"], -row["psnr"])):
        gain = "" if row["psnr_more"] is None else f"{row['psnr_more']:+.3f}"
        gain += "" if row["psnr_error"] is None else f" +- {row['psnr_error']:.3f}"
        more = "" if row["ssim_more"] is None else f"{row['ssim_more']:+.4f}"
        lines.append(
            f"| {row['scene']} | {row['variant']} | {len(row['seeds'])} | {row['psnr']:.3f} +- {row['psnr_sd']:.3f} "
            f"| {gain} | {row['ssim']:.4f} | {more} | {row['ms_ssim']:.4f} | {row['n_splats']:,.0f} "
            f"| {row['seconds']:.1f} |"
        )
    why = [f"* {name}: {settings['why']}" for name, settings in variants.items() if "why" in settings]
    return "\n".join([*lines, "", *why, ""])


if __name__ == "__main__":
    with ending_in_one_line("compare.py"):
        main()
