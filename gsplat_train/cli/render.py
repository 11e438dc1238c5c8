# SPDX-License-Identifier: Apache-2.0
"""gs-render: a model in, pictures of a scene's views or a film along a path out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer

from .. import config as config_module
from ..config import Config, configure, is_builtin
from ..effects import ALSO_OF_LOADING, LOADING, check_loading
from ..effects import check as check_effects
from ..errors import UserError
from ..registry import MADE
from ..storage import home_expanded
from . import LOADING_HELP, BackendName, idle, make_app, parse_settings, requested_settings, run
from .idle import Idle

KINDS = ("spiral", "orbit", "ellipse", "interpolate")
# Names of films; what cannot be written of them is refused, instead of a folder made that is called so.
FILMS = (".mp4", ".webm", ".avi", ".gif", ".m4v", ".mkv", ".mov", ".mpeg", ".mpg", ".ogv")
# Options that are for loading a scene.
OF_SCENES = " ".join(["images data_root", *(f"set_.{key}" for key in sorted({*LOADING, *ALSO_OF_LOADING}))])
FREE = f"--path {', '.join(KINDS)} or FILE.json"
UNREAD = Idle(  # once the model is open
    OF_SCENES, lambda o: o["in_run"], "with {path}: the cameras are in the run's checkpoint, no scene is read",
    "leave it out, or name the scene by --scene",
)  # fmt: skip


def _of_file(path: str | None) -> bool:
    return path is not None and path.lower().endswith(".json")


def _is_film(out: Path | None) -> bool:
    return out is not None and out.suffix.lower() in FILMS


@idle.refusing(
    Idle("split", lambda o: o["path"], "with {path}, which is no split's views", "leave one of them out"),
    Idle("frames fps width height fov", lambda o: not o["path"], "without --path: it is for free cameras",
         f"add {FREE}"),
    Idle(f"scene {OF_SCENES}", lambda o: _of_file(o["path"]),
         "with {path}: the file has the cameras, no scene is read", "leave it out"),
    Idle("background set_.background", lambda o: o["alpha"], "with --alpha: pictures with opacity have none",
         "leave one of them out"),
    Idle("set_.background", lambda o: o["background"], "beside {background}, which wins", "give one of them"),
    Idle("alpha", lambda o: o["path"] and _is_film(o["out"]), "with {out}: films have no opacity here",
         "name a folder with --out, for PNGs"),
)  # fmt: skip
def render(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="A run folder, a checkpoint or a file of splats.")
    ],
    scene: Annotated[
        str | None, typer.Option(help="The scene whose views to render; else the run's.")
    ] = None,
    split: Annotated[Literal["test", "train", "all"], typer.Option(help="Which views.")] = "test",
    path: Annotated[
        str | None,
        typer.Option(
            help=f"No views but a way among them: {', '.join(KINDS)}, or a camera path FILE.json.",
            metavar="KIND",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the pictures, or a film .mp4, .webm; else renders/ beside the model."),
    ] = None,
    frames: Annotated[int | None, typer.Option(min=1, help="Pictures along the path.")] = None,
    fps: Annotated[float | None, typer.Option(min=0.1, max=240, help="Pictures a second.")] = None,
    width: Annotated[int | None, typer.Option(min=1, max=16384, help="Pixels, along a path.")] = None,
    height: Annotated[int | None, typer.Option(min=1, max=16384, help="Pixels, along a path.")] = None,
    fov: Annotated[
        float | None, typer.Option(min=1, max=170, help="Degrees from top to bottom, along a path.")
    ] = None,
    depth: Annotated[bool, typer.Option("--depth", help="Also depth: 16 bits, and in colours.")] = False,
    alpha: Annotated[bool, typer.Option("--alpha", help="PNGs with opacity, no background.")] = False,
    background: Annotated[
        str | None,
        typer.Option(help="black, white, #rrggbb, R,G,B (0 to 1), or sh, the model's sky; else the run's."),
    ] = None,
    supersample: Annotated[int, typer.Option(min=1, max=4, help="Average so many pixels squared.")] = 1,
    sheet: Annotated[
        bool,
        typer.Option("--sheet", help="Also sheet.png: photo, render, error, depth; along a path frames."),
    ] = False,
    backend: BackendName = None,
    images: Annotated[str | None, typer.Option(help="Folder of the photos inside the scene's.")] = None,
    data_root: Annotated[
        Path | None, typer.Option(help="Folder of the built-in scenes; else $GS_DATA, ./data.")
    ] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help=LOADING_HELP)] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Only warnings, errors and the result.")] = False,
    progress: Annotated[
        Literal["bar", "plain", "jsonl"] | None, typer.Option(help="bar, plain lines, or JSON lines.")
    ] = None,
) -> None:
    """Render a scene's views as PNG, with PSNR and SSIM where there are photos; or a film along a path."""
    film = _is_film(out)
    if film and path is None:
        raise UserError("a film needs a way: add --path spiral, orbit, ellipse, interpolate or FILE.json")
    if not (path is None or path in KINDS or _of_file(path)):
        raise UserError(f"--path takes {', '.join(KINDS)} or a FILE.json, got {path!r}")

    from .. import backends

    backends.check_mlx()
    from ..evaluate.frames import Look, ground_of
    from ..evaluate.video import check_video
    from ..model.io import open_model
    from ..model.sky import BLACK
    from .progress import Progress
    from .render_path import PathOptions, render_path
    from .render_views import render_views, trained_names

    if film and out is not None:
        check_video(home_expanded(out))
    report = Progress(progress, quiet)
    found = open_model(model, report.message)
    in_run = path in KINDS and scene is None and trained_names(found.run) is not None
    idle.check(
        render,
        [UNREAD],
        {"path": path, "images": images, "data_root": data_root, "set_": set_, "in_run": in_run},
    )
    options = {
        "backend": backend,
        "images": images,
        "data_root": None if data_root is None else str(home_expanded(data_root).resolve()),
    }
    needed = path in KINDS and not (found.run and scene is None)
    settings = None
    if path is None or found.run or needed or scene:
        settings = run_settings(
            scene, found.run, options, set_ or [], photos=path is None or scene is not None
        )
    chosen = backends.choose("auto" if backend is None else backend, report.message)
    stages = backends.load(chosen)
    report.message(f"backend: {chosen}")
    ground = ground_of(background, found.sky, settings.background if settings else "black")
    look = Look(BLACK if alpha else ground, found.antialiased, supersample, depth or sheet)
    folder = home_expanded(out) if out else (found.run or home_expanded(model).parent) / "renders"
    ours = out is None and found.run is not None
    if path is None:
        assert settings is not None
        render_views(
            found, settings, split, stages, look, folder, report,
            depth=depth, alpha=alpha, sheet=sheet, ours=ours,
        )  # fmt: skip
    else:
        asked = PathOptions(path, frames, fps, width, height, fov)
        target = folder if out else folder / Path(path).stem
        render_path(
            found, settings, scene is not None, asked, stages, look, target, film, alpha, report,
            depth=depth, sheet=sheet, ours=ours,
        )  # fmt: skip


def run_settings(
    scene: str | None, run: Path | None, options: dict[str, Any], assignments: list[str], photos: bool = True
) -> Config:
    """Those of the run that the model lies in, of the scene if one is named, and what the command line says.

    A scene that is named for a run keeps the run's settings: it may have moved. What the run held out stays
    so. photos: whether the scene has to be there.
    """
    requested = requested_settings(scene or "", None, options, assignments)
    check_loading(config_module.check(parse_settings(assignments), "--set"), "gs-render", "background")
    if run is None:
        if scene is None:
            raise UserError(
                "the model lies in no run folder; name the scene whose views to render with --scene"
            )
        return _with_effect(configure(scene, requested.options), requested.options)
    if fixed := {"eval", "test_every"} & requested.options.keys():
        raise UserError(
            f"{sorted(fixed)[0]} is what the run in {run} was trained with: views that it saw are no test; "
            "choose views with --split"
        )
    layers: list[Any] = [run / "config.toml"]
    if scene is not None:
        named = configure(scene, {})
        layers.append({key: getattr(named, key) for key in ("scene", "reader", "source")})
        if named.scene != config_module.read(run / "config.toml").get("scene"):
            layers.append({"images": named.images})
    settings = _with_effect(config_module.load(layers, requested.options), requested.options)
    there = settings.reader in MADE or is_builtin(settings.scene) or Path(settings.scene).is_dir()
    if photos and not there:
        raise UserError(f"scene {settings.scene} of the run is not there; say where it is now with --scene")
    return settings


def _with_effect(settings: Config, requested: Mapping[str, Any]) -> Config:
    """The settings, where all that was `requested` of them has an effect."""
    check_effects(settings, requested)
    return settings


def main() -> NoReturn:
    run(make_app(render), "gs-render")


if __name__ == "__main__":
    main()
