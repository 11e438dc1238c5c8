# SPDX-License-Identifier: Apache-2.0
"""The steps of a preparation: pictures, features, matches, cameras, points; each goes on with what an earlier run
did.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..datasets import colmap
from ..datasets.files import PICTURE_SUFFIXES, closed_folder, shorten
from ..datasets.options import LoadOptions
from ..storage import atomic_write, parsed
from . import dense
from . import photos as photos_module
from .photos import NoScene, Photo, find_photos, gather
from .process import run_job
from .reporter import Reporter, duration
from .video import extract, is_video

ENOUGH, FEW = 0.5, 0.8  # of the photos registered: below the first it fails, below the second it warns
FEWEST_FEATURES = 30  # a photo, in the mean
LENSES = {"simple": "SIMPLE_RADIAL", "opencv": "OPENCV"}
CHOSEN = {".json", ".txt", ".db", ".md"}  # files that nobody takes for photos


@dataclass(frozen=True)
class Options:
    """How a scene is made; what the command line says."""

    camera: str = "per-size"  # shared, per-size, per-photo
    lens: str = "simple"  # simple, opencv
    mapper: str = "auto"  # auto, incremental, global
    frames: int | None = None
    fps: float | None = None
    dense: bool = True  # points also where there are no features
    up: str = "-y"  # the axis that is up, or none: the reconstruction's own frame


def read_json(path: Path) -> Any:
    """What a file says; None where it is missing or damaged."""
    try:
        return parsed(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None


def make_pictures(
    source: Path, out: Path, work: Path, options: Options, reporter: Reporter
) -> tuple[list[Photo], dict[str, Any]]:
    """Step 1: out/images, and what is known of each; from an earlier run where that is complete."""
    stored = read_json(work / "photos.json")
    if stored is not None:
        reporter.message(f"pictures: {len(stored['photos'])} from the run before")
        return [Photo(**photo) for photo in stored["photos"]], stored["report"]
    images = out / "images"
    shutil.rmtree(images, ignore_errors=True)
    if source.is_file():
        found, report = _from_video(source, images, options, reporter)
    else:
        found, report = _from_photos(source, images, reporter)
    text = json.dumps({"photos": [asdict(photo) for photo in found], "report": report})
    with atomic_write(work / "photos.json") as file:
        file.write(text.encode())
    return found, report


def _from_photos(source: Path, images: Path, reporter: Reporter) -> tuple[list[Photo], dict[str, Any]]:
    root, names, others = find_photos(source)
    if not names:
        heic = sum(name.lower().endswith((".heic", ".heif")) for name in others)
        advice = "; for HEIC: pip install pillow-heif" if heic else ""
        videos = [name for name in others if is_video(Path(name))]
        advice = f"; for a video give its name: {source / videos[0]}" if videos and not heic else advice
        if closed := closed_folder(source):
            raise NoScene(f"{closed} cannot be listed: permission denied")
        raise NoScene(f"{source} holds no photos ({', '.join(sorted(PICTURE_SUFFIXES))}){advice}")
    with reporter.stage("photos", len(names)) as stage:
        found, left_out = gather(root, names, images, stage.at)
    left_out |= {name: "no photo" for name in others if Path(name).suffix.lower() not in CHOSEN}
    reporter.message(f"photos: {len(found)} of {len(names)} are used")
    if left_out:
        reporter.warning(f"left out: {photos_module.summary(left_out)}")
    report = {"kind": "photos", "found": len(names), "used": len(found), "left_out": left_out}
    return found, report


def _from_video(
    source: Path, images: Path, options: Options, reporter: Reporter
) -> tuple[list[Photo], dict[str, Any]]:
    with reporter.stage("frames", 1, unit="frames") as stage:

        def begin(total: int) -> Callable[[int], None]:
            stage.begin(total)
            return stage.at

        result = extract(source, images, options.frames, options.fps, begin)
    for line in result.warnings:
        reporter.warning(line)
    reporter.message(
        f"video: {result.decoded:,} frames in {result.seconds:.1f} s, {len(result.photos)} taken, the "
        f"sharpest of each window; {result.blurred} blurred and {result.repeated} that show the same as "
        "before left out"
    )
    report = {
        "kind": "video",
        "found": result.decoded,
        "used": len(result.photos),
        "blurred": result.blurred,
        "repeated": result.repeated,
        "video_seconds": round(result.seconds, 2),
    }
    return result.photos, report


def _cameras(photos: list[Photo], how: str) -> list[str]:
    """For each photo the name of its camera: photos of the same name share one."""
    if how == "per-photo":
        return [photo.name for photo in photos]
    sizes = sorted({(photo.width, photo.height) for photo in photos})
    if how == "per-size":
        return [f"{photo.camera} {photo.width}x{photo.height}" for photo in photos]
    if len(sizes) > 1:
        some = ", ".join(f"{w}x{h}" for w, h in sizes[:3])
        raise NoScene(
            f"--camera shared takes photos of one size, these have {len(sizes)} ({some}); take --camera "
            "per-size"
        )
    return ["shared"] * len(photos)


def reconstruct(
    photos: list[Photo], out: Path, work: Path, options: Options, reporter: Reporter
) -> dict[str, Any]:
    """Steps 2 to 4: features, matches, model; UserError where too few photos find their place."""
    cameras = _cameras(photos, options.camera)
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    job: dict[str, Any] = {
        "images": str((out / "images").resolve()),
        "database": str((work / "database.db").resolve()),
        "out": str((work / "model").resolve()),
        "photos": [
            {**asdict(photo), "camera": camera} for photo, camera in zip(photos, cameras, strict=True)
        ],
        "lens": LENSES[options.lens],
        "mapper": options.mapper,
        "kind": "video" if photos[0].camera == "video" else "photos",
        "threads": threads,
    }
    log = work / "colmap.log"
    n = len(photos)
    features = _stage(job | {"do": "features"}, log, reporter, "features", n)
    mean = job["mean"] = features["features"] / n
    if mean < FEWEST_FEATURES:
        raise NoScene(
            f"the photos show next to nothing to go by ({mean:.0f} features each); give sharper or better "
            "lit photos of things with texture"
        )
    reporter.message(f"features: {mean:,.0f} a photo")
    matches = _stage(job | {"do": "matches"}, log, reporter, "matches", 1, "pairs")
    reporter.message(f"matches: {matches['verified']:,} of {matches['pairs']:,} pairs overlap")
    if matches.pop("turned_only"):
        raise NoScene(
            f"the camera turned on the spot: none of the {matches['verified']} pairs of photos that overlap "
            "shows depth, which comes from moving; walk around the scene between photos"
        )
    model = _model(job, work, log, reporter)
    _judge(photos, model, matches, reporter)
    model |= _finer(job, work, log, reporter)
    if options.dense:
        model["dense_points"] = _thicken(job, work, log, reporter)
    return {"features": features["features"], **matches, **model, "n_cameras": len(set(cameras))}


def _model(job: dict[str, Any], work: Path, log: Path, reporter: Reporter) -> dict[str, Any]:
    """What became of the mapper; in work/model is the model. From an earlier run where that was as far."""
    stored = read_json(work / "model.json")
    if stored is not None and stored["asked"] == job["mapper"]:
        reporter.message("cameras: from the run before")
        made: dict[str, Any] = stored["model"]
        return made
    shutil.rmtree(work / "model", ignore_errors=True)
    for path in work.glob("refined.*"):  # also the database, of pairs that the model before showed together
        path.unlink()
    made = _stage(job | {"do": "model"}, log, reporter, "cameras", len(job["photos"]))
    with atomic_write(work / "model.json") as file:
        file.write(json.dumps({"asked": job["mapper"], "model": made}).encode())
    return made


def _finer(job: dict[str, Any], work: Path, log: Path, reporter: Reporter) -> dict[str, Any]:
    """The model with finer cameras in work/refined, which is job["out"] from now on; of an earlier run where it is."""
    model = job["out"]
    job["out"] = str((work / "refined").resolve())
    stored = read_json(work / "refined.json")
    if stored is not None:
        reporter.message("finer cameras: from the run before")
        before: dict[str, Any] = stored
        return before
    made = _stage(job | {"do": "rematched", "model": model}, log, reporter, "finer matches", 1, "pairs")
    made |= _stage(job | {"do": "refined", "model": model}, log, reporter, "finer cameras", 3, "steps")
    with atomic_write(work / "refined.json") as file:
        file.write(json.dumps(made).encode())
    return made


def _thicken(job: dict[str, Any], work: Path, log: Path, reporter: Reporter) -> int:
    """Adds points where several photos agree on a depth to the model; how many."""
    options = LoadOptions(images=job["images"], max_size=2 * dense.SIDE, cache=False, trust=True)
    scene = colmap.load(Path(job["out"]), options)
    with reporter.stage("points", len(scene.views)) as stage:

        def begin(total: int) -> Callable[[int], None]:
            stage.begin(total)
            return stage.at

        points, colors = dense.more_points(scene.views, scene.points, job["threads"], begin)
    reporter.message(f"points: {len(points):,} more where photos agree on a depth")
    with atomic_write(work / "points.npz") as file:
        np.savez(file, points=points, colors=colors)
    more = {"do": "thickened", "out": str(work / "thick"), "points": str((work / "points.npz").resolve())}
    run_job(job | more | {"model": job["out"]}, log, lambda event: None)
    return len(points)


def _stage(
    job: dict[str, Any], log: Path, reporter: Reporter, title: str, total: int, unit: str = "photos"
) -> dict[str, Any]:
    with reporter.stage(title, total, unit=unit) as stage:

        def event(what: dict[str, Any]) -> None:
            if "total" in what:
                stage.begin(what["total"], what.get("done", 0))
            elif "done" in what:
                begun = stage.done > stage.first
                stage.at(what["done"])
                left = stage.total - stage.done
                if unit == "pairs" and left and not begun:
                    about = duration(stage.seconds_left(time.monotonic()))
                    reporter.message(f"{title}: {left:,} pairs more take about {about}")

        return run_job(job, log, event)


def _judge(photos: list[Photo], model: dict[str, Any], matches: dict[str, Any], reporter: Reporter) -> None:
    n, placed = len(photos), len(model["registered"])
    advice = (
        "take more photos with more overlap (each thing in three or more), without blur, with the exposure "
        "locked, walking around and not turning on the spot"
    )
    sizes = max(model["models"].values(), key=lambda m: m[0] if m else 0)
    if placed < max(3, ENOUGH * n):
        if matches["verified"] < n / 2:
            raise NoScene(
                f"only {matches['verified']} of {matches['pairs']} pairs of photos overlap, so {placed} of "
                f"{n} photos could be placed; {advice}"
            )
        groups = f" in groups of {', '.join(map(str, sizes[:4]))}" if len(sizes) > 1 else ""
        raise NoScene(
            f"only {placed} of {n} photos could be placed{groups}; are they of one scene? If so, {advice}"
        )
    missing = sorted({photo.name for photo in photos} - set(model["registered"]))
    if missing:
        line = f"{placed} of {n} photos were placed; not: {shorten(missing)}"
        others = f"; another {len(sizes) - 1} models of them were dropped" if len(sizes) > 1 else ""
        if placed < FEW * n:
            reporter.warning(
                f"{placed} of {n} photos were placed{others}; not: {', '.join(missing)}; {advice}"
            )
        else:
            reporter.message(line + others)
    else:
        reporter.message(f"cameras: all {n} photos were placed, {model['points']:,} points")
