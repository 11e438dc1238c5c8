# SPDX-License-Identifier: Apache-2.0
"""The process that calls COLMAP: one job as a line of JSON on standard input, events as lines on standard
output.

It is a process of its own because native code can crash, hang or take all memory, and because pycolmap's
wheels for Linux bring a zlib of their own: loaded before Python's, it breaks every later compression. What
is done is in the database, so a job that is started again goes on.

Events: {"total": n, "done": k}, {"done": k}, {"note": text}, {"result": {...}} or {"error": text, "kind":
...}.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import zlib
from pathlib import Path
from typing import Any, TextIO

zlib.compress(b"first, see above")

from .matching import FEATURE_SIZE, Matching, match_pairs  # noqa: E402
from .models import (  # noqa: E402
    MOST_TRIALS,
    SETTLED,
    described,
    keep_largest_group,
    most_error,
    refined,
    rematched,
    thickened,
    turned,
    without_strays,
)
from .motion import turned_only  # noqa: E402
from .pairs import choose_pairs  # noqa: E402
from .placing import FEWEST_INLIERS, adjusted  # noqa: E402

LOW_CONTRAST = {"below": 1000, "peak": 0.0015}  # small pictures need the weaker corners too
MOST_FEATURES = 4096
DEFAULT_FOCAL = 1.2  # of the longer side, where nothing is known
GLOBAL_ABOVE = 500  # photos: there the global mapper comes first
ENOUGH = 0.8  # of the photos registered: the other mapper is not tried
MOST_MODELS = 10
ENOUGH_INLIERS = 15  # of a pair that overlaps
FLAT = 0.9  # of those pairs: the photos show no depth
# Features a photo, in the mean: below, points that two photos see are kept too, twice as many, and a photo is placed by
# fewer of them than COLMAP's 30. A film of 31 frames of 320x240 fell into five parts before.
FEW_FEATURES = 2000


class Events:
    """Standard output, kept away from the native code's own prints."""

    def __init__(self) -> None:
        self.file: TextIO = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def send(self, **event: Any) -> None:
        self.file.write(json.dumps(event) + "\n")
        self.file.flush()


def _end_with_parent() -> None:
    """Standard input is open as long as the parent lives."""
    sys.stdin.buffer.read()
    os._exit(1)


def features(job: dict[str, Any], events: Events) -> dict[str, Any]:
    """Cameras and photos into the database, and each photo's SIFT features."""
    import pycolmap

    photos = job["photos"]
    database = pycolmap.Database.open(job["database"])
    try:
        _register(pycolmap, database, photos, job["lens"])
        waiting = [p["name"] for p in photos if not _n_features(database, p["name"])]
    finally:
        database.close()
    events.send(total=len(photos), done=len(photos) - len(waiting))
    options = pycolmap.FeatureExtractionOptions()
    options.use_gpu = False
    options.max_image_size = FEATURE_SIZE
    options.num_threads = job["threads"]
    options.sift.max_num_features = MOST_FEATURES
    if max(max(p["width"], p["height"]) for p in photos) <= LOW_CONTRAST["below"]:
        options.sift.peak_threshold = LOW_CONTRAST["peak"]
    step = 2 * job["threads"]
    for start in range(0, len(waiting), step):
        pycolmap.extract_features(
            job["database"],
            job["images"],
            image_names=waiting[start : start + step],
            extraction_options=options,
            device=pycolmap.Device.cpu,
        )
        events.send(done=len(photos) - len(waiting) + min(start + step, len(waiting)))
    database = pycolmap.Database.open(job["database"])
    try:
        counts = [_n_features(database, p["name"]) for p in photos]
    finally:
        database.close()
    return {
        "features": sum(counts),
        "without": [p["name"] for p, n in zip(photos, counts, strict=True) if not n],
    }


def _n_features(database: Any, name: str) -> int:
    image = database.read_image_with_name(name)
    return int(database.num_keypoints_for_image(image.image_id)) if image is not None else 0


def _register(pycolmap: Any, database: Any, photos: list[dict[str, Any]], lens: str) -> None:
    """Writes the cameras and photos that the database lacks; a new camera has the focal length of its
    first photo.
    """
    cameras: dict[str, tuple[int, int]] = {}
    for image in database.read_all_images():
        photo = next(p for p in photos if p["name"] == image.name)
        rig = database.read_rig_with_sensor(database.read_camera(image.camera_id).sensor_id)
        cameras[photo["camera"]] = image.camera_id, rig.rig_id
    stored = {image.name for image in database.read_all_images()}
    for photo in photos:
        if photo["name"] in stored:
            continue
        if photo["camera"] not in cameras:
            focal = photo["focal"] or DEFAULT_FOCAL * max(photo["width"], photo["height"])
            camera = pycolmap.Camera.create_from_model_name(0, lens, focal, photo["width"], photo["height"])
            camera.has_prior_focal_length = photo["focal"] is not None
            camera = database.read_camera(database.write_camera(camera))
            rig = pycolmap.Rig()
            rig.add_ref_sensor(camera.sensor_id)
            cameras[photo["camera"]] = camera.camera_id, database.write_rig(rig)
        camera_id, rig_id = cameras[photo["camera"]]
        image_id = database.write_image(pycolmap.Image(name=photo["name"], camera_id=camera_id))
        frame = pycolmap.Frame()
        frame.rig_id = rig_id
        frame.add_data_id(database.read_image(image_id).data_id)
        database.write_frame(frame)


def matches(job: dict[str, Any], events: Events) -> dict[str, Any]:
    """Matches the chosen pairs, in parts, each verified by geometry."""
    import pycolmap

    names = [photo["name"] for photo in job["photos"]]
    database = pycolmap.Database.open(job["database"])
    try:
        of_name = {image.name: image.image_id for image in database.read_all_images()}
        ids = [of_name[name] for name in names]
        pairs = choose_pairs(len(names), job["kind"], lambda i: database.read_descriptors(ids[i]).data)
        waiting = [(i, j) for i, j in pairs if not database.exists_two_view_geometry(ids[i], ids[j])]
    finally:
        database.close()
    done = len(pairs) - len(waiting)
    events.send(total=len(pairs), done=done)
    asked = Matching(job["database"], job["threads"], MOST_TRIALS)
    match_pairs(asked, [(names[i], names[j]) for i, j in waiting], lambda k: events.send(done=done + k))
    database = pycolmap.Database.open(job["database"])
    try:
        _, inliers = database.read_two_view_geometry_num_inliers()
        turned = _turned_only(database, job["photos"])
    finally:
        database.close()
    verified = sum(n >= ENOUGH_INLIERS for n in inliers)
    return {"pairs": len(pairs), "verified": verified, "inliers": int(sum(inliers)), "turned_only": turned}


def _turned_only(database: Any, photos: list[dict[str, Any]]) -> bool:
    """Whether nearly all pairs that overlap show no depth, and fit a camera that turns on the spot."""
    import pycolmap

    kinds = pycolmap.TwoViewGeometryConfiguration
    flat = (kinds.PLANAR, kinds.PANORAMIC, kinds.PLANAR_OR_PANORAMIC)
    _, found = database.read_two_view_geometries()
    sound = [geometry for geometry in found if len(geometry.inlier_matches) >= ENOUGH_INLIERS]
    without_depth = [geometry.H for geometry in sound if geometry.config in flat and geometry.H is not None]
    sizes = {(photo["width"], photo["height"]) for photo in photos}
    if len(sizes) > 1 or len(without_depth) < FLAT * len(sound):
        return False
    return turned_only(without_depth, *sizes.pop())


def model(job: dict[str, Any], events: Events) -> dict[str, Any]:
    """Poses and points by the asked mapper; the model with most photos is written into job["out"]."""
    import pycolmap

    n = len(job["photos"])
    first = "global" if n > GLOBAL_ABOVE else "incremental"
    order = (
        [job["mapper"]] if job["mapper"] != "auto" else sorted(["global", "incremental"], key=first.__ne__)
    )
    events.send(total=n, done=0)
    best, found = None, {}
    for mapper in order:
        models = _map(pycolmap, mapper, job, events)
        for each in models:
            keep_largest_group(each)
        largest = max(models, key=lambda m: (m.num_reg_images(), m.num_points3D()), default=None)
        found[mapper] = sorted((m.num_reg_images() for m in models), reverse=True)
        if largest is not None:
            largest = without_strays(largest, job["database"], _incremental_options(pycolmap, job), adjusted)
            keep_largest_group(largest)
        if largest is not None and (best is None or largest.num_reg_images() > best[1].num_reg_images()):
            best = mapper, largest
        if best is not None and best[1].num_reg_images() >= ENOUGH * n:
            break
    if best is None:
        return {"mapper": order[-1], "models": found, "registered": []}
    mapper, chosen = best
    out = Path(job["out"])
    out.mkdir(parents=True, exist_ok=True)
    chosen.write(out)
    return {"mapper": mapper, "models": found} | described(chosen)


def _incremental_options(pycolmap: Any, job: dict[str, Any]) -> Any:
    options = pycolmap.IncrementalPipelineOptions()
    options.min_model_size = 3
    options.max_num_models = MOST_MODELS
    options.random_seed = 0
    options.num_threads = job["threads"]
    options.ba_global_function_tolerance = SETTLED  # finer cameras come later
    options.ba_local_function_tolerance = 10 * SETTLED
    if job["mean"] <= FEW_FEATURES:
        options.triangulation.ignore_two_view_tracks = False
        options.mapper.abs_pose_min_num_inliers = FEWEST_INLIERS
    options.mapper.filter_max_reproj_error = most_error(job)
    return options


def _map(pycolmap: Any, mapper: str, job: dict[str, Any], events: Events) -> list[Any]:
    out = Path(job["out"]).with_name(f"models_{mapper}")
    out.mkdir(parents=True, exist_ok=True)
    if mapper == "global":
        options = pycolmap.GlobalPipelineOptions()
        options.random_seed = 0
        options.num_threads = job["threads"]
        return list(pycolmap.global_mapping(job["database"], job["images"], out, options).values())
    options = _incremental_options(pycolmap, job)
    count = 0

    def another(new: int = 1) -> None:
        nonlocal count
        count += new
        events.send(done=count)

    found = pycolmap.incremental_mapping(
        job["database"],
        job["images"],
        out,
        options,
        initial_image_pair_callback=lambda: another(2),
        next_image_callback=another,
    )
    return list(found.values())


JOBS = {
    "features": features,
    "matches": matches,
    "model": model,
    "rematched": rematched,
    "refined": refined,
    "thickened": thickened,
    "turned": turned,
}


def main() -> None:
    events = Events()
    job = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        import pycolmap
    except ImportError as error:
        events.send(error=str(error), kind="import")
        return
    pycolmap.logging.minloglevel = 1
    try:
        events.send(result=JOBS[job["do"]](job, events))
    except MemoryError as error:
        events.send(error=str(error), kind="memory")
    except (RuntimeError, ValueError, OSError) as error:  # what pycolmap raises for what COLMAP refuses
        events.send(error=" ".join(str(error).split()), kind="colmap")


if __name__ == "__main__":
    main()
