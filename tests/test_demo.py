# SPDX-License-Identifier: Apache-2.0
"""The built-in scene: its geometry, its pictures, and the folder it writes."""

import numpy as np
import pytest
from PIL import Image

from gsplat_train.datasets import demo, demo_world, load_scene
from gsplat_train.datasets.colmap_binary import read_images
from gsplat_train.datasets.demo import make_demo, orbit_camera, photograph, project, rays, visible, write_demo
from gsplat_train.errors import StorageError, UserError


@pytest.fixture(scope="module")
def scene():
    return make_demo(n_views=12, width=64, height=48, n_points=400)


def test_the_scene_is_what_was_asked_for_and_the_same_again(scene):
    assert len(scene.views) == 12
    assert scene.points.shape == scene.colors.shape == (400, 3)
    again = make_demo(n_views=12, width=64, height=48, n_points=400)
    np.testing.assert_array_equal(again.points, scene.points)
    for one, other in zip(scene.views, again.views, strict=True):
        np.testing.assert_array_equal(one.image, other.image)


def test_the_default_scene_deserves_training():
    """32 views of 320x240 with contrast and fine detail: nothing simple comes near to 15 dB."""
    defaults = dict(zip(("n_views", "width", "height", "n_points"), make_demo.__defaults__, strict=False))
    assert defaults == {"n_views": 32, "width": 320, "height": 240, "n_points": 6000}
    image = photograph(orbit_camera(0.0, 320, 240)) / 255
    assert -10 * np.log10((image**2).mean()) < 8
    assert -10 * np.log10(image.var()) < 15  # the best single colour
    fine = np.abs(np.diff(image, axis=1)).mean(axis=2) > 0.05
    assert 0.05 < fine.mean() < 0.3


def test_the_picture_is_what_it_was():
    """A few pixels by their kind of colour: the sky, the meadow, the golden ball."""
    image = photograph(orbit_camera(0.0, 160, 120)).astype(int)
    sky, meadow, ball = image[2, 80], image[55, 145], image[32, 46]
    assert sky[2] > sky[0] and sky.min() > 150
    assert meadow[1] > meadow[0] > meadow[2]
    assert ball[0] > ball[1] > ball[2]


def test_bundles_of_rays_meet_what_single_rays_meet():
    """The test of narrow bundles skips no solid that a ray would have met."""
    camera = orbit_camera(0.1, 64, 48)
    u, v = np.random.default_rng(0).uniform(0, [[64], [48]], (2, 400))
    directions = rays(camera, u, v)
    distance, index = demo_world.nearest(camera.position, directions)
    assert len(np.unique(index)) > 12  # most solids, the floor and the sky are in it
    for i in range(directions.shape[1]):
        alone, which = demo_world.nearest(camera.position, directions[:, i : i + 1])
        assert which[0] == index[i]
        assert alone[0] == pytest.approx(distance[i], rel=1e-5)


def test_rays_all_round_meet_what_single_rays_meet():
    """As a panorama's, whose directions sum to nothing: they have no middle."""
    camera = orbit_camera(0.1, 64, 48)
    u, v = np.random.default_rng(0).uniform(0, [[64], [48]], (2, 100))
    ahead = rays(camera, u, v)
    directions = np.concatenate([ahead, -ahead], axis=1)
    directions = np.concatenate([directions, -directions], axis=1)
    assert not directions.mean(axis=1).any()
    _, index = demo_world.nearest(camera.position, directions)
    _, alone = demo_world.nearest(camera.position, ahead)
    np.testing.assert_array_equal(index[: len(alone)], alone)


def test_rays_end_on_the_surface_of_what_they_meet():
    camera = orbit_camera(0.7, 64, 48)
    u, v = np.random.default_rng(1).uniform(0, [[64], [48]], (2, 2000))
    directions = rays(camera, u, v)
    distance, index = demo_world.nearest(camera.position, directions)
    places = camera.position[:, None] + distance * directions
    np.testing.assert_allclose(places[2, index == demo_world.FLOOR], 0, atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(places[:, index == demo_world.SKY], axis=0), 24, rtol=1e-5)
    for i in np.unique(index[index >= 0]):
        solid = demo_world.SOLIDS[i]
        p = solid.local(places[:, index == i].astype(np.float32))
        assert np.abs(solid.distance(p)).max() < 1e-4
        outwards = (solid.normal(p) * solid.turned(directions[:, index == i])).sum(axis=0)
        assert (outwards < 1e-3).all()  # the side that faces the camera
        np.testing.assert_allclose(np.linalg.norm(solid.normal(p), axis=0), 1, atol=1e-3)


def test_a_solid_throws_a_shadow_and_the_open_floor_lies_in_the_sun():
    towards = demo_world.SUN / demo_world.SUN[2]
    ball = np.array(demo_world.SOLIDS[0].centre)
    shadow = (ball - ball[2] * towards)[:2]
    places = np.array([[*shadow, 0], [3.5, 3.5, 0]], np.float32).T
    up = np.array([[0, 0, 1], [0, 0, 1]], np.float32).T
    dark, light = demo_world._lighting(places, up, None).sum(axis=0)
    full = (demo_world.SUNLIGHT * demo_world.SUN[2] + demo_world.SKYLIGHT).sum()
    assert dark < 0.4 * light
    assert light == pytest.approx(full, rel=0.02)


def test_points_are_seen_twice_in_their_own_colours(scene):
    seen = np.stack([visible(scene.points, view.camera) for view in scene.views])
    assert (seen.sum(axis=0) >= 2).all()
    assert not seen.all(axis=0).all()  # occlusion and the frame hide some
    own, others = [], []
    shuffled = np.random.default_rng(0).permutation(scene.colors)
    for view, mask in zip(scene.views, seen, strict=True):
        uv, depth = project(scene.points[mask], view.camera)
        assert (depth > 0).all()
        u, v = uv.astype(int).T
        pixels = view.image[v, u].astype(int)
        own.append(np.abs(pixels - scene.colors[mask]).mean(axis=1))
        others.append(np.abs(pixels - shuffled[mask]).mean(axis=1))
    assert np.median(np.concatenate(own)) < 0.3 * np.median(np.concatenate(others))


def test_held_out_views_see_nothing_new():
    """What every 8th of 32 cameras sees lies in the picture of another one."""
    cameras = [orbit_camera(i / 32, 64, 48) for i in range(32)]
    points, _ = demo.sample_points(cameras[::8], 400, seed=1)
    others = np.stack([visible(points, camera) for i, camera in enumerate(cameras) if i % 8])
    assert others.any(axis=0).mean() > 0.99


def test_written_as_colmap_it_comes_back_the_same(scene, tmp_path):
    write_demo(tmp_path / "new" / "demo", scene)
    loaded = load_scene(tmp_path / "new" / "demo", reader="colmap")
    np.testing.assert_array_equal(loaded.points, scene.points)
    np.testing.assert_array_equal(loaded.colors, scene.colors)
    assert loaded.undistort is None
    for one, other in zip(loaded.views, scene.views, strict=True):
        assert one.name == other.name
        np.testing.assert_array_equal(one.image, other.image)
        np.testing.assert_allclose(one.camera.viewmat, other.camera.viewmat, atol=1e-12)
        np.testing.assert_array_equal(one.camera.K, other.camera.K)
    assert sorted(path.name for path in (tmp_path / "new" / "demo").iterdir()) == ["images", "sparse"]


def test_tracks_and_2d_points_agree(scene, tmp_path):
    """By the format's description: a track entry is a 2D point of that image that names the point back."""
    write_demo(tmp_path / "demo", scene)
    data = (tmp_path / "demo/sparse/0/images.bin").read_bytes()
    observations, at = {}, 8
    for image_id in range(1, 13):
        assert int.from_bytes(data[at : at + 4], "little") == image_id
        at = data.index(b"\0", at + 64) + 1
        n = int.from_bytes(data[at : at + 8], "little")
        table = np.frombuffer(data, [("xy", "<f8", 2), ("point", "<i8")], n, at + 8)
        observations[image_id] = table
        at += 8 + 24 * n
    assert at == len(data)
    data = (tmp_path / "demo/sparse/0/points3D.bin").read_bytes()
    n_entries, at = 0, 8
    for point_id in range(1, 401):
        assert int.from_bytes(data[at : at + 8], "little") == point_id
        n = int.from_bytes(data[at + 43 : at + 51], "little")
        track = np.frombuffer(data, "<i4", 2 * n, at + 51).reshape(n, 2)
        assert n >= 2
        for image_id, position in track:
            record = observations[image_id][position]
            assert record["point"] == point_id
            expected, _ = project(scene.points[point_id - 1 : point_id], scene.views[image_id - 1].camera)
            np.testing.assert_allclose(record["xy"], expected[0])
        n_entries += n
        at += 51 + 8 * n
    assert at == len(data)
    assert n_entries == sum(len(table) for table in observations.values())
    assert len(read_images(tmp_path / "demo/sparse/0/images.bin")) == 12


def test_nothing_is_overwritten(scene, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="is not an empty folder"):
        write_demo(tmp_path / "mine", scene)
    with pytest.raises(UserError, match="is not an empty folder"):
        write_demo(tmp_path / "mine" / "thesis.txt", scene)
    assert [path.name for path in tmp_path.rglob("*")] == ["mine", "thesis.txt"]


def test_an_empty_folder_is_filled(scene, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_demo(".", scene)
    assert len(load_scene(tmp_path).views) == 12


@pytest.mark.parametrize("exists", [False, True])
def test_a_full_disk_leaves_nothing(scene, tmp_path, monkeypatch, exists):
    def full(*_):
        raise OSError(28, "No space left on device")

    if exists:
        (tmp_path / "demo").mkdir()
    monkeypatch.setattr(demo, "write_pinholes", full)
    with pytest.raises(StorageError, match="demo cannot be written: No space left on device"):
        write_demo(tmp_path / "demo", scene)
    assert [path.name for path in tmp_path.rglob("*")] == (["demo"] if exists else [])


@pytest.mark.parametrize("exists", [False, True])
def test_an_interrupt_leaves_nothing(scene, tmp_path, monkeypatch, exists):
    def interrupted(*_):
        raise KeyboardInterrupt

    if exists:
        (tmp_path / "demo").mkdir()
    monkeypatch.setattr(demo, "write_pinholes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_demo(tmp_path / "demo", scene)
    assert [path.name for path in tmp_path.rglob("*")] == (["demo"] if exists else [])


def test_a_folder_that_cannot_be_made(scene, tmp_path):
    Image.new("RGB", (2, 2)).save(tmp_path / "file.png")
    with pytest.raises(StorageError, match="cannot be written"):
        write_demo(tmp_path / "file.png" / "demo", scene)


def test_photos_of_the_built_in_scene_are_kept(monkeypatch, tmp_path):
    """The same pictures; others where the scene's text is another, or the file is damaged."""
    monkeypatch.setenv("GS_CACHE", str(tmp_path))
    camera = orbit_camera(0.1, 40, 30)
    taken, own = [], demo.photograph
    monkeypatch.setattr(demo, "photograph", lambda camera: taken.append(camera) or own(camera))
    first = demo.kept(camera)
    np.testing.assert_array_equal(demo.kept(camera), first)
    np.testing.assert_array_equal(first, own(camera))
    assert len(taken) == 1 == len(list(tmp_path.iterdir()))
    next(tmp_path.iterdir()).write_bytes(b"damaged")
    np.testing.assert_array_equal(demo.kept(camera), first)
    monkeypatch.setattr(demo, "_text", lambda: b"another world")
    demo.kept(camera)
    demo.kept(orbit_camera(0.2, 40, 30))
    assert len(taken) == 4
