# SPDX-License-Identifier: Apache-2.0
"""How far off the time left was in runs that have ended: as their logs told it, and as this version would tell it.

Usage: python scripts/time_left.py RUN [RUN ...]. A line for each run folder with the median error from a tenth of the
run on, relative to what was really left, and one for all records of all runs. Time between the steps is not in a log:
both sides count the steps' own.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from gsplat_train import config
from gsplat_train.errors import UserError, ending_in_one_line
from gsplat_train.training import strategies
from gsplat_train.training.forecast import Forecast

FIRST, LAST = 0.1, 0.98  # of a run's steps: from here to there


def errors_of(run: Path) -> tuple[list[float], list[float], float]:
    """(relative errors as told, as told now, seconds of all steps) of a run that has ended."""
    settings = config.load([run / "config.toml"])
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    metrics = json.loads((run / "metrics.json").read_text())
    end = records[-1]["seconds"]
    if records[-1]["step"] != settings.steps:
        raise UserError(f"{run} has not ended: step {records[-1]['step']} of {settings.steps}")
    forecast = Forecast(settings, strategies.load(settings), metrics["width"] * metrics["height"])
    stated, now = [], []
    for record in records:
        seconds, step = record["seconds"], record["step"]
        forecast.add(step, seconds, record["n_splats"], seconds, "test" in record)
        if FIRST * settings.steps <= step < LAST * settings.steps and end > seconds:
            left = record.get("seconds_left")
            stated.append(np.nan if left is None else left / (end - seconds) - 1)
            now.append((forecast.left() or 0.0) / (end - seconds) - 1)
    return stated, now, end


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    stated_all, now_all, below = [], [], 0
    runs = parser.parse_args().runs
    print("| run | seconds | error as told | error now | bias now |\n| --- | --- | --- | --- | --- |")
    for run in runs:
        stated, now, seconds = errors_of(run)
        stated_all += stated
        now_all += now
        error = float(np.median(np.abs(now)))
        below += error < 0.25
        numbers = (np.nanmedian(np.abs(stated)), error, np.median(now))
        print(f"| {run} | {seconds:.0f} | " + " | ".join(f"{number:.0%}" for number in numbers) + " |")
    median = [f"{np.nanmedian(np.abs(errors)):.0%}" for errors in (stated_all, now_all)]
    print(f"| all, {below} of {len(runs)} below 25 % | | {median[0]} | {median[1]} | |")


if __name__ == "__main__":
    with ending_in_one_line("time_left.py"):
        main()
