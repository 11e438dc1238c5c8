# SPDX-License-Identifier: Apache-2.0
"""gs-train: a scene in, a trained model out."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer

from .. import BEGAN
from ..config import Config
from ..errors import UserError
from ..settings import seconds_of
from ..storage import home_expanded
from . import AT_HELP, SET_HELP, BackendName, make_app, requested_settings, run, shows
from .idle import Idle, refusing

if TYPE_CHECKING:
    from .progress import Progress

before_now = 0.0  # seconds that this program had worked when the command began: Python's start and imports


# Beside --check all others may stand: it is a rehearsal of their line.
@refusing(
    Idle("*", lambda o: o["write"], "beside {write}, which writes the demo and stops", "leave one of them out",
         but="write size photos_only quiet progress"),
    Idle("size photos_only", lambda o: not o["write"], "without --write: it says how the demo is written",
         "give --write DIR, too"),
    Idle("json_", lambda o: not o["check"], "without --check: it is the form of its report",
         "give both, or --progress jsonl for a training's"),
    Idle("overwrite", lambda o: not (o["out"] or o["resume"]),
         "without --out: each run that nobody names has a folder of its own",
         "name the run to replace by --out"),
    Idle("devices", lambda o: os.environ.get("MLX_RANK"), "under mlx.launch, which has started the processes",
         "leave it out"),
)  # fmt: skip
def train(
    scene: Annotated[
        str | None,
        typer.Argument(metavar="SCENE", help="A folder with photos and cameras, or a built-in: demo, fern."),
    ] = None,
    backend: BackendName = None,
    config_: Annotated[
        list[str] | None,
        typer.Option(
            "--config", metavar="NAME", help="A configuration, as fast, or a TOML file, which may name SCENE."
        ),
    ] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help=SET_HELP)] = None,
    steps: Annotated[int | None, typer.Option(help="Steps to train.")] = None,
    time_budget: Annotated[
        str | None, typer.Option(help="In place of --steps: as many as fit, as 90s, 5m.", metavar="TIME")
    ] = None,
    stop_when_converged: Annotated[
        bool | None,
        typer.Option("--stop-when-converged", help="End when held-out PSNR has stopped rising."),
    ] = None,
    devices: Annotated[
        int, typer.Option(min=1, help="Train on so many GPUs of this machine at once, or processes of cpp.")
    ] = 1,
    max_splats: Annotated[int | None, typer.Option(help="Never more Gaussians than this.")] = None,
    max_size: Annotated[
        int | None, typer.Option(help="Longest side of a photo in pixels, 0 for any.")
    ] = None,
    memory_budget: Annotated[
        str | None, typer.Option(help="Memory of the whole process, as 2G; else most of what is free.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of all that is random.")] = None,
    seeds: Annotated[
        int | None, typer.Option(help="Train so many, of seeds in a row; report mean and spread.")
    ] = None,
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
        Literal["auto", "black", "white", "random", "random-first", "sh"] | None,
        typer.Option(help="Behind the splats; else auto."),
    ] = None,
    trust: Annotated[
        bool | None, typer.Option("--trust", help="Train on what the check of the scene refuses.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Read all, train nothing; print what is wrong, write check.png.")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="With --check: print it as JSON.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --out, or SCENE's newest.")
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
    size: Annotated[
        str | None, typer.Option(help="With --write: of its photos; else 320x240.", metavar="WxH")
    ] = None,
    photos_only: Annotated[
        bool, typer.Option("--photos-only", help="With --write: its photos and no cameras.")
    ] = False,
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
    if scene is None and len(sys.argv) == 1:
        from .info import BEGIN

        print(BEGIN)
        return
    from .which_scene import difference, one_of, scene_of

    config = one_of(config_)
    scene = scene_of(scene, config, out, resume)
    options: dict[str, Any] = {
        "backend": backend,
        "steps": steps,
        "time_budget": None if time_budget is None else seconds_of(time_budget, "--time-budget"),
        "stop_when_converged": stop_when_converged,
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
        from .write_demo import write_demo_folder

        write_demo_folder(scene, write, size, photos_only)
        return
    if resume and overwrite:
        raise UserError("--resume goes on with a run, --overwrite replaces it; give one of them")
    if steps is not None and time_budget is not None:
        raise UserError("--time-budget decides the number of steps; leave out --steps, or the budget")
    if time_budget is not None:
        options |= {} if resume else {"schedule_steps": 0}  # those of a run whose settings are given

    from ..config import configure
    from .from_photos import capture, made_scene, make_scene, named, poseless

    requested = requested_settings(scene, config, options, set_ or [])
    source = capture(scene)
    place = scene if source is None else str(source if source.is_dir() else source.parent)

    def of_steps(count: int) -> Config:
        return configure(place, {**requested.options, "steps": count}, requested.files)

    if source is None:
        settings = configure(scene, requested.options, requested.files)
    elif check:
        raise UserError(f"{poseless(source)}; first: gs-prepare {scene} OUT, then --check OUT")
    else:
        settings = replace(configure(place, requested.options, requested.files), scene=named(source))
    from .. import effects

    at = settings.scene if source is None else place
    differs = difference(at, requested.files)
    if not resume:
        effects.check(settings, requested.options)
        effects.check_files(place, requested.files)
    if check:
        from .check import check as check_scene

        if differs and not quiet:
            print(differs, file=sys.stderr)
        if not check_scene(settings, out, json_, quiet):
            raise SystemExit(UserError.exit_code)
        return

    from .. import backends

    backends.check_mlx()
    from .devices import begun

    viewed = viewer or viewer_at is not None
    if viewer_at:
        from ..viewer.server import check_address

        check_address(viewer_at)
    crew = begun(devices, settings, viewed, seeds)
    if crew is None:
        return
    from .one_run import train_in
    from .runs import ROOT, new_run, resumed_run

    report = _progress(progress, quiet)
    if differs:
        report.message(differs)
    shared: dict[str, Any] = {
        "report": report,
        "viewer": (viewer_at or "") if viewed else None,
        "of_steps": of_steps,
        "crew": crew,
    }
    every = requested.all(at, settings)
    if seeds is not None:
        from .seeds import train_seeds

        if source is not None:
            raise UserError(
                f"--seeds needs a scene with cameras; first: gs-prepare {scene} OUT, then train OUT"
            )
        how = "resume" if resume else "overwrite" if overwrite else "new"
        train_seeds(settings.begun(), seeds, out, every, how, report, partial(train_in, **shared, whole=True))
        return
    if resume and source is not None:
        out = made_scene(source, out, ROOT / Path(settings.scene).name, report.message)
        settings = replace(settings, scene=str((out / "scene").resolve()))
        source = None
    if resume:
        folder, settings = resumed_run(settings, out, every, report.message, moved=out is not None)
        effects.check_resumed(settings, requested.options)
    else:
        folder = new_run(settings, out, overwrite)
        settings = settings.begun()
    spent: dict[str, float] = {}
    with folder.claimed(report.message):
        if source is not None:
            began = time.monotonic()
            settings = replace(settings, scene=make_scene(source, folder, report))
            spent["cameras"] = time.monotonic() - began
        train_in(settings, folder, resume, started=started, spent=spent, **shared)


def _progress(mode: str | None, quiet: bool) -> Progress:
    from .progress import Progress

    return Progress(mode, quiet)


def main() -> NoReturn:
    global before_now
    before_now = time.monotonic() - BEGAN
    run(make_app(train), "gs-train")


if __name__ == "__main__":
    main()
