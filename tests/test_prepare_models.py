# SPDX-License-Identifier: Apache-2.0
"""Which photos of a model belong together by the points that they share, and photos gone astray: placed anew."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from gsplat_train.prepare import models, placing, steps, worker
from gsplat_train.prepare.models import TIED, tied_groups
from gsplat_train.prepare.placing import adjusted, matched, suspicious

PHOTOS = 12
SILENT = SimpleNamespace(send=lambda **event: None)


def chain(first, count, start, step=TIED):
    """Photos in a row, each with two steps of points, one of them the next one's, too."""
    return {first + i: set(range(start + i * step, start + (i + 2) * step)) for i in range(count)}


def test_a_chain_holds_together_and_a_gap_parts_it():
    assert tied_groups(chain(0, 6, 0)) == [set(range(6))]
    parted = chain(0, 4, 0) | chain(4, 6, 10_000)
    assert sorted(tied_groups(parted), key=len) == [set(range(4)), set(range(4, 10))]


def test_too_few_points_tie_nothing():
    strays = chain(0, 5, 0) | {5: {0, 1, 2, 10**6}, 6: set()}
    assert sorted(map(len, tied_groups(strays))) == [1, 1, 5]
    assert len(tied_groups(chain(0, 5, 0, step=TIED - 1))) == 5


def test_a_photo_may_be_tied_by_several_together():
    points = chain(0, 4, 0) | {4: set(range(0, 8)) | set(range(3 * TIED, 3 * TIED + 8))}
    assert {0, 1, 2, 3, 4} in tied_groups(points)
    assert tied_groups({}) == []


# --- photos gone astray


@pytest.fixture
def capture(tmp_path):
    """A job for a model of photos around 200 points, with noise and false matches; and the true model."""
    pycolmap = pytest.importorskip("pycolmap", reason="the extra [sfm] is not installed")
    pycolmap.set_random_seed(0)
    options = pycolmap.SyntheticDatasetOptions(
        num_rigs=1,
        num_frames_per_rig=PHOTOS,
        num_points3D=200,
        camera_width=320,
        camera_height=240,
        camera_params=[300.0, 160.0, 120.0, 0.0],
        num_points2D_without_point3D=50,
        inlier_match_ratio=0.9,
        track_length=6,
    )
    database = pycolmap.Database.open(tmp_path / "refined.db")
    model = pycolmap.synthesize_dataset(options, database)
    pycolmap.synthesize_noise(pycolmap.SyntheticNoiseOptions(point2D_stddev=0.3), model, database)
    database.close()
    folders = {name: str(tmp_path / name) for name in ("images", "model", "out")}
    for folder in ("images", "model"):
        (tmp_path / folder).mkdir()
    job = {"database": str(tmp_path / "database.db"), "photos": [{"width": 320, "height": 240}], "threads": 1}
    return job | folders, model


def finer(job):
    return Path(job["database"]).with_name("refined.db")


def turn(model, i, degrees):
    """Turns a photo about its place."""
    import pycolmap

    image = model.images[i]
    pose = image.cam_from_world()
    turned = pycolmap.Rotation3d(np.radians(degrees) * np.array([0.0, 1.0, 0.0])) * pose.rotation
    image.frame.rig_from_world = pycolmap.Rigid3d(turned, -(turned * image.projection_center()))


def refined_with_errors(job, model, true):
    """The refined model, and by how many degrees each photo is turned against photo 1 otherwise than in truth."""
    import pycolmap

    model.write(job["model"])
    models.refined(job, SILENT)
    found = pycolmap.Reconstruction(job["out"])
    return found, errors(found, true)


def errors(found, true):
    turns = [
        {i: m.images[i].cam_from_world().rotation * first.inverse() for i in sorted(m.images)}
        for m in (found, true)
        for first in [m.images[1].cam_from_world().rotation]
    ]
    return np.array([np.degrees((turns[0][i] * turns[1][i].inverse()).angle()) for i in turns[0]])


@pytest.mark.parametrize("strays", [{5: 3.0}, {5: 10.0}, {5: 5.0, 6: -8.0}])
def test_photos_gone_astray_find_their_place(capture, strays):
    """One by 3 degrees kept a third of its points and its place, or the model was left as coarse as it came."""
    import pycolmap

    job, true = capture
    coarse = pycolmap.Reconstruction(true)
    for i, degrees in strays.items():
        turn(coarse, i, degrees)
    found, degrees = refined_with_errors(job, coarse, true)
    assert degrees.max() < 0.3
    assert min(image.num_points3D for image in found.images.values()) > 150


def test_a_coarse_model_is_mended_and_takes_in_what_was_kept_out(capture):
    """Four photos of a film found no place beside four others that had gone astray."""
    import pycolmap

    job, true = capture
    coarse = pycolmap.Reconstruction(true)
    coarse.deregister_frame(coarse.images[9].frame_id)
    turn(coarse, 5, 5)
    turn(coarse, 6, -8)
    options = worker._incremental_options(pycolmap, job | {"mean": 250})
    coarse = pycolmap.triangulate_points(coarse, finer(job), job["images"], job["model"], True, options)
    assert coarse.num_reg_images() == PHOTOS - 1 and errors(coarse, true).max() > 1
    found = models.without_strays(coarse, finer(job), options, adjusted)
    assert found.num_reg_images() == PHOTOS and errors(found, true).max() < 0.5
    assert models.without_strays(found, finer(job), options, adjusted) is found


def test_sound_photos_are_left_alone(capture, monkeypatch):
    """Also one with many false matches, of which a small share sees points."""
    import pycolmap

    job, true = capture
    placed = []
    place = models.placed_anew
    monkeypatch.setattr(models, "placed_anew", lambda *args: placed.append(place(*args)))
    _, degrees = refined_with_errors(job, true, true)
    assert degrees.max() < 0.3 and placed == [None]
    database = pycolmap.Database.open(finer(job))
    ids, found = database.read_two_view_geometries()
    for pair_id, geometry in zip(ids, found, strict=True):
        pair = pycolmap.pair_id_to_image_pair(pair_id)
        if 5 in pair:
            matches = np.array(geometry.inlier_matches)
            side = pair.index(5)
            false = matches[:, side] % 3 > 0
            matches[false, 1 - side] = np.roll(matches[false, 1 - side], 7)
            geometry.inlier_matches = matches
            database.update_two_view_geometry(*pair, geometry)
    database.close()
    found, degrees = refined_with_errors(job, true, true)
    assert degrees.max() < 0.3 and placed == [None, None]
    assert suspicious(found, matched(finer(job)).correspondence_graph) == [5]


def test_a_photo_that_finds_no_place_keeps_its_old_one(capture, monkeypatch):
    """Of two gone astray one is let find its place."""
    import pycolmap

    job, true = capture
    coarse = pycolmap.Reconstruction(true)
    turn(coarse, 5, 3)
    turn(coarse, 6, -3)
    register = placing._register

    def only_5(mapper, options, waiting):
        register(mapper, options, waiting & {5})

    monkeypatch.setattr(placing, "_register", only_5)
    monkeypatch.setattr(models, "keep_largest_group", lambda model: None)
    found, degrees = refined_with_errors(job, coarse, true)
    assert found.num_reg_images() == PHOTOS and np.delete(degrees, 5).max() < 0.3 < degrees[5]


def test_a_worse_place_is_taken_back(capture, monkeypatch):
    import pycolmap

    job, true = capture

    def misplaced(model, cache, options):
        other = pycolmap.Reconstruction(model)
        turn(other, 5, 10)
        return other

    monkeypatch.setattr(models, "placed_anew", misplaced)
    found, degrees = refined_with_errors(job, true, true)
    assert degrees.max() < 0.3 and found.num_reg_images() == PHOTOS


def test_what_was_refined_goes_with_another_mappers_model(tmp_path, monkeypatch):
    """Pairs that only the model before showed together stayed in the finer database."""
    monkeypatch.setattr(steps, "_stage", lambda *args: {"registered": []})
    job = {"photos": [], "mapper": "incremental"}
    steps._model(job, tmp_path, tmp_path / "log", None)
    finer = [tmp_path / name for name in ("refined.json", "refined.db", "refined.db-wal")]
    for path in finer:
        path.touch()
    steps._model(job, tmp_path, tmp_path / "log", SimpleNamespace(message=lambda text: None))
    assert all(path.exists() for path in finer)
    steps._model(job | {"mapper": "global"}, tmp_path, tmp_path / "log", None)
    assert not any(path.exists() for path in finer)
