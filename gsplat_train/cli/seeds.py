# SPDX-License-Identifier: Apache-2.0
"""gs-train --seeds N: the same run of several seeds, each in a folder of its own below one; mean and spread."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from ..config import Config
from ..errors import Interrupted, UserError
from ..storage import atomic_write, parsed
from ..training.run_folder import RunFolder, to_json
from .runs import new_run, resumed_run

if TYPE_CHECKING:
    from ..training.trainer import Trainer
    from .progress import Progress

MOST = 100
SUMMARY = "seeds.json"
Train = Callable[..., "Trainer"]


def train_seeds(
    settings: Config,
    count: int,
    out: Path | None,
    explicit: Mapping[str, Any],
    how: str,
    report: Progress,
    train: Train,
) -> dict[str, Any]:
    """Trains `count` runs of the seeds from settings.seed on, by `train(settings, folder, resume, scene)`; their
    summary, which is also in seeds.json. how: new, resume or overwrite.
    """
    if not 1 <= count <= MOST:
        raise UserError(f"--seeds must be from 1 to {MOST}, got {count}")
    if how == "resume" and out is None:
        raise UserError("--seeds with --resume needs the folder of the runs: name it with --out")
    top = new_run(settings, out, overwrite=False)
    numbers = list(range(settings.seed, settings.seed + count))
    if how == "new" and (taken := [n for n in numbers if RunFolder(top.root / f"seed_{n}").holds_run()]):
        raise UserError(
            f"{top.root} holds a run of seed {taken[0]}; go on with all by --resume, replace them by --overwrite, or "
            "give another --out"
        )
    measured: dict[int, dict[str, Any]] = {}
    scene, kept = None, {key: value for key, value in explicit.items() if key != "seed"}
    for number in numbers:
        folder, chosen = RunFolder(top.root / f"seed_{number}"), replace(settings, seed=number)
        resume = how == "resume" and (folder.config.is_file() or folder.lock.is_file())
        if resume:
            folder, chosen = resumed_run(chosen, folder.root, kept, report.message, moved=True)
            if done := _finished(folder, chosen):
                report.message(f"seed {number}: done before, in {folder.root}")
                measured[number] = done
                settings = chosen
                continue
        report.message(f"seed {number}, {len(measured) + 1} of {count}, in {folder.root}")
        try:
            with folder.claimed(report.message):
                trainer = train(chosen, folder, resume, scene)
        except Interrupted as error:
            words = ["gs-train", settings.scene, "--seeds", str(count), "--out", str(top.root), "--resume"]
            raise Interrupted(
                f"{str(error).partition('; go on')[0]}; go on with: {shlex.join(words)}"
            ) from None
        scene, measured[number] = trainer.scene, trainer.metrics
        settings = trainer.config  # one time budget settles the steps of all
    summary = summarised(measured)
    with atomic_write(top.root / SUMMARY) as file:
        file.write(to_json(summary, indent=1).encode() + b"\n")
    report.message(in_words(summary))
    if report.mode != "jsonl":
        report.summary(summary)
    report.message(f"the runs and {SUMMARY} are in {top.root}")
    return summary


def summarised(measured: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """Mean, standard deviation (of the sample; None of one run) and range of what the runs measured."""
    found: dict[str, Any] = {"seeds": list(measured)}
    for split in ("test", "train"):
        scores = [metrics[split] for metrics in measured.values() if metrics.get(split)]
        found[split] = (
            {name: _spread([score[name] for score in scores]) for name in ("psnr", "ssim")}
            if scores
            else None
        )
    for name in ("n_splats", "seconds"):
        found[name] = _spread([metrics[name] for metrics in measured.values()])
    return found


def in_words(summary: Mapping[str, Any]) -> str:
    """The line that tells it."""
    what, scores = ("held-out", summary["test"]) if summary["test"] else ("training", summary["train"])
    psnr, ssim = scores["psnr"], scores["ssim"]
    spread = "" if psnr["sd"] is None else f" ± {psnr['sd']:.2f}"
    return (
        f"{what} PSNR {psnr['mean']:.2f}{spread} dB (from {psnr['min']:.2f} to {psnr['max']:.2f}), SSIM "
        f"{ssim['mean']:.4f}; mean and standard deviation of {len(summary['seeds'])} seeds"
    )


def _spread(values: Sequence[float]) -> dict[str, float | None]:
    sd = stdev(values) if len(values) > 1 else None
    return {"mean": mean(values), "sd": sd, "min": min(values), "max": max(values)}


def _finished(run: RunFolder, config: Config) -> dict[str, Any] | None:
    """metrics.json of a run that is at its end."""
    try:
        metrics = parsed(run.metrics.read_text("utf-8"))
        ended = metrics["steps"] >= config.steps or metrics.get("converged")
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return metrics if ended and run.ply.is_file() else None
