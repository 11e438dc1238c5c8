# SPDX-License-Identifier: Apache-2.0
"""`prepare`: what is asked for and what is there already, then the steps, then the finish."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..datasets.files import PICTURE_SUFFIXES
from ..errors import StorageError, UserError
from ..storage import atomic_write, home_expanded, storage
from .finish import orient_model, write_report
from .photos import NoScene
from .process import require_pycolmap
from .reporter import Reporter
from .steps import Options, make_pictures, read_json, reconstruct
from .video import is_video, require_av

WORK = ".prepare"  # in the scene's folder: what is under way
BYTES_A_PHOTO = 2_000_000  # of the database: features and matches, besides the picture itself
BYTES_OF_A_VIDEO = 200_000_000  # its frames and all that


def prepare(source: Path, out: Path, options: Options, reporter: Reporter) -> dict[str, Any]:
    """Makes the scene and returns what prepare.json says; where it is made already, only `up` is looked
    after.

    UserError where the input cannot become a scene, StorageError where `out` cannot be written, and what
    `process.run_job` raises.
    """
    source, out = home_expanded(source), home_expanded(out)
    if not source.exists():
        raise UserError(f"{source} is not there; give a folder of photos or a video")
    if source.is_file() and not is_video(source):
        raise UserError(
            f"{source} is neither a folder of photos nor a video (as .mp4, .mov); give one of them"
        )
    require_pycolmap()
    if is_video(source) and source.is_file():
        require_av()
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; give a folder for the scene")
    made_from = _signature(source, options)
    finished = _finished(out, made_from)
    if finished is not None:
        if options.mapper not in ("auto", finished.get("mapper")):
            raise UserError(
                f"{out} was made by the mapper {finished.get('mapper')}; for one by {options.mapper} give another "
                "folder"
            )
        return orient_model(out, finished, options.up, reporter)
    work = _begin(source, out, made_from, reporter)
    started = time.monotonic()
    try:
        found, report = make_pictures(source, out, work, options, reporter)
        report |= reconstruct(found, out, work, options, reporter)
    except NoScene:
        _remove(out)
        raise
    report["name"] = source.resolve().stem if source.is_file() else source.resolve().name
    report["made_from"], report["options"] = made_from, asdict(options)
    report["warnings"] = reporter.warnings
    report["seconds"] = reporter.seconds | {"all": round(time.monotonic() - started, 2)}
    return write_report(out, work, found, report, options.up, reporter)


def _signature(source: Path, options: Options) -> dict[str, Any]:
    """What a scene depends on: the files and the options, but not which way is up."""
    files = [source] if source.is_file() else sorted(p for p in source.rglob("*") if p.is_file())
    stated = [(p.relative_to(source).as_posix(), p.stat().st_size, p.stat().st_mtime_ns) for p in files]
    chosen = {key: value for key, value in asdict(options).items() if key not in ("up", "mapper")}
    digest = hashlib.sha256(repr(stated).encode()).hexdigest()[:16]
    return {"input": str(source.resolve()), "files": digest, **chosen}


def _finished(out: Path, made_from: dict[str, Any]) -> dict[str, Any] | None:
    report = read_json(out / "prepare.json")
    if not isinstance(report, dict):
        return None
    if report.get("made_from") != made_from:
        raise UserError(
            f"{out} holds a scene made from {report.get('made_from', {}).get('input', 'something else')}, "
            "other files or other options; give another folder"
        )
    return report


def _begin(source: Path, out: Path, made_from: dict[str, Any], reporter: Reporter) -> Path:
    """The folder of what is under way. That of the same work is gone on with, that of other work begins
    anew.
    """
    work = out / WORK
    if out.is_dir() and not work.is_dir() and any(out.iterdir()):
        raise UserError(f"{out} holds other files; give a new or an empty folder")
    if out.resolve() == source.resolve() or source.resolve() in out.resolve().parents:
        raise UserError(
            f"{out} lies in {source}, where the photos are; give a folder elsewhere (gs-train: --out)"
        )
    stored = read_json(work / "made_from.json")
    if work.is_dir() and stored != made_from:
        reporter.message(f"{out} holds the beginning of other work, which is dropped")
        _remove(out)
    size = BYTES_OF_A_VIDEO
    if source.is_dir():
        size = sum(p.stat().st_size + BYTES_A_PHOTO for p in _pictures_of(source))
    with storage(out):
        work.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(out).free
    if free < size:
        _remove(out)
        raise StorageError(
            f"the disk of {out} has {free / 1e6:,.0f} MB free, about {size / 1e6:,.0f} MB are needed; make "
            "room or give a folder elsewhere"
        )
    with atomic_write(work / "made_from.json") as file:
        file.write(json.dumps(made_from).encode())
    return work


def _remove(out: Path) -> None:
    """Takes away what an unfinished scene has left."""
    for name in (WORK, "images", "sparse"):
        shutil.rmtree(out / name, ignore_errors=True)
    with suppress(OSError):
        out.rmdir()


def _pictures_of(folder: Path) -> list[Path]:
    return [p for p in folder.rglob("*") if p.suffix.lower() in PICTURE_SUFFIXES]
