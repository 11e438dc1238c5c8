# SPDX-License-Identifier: Apache-2.0
"""What the worker does with a model that COLMAP has made: finer cameras, more points, another frame."""

from __future__ import annotations

import itertools
import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .matching import Matching, longest_side, match_pairs
from .placing import FEWEST_INLIERS, matched, placed_anew

TIED = 15  # points from which a photo belongs to others: sound models have 60 and more, photos gone astray 0 to 5
SHARED = 5  # points from which two photos are matched again
MOST_PARTNERS = 10  # of a photo, those with most such points; each photo gets so many where it has them
MOST_TRIALS = 2000  # of RANSAC: four times as fast as COLMAP's 10,000 on pairs that do not overlap
EPIPOLAR_SHARE = (
    500  # of the longer side: a match may be that part off its line. COLMAP's 4 pixels are as much of
)
# 2,000; at 640 a bound of 1.3 halves the cameras' errors
ERROR_SHARE = 400  # the same for the distance of a point from where it was seen
LOSS_SHARE = 1280  # and for the scale of the Cauchy loss: what is farther off counts little
# Of the cost in a round of an adjustment: then it ends. On 97 photos of 800x600 that is a fifth of the time of COLMAP's
# 100 rounds, and cameras differ by 0.001 degrees.
SETTLED = 1e-5
FEWEST = 0.5  # of the points before; with fewer the model is left as it was
MOST_PLACINGS = 3  # rounds in which photos gone astray are placed anew


def described(model: Any) -> dict[str, Any]:
    """What the report says of a model."""
    return {
        "registered": sorted(image.name for image in model.images.values() if image.has_pose),
        "points": model.num_points3D(),
        "mean_error_px": round(model.compute_mean_reprojection_error(), 4),
        "mean_track": round(model.compute_mean_track_length(), 3),
        "cameras": [
            {
                "model": c.model_name,
                "width": c.width,
                "height": c.height,
                "params": [round(p, 6) for p in c.params],
            }
            for c in model.cameras.values()
        ],
    }


def keep_largest_group(model: Any) -> None:
    """Takes out of the model the photos that too few points tie to the largest group of them.

    The global mapper places those too, anywhere: of a film with two gaps it turned one half against the other.
    """
    placed = {i for i, image in model.images.items() if image.has_pose}
    for image_id in placed - _largest_group(model):
        model.deregister_frame(model.images[image_id].frame_id)


def _largest_group(model: Any) -> set[int]:
    points: dict[int, set[int]] = {i: set() for i, image in model.images.items() if image.has_pose}
    for point_id, point in model.points3D.items():
        for element in point.track.elements:
            points[element.image_id].add(point_id)
    return max(tied_groups(points), key=len, default=set())


def tied_groups(points: dict[int, set[int]]) -> list[set[int]]:
    """Groups of photos, each grown from the one with most points by those that share at least `TIED` with the group."""
    left, groups = set(points), []
    while left:
        group = {max(sorted(left), key=lambda i: len(points[i]))}
        seen = set().union(*(points[i] for i in group))
        left -= group
        while joining := {i for i in left if len(points[i] & seen) >= TIED}:
            group |= joining
            left -= joining
            seen.update(*(points[i] for i in joining))
        groups.append(group)
    return groups


def rematched(job: dict[str, Any], events: Any) -> dict[str, Any]:
    """Pairs that share points of the model in job["model"], matched again along their epipolar lines and more strictly,
    into a database beside job["database"]; how many.

    Before cameras are known this is no good: on a floor of alike tiles it finds a camera a quarter turn off.
    """
    import pycolmap

    model = pycolmap.Reconstruction(job["model"])
    pairs = _that_share_points(model, job["database"])
    database = _finer_database(job)
    if not database.exists():
        _without_matches(pycolmap, Path(job["database"]), database)
    stored = pycolmap.Database.open(database)
    try:
        ids = {image.name: image.image_id for image in stored.read_all_images()}
        waiting = [(a, b) for a, b in pairs if not stored.exists_two_view_geometry(ids[a], ids[b])]
    finally:
        stored.close()
    done = len(pairs) - len(waiting)
    events.send(total=len(pairs), done=done)
    strict = max(1.0, longest_side(job) / EPIPOLAR_SHARE)
    how = Matching(str(database), job["threads"], MOST_TRIALS, strict, guided=True)
    match_pairs(how, waiting, lambda k: events.send(done=done + k))
    return {"finer_pairs": len(pairs)}


def refined(job: dict[str, Any], events: Any) -> dict[str, Any]:
    """The model in job["model"] with finer cameras into job["out"]: points triangulated anew from what `rematched` has
    found, and all adjusted with a robust loss.
    """
    import pycolmap

    before = pycolmap.Reconstruction(job["model"])
    options = pycolmap.IncrementalPipelineOptions()
    options.num_threads = job["threads"]
    options.random_seed = 0
    options.triangulation.ignore_two_view_tracks = False
    options.ba_global_function_tolerance = SETTLED
    error = most_error(job)
    options.mapper.filter_max_reproj_error = error
    options.triangulation.complete_max_reproj_error = error
    options.triangulation.merge_max_reproj_error = error
    options.mapper.abs_pose_max_error = error
    options.mapper.abs_pose_min_num_inliers = FEWEST_INLIERS
    out = Path(job["out"])
    out.mkdir(parents=True, exist_ok=True)
    events.send(total=3, done=0)
    model = _adjusted(job, pycolmap.Reconstruction(before), options, events)
    model = without_strays(
        model, _finer_database(job), options, lambda other, cache, how: _adjusted(job, other, how)
    )
    keep_largest_group(model)
    lost = model.num_reg_images() < before.num_reg_images()
    if lost or model.num_points3D() < FEWEST * before.num_points3D():
        model = before
    model.write(out)
    events.send(done=3)
    return described(model)


def most_error(job: dict[str, Any]) -> float:
    """Pixels that a point may lie off where it was seen: COLMAP's 4 are meant for photos of 1600 and more, and smaller
    ones are also seen more exactly.
    """
    return float(max(1.5, longest_side(job) / ERROR_SHARE))


def _adjusted(job: dict[str, Any], model: Any, options: Any, events: Any = None) -> Any:
    """The model triangulated anew from its poses, all adjusted with a robust loss."""
    import pycolmap

    longest, error = longest_side(job), options.mapper.filter_max_reproj_error
    model = pycolmap.triangulate_points(model, _finer_database(job), job["images"], job["out"], True, options)
    for done, limit in enumerate((error, 0.7 * error), 1):
        if events is not None:
            events.send(done=done)
        pycolmap.ObservationManager(model).filter_all_points3D(limit, 1.5)
        adjustment = pycolmap.BundleAdjustmentOptions()
        adjustment.print_summary = False
        adjustment.ceres.loss_function_type = pycolmap.LossFunctionType.CAUCHY
        adjustment.ceres.loss_function_scale = max(0.5, longest / LOSS_SHARE)
        adjustment.ceres.solver_options.num_threads = job["threads"]
        adjustment.ceres.solver_options.function_tolerance = SETTLED
        pycolmap.bundle_adjustment(model, adjustment)
    pycolmap.ObservationManager(model).filter_all_points3D(0.7 * error, 1.5)
    return model


def without_strays(
    model: Any, database: str | Path, options: Any, adjust: Callable[[Any, Any, Any], Any]
) -> Any:
    """The model, where photos went astray with them placed anew and all adjusted.

    `adjust` is given a model, COLMAP's cache of the database and the options. What gives the model no more
    observations, or unties a photo, is not taken.
    """
    cache = matched(database)
    for _ in range(MOST_PLACINGS):
        other = placed_anew(model, cache, options)
        if other is None:
            break
        other = adjust(other, cache, options)
        if other.compute_num_observations() <= model.compute_num_observations():
            break
        if len(_largest_group(other)) < len(_largest_group(model)):
            break
        model = other
    return model


def _finer_database(job: dict[str, Any]) -> Path:
    return Path(job["database"]).with_name("refined.db")


def _that_share_points(model: Any, database: str) -> list[tuple[str, str]]:
    """Names of the pairs of photos, of those that were matched, that show most points of the model together."""
    import pycolmap

    counts: Counter[tuple[int, int]] = Counter()
    for point in model.points3D.values():
        counts.update(itertools.combinations(sorted({e.image_id for e in point.track.elements}), 2))
    stored = pycolmap.Database.open(database)
    try:
        shared = [
            (count, pair)
            for pair, count in counts.items()
            if count >= SHARED and stored.exists_two_view_geometry(*pair)
        ]
    finally:
        stored.close()
    used: Counter[int] = Counter()
    chosen = []
    for _, pair in sorted(shared, reverse=True):
        if min(used[i] for i in pair) < MOST_PARTNERS:
            chosen.append(pair)
            used.update(pair)
    return sorted((model.images[a].name, model.images[b].name) for a, b in chosen)


def _without_matches(pycolmap: Any, source: Path, target: Path) -> None:
    """A copy of the database with the features alone; whole or not there."""
    unfinished = target.with_suffix(".part")
    shutil.copyfile(source, unfinished)
    database = pycolmap.Database.open(unfinished)
    try:
        database.clear_two_view_geometries()
        database.clear_matches()
    finally:
        database.close()
    os.replace(unfinished, target)


def thickened(job: dict[str, Any], events: Any) -> dict[str, Any]:
    """Writes the model in job["model"] with the points and colors of the file job["points"] into job["out"]."""
    import pycolmap

    reconstruction = pycolmap.Reconstruction(job["model"])
    with np.load(job["points"]) as more:
        for place, color in zip(more["points"], more["colors"], strict=True):
            reconstruction.add_point3D(place, pycolmap.Track(), color)
    Path(job["out"]).mkdir(parents=True, exist_ok=True)
    reconstruction.write(job["out"])
    return {}


def turned(job: dict[str, Any], events: Any) -> dict[str, Any]:
    """Writes the model in job["model"] into job["out"] in another frame: job["scale"], ["rotation"],
    ["translation"].
    """
    import pycolmap

    reconstruction = pycolmap.Reconstruction(job["model"])
    matrix = [
        [job["scale"] * r for r in row] + [t]
        for row, t in zip(job["rotation"], job["translation"], strict=True)
    ]
    reconstruction.transform(pycolmap.Sim3d(matrix))
    Path(job["out"]).mkdir(parents=True, exist_ok=True)
    reconstruction.write(job["out"])
    return {"version": pycolmap.__version__}
