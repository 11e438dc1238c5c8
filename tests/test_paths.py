# SPDX-License-Identifier: Apache-2.0
"""Camera paths: they stay where cameras were, look where these looked, and files of them mean what they say."""

import json
from pathlib import Path

import numpy as np
import pytest
import tiny

from gsplat_train.errors import UserError
from gsplat_train.evaluate import path_files
from gsplat_train.evaluate.paths import PATHS, along, look_at, make_path, subject, with_lens
from gsplat_train.scene import Camera

K = [[100.0, 0, 50], [0, 100, 40], [0, 0, 1]]
UP = np.array([0.0, 0, 1])


def ring(n: int = 24, radius: float = 3.0, outward: bool = False, arc: float = 2 * np.pi) -> list[Camera]:
    """Cameras on a level circle around (1, 2, 0), at height 1, looking at its middle or away from it."""
    cameras = []
    for angle in np.arange(n) * arc / n:
        position = np.array([1 + radius * np.cos(angle), 2 + radius * np.sin(angle), 1.0])
        target = np.array([1.0, 2, 0]) if not outward else 2 * position - [1, 2, 1]
        cameras.append(Camera(look_at(position, target, UP), K, 100, 80))
    return cameras


def wall() -> list[Camera]:
    """5 x 3 cameras on a wall, looking along y."""
    return [
        Camera(look_at(np.array([x, 0, z]), np.array([x, 1.0, z]), UP), K, 100, 80)
        for z in (-0.5, 0, 0.5)
        for x in (-1, -0.5, 0, 0.5, 1)
    ]


POINTS = np.random.default_rng(0).normal(size=(500, 3)) * 0.3 + [1, 2, 0]


@pytest.mark.parametrize("kind", PATHS)
@pytest.mark.parametrize(
    ("cameras", "points"),
    [(ring(), POINTS), (ring(arc=np.pi), POINTS), (ring(outward=True), POINTS), (wall(), [[0, 4.0, 0]])],
    ids=["around", "half around", "outward", "wall"],
)
def test_paths_stay_among_the_cameras(kind: str, cameras: list[Camera], points) -> None:
    path = make_path(kind, cameras, np.array(points), 40)
    assert len(path) == 40
    positions = np.array([camera.position for camera in cameras])
    low, high = positions.min(axis=0), positions.max(axis=0)
    slack = 0.03 * np.linalg.norm(high - low)
    near = max(np.sort(np.linalg.norm(positions - p, axis=1))[1] for p in positions)
    for camera in path:
        assert (camera.position >= low - slack).all() and (camera.position <= high + slack).all()
        distances = np.linalg.norm(positions - camera.position, axis=1)
        assert distances.min() < 1.05 * near
        closest = cameras[int(distances.argmin())]
        assert camera.viewmat[2, :3] @ closest.viewmat[2, :3] > 0.8  # looks where its neighbour looks
        assert -camera.viewmat[1, :3] @ UP > 0.8  # upright


def test_steps_along_a_path_are_even() -> None:
    for kind in ("orbit", "interpolate"):
        positions = np.array([camera.position for camera in make_path(kind, ring(), POINTS, 60)])
        steps = np.linalg.norm(np.diff(positions, axis=0), axis=1)
        assert steps.max() < 1.3 * steps.min()


def test_the_subject_is_where_the_axes_meet() -> None:
    np.testing.assert_allclose(subject(ring(), POINTS), [1, 2, 0], atol=1e-6)
    np.testing.assert_allclose(subject(wall(), np.array([[0.2, 4.0, 0.1]])), [0, 4, 0], atol=1e-6)


def test_a_spline_passes_through_its_cameras() -> None:
    viewmats = [camera.viewmat for camera in ring(6)]
    fine = along(viewmats, 2001)
    for viewmat in viewmats:
        assert min(np.abs(viewmat - other).max() for other in fine) < 0.02


def test_photos_whose_names_say_nothing_are_visited_by_nearness() -> None:
    shuffled = [ring()[i] for i in np.random.default_rng(1).permutation(24)]
    positions = np.array([camera.position for camera in make_path("interpolate", shuffled, POINTS, 200)])
    way = np.linalg.norm(np.diff(positions, axis=0), axis=1).sum()
    assert way < 1.5 * 2 * np.pi * 3


def test_a_lens_keeps_the_field_of_view() -> None:
    camera = with_lens(ring()[0], None, 160, None)
    assert (camera.width, camera.height, camera.K[0, 0], camera.K[0, 2]) == (200, 160, 200, 100)
    wide = with_lens(ring()[0], 300, 100, 90)
    assert wide.K[1, 1] == pytest.approx(50) and wide.K[0, 0] == pytest.approx(50)


def test_without_cameras_there_is_no_path() -> None:
    with pytest.raises(UserError, match="--scene"):
        make_path("orbit", [], POINTS, 10)


def test_a_path_reads_back(tmp_path: Path) -> None:
    cameras = make_path("orbit", ring(), POINTS, 7)
    path_files.write_path(tmp_path / "path.json", cameras, 24)
    made = path_files.read_path(tmp_path / "path.json")
    assert made.fps == 24 and len(made.cameras) == 7
    for ours, read in zip(cameras, made.cameras, strict=True):
        np.testing.assert_allclose(read.viewmat, ours.viewmat, atol=1e-12)
        np.testing.assert_allclose(read.K, ours.K)
    assert len(path_files.read_path(tmp_path / "path.json", frames=20).cameras) == 20


def opengl(camera: Camera) -> np.ndarray:
    return camera.camtoworld @ np.diag([1, -1, -1, 1])


def test_nerfstudios_path(tmp_path: Path) -> None:
    cameras = ring(4)
    transform = np.array([[0.0, 1, 0, 0.3], [-1, 0, 0, 0.2], [0, 0, 1, -0.1]])
    forth = np.diag([0.25, 0.25, 0.25, 1]) @ np.vstack([transform, [0, 0, 0, 1]])
    frames = []
    for camera in cameras:
        pose = forth @ opengl(camera)
        pose[:3, :3] /= 0.25
        frames.append({"camera_to_world": pose.ravel().tolist(), "fov": 53.13010235, "aspect": 1.25})
    content = {"render_height": 80, "render_width": 100, "fps": 24, "camera_path": frames, "keyframes": []}
    (tmp_path / "camera_path.json").write_text(json.dumps(content))
    made = path_files.read_path(tmp_path / "camera_path.json")
    assert not np.allclose(made.cameras[0].position, cameras[0].position)
    (tmp_path / "dataparser_transforms.json").write_text(
        json.dumps({"transform": transform.tolist(), "scale": 0.25})
    )
    made = path_files.read_path(tmp_path / "camera_path.json")
    assert made.fps == 24 and (made.cameras[0].width, made.cameras[0].height) == (100, 80)
    for ours, read in zip(cameras, made.cameras, strict=True):
        np.testing.assert_allclose(read.viewmat, ours.viewmat, atol=1e-9)
        assert read.K[1, 1] == pytest.approx(80, rel=1e-6)


def test_keyframes_of_the_older_viewer_are_by_column(tmp_path: Path) -> None:
    pose = opengl(ring(4)[1])
    frames = [{"matrix": json.dumps(pose.T.ravel().tolist()), "fov": 50, "aspect": 1}] * 2
    (tmp_path / "path.json").write_text(json.dumps({"keyframes": frames, "seconds": 0.5, "fps": 10}))
    made = path_files.read_path(tmp_path / "path.json")
    assert len(made.cameras) == 5
    np.testing.assert_allclose(made.cameras[2].viewmat, ring(4)[1].viewmat, atol=1e-9)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"frames": []}', '{"frames": [3]}', '{"frames": [{"camtoworld": [1, 2]}]}',
     '{"frames": [{"camtoworld": [0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0]}]}', '{"camera_path": [{"fov": 1}]}',
     '{"frames": [{"viewmat": [1,0,0,0,0,1,0,0,0,0,1,0,0,0,0,1], "fov": 500}]}'],
)  # fmt: skip
def test_a_broken_path_is_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "path.json").write_text(text)
    with pytest.raises(UserError, match=r"path\.json"):
        path_files.read_path(tmp_path / "path.json")


def test_the_demo_has_every_path() -> None:
    cameras = [view.camera for view in tiny.scene().views]
    for kind in PATHS:
        make_path(kind, cameras, tiny.scene().points, 5)
