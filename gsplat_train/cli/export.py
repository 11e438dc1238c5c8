# SPDX-License-Identifier: Apache-2.0
"""gs-export: a model in, a file for other programs out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from ..errors import UserError
from . import make_app, run


def export(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A run folder, a checkpoint or a .ply.")],
    out: Annotated[Path, typer.Argument(metavar="OUT.ply", help="The file to write.")],
) -> None:
    """Write a model as a PLY of splats, in the scene's own frame."""
    out = out.expanduser()
    if out.suffix.lower() != ".ply":
        raise UserError(f"cannot write {out}: the format is known by its end, and .ply is the one there is")
    if out.is_dir():
        raise UserError(f"cannot write {out}: it is a folder")

    from .. import backends

    backends.check_mlx()
    from ..model.formats import ply
    from ..model.io import open_model, to_splats

    found = open_model(model, lambda line: print(line, file=sys.stderr))
    ply.write(out, to_splats(found.gaussians, found.antialiased))
    print(f"{found.gaussians.means.shape[0]:,} splats in {out}", file=sys.stderr)


def main() -> NoReturn:
    run(make_app(export), "gs-export")


if __name__ == "__main__":
    main()
