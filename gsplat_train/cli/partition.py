# SPDX-License-Identifier: Apache-2.0
"""gs-partition: a scene in, folders of its parts out, each to be trained by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer

from . import LOADING_HELP, make_app, parse_settings, run


def partition(
    scene: Annotated[str, typer.Argument(metavar="SCENE", help="A scene's folder, or a built-in's name.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the parts, new or empty.")],
    parts: Annotated[int, typer.Option(min=2, max=64, help="How many.")] = 2,
    ring: Annotated[
        float,
        typer.Option(min=0.01, max=1, help="A view is also in another part that fills this share of it."),
    ] = 0.1,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help=LOADING_HELP)
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Only warnings and errors.")] = False,
    progress: Annotated[
        Literal["bar", "plain", "jsonl"] | None,
        typer.Option(help="bar, plain lines, or JSON lines, with the result as one on standard output."),
    ] = None,
) -> None:
    """Cut a scene into parts that can be trained one by one, on one machine or on several."""
    from .. import config as config_module
    from ..datasets import read_scene
    from ..effects import check, check_loading
    from ..partition.write import write_parts
    from ..storage import home_expanded
    from ..training.run_folder import to_json
    from .progress import Progress, write_result

    report = Progress(progress, quiet)
    requested = config_module.check(parse_settings(settings or []), "--set")
    check_loading(requested, "gs-partition")
    config = config_module.configure(scene, requested)
    check(config, requested)
    target = home_expanded(out)
    written = write_parts(
        read_scene(config, report.message, report.at),
        target,
        parts,
        ring=ring,
        test_every=config.test_every if config.eval else 0,
        progress=report.at,
    )
    for part in written:
        report.tell(
            f"{part.folder}: {part.own} views and {part.ring} around them, {part.points:,} points, "
            f"{part.masked:.0%} of the pixels are another part's"
        )
    report.tell(f"train each as a scene (gs-train {target}/part_1 ...), then: gs-merge RUN... OUT.ply")
    if report.mode == "jsonl":
        write_result(to_json({"parts": [part._asdict() | {"folder": str(part.folder)} for part in written]}))


def main() -> NoReturn:
    run(make_app(partition), "gs-partition")


if __name__ == "__main__":
    main()
