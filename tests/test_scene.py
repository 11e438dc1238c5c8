# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import numpy as np
import pytest

from gsplat_train.errors import UserError
from gsplat_train.scene import Camera, Scene, View

K = [[100.0, 0, 30], [0, 110, 25], [0, 0, 1]]


def turned_camera(angle=0.3, translation=(0.1, -0.2, 4.0)):
    viewmat = np.eye(4)
    viewmat[:3, :3] = [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
    viewmat[:3, 3] = translation
    return Camera(viewmat, K, 64, 48)


def pixels(camera, points):
    seen = np.c_[points, np.ones(len(points))] @ camera.viewmat.T
    return (seen[:, :3] / seen[:, 2:3]) @ camera.K.T, seen[:, 2]


def scene_of(cameras, n_points=20):
    random = np.random.default_rng(1)
    views = [View(f"{i:02d}", camera) for i, camera in enumerate(cameras)]
    return Scene("test", tuple(views), random.normal(size=(n_points, 3)), np.zeros((n_points, 3)))


def test_a_camera_takes_nested_lists_and_knows_its_place():
    camera = Camera(np.eye(4).tolist(), K, 64, 48)
    assert camera.viewmat.dtype == camera.K.dtype == np.float64
    camera = turned_camera()
    np.testing.assert_allclose(camera.viewmat @ camera.camtoworld, np.eye(4), atol=1e-12)
    np.testing.assert_allclose(camera.viewmat @ [*camera.position, 1], [0, 0, 0, 1], atol=1e-12)


def test_resizing_scales_pixels_axis_by_axis():
    camera, points = turned_camera(), np.random.default_rng(0).normal(size=(5, 3))
    before, _ = pixels(camera, points)
    after, _ = pixels(camera.resized(128, 12), points)
    np.testing.assert_allclose(after, before * [2, 0.25, 1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"viewmat": np.eye(3)}, r"viewmat must be a \[4, 4\] matrix of numbers, got shape \(3, 3\)"),
        ({"viewmat": [[1, 2], [3]]}, r"viewmat must be a \[4, 4\] matrix"),
        ({"viewmat": 2 * np.eye(4)}, "viewmat must be a rotation"),
        ({"viewmat": np.diag([1.0, 1, -1, 1])}, "viewmat must be a rotation"),
        ({"viewmat": np.full((4, 4), np.nan)}, "viewmat must be finite"),
        ({"K": [[0, 0, 1], [0, 1, 1], [0, 0, 1]]}, "fx, fy > 0"),
        ({"K": [[9, 1, 1], [0, 9, 1], [0, 0, 1]]}, "K must be"),
        ({"width": 0}, "camera width must be a whole number"),
        ({"height": 1.5}, "camera height must be a whole number"),
        ({"height": float("inf")}, "camera height must be a whole number"),
    ],
)
def test_what_is_no_camera_is_refused(change, message):
    with pytest.raises(UserError, match=message):
        Camera(**{"viewmat": np.eye(4), "K": K, "width": 64, "height": 48} | change)


def test_views_are_sorted_and_every_eighth_is_held_out():
    views = [View(f"{i:02d}", turned_camera()) for i in (*range(10, 20), *range(10))]
    train, test = Scene("test", tuple(views), np.zeros((1, 3)), np.zeros((1, 3))).split(8)
    assert [view.name for view in test] == ["00", "08", "16"]
    assert len(train) == 17
    assert not {view.name for view in train} & {view.name for view in test}


def test_a_split_leaves_views_to_train_on():
    scene = scene_of([turned_camera()])
    assert scene.split(0) == (scene.views, ())
    with pytest.raises(UserError, match="has 1 views and holds out 1, which leaves none"):
        scene.split(8)
    with pytest.raises(UserError, match="test_every must be 0"):
        scene.split(-1)


def test_a_scene_that_names_its_held_out_views_is_split_so():
    cameras = [turned_camera(0.1 * i) for i in range(4)]
    names = [view.name for view in scene_of(cameras).views]
    scene = replace(scene_of(cameras), test_names=frozenset(names[1:3]))
    train, test = scene.split(8)
    assert [view.name for view in test] == names[1:3]
    assert [view.name for view in train] == [names[0], names[3]]
    assert scene.split(0) == (scene.views, ())
    assert scene.normalized()[0].test_names == scene.test_names


def test_views_of_one_group_are_held_out_together():
    views = [View(f"{i}{side}", turned_camera(), group=str(i)) for i in range(4) for side in "ab"]
    scene = Scene("test", tuple(views), np.zeros((1, 3)), np.zeros((1, 3)))
    for args, names in ((scene, "0a 0b 3a 3b"), (replace(scene, test_names=frozenset(["2b"])), "2a 2b")):
        train, test = args.split(3)
        assert [view.name for view in test] == names.split()
        assert not {view.group for view in train} & {view.group for view in test}


def test_points_and_colors_go_together():
    with pytest.raises(UserError, match=r"\(2, 3\) and \(3, 3\)"):
        Scene("test", (), np.zeros((2, 3)), np.zeros((3, 3)))


def test_the_frame_of_training_sees_the_same_pictures():
    random = np.random.default_rng(3)
    poses = zip(random.normal(size=6), random.normal(size=(6, 3)) * 9, strict=True)
    scene = scene_of([turned_camera(*pose) for pose in poses])
    scaled, frame = scene.normalized()
    positions = np.stack([view.camera.position for view in scaled.views])
    np.testing.assert_allclose(positions.mean(axis=0), 0, atol=1e-12)
    assert np.linalg.norm(positions, axis=1).max() == pytest.approx(1)
    assert scene.extent == pytest.approx(1.1 * frame.scale)
    assert scaled.extent == pytest.approx(1.1)
    np.testing.assert_allclose(frame.to_scene(scaled.points), scene.points, atol=1e-12)
    for before, after in zip(scene.views, scaled.views, strict=True):
        np.testing.assert_allclose(frame.to_train(before.camera.position), after.camera.position, atol=1e-12)
        (uv, depth), (uv_scaled, depth_scaled) = (
            pixels(before.camera, scene.points),
            pixels(after.camera, scaled.points),
        )
        np.testing.assert_allclose(uv_scaled, uv)
        np.testing.assert_allclose(depth_scaled * frame.scale, depth)


@pytest.mark.parametrize("n_cameras", [1, 3])
def test_cameras_at_one_place_take_the_scale_from_the_points(n_cameras):
    scene = scene_of([turned_camera()] * n_cameras)
    scaled, frame = scene.normalized()
    distances = np.linalg.norm(scene.points - scene.views[0].camera.position, axis=1)
    assert frame.scale == pytest.approx(np.median(distances))
    assert np.isfinite(scaled.points).all()
