# SPDX-License-Identifier: Apache-2.0
"""gs-merge: the runs of a scene's parts in, one model out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer

from ..errors import UserError
from ..storage import home_expanded
from . import make_app, run


def merge(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN... OUT", help="A run of each part, then the file to write.")
    ],
    parts: Annotated[
        Path | None,
        typer.Option(help="Folder of the parts, where they are not where they were trained."),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Only warnings and errors.")] = False,
    progress: Annotated[
        Literal["bar", "plain", "jsonl"] | None,
        typer.Option(help="bar, plain lines, or JSON lines, with the result as one on standard output."),
    ] = None,
) -> None:
    """Put the models of a scene's parts together: of each, what lies in its own part."""
    from .. import config as config_module
    from ..model import formats
    from ..model.io import Model, open_model
    from ..model.placing import held_finely, write_placing
    from ..model.sky import write_sky
    from ..partition.merge import Plan, merged, read_plan
    from ..training.run_folder import to_json
    from .progress import Progress, write_result

    report = Progress(progress, quiet)
    if len(runs) < 3:
        raise UserError("give at least two runs and the file to write: gs-merge RUN RUN OUT.ply")
    *sources, out = runs
    writer = formats.format_of(home_expanded(out))
    models: list[Model] = []
    plans: list[Plan] = []
    for done, source in enumerate(sources, 1):
        folder = home_expanded(source)
        settings = folder / "config.toml"
        if not settings.is_file():
            raise UserError(f"{source} is no run folder: it has no config.toml; give the runs of the parts")
        scene = Path(config_module.load([settings]).scene)
        plan = read_plan(scene if parts is None else home_expanded(parts) / scene.name)
        if plan.part < 0:
            raise UserError(f"{scene} holds all parts; {source} must be a run of one of them")
        if plans and plan._replace(part=0, cameras=[]) != plans[0]._replace(part=0, cameras=[]):
            raise UserError(f"{source} is a run of another partition than {sources[0]}; give runs of one")
        plans.append(plan)
        found = open_model(folder, report.message)
        models.append(found)
        report.at("reading", done, len(sources))
    if any(model.sky is not None for model in models):
        report.tell("warning: the parts' skies are no part of the model; each has its own")
    frame = held_finely(models[0].splats, models[0].frame)
    plan = plans[0]._replace(cameras=[frame.back().camera(camera) for camera in plans[0].cameras])
    parts_of_it = [(of.part, model.at(frame).splats) for of, model in zip(plans, models, strict=True)]
    splats = merged(plan, parts_of_it)
    beside = write_placing(home_expanded(out), frame)
    write_sky(home_expanded(out), None)  # of a file that was there
    writer.write(home_expanded(out), splats)
    total = sum(part.n for _, part in parts_of_it)
    report.tell(f"{splats.n:,} of {total:,} splats in {out}")
    if beside is not None:
        report.tell(f"the scene is far from its origin: where they lie in it stands in {beside}")
    if report.mode == "jsonl":
        write_result(to_json({"file": str(out), "splats": splats.n, "of": total}))


def main() -> NoReturn:
    run(make_app(merge), "gs-merge")


if __name__ == "__main__":
    main()
