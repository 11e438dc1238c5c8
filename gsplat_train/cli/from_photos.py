# SPDX-License-Identifier: Apache-2.0
"""gs-train of photos without poses, or of a video: the scene is made first, in the run's folder."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ..config import is_builtin
from ..datasets import MADE_OF_PHOTOS as SCENE
from ..datasets import holds_photos_only
from ..datasets.advice import foreign_cameras
from ..errors import UserError
from ..prepare.video import is_video
from ..storage import home_expanded

if TYPE_CHECKING:
    from ..training.run_folder import RunFolder
    from .progress import Progress


def capture(scene: str) -> Path | None:
    """The video or the folder of photos that `scene` names; None where it is a scene, or nothing."""
    path = home_expanded(scene)
    if is_builtin(scene):
        return None
    found = is_video(path) if path.is_file() else path.is_dir() and holds_photos_only(path)
    return path.resolve() if found else None


def named(source: Path) -> str:
    """What runs of it are filed under, as a path."""
    return str(source.with_suffix("") if source.is_file() else source)


def poseless(source: Path) -> str:
    """That photos or a video have no poses, with whose cameras lie beside them all the same."""
    foreign = foreign_cameras(source) if source.is_dir() else ""
    return f"{source} has no camera poses" + (f" that can be read ({foreign})" if foreign else "")


def make_scene(source: Path, run: RunFolder, report: Progress) -> str:
    """The scene made of `source` in the run's folder, or what is there of it gone on with."""
    from ..prepare.make import prepare
    from ..prepare.reporter import Reporter
    from ..prepare.steps import Options

    out = run.root / SCENE
    report.message(f"{poseless(source)}: they are found first, into {out} (as gs-prepare does)")
    report.release()
    reporter = Reporter(report.mode if report.mode != "jsonl" else "plain", report.quiet)
    try:
        prepare(source, out, Options(), reporter)
    except BaseException as error:
        if not isinstance(error, Exception):
            again = shlex.join(["gs-train", str(source), "--out", str(run.root)])
            reporter.message(f"stopped while finding cameras; this goes on with what is done: {again}")
        raise
    return str(out.resolve())


def made_scene(source: Path, out: Path | None, runs: Path, log: Callable[[str], None]) -> Path:
    """The run that `--resume` goes on with: `out`, or the newest whose scene was made of `source`."""
    from ..prepare.steps import read_json

    choices = [home_expanded(out)] if out is not None else sorted(runs.glob("*"), reverse=True)
    for run in choices:
        prepared = read_json(run / SCENE / "prepare.json")
        if isinstance(prepared, dict) and prepared.get("made_from", {}).get("input") == str(source):
            log(f"the scene is {run / SCENE}")
            return run
    where = out if out is not None else runs
    raise UserError(f"no run of {source} to resume in {where}; leave out --resume to start one")
