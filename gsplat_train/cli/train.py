# SPDX-License-Identifier: Apache-2.0
"""gs-train: a scene in, a trained model out."""

from __future__ import annotations

import shlex
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer

from ..config import Config
from ..errors import Interrupted, UserError
from ..machine import process_seconds
from ..storage import home_expanded
from . import AT_HELP, SET_HELP, BackendName, given_settings, make_app, run, shows

if TYPE_CHECKING:
    from ..training.run_folder import RunFolder
    from .progress import Progress

before_now = 0.0  # seconds that this process had worked when the command began: Python's start and imports
VIEWER = "open it with any viewer of 3DGS, for example SuperSplat in a browser: https://superspl.at/editor"


def train(
    scene: Annotated[
        str | None,
        typer.Argument(metavar="SCENE", help="A folder with photos and cameras, or a built-in: demo, fern."),
    ] = None,
    backend: BackendName = None,
    config: Annotated[str | None, typer.Option(help="A configuration, as fast, or a TOML file.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help=SET_HELP)] = None,
    steps: Annotated[int | None, typer.Option(help="Steps to train.")] = None,
    max_splats: Annotated[int | None, typer.Option(help="Never more Gaussians than this.")] = None,
    max_size: Annotated[
        int | None, typer.Option(help="Longest side of a photo in pixels, 0 for any.")
    ] = None,
    memory_budget: Annotated[
        str | None, typer.Option(help="Memory of the whole process, as 2G; else most of what is free.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of all that is random.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; else runs/SCENE/<date-time>.")] = None,
    images: Annotated[str | None, typer.Option(help="Folder of the photos inside the scene's.")] = None,
    data_root: Annotated[
        Path | None, typer.Option(help="Folder of the built-in scenes; else $GS_DATA, ./data.")
    ] = None,
    init: Annotated[
        Path | None, typer.Option(help="Start from the points or splats of this PLY.", metavar="FILE.ply")
    ] = None,
    fov: Annotated[
        float | None, typer.Option(help="Degrees that undistorted photos span, 0 for what fits.")
    ] = None,
    mask_mode: Annotated[
        Literal["ignore", "transparent", "off"] | None, typer.Option(help="What masked pixels are.")
    ] = None,
    invert_masks: Annotated[
        bool | None, typer.Option("--invert-masks", help="Black is what counts in a mask.")
    ] = None,
    alpha_mode: Annotated[
        Literal["transparent", "mask", "ignore"] | None,
        typer.Option(help="What photos' alpha is: see-through, a mask, nothing."),
    ] = None,
    background: Annotated[
        Literal["black", "white", "random"] | None, typer.Option(help="Behind the splats.")
    ] = None,
    trust: Annotated[
        bool | None, typer.Option("--trust", help="Train on what the check of the scene refuses.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Read all, train nothing; print what is wrong, write check.png.")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="With --check: print it as JSON.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --out, or the newest.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in --out.")] = False,
    eval_: Annotated[
        bool | None,
        typer.Option("--eval/--no-eval", help="Hold every 8th view out and measure on it, or train on all."),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Only warnings, errors and the result.")] = False,
    progress: Annotated[
        Literal["bar", "plain", "jsonl"] | None,
        typer.Option(help="bar, plain lines, or the log as JSON lines."),
    ] = None,
    viewer: Annotated[
        bool, typer.Option("--viewer", help="Show the growing model in the browser, on this machine only.")
    ] = False,
    viewer_at: Annotated[
        str | None, typer.Option(help=f"--viewer, and where: {AT_HELP}", metavar="HOST:PORT")
    ] = None,
    write: Annotated[
        Path | None, typer.Option(help="Write the scene demo there as a COLMAP folder, and stop.")
    ] = None,
    list_: Annotated[
        bool,
        typer.Option(
            "--list", callback=shows("scenes"), is_eager=True, help="Built-in scenes, configurations."
        ),
    ] = False,
    settings_: Annotated[
        bool,
        typer.Option("--settings", callback=shows("settings"), is_eager=True, help="What --set can change."),
    ] = False,
    backends_: Annotated[
        bool,
        typer.Option(
            "--backends", callback=shows("backends"), is_eager=True, help="Which run here, or why not."
        ),
    ] = False,
    cache_: Annotated[
        bool, typer.Option("--cache", callback=shows("cached"), is_eager=True, help="Photos kept on disk.")
    ] = False,
    clear_cache_: Annotated[
        bool, typer.Option("--clear-cache", callback=shows("cleared"), is_eager=True, help="Removes them.")
    ] = False,
) -> None:
    """Train Gaussian splats from a scene, or from photos or a video whose cameras are found first."""
    started = time.monotonic() - before_now
    if scene is None:
        if len(sys.argv) > 1:
            raise UserError("which scene? give a folder or a built-in's name, as in: gs-train demo")
        from .info import BEGIN

        print(BEGIN)
        return
    options: dict[str, Any] = {
        "backend": backend,
        "steps": steps,
        "max_splats": max_splats,
        "max_size": max_size,
        "memory_budget": memory_budget,
        "seed": seed,
        "images": images,
        "data_root": None if data_root is None else str(home_expanded(data_root).resolve()),
        "eval": eval_,
        "init": None if init is None else str(home_expanded(init).resolve()),
        "fov": fov,
        "mask_mode": mask_mode,
        "invert_masks": invert_masks,
        "alpha_mode": alpha_mode,
        "background": background,
        "trust": trust,
    }
    if write is not None:
        _write_demo(scene, write)
        return
    if resume and overwrite:
        raise UserError("--resume goes on with a run, --overwrite replaces it; give one of them")

    if json_ and not check:
        raise UserError(
            "--json is the form of --check's report; give both, or --progress jsonl for a training's"
        )

    from ..config import configure
    from .from_photos import capture, made_scene, make_scene, named

    given = given_settings(scene, config, options, set_ or [])
    source = capture(scene)
    if source is None:
        settings = configure(scene, given.options, given.files)
    elif check:
        raise UserError(f"{scene} has no camera poses yet; first: gs-prepare {scene} OUT, then --check OUT")
    else:
        place = str(source if source.is_dir() else source.parent)
        settings = replace(configure(place, given.options, given.files), scene=named(source))
    if check:
        from .check import check as check_scene

        if not check_scene(settings, out, json_):
            raise SystemExit(UserError.exit_code)
        return

    from .. import backends

    backends.check_mlx()
    from .runs import ROOT, new_run, resumed_run

    report = _progress(progress, quiet)
    if resume and source is not None:
        out = made_scene(source, out, ROOT / Path(settings.scene).name, report.message)
        settings = replace(settings, scene=str((out / "scene").resolve()))
        source = None
    if resume:
        folder, settings = resumed_run(settings, out, given.all, report.message, moved=out is not None)
    else:
        folder = new_run(settings, out, overwrite)
        settings = replace(settings, schedule_steps=settings.horizon)
    spent: dict[str, float] = {}
    with folder.claimed(report.message):
        if source is not None:
            began = time.monotonic()
            settings = replace(settings, scene=make_scene(source, folder, report))
            spent["cameras"] = time.monotonic() - began
        shown = viewer_at or "" if viewer or viewer_at else None
        _train(settings, folder, resume, report, started, spent, shown)


def _train(
    settings: Config,
    folder: RunFolder,
    resume: bool,
    report: Progress,
    started: float,
    spent: dict[str, float],
    viewer: str | None,
) -> None:
    from .. import backends
    from ..config import is_builtin
    from ..datasets import read_scene, scene_folder
    from ..registry import MADE
    from ..training import checkpoint
    from ..training.api import run_training
    from ..training.callbacks import Callback
    from ..training.report import Report
    from ..training.trainer import Trainer
    from ..viewer.live import Live
    from .signals import stopping

    chosen = backends.choose(settings.backend, report.message)
    backends.load(chosen)  # or say why not, before the photos are loaded
    report.message(f"backend: {chosen}" + (" (auto)" if settings.backend == "auto" else ""))
    settings = replace(settings, backend=chosen)
    if settings.reader not in MADE and is_builtin(settings.scene):
        settings = replace(settings, data_root=str(scene_folder(settings).parent.resolve()))
    found = checkpoint.newest(folder.checkpoints, report.message) if resume else None
    callbacks: list[Callback] = [report, Report()]
    if viewer is not None:
        callbacks.append(Live(viewer))
    began = time.monotonic()
    scene = read_scene(settings, report.message, report.at)
    spent["loading"] = time.monotonic() - began
    trainer = Trainer(settings, scene, folder, callbacks, found, started, spent)
    how = "new run" if not resume else f"resuming at step {trainer.step}"
    train, test = len(trainer.train_views), len(trainer.test_views)
    report.message(f"{train} views to train on, {test} held out, {trainer.n_splats:,} splats")
    report.message(f"{how} in {folder.root}")
    try:
        with stopping(trainer.stop, report.now):
            result = run_training(trainer, found)
    except Interrupted as error:
        how = shlex.join(["gs-train", settings.scene, "--out", str(folder.root), "--resume"])
        raise Interrupted(f"{error}; go on with: {how}") from None
    _report(result.metrics, folder, report)


def _report(metrics: dict[str, Any], folder: RunFolder, report: Progress) -> None:
    """The result on standard output, and where the model is."""
    from ..training.clock import told
    from ..training.run_folder import to_json
    from .progress import write_result

    if test := metrics["test"]:
        views = len(test["views"])
        report.message(f"held-out PSNR {test['psnr']:.2f} dB, SSIM {test['ssim']:.4f}, mean of {views} views")
    report.message(f"{metrics['n_splats']:,} splats, {metrics['steps']} steps in {metrics['seconds']:.1f} s")
    report.message(f"{metrics['wall_seconds']:.1f} s in all: {told(metrics['stage_seconds'])}")
    if report.mode != "jsonl":
        scores = {
            split: metrics[split] and {k: metrics[split][k] for k in ("psnr", "ssim")}
            for split in ("test", "train")
        }
        write_result(to_json(metrics | scores))
    report.message(f"report: {folder.report}")
    report.message(f"model: {folder.ply}; {VIEWER}")


def _progress(mode: str | None, quiet: bool) -> Progress:
    from .progress import Progress

    return Progress(mode, quiet)


def _write_demo(scene_name: str, directory: Path) -> None:
    """`gs-train demo --write DIR`."""
    from ..datasets.demo import make_demo, write_demo

    if scene_name != "demo":
        raise UserError(f"--write writes the built-in scene: gs-train demo --write {directory}")
    scene = make_demo()
    write_demo(directory, scene)
    print(f"{len(scene.views)} views in {directory}; train on it with: gs-train {directory}", file=sys.stderr)


def main() -> NoReturn:
    global before_now
    before_now = process_seconds()
    run(make_app(train), "gs-train")


if __name__ == "__main__":
    main()
