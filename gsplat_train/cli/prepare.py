# SPDX-License-Identifier: Apache-2.0
"""gs-prepare: photos or a video in, a COLMAP scene out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer

from ..storage import home_expanded
from . import make_app, run
from .idle import Idle, refusing


@refusing(
    Idle("frames fps", lambda o: home_expanded(o["source"]).is_dir(),
         "on {source}, a folder of photos: it is of a video", "leave it out"),
)  # fmt: skip
def prepare(
    source: Annotated[Path, typer.Argument(metavar="INPUT", help="A folder of photos, or a video.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder of the scene, new or empty.")],
    camera: Annotated[
        Literal["shared", "per-size", "per-photo"],
        typer.Option(help="Which photos share a camera: all, those of one camera, zoom and size, or none."),
    ] = "per-size",
    lens: Annotated[
        Literal["simple", "opencv"],
        typer.Option(help="Distortion by one number (SIMPLE_RADIAL) or four (OPENCV)."),
    ] = "simple",
    mapper: Annotated[
        Literal["auto", "incremental", "global"],
        typer.Option(help="How cameras are found; auto tries the other where one leaves photos out."),
    ] = "auto",
    frames: Annotated[
        int | None, typer.Option(min=3, help="Of a video: how many frames; else up to 200.")
    ] = None,
    fps: Annotated[float | None, typer.Option(min=0.01, help="Of a video: frames a second.")] = None,
    dense: Annotated[
        bool,
        typer.Option(
            "--dense/--sparse", help="Points also where there are no features, or only where there are."
        ),
    ] = True,
    up: Annotated[
        Literal["-y", "y", "z", "-z", "x", "-x", "none"],
        typer.Option(
            help="The axis that is up: -y as viewers of splats have it; none: the reconstruction's own. "
            "Of a finished scene only this is changed."
        ),
    ] = "-y",
    quiet: Annotated[bool, typer.Option("--quiet", help="Only warnings and errors.")] = False,
    progress: Annotated[
        Literal["bar", "plain", "jsonl"] | None, typer.Option(help="bar, plain lines, or JSON lines.")
    ] = None,
) -> None:
    """Find the cameras of photos, or of the frames of a video: a COLMAP scene to train on."""
    from ..errors import UserError
    from ..prepare.make import prepare as make
    from ..prepare.reporter import Reporter
    from ..prepare.steps import Options

    if frames is not None and fps is not None:
        raise UserError("--frames and --fps both say how many frames; give one of them")
    options = Options(camera=camera, lens=lens, mapper=mapper, frames=frames, fps=fps, dense=dense, up=up)
    reporter = Reporter(progress, quiet)
    try:
        report = make(source, out, options, reporter)
    except BaseException as error:
        if not isinstance(error, Exception):
            reporter.message("stopped; the same command goes on with what is done")
        raise
    if not quiet:
        print(
            f"{len(report['registered'])} of {report['used']} photos, "
            f"{report['points'] + report.get('dense_points', 0):,} points in {out}; "
            f"see {out / 'cameras.png'}; train on it with: gs-train {out}",
            file=sys.stderr,
        )


def main() -> NoReturn:
    run(make_app(prepare), "gs-prepare")


if __name__ == "__main__":
    main()
