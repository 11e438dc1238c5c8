# SPDX-License-Identifier: Apache-2.0
"""gs-merge: the runs of a scene's parts in, one model out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, NoReturn

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
) -> None:
    """Put the models of a scene's parts together: of each, what lies in its own part."""
    from .. import config as config_module
    from ..model import formats
    from ..model.io import Model, open_model
    from ..model.placing import held_finely, write_placing
    from ..partition.merge import Plan, merged, read_plan

    if len(runs) < 3:
        raise UserError("give at least two runs and the file to write: gs-merge RUN RUN OUT.ply")
    *sources, out = runs
    writer = formats.format_of(home_expanded(out))
    models: list[Model] = []
    plans: list[Plan] = []
    for source in sources:
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
        found = open_model(folder, lambda line: print(line, file=sys.stderr))
        models.append(found)
    if any(model.sky is not None for model in models):
        print("warning: the parts' skies are no part of the model; each has its own", file=sys.stderr)
    frame = held_finely(models[0].splats, models[0].frame)
    plan = plans[0]._replace(cameras=[frame.back().camera(camera) for camera in plans[0].cameras])
    parts_of_it = [(of.part, model.at(frame).splats) for of, model in zip(plans, models, strict=True)]
    splats = merged(plan, parts_of_it)
    beside = write_placing(home_expanded(out), frame)
    writer.write(home_expanded(out), splats)
    total = sum(part.n for _, part in parts_of_it)
    print(f"{splats.n:,} of {total:,} splats in {out}", file=sys.stderr)
    if beside is not None:
        print(f"the scene is far from its origin: where they lie in it stands in {beside}", file=sys.stderr)


def main() -> NoReturn:
    run(make_app(merge), "gs-merge")


if __name__ == "__main__":
    main()
