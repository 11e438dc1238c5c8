# SPDX-License-Identifier: Apache-2.0
"""RealityCapture's camera parameters, written from the built-in scene."""

import foreign_scenes as foreign
import numpy as np
import pytest

from gsplat_train.datasets import load_scene, realitycapture
from gsplat_train.datasets.lenses import opencv
from gsplat_train.errors import UserError


def load(root, **options):
    lines = []
    return load_scene(root, log=lines.append, **options), "\n".join(lines)


def written(root, **more):
    demo = foreign.small_demo()
    foreign.write_realitycapture(root, demo, **more)
    foreign.write_photos(root / "images", demo.views)
    return root


@pytest.mark.parametrize("delimiter", [",", ";"])
@pytest.mark.parametrize("name", [lambda view: view.name, lambda view: f"C:\\shots\\{view.name}"])
def test_cameras_photos_and_points(tmp_path, delimiter, name):
    demo = foreign.small_demo()
    root = written(tmp_path, delimiter=delimiter, name=name)
    foreign.write_ascii_ply(root / "points.ply", demo.points, demo.colors)
    scene, said = load(root)
    foreign.same_cameras(scene, demo.views)
    np.testing.assert_allclose(scene.points, demo.points, atol=1e-6)
    assert "warning" not in said


def test_level_cameras_look_where_they_head():
    """Heading clockwise from north (y), pitch 90 level: as the program's own compass has it."""
    row = {"x": "0", "y": "0", "alt": "0", "pitch": "90", "roll": "0"}
    for heading, forward in ((0, [0, 1, 0]), (90, [1, 0, 0]), (180, [0, -1, 0])):
        matrix = realitycapture.viewmat(row | {"heading": str(heading)})
        np.testing.assert_allclose(matrix[2, :3], forward, atol=1e-12)
        np.testing.assert_allclose(-matrix[1, :3], [0, 0, 1], atol=1e-12)


def test_a_byte_order_mark_blank_lines_and_photos_without_a_pose(tmp_path):
    root = written(tmp_path)
    file = root / "cameras.csv"
    lines = file.read_text().splitlines()
    lines[3] = "view_02.png" + "," * 15
    file.write_bytes(b"\xef\xbb\xbf" + "\r\n".join([*lines, "", ""]).encode())
    scene, said = load(root)
    assert len(scene.views) == 11
    assert "warning: 1 photos have no usable pose ('view_02.png')" in said


def test_the_lens(tmp_path):
    root = written(tmp_path)
    rows = realitycapture.read_rows(root / "cameras.csv")
    row = rows["view_00.png"]
    file = root / "images" / "view_00.png"

    def distortion(**values):
        changed = row | {key: str(value) for key, value in values.items()}
        return realitycapture.photo("view_00.png", changed, file, root / "cameras.csv")

    assert distortion(k1=0.1, k2=0.2, t1=0.3, t2=0.4).distortion == opencv(0.1, 0.2, 0.3, 0.4)
    K = distortion(f=36, px=0.25, py=-0.125).camera.K
    np.testing.assert_allclose(K, [[96, 0, 72], [0, 96, 24], [0, 0, 1]])
    with pytest.raises(UserError, match=r"k4 = 0.5"):
        distortion(k4=0.5)


def test_no_camera_at_all(tmp_path):
    (tmp_path / "a.csv").write_text("#name,x,y,alt,heading,pitch,roll,f\na.jpg,1,2,3,,,,\n")
    with pytest.raises(UserError, match="has no camera with"):
        load(tmp_path)
    (tmp_path / "a.csv").write_text("name,price\na,3\n")
    assert not realitycapture.recognise(tmp_path)
