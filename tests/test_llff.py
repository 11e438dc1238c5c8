# SPDX-License-Identifier: Apache-2.0
"""LLFF scenes, from poses_bounds.npy alone."""

import numpy as np
import pytest
from PIL import Image

from gsplat_train.datasets import load_scene
from gsplat_train.datasets.llff import N_POINTS
from gsplat_train.errors import UserError

HEIGHT, WIDTH, FOCAL = 30.0, 40.0, 50.0
NEAR, FAR = 2.0, 11.0


def rotation(angle):
    """Camera axes (right, down, forward) as columns, of a camera turned about its down axis."""
    return np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])


def row(angle=0.2, position=(1.0, 2.0, 3.0), near=NEAR, far=FAR, hwf=(HEIGHT, WIDTH, FOCAL)):
    right, down, forward = rotation(angle).T
    pose = np.stack([down, right, -forward, np.array(position), np.array(hwf)], axis=1)
    return np.concatenate([pose.ravel(), [near, far]])


def write_scene(root, rows, n_photos=None, size=(40, 30)):
    (root / "images").mkdir(parents=True)
    np.save(root / "poses_bounds.npy", np.array(rows))
    for i in range(len(rows) if n_photos is None else n_photos):
        Image.new("RGB", size, (10 * i, 100, 200)).save(root / "images" / f"img{i}.png")
    return root


def test_the_axes_are_turned_to_ours(tmp_path):
    scene = load_scene(write_scene(tmp_path / "scene", [row(0.2), row(-0.5, (0.0, 0, 1))]))
    first, second = (view.camera for view in scene.views)
    np.testing.assert_allclose(first.camtoworld[:3, :3], rotation(0.2), atol=1e-12)
    np.testing.assert_allclose(first.position, [1, 2, 3])
    np.testing.assert_allclose(second.camtoworld[:3, :3], rotation(-0.5), atol=1e-12)
    np.testing.assert_array_equal(first.K, [[50, 0, 20], [0, 50, 15], [0, 0, 1]])
    assert [view.name for view in scene.views] == ["img0.png", "img1.png"]
    assert scene.undistort is None


def test_intrinsics_fit_the_files(tmp_path):
    camera = load_scene(write_scene(tmp_path, [row()], size=(20, 15))).views[0].camera
    np.testing.assert_array_equal(camera.K, [[25, 0, 10], [0, 25, 7.5], [0, 0, 1]])


def test_points_lie_inside_the_views_and_bounds_in_the_photos_colours(tmp_path):
    root = write_scene(tmp_path, [row(0.2), row(-0.5, (0.0, 0, 1), near=0.5, far=0.75), row(1.0)])
    lines = []
    scene = load_scene(root, log=lines.append)
    assert scene.points.shape == (N_POINTS, 3)
    assert any("10,000 points drawn" in line for line in lines)
    bounds = [(NEAR, FAR), (0.5, 0.75), (NEAR, FAR)]
    for i, (view, (near, far)) in enumerate(zip(scene.views, bounds, strict=True)):
        points = scene.points[scene.colors[:, 0] == 10 * i]
        assert abs(len(points) - N_POINTS / 3) < 1
        seen = points @ view.camera.viewmat[:3, :3].T + view.camera.viewmat[:3, 3]
        uv = (seen @ view.camera.K.T)[:, :2] / seen[:, 2:]
        assert (seen[:, 2] >= near).all() and (seen[:, 2] <= far).all()
        assert (uv >= 0).all() and (uv <= [WIDTH, HEIGHT]).all()
        assert uv.std(axis=0) == pytest.approx([WIDTH / 12**0.5, HEIGHT / 12**0.5], rel=0.05)
        # photos of one colour tell no depth: the points are in the far tenth of the parallax
        assert (1 / seen[:, 2] < 1 / far + 0.1 * (1 / near - 1 / far)).all()
    np.testing.assert_array_equal(load_scene(root).points, scene.points)


def test_colmap_goes_first_where_both_are_unless_it_is_broken(tmp_path):
    root, lines = write_scene(tmp_path, [row()]), []
    (root / "sparse/0").mkdir(parents=True)
    (root / "sparse/0/cameras.bin").write_bytes(b"")
    assert len(load_scene(root, log=lines.append).views) == 1
    assert any("has no images.bin" in line for line in lines if line.startswith("warning")), lines
    with pytest.raises(UserError, match=r"has no images.bin"):
        load_scene(root, reader="colmap")


def claim(n):
    """A header that claims n rows over a file that holds one."""
    return lambda data: data.replace(b"(1, 17)", f"({n}, 17)".encode())


BROKEN = {
    "a scalar": (
        lambda data: data.replace(b"(1, 17)", b"()     "),
        r"must be \[views, 17\] numbers, got shape \(\)",
    ),
    "2^60 rows": (claim(2**60), "cannot be read as a NumPy array"),
    "ten rows": (claim(10), "cannot be read as a NumPy array"),
    "empty": (lambda data: b"", "cannot be read as a NumPy array"),
    "cut": (lambda data: data[:40], "cannot be read as a NumPy array"),
    "half a row": (lambda data: data[:-60], "cannot be read as a NumPy array"),
    "text": (lambda data: b"not an array", "cannot be read as a NumPy array"),
    "objects": (lambda data: data.replace(b"'<f8'", b"'|O' "), "cannot be read as a NumPy array"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_answer_one_line(tmp_path, case):
    damage, message = BROKEN[case]
    root = write_scene(tmp_path, [row()])
    path = root / "poses_bounds.npy"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=message) as error:
        load_scene(root)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.zeros((1, 15)), r"must be \[views, 17\] numbers, got shape \(1, 15\)"),
        (np.zeros((0, 17)), r"must be \[views, 17\] numbers, got shape \(0, 17\)"),
        ([row(), row(position=(np.nan, 0, 0))], r"row 1 of 2 holds NaN or infinity"),
        ([row(near=0.0)], r"row 0 must have 0 < near < far, got 0.0 and 11.0"),
        ([row(near=5.0, far=4.0)], r"row 0 must have 0 < near < far"),
        ([row(hwf=(30, 40, 0))], r"row 0 holds no camera: .*fx, fy > 0"),
        ([row(hwf=(30, 0, 50))], r"row 0 holds no camera: camera width"),
        ([3 * row()], r"row 0 holds no camera: viewmat must be a rotation"),
    ],
)
def test_broken_poses_answer_one_line(tmp_path, rows, message):
    with pytest.raises(UserError, match=message) as error:
        load_scene(write_scene(tmp_path, rows, n_photos=1))
    assert "\n" not in str(error.value)


def test_as_many_photos_as_poses(tmp_path):
    with pytest.raises(UserError, match=r"has 2 poses but .* has 3 pictures"):
        load_scene(write_scene(tmp_path, [row(), row()], n_photos=3))


def test_no_poses(tmp_path):
    with pytest.raises(UserError, match=r"looked for poses_bounds.npy"):
        load_scene(tmp_path, reader="llff")


def test_fern_has_the_cameras_that_colmap_gives(data_folder):
    """Two files of one reconstruction: the same places and axes, and the focal length in poses_bounds.npy."""
    llff = load_scene(data_folder / "fern", reader="llff", images="images_8")
    colmap = load_scene(data_folder / "fern", reader="colmap", images="images_8", undistort=False)
    for one, other in zip(llff.views, colmap.views, strict=True):
        np.testing.assert_allclose(one.camera.viewmat, other.camera.viewmat, atol=1e-9)
        np.testing.assert_allclose(one.camera.K, other.camera.K, rtol=1e-6)
        np.testing.assert_array_equal(one.image, other.image)
