# SPDX-License-Identifier: Apache-2.0
"""Metashape's cameras.xml, written from the built-in scene."""

from xml.etree import ElementTree

import foreign_scenes as foreign
import numpy as np
import pytest

from gsplat_train.datasets import load_scene, metashape
from gsplat_train.errors import UserError


def load(root, **options):
    lines = []
    return load_scene(root, log=lines.append, **options), "\n".join(lines)


def written(root, photos=True, cloud=None, **more):
    demo = foreign.small_demo()
    foreign.write_metashape(root, demo, **more)
    if photos:
        foreign.write_photos(root / "images", demo.views)
    if cloud is not None:
        foreign.write_ascii_ply(root / "cloud.ply", cloud, demo.colors)
    return root


def test_cameras_photos_and_points(tmp_path):
    demo = foreign.small_demo()
    scene, said = load(written(tmp_path, cloud=demo.points))
    foreign.same_cameras(scene, demo.views)
    np.testing.assert_allclose(scene.points, demo.points, atol=1e-6)
    assert "900 from cloud.ply" in said and "warning" not in said


def test_labels_without_extension_and_drawn_points(tmp_path):
    scene, said = load(written(tmp_path, label=lambda view: view.name[:-4]))
    foreign.same_cameras(scene, foreign.small_demo().views)
    assert "20,000 drawn" in said


@pytest.mark.parametrize("folder", ["/home/me/job/", "C:\\job\\", "../job/"])
def test_labels_that_are_paths_lead_nowhere_else(tmp_path, folder):
    """Names of views become paths of renders."""
    scene, _ = load(written(tmp_path, label=lambda view: f"{folder}{view.name}"))
    views = foreign.small_demo().views
    home = "home/me/" if "home" in folder else ""
    assert [view.name for view in scene.views] == [f"{home}job/{view.name}" for view in views]


def test_a_cloud_in_the_worlds_coordinates_is_brought_back(tmp_path):
    demo = foreign.small_demo()
    angle = 0.7
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    place, scale = np.array([500.0, -200, 30]), 12.5
    world = demo.points @ turn.T * scale + place
    scene, said = load(written(tmp_path, cloud=world, chunk_transform=(turn, place, scale)))
    np.testing.assert_allclose(scene.points, demo.points, atol=1e-4)
    assert "brought from the world's coordinates" in said


def test_cameras_that_are_not_aligned_or_switched_off(tmp_path):
    off = '<camera id="90" sensor_id="3" label="new.png"/>'
    off += '<camera id="91" sensor_id="3" label="off.png" enabled="false"/>'
    scene, said = load(written(tmp_path, extra_cameras=off))
    assert len(scene.views) == 12
    assert "warning: 1 photos are not aligned ('new.png')" in said and "off.png" not in said


def sensor(kind="frame", **values):
    inner = "".join(f"<{name}>{value!r}</{name}>" for name, value in values.items())
    text = f'<sensor id="0" type="{kind}"><resolution width="400" height="300"/>'
    if values:
        text += f'<calibration class="adjusted">{inner}</calibration>'
    return ElementTree.fromstring(text + "</sensor>")


def record(kind="frame", log=lambda line: None, **values):
    return metashape.sensor_record(sensor(kind, **values), "cameras.xml", log)


def test_the_lens_is_metashapes_formula(tmp_path):
    lens = {"f": 350.0, "cx": 3.0, "cy": -4.0, "b1": 2.0, "k1": 0.1, "k2": -0.05, "p1": 0.01, "p2": -0.02}
    found = record(**lens)
    assert found.model == "OPENCV"
    fx, fy, cx, cy, k1, k2, p1, p2 = found.params
    x, y = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 50))
    r2 = x * x + y * y
    radial = 1 + lens["k1"] * r2 + lens["k2"] * r2**2
    x_meta = x * radial + lens["p1"] * (r2 + 2 * x * x) + 2 * lens["p2"] * x * y
    y_meta = y * radial + lens["p2"] * (r2 + 2 * y * y) + 2 * lens["p1"] * x * y
    u_meta = 200 + lens["cx"] + x_meta * lens["f"] + x_meta * lens["b1"]
    v_meta = 150 + lens["cy"] + y_meta * lens["f"]
    radial = 1 + k1 * r2 + k2 * r2**2  # COLMAP's OPENCV
    u = fx * (x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x)) + cx
    v = fy * (y * radial + 2 * p2 * x * y + p1 * (r2 + 2 * y * y)) + cy
    np.testing.assert_allclose([u, v], [u_meta, v_meta])


def test_lenses_by_kind():
    assert record(f=9.0).model == "PINHOLE"
    assert record(f=9.0, k3=0.1).model == "FULL_OPENCV"
    assert record("fisheye", f=9.0, k1=0.1) == ("OPENCV_FISHEYE", 400, 300, (9, 9, 200, 150, 0.1, 0, 0, 0))
    thin = record("fisheye", f=9.0, k1=0.1, k3=0.3, p1=0.5, p2=0.6)
    assert thin.model == "THIN_PRISM_FISHEYE" and thin.params[4:] == (0.1, 0, 0.6, 0.5, 0.3, 0, 0, 0)
    assert record("spherical").model == "EQUIRECTANGULAR"
    lines = []
    assert record(f=100.0, b2=5.0, k4=0.1, log=lines.append).model == "PINHOLE"
    assert ["skew" in lines[0], "k4" in lines[1]] == [True, True]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[:400], "is no XML"),
        (lambda text: text.replace("<f>", "<g>").replace("</f>", "</g>"), "has no focal length"),
        (lambda text: text.replace('sensor_id="3"', 'sensor_id="8"'), "needs the sensor '8'"),
        (lambda text: text.replace("<transform>", "<transform>1 "), "must be 16 finite numbers"),
        (
            lambda text: text.replace("<transform>", "<transform>nan ", 1).replace(" 1.0</tr", "</tr", 1),
            "16 finite",
        ),
        (lambda text: text.replace("transform>", "trans>"), "has no aligned cameras"),
        (lambda text: text.replace('type="frame"', 'type="cylindrical"'), "of the type 'cylindrical'"),
        (lambda text: text.replace('<sensor id="3"', '<sensor id="3" master_id="1"'), "belongs to a rig"),
        (lambda text: text.replace('width="96"', 'width="x"'), "must have a resolution"),
    ],
)
def test_broken_files(tmp_path, change, message):
    root = written(tmp_path)
    (root / "cameras.xml").write_text(change((root / "cameras.xml").read_text()))
    with pytest.raises(UserError, match=message):
        load(root)


def test_other_xml_is_not_taken(tmp_path):
    (tmp_path / "a.xml").write_text("<html/>")
    assert not metashape.recognise(tmp_path)
