# SPDX-License-Identifier: Apache-2.0
"""gs-doctor: whether this machine can train, and whether it computes what it should."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer

from ..errors import UserError
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
    progress: Annotated[
        Literal["bar", "plain", "jsonl"] | None,
        typer.Option(help="bar, plain lines, or JSON lines, with each finding as one on standard output."),
    ] = None,
) -> None:
    """Examine this machine: what is here, and whether each backend computes what it should. Exit 1 if one does not."""
    names = [backend_name(name) for name in backend or []]
    if "auto" in names and (named := [name for name in names if name != "auto"]):
        raise UserError(f"--backend auto examines all that are here; leave out that, or --backend {named[0]}")
    chosen = tuple(name for name in names if name and name != "auto")
    from .. import backends

    backends.check_mlx()
    from ..doctor.examine import examine
    from ..storage import atomic_write
    from ..training.run_folder import to_json
    from .progress import Progress

    shown = Progress(progress)
    as_json = shown.mode == "jsonl"
    began, lines, bad, about = time.monotonic(), [], [], ""

    def tell(line: str) -> None:
        lines.append(line)
        if not as_json:
            shown.result(line)

    for subject, finding in examine(chosen, shown.of("examining")):
        if subject != about:
            about = subject
            tell(f"{subject}:")
        tell(f"  {MARKS[finding.good]} {finding.name}: {finding.text}")
        if as_json:
            shown.result(to_json({"about": subject, **finding._asdict()}))
        if finding.good is False and finding.name != "verdict":
            bad.append(f"{subject}, {finding.name}")
    seconds = time.monotonic() - began
    tell(f"{'all is well' if not bad else 'wrong: ' + '; '.join(bad)} ({seconds:.0f} s)")
    if as_json:
        shown.result(to_json({"well": not bad, "wrong": bad, "seconds": round(seconds, 1)}))
    if report is not None:
        with atomic_write(home_expanded(report)) as file:
            file.write("".join(f"{line}\n" for line in lines).encode())
    if bad:
        raise SystemExit(1)


def main() -> NoReturn:
    run(make_app(doctor), "gs-doctor")


if __name__ == "__main__":
    main()
