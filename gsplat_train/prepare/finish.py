# SPDX-License-Identifier: Apache-2.0
"""The last step: the model turned upright into sparse/0, the picture of it, and prepare.json, which says
it is whole.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..datasets.colmap_binary import read_images, read_points
from ..datasets.colmap_records import rotation_matrix
from ..errors import UserError
from ..storage import atomic_write, parsed, storage
from .orient import IDENTITY, UPS, VIEWERS_UP, Similarity, upright
from .photos import Photo
from .picture import draw
from .process import run_job
from .reporter import Reporter

TRANSFORM = "transform.json"  # beside the model: both are replaced at once
Downs = dict[str, tuple[float, float, float] | None]


def write_report(
    out: Path, work: Path, photos: list[Photo], report: dict[str, Any], up: str, reporter: Reporter
) -> dict[str, Any]:
    """Finishes a scene whose model lies in work/model; removes `work`; returns what prepare.json says."""
    report["sources"] = {photo.name: photo.source for photo in photos}
    report["downs"] = {photo.name: photo.down for photo in photos if photo.down is not None}
    model = work / ("thick" if "dense_points" in report else "refined")
    report = _turn(out, model, report, IDENTITY, up, reporter)
    shutil.rmtree(work, ignore_errors=True)
    return report


def orient_model(out: Path, report: dict[str, Any], up: str, reporter: Reporter) -> dict[str, Any]:
    """A finished scene brought to another `up`; nothing is done where it has that already."""
    if report.get("up") == up:
        reporter.message(f"{out} is made already")
        return report
    stored = out / "sparse" / "0" / TRANSFORM
    try:
        now = Similarity.from_json(parsed(stored.read_text("utf-8")))
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{stored} is missing or damaged; delete {out} and make it again") from error
    reporter.message(f"{out} is made already; it is only turned to --up {up}")
    return _turn(out, out / "sparse" / "0", report, now, up, reporter)


def _turn(
    out: Path, model: Path, report: dict[str, Any], now: Similarity, up: str, reporter: Reporter
) -> dict[str, Any]:
    """Writes `model`, which is in the frame `now`, into sparse/0 in the frame asked for, and all that
    speaks of it.
    """
    images = sorted(read_images(model / "images.bin"), key=lambda image: image.name)
    points = read_points(model / "points3D.bin")
    R = np.stack([rotation_matrix(image.quat) for image in images])
    positions = np.stack([-r.T @ np.array(image.translation) for r, image in zip(R, images, strict=True)])
    back = now.inverse()
    R, positions, places = R @ now.rotation, back.apply(positions), back.apply(points.positions)
    goal, source = IDENTITY, "none"
    if up != "none":
        downs: Downs = report["downs"]
        goal, source = upright(R, positions, places, [downs.get(image.name) for image in images], up)
    step = goal.after(back)
    new = out / "sparse" / ".new"
    with storage(out):
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
    try:
        job = {"do": "turned", "model": str(model.resolve()), "out": str(new.resolve()), **step.to_json()}
        log = (out / ".prepare" / "colmap.log") if (out / ".prepare").is_dir() else new / "colmap.log"
        version = run_job(job, log, lambda event: None)["version"]
        (new / "colmap.log").unlink(missing_ok=True)
        with storage(out):
            (new / TRANSFORM).write_text(json.dumps(goal.to_json()), "utf-8")
            old = out / "sparse" / ".old"
            shutil.rmtree(old, ignore_errors=True)
            if (out / "sparse" / "0").exists():
                (out / "sparse" / "0").rename(old)
            new.rename(out / "sparse" / "0")
            shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    report |= {
        "up": up,
        "up_from": source,
        "transform": goal.to_json(),
        "transform_says": "x_here = scale * rotation @ x_reconstruction + translation; undone by --up none",
        "program": f"gsplat_train {__version__}",
        "pycolmap": version,
    }
    axis = np.array(UPS[up if up != "none" else VIEWERS_UP])
    picture = draw(R @ goal.rotation.T, goal.apply(positions), goal.apply(places), points.colors, axis)
    with atomic_write(out / "cameras.png") as file:
        file.write(picture)
    with atomic_write(out / "prepare.json") as file:
        file.write((json.dumps(report, indent=1) + "\n").encode())
    return report
