# SPDX-License-Identifier: Apache-2.0
"""gs-doctor: whether this machine can train, and whether it computes what it should."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from ..storage import home_expanded
from . import backend_name, make_app, run

MARKS = {True: "ok  ", False: "BAD ", None: "    "}


def doctor(
    backend: Annotated[
        list[str] | None,
        typer.Option(help="Examine this one; may be given again. Else all that are here.", metavar="NAME"),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(help="Also write it all to this file, to send with a report.", metavar="FILE"),
    ] = None,
) -> None:
    """Examine this machine: what is here, and whether each backend computes what it should. Exit 1 if one does not."""
    names = [backend_name(name) for name in backend or []]
    chosen = tuple(name for name in names if name and name != "auto")
    from .. import backends

    backends.check_mlx()
    from ..doctor.examine import examine
    from ..storage import atomic_write
    from .progress import write_result

    began, lines, bad, about = time.monotonic(), [], [], ""

    def tell(line: str) -> None:
        lines.append(line)
        write_result(line)

    for subject, finding in examine(chosen):
        if subject != about:
            about = subject
            tell(f"{subject}:")
        tell(f"  {MARKS[finding.good]} {finding.name}: {finding.text}")
        if finding.good is False and finding.name != "verdict":
            bad.append(f"{subject}, {finding.name}")
    tell(f"{'all is well' if not bad else 'wrong: ' + '; '.join(bad)} ({time.monotonic() - began:.0f} s)")
    if report is not None:
        with atomic_write(home_expanded(report)) as file:
            file.write("".join(f"{line}\n" for line in lines).encode())
    if bad:
        raise SystemExit(1)


def main() -> NoReturn:
    run(make_app(doctor), "gs-doctor")


if __name__ == "__main__":
    main()
