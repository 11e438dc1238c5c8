# SPDX-License-Identifier: Apache-2.0
"""gs-view: a model in the browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer

from ..storage import home_expanded
from . import AT_HELP, BackendName, make_app, run


def view(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="A run folder, a checkpoint or a file of splats.")
    ],
    scene: Annotated[
        str | None, typer.Option(help="The scene, for its photos; else the run's cameras alone.")
    ] = None,
    at: Annotated[str, typer.Option(help=AT_HELP, metavar="HOST:PORT")] = "",
    background: Annotated[
        str | None,
        typer.Option(help="black, white, #rrggbb, R,G,B (0 to 1), or sh, the model's sky; else the run's."),
    ] = None,
    backend: BackendName = None,
    open_: Annotated[bool, typer.Option("--open", help="Open the browser, too.")] = False,
    progress: Annotated[
        Literal["bar", "plain", "jsonl"] | None,
        typer.Option(help="bar, plain lines, or JSON lines, with the address as one on standard output."),
    ] = None,
) -> None:
    """Show a model in the browser. Frames are rendered here; the model stays in the program. Ctrl-C ends it."""
    from .. import backends

    backends.check_mlx()
    import webbrowser
    from dataclasses import replace

    import numpy as np

    from ..evaluate.frames import Look, ground_of
    from ..model.io import open_model
    from ..model.sky import colour_of
    from ..training.run_folder import to_json
    from ..viewer.live import page_scene, photo_jpeg, without_cameras
    from ..viewer.server import Server
    from ..viewer.studio import Studio, Wish, picture_of
    from .progress import Progress, say, write_result
    from .render import run_settings
    from .render_path import points_of, views_of

    report = Progress(progress)
    found = open_model(model, report.message)
    settings = None
    if found.run or scene:
        settings = run_settings(scene, found.run, {}, [], photos=scene is not None)
    stages = backends.load(backends.choose(backend or "auto", report.message))
    ground = ground_of(background, found.sky, settings.background if settings else "black")
    look = Look(ground, found.antialiased)
    views, held = views_of(found, settings, scene is not None, report)
    found = found.to_render([view.camera for view in views])
    views = [replace(view, camera=found.camera(view.camera)) for view in views]
    gaussians, studio = found.gaussians, Studio()
    n, name = gaussians.means.shape[0], home_expanded(model).resolve().name
    title = {"title": name, "training": False, "degree": gaussians.sh_degree}
    shown = page_scene(views, points_of(found), held) if views else without_cameras(gaussians)

    def state() -> dict[str, Any]:
        return {"step": 0, "splats": n, "frame_ms": round(studio.milliseconds, 1)}

    def render(wish: Wish) -> np.ndarray:
        return picture_of(gaussians, wish.camera, wish, stages, look)

    server = Server(
        studio, at, lambda: shown | title, state, lambda index: photo_jpeg(views, index, colour_of(ground))
    )
    report.release()
    say(f"{server}; Ctrl-C ends it")
    if report.mode == "jsonl":
        write_result(to_json({"viewer": server.url}))
    if open_:
        webbrowser.open(server.url)
    try:
        while True:
            studio.wait(1.0)
            studio.fulfil(render)
    finally:
        server.close()


def main() -> NoReturn:
    run(make_app(view), "gs-view")


if __name__ == "__main__":
    main()
