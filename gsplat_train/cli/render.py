# SPDX-License-Identifier: Apache-2.0
"""gs-render: a model in, pictures of a scene's views and their metrics out."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer

from .. import config as config_module
from ..config import Config, configure, is_builtin
from ..errors import UserError
from ..registry import MADE
from ..storage import file_name
from . import SET_HELP, given_settings, make_app, run

if TYPE_CHECKING:
    import numpy as np

    from ..scene import View


def render(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A run folder, a checkpoint or a .ply.")],
    scene: Annotated[
        str | None, typer.Option(help="The scene whose views to render; else the run's.")
    ] = None,
    split: Annotated[Literal["test", "train", "all"], typer.Option(help="Which views.")] = "test",
    out: Annotated[
        Path | None, typer.Option(help="Folder for the pictures; else renders/ beside the model.")
    ] = None,
    backend: Annotated[
        Literal["auto", "metal", "cuda", "cpp", "python"] | None,
        typer.Option(help="Where to compute; auto takes the first that runs here.", metavar="NAME"),
    ] = None,
    images: Annotated[str | None, typer.Option(help="Folder of the photos inside the scene's.")] = None,
    data_root: Annotated[
        Path | None, typer.Option(help="Folder of the built-in scenes; else $GS_DATA, ./data.")
    ] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help=SET_HELP)] = None,
) -> None:
    """Render a scene's views as PNG, with PSNR and SSIM where there are photos."""
    from .. import backends

    backends.check_mlx()
    from ..datasets import read_scene
    from ..evaluate.measure import measure
    from ..evaluate.pictures import write_png
    from ..model.io import open_model
    from ..storage import atomic_write
    from ..training.run_folder import to_json
    from .progress import Progress, write_result

    report = Progress()
    found = open_model(model, report.message)
    options = {
        "backend": backend,
        "images": images,
        "data_root": None if data_root is None else str(data_root.expanduser().resolve()),
    }
    settings = _settings(scene, found.run, options, set_ or [])
    chosen = backends.choose("auto" if backend is None else backend)
    stages = backends.load(chosen)
    report.message(f"backend: {chosen}")
    data = read_scene(settings, report.message)
    train, test = data.split(settings.test_every if settings.eval else 0)
    views = {"train": train, "test": test, "all": data.views}[split]
    if not views:
        raise UserError(f"{data.name} has no views in the split {split}; choose another with --split")
    folder = out.expanduser() if out else (found.run or model.expanduser().parent) / "renders"
    names = _file_names(views)
    report.release()

    def write(view: View, picture: np.ndarray) -> None:
        write_png(folder / names[view.name], picture)

    background, antialiased = settings.background, found.antialiased
    metrics = measure(
        found.gaussians, views, stages, background=background, antialiased=antialiased, each=write
    )
    if metrics["views"]:
        with atomic_write(folder / "metrics.json") as file:
            file.write(to_json(metrics, indent=1).encode() + b"\n")
        write_result(to_json({name: metrics[name] for name in ("psnr", "ssim")}))
    report.message(f"{len(views)} views in {folder}")


def _settings(scene: str | None, run: Path | None, options: dict[str, Any], assignments: list[str]) -> Config:
    """Those of the run that the model lies in, of the scene if one is named, and what the command line says.

    A scene that is named for a run keeps the run's settings: it may have moved.
    """
    given = given_settings(scene or "", None, options, assignments)
    if run is None:
        if scene is None:
            raise UserError(
                "the model lies in no run folder; name the scene whose views to render with --scene"
            )
        return configure(scene, given.options)
    layers: list[Any] = [run / "config.toml"]
    if scene is not None:
        named = configure(scene, {})
        stored = config_module.read(run / "config.toml")
        if is_builtin(scene) and stored.get("scene") != scene:
            return configure(scene, given.options)
        layers.append({"scene": named.scene, "reader": named.reader})
    settings = config_module.load(layers, given.options)
    if settings.reader not in MADE and not is_builtin(settings.scene) and not Path(settings.scene).is_dir():
        raise UserError(f"scene {settings.scene} of the run is not there; say where it is now with --scene")
    return settings


def _file_names(views: tuple[View, ...]) -> dict[str, str]:
    """A PNG's path for each view: its name with the extension replaced; with all extensions kept where two
    would be the same; cut where it is too long.
    """
    stems = {view.name: str(PurePosixPath(view.name).with_suffix("")) for view in views}
    unique = len(set(stems.values())) == len(stems)
    names = {}
    for name, stem in stems.items():
        path = PurePosixPath(stem if unique else name)
        if path.is_absolute() or ".." in path.parts[:-1]:
            raise UserError(f"view {name} would be written outside the folder; rename it in the scene")
        names[name] = str(path.with_name(file_name(path.name, ".png")))
    return names


def main() -> NoReturn:
    run(make_app(render), "gs-render")


if __name__ == "__main__":
    main()
