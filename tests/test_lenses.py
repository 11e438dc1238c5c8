# SPDX-License-Identifier: Apache-2.0
"""Lenses: formulas, inverses, fold-over, and photos that were ray-cast through them."""

from dataclasses import replace

import numpy as np
import pytest
from colmap_files import IMAGES, POINTS, binary_files, write_scene
from odd_makers import cast
from PIL import Image

from gsplat_train.datasets import demo, load_scene
from gsplat_train.datasets.agreement import in_picture
from gsplat_train.datasets.colmap_records import quaternion
from gsplat_train.datasets.images import PhotoFile, load_photos
from gsplat_train.datasets.lenses import ONE_FOCAL, PANORAMA, PARAMETERS, Lens, colmap_lens, opencv
from gsplat_train.datasets.options import LoadOptions
from gsplat_train.datasets.panorama import SIDES, Side, side_size
from gsplat_train.datasets.points import dome
from gsplat_train.datasets.undistort import find_zoom, picture_sizes, straighten
from gsplat_train.errors import UserError
from gsplat_train.evaluate.metrics import psnr
from gsplat_train.scene import Camera, Photo, Scene, View

COEFFICIENTS = {  # of every model with a lens, as a wide camera's might be
    "SIMPLE_RADIAL": [0.1],
    "RADIAL": [-0.1, 0.05],
    "OPENCV": [-0.1, 0.05, 0.01, -0.02],
    "OPENCV_FISHEYE": [0.05, -0.02, 0.01, -0.003],
    "FULL_OPENCV": [-0.1, 0.05, 0.01, -0.02, 0.01, 0.02, -0.03, 0.01],
    "FOV": [0.9],
    "SIMPLE_RADIAL_FISHEYE": [0.05],
    "RADIAL_FISHEYE": [0.05, -0.02],
    "THIN_PRISM_FISHEYE": [0.05, -0.02, 0.01, -0.02, 0.01, -0.003, 0.02, -0.01],
    "RAD_TAN_THIN_PRISM_FISHEYE": [
        *(0.05, -0.02, 0.01, -0.003, 0.001, -0.0002),
        *(0.01, -0.02, 0.02, -0.01, 0.005, 0.003),
    ],
    "SIMPLE_DIVISION": [-0.2],
    "DIVISION": [0.1],
    "SIMPLE_FISHEYE": [],
    "FISHEYE": [],
    "EUCM": [0.6, 1.1],
}
# Where COLMAP 4.2.1 (pycolmap's img_from_cam) puts the ray (0.7, -0.45, 1) through these lenses, with the focal
# lengths and the centre of `params`.
COLMAP_SAYS = {
    "SIMPLE_RADIAL": (384.5425000000, -24.3487500000),
    "RADIAL": (360.4928406250, -8.8882546875),
    "OPENCV": (348.5678406250, -5.4702273281),
    "OPENCV_FISHEYE": (338.7187749299, 1.6626397429),
    "FULL_OPENCV": (348.7066287895, -5.5621249199),
    "FOV": (349.8689154327, -5.7203461472),
    "SIMPLE_RADIAL_FISHEYE": (339.3641095116, 4.6945010283),
    "RADIAL_FISHEYE": (338.5512983308, 5.2170225016),
    "THIN_PRISM_FISHEYE": (333.3139535224, 5.2414036320),
    "RAD_TAN_THIN_PRISM_FISHEYE": (347.3496934831, -3.6545593959),
    "SIMPLE_DIVISION": (346.9495534648, -0.1818557988),
    "DIVISION": (386.9909456777, -30.3004333166),
    "SIMPLE_FISHEYE": (335.1456919077, 7.4063409165),
    "FISHEYE": (335.1456919077, 4.0285311440),
    "EUCM": (335.5286946219, 3.7749286325),
}


def params(model, focal=300.0, width=320, height=240):
    focals = [focal] if model in ONE_FOCAL else [focal, 1.03 * focal]
    return [*focals, width / 2, height / 2, *COEFFICIENTS.get(model, [])]


def lens_of(model, **sizes):
    return colmap_lens(model, params(model, **sizes), "camera 1")


def rays(lens, n=500):
    """Random rays (x, y, 1) in the good part of a lens."""
    random, reach = np.random.default_rng(0), min(0.95 * lens.reach(), 1.2)
    turn, r = random.uniform(0, 2 * np.pi, n), reach * np.sqrt(random.uniform(0, 1, n))
    return r * np.cos(turn), r * np.sin(turn)


# ---- formulas ----


def test_every_model_has_its_coefficients():
    for model, coefficients in COEFFICIENTS.items():
        assert len(params(model)) == PARAMETERS[model], model
        assert len(coefficients) == PARAMETERS[model] - (3 if model in ONE_FOCAL else 4)
    assert set(PARAMETERS) - set(COEFFICIENTS) == {"SIMPLE_PINHOLE", "PINHOLE", "EQUIRECTANGULAR"}


@pytest.mark.parametrize("model", COEFFICIENTS)
def test_lenses_are_colmaps(model):
    K, lens = lens_of(model)
    a, b = lens.distort(np.array([0.7]), np.array([-0.45]))
    place = a[0] * K[0, 0] + K[0, 2], b[0] * K[1, 1] + K[1, 2]
    assert place == pytest.approx(COLMAP_SAYS[model], abs=1e-8)


@pytest.mark.parametrize("model", COEFFICIENTS)
def test_a_ray_comes_back_from_where_the_lens_puts_it(model):
    _, lens = lens_of(model)
    x, y = rays(lens)
    found = lens.rays(*lens.distort(x, y))
    np.testing.assert_allclose(np.linalg.norm(found, axis=0), 1)
    np.testing.assert_allclose(found[:2] / found[2], [x, y], atol=1e-10)
    assert lens.is_sound(x, y)


@pytest.mark.parametrize("model", COEFFICIENTS)
def test_near_the_axis_every_lens_is_a_pinhole(model):
    """All but the FOV and EUCM models, whose focal length is another one, have the derivative 1 there."""
    _, lens = lens_of(model)
    a, b = lens.distort(np.array([1e-6, 0.0]), np.array([0.0, 1e-6]))
    scale = 2 * np.tan(0.45) / 0.9 if model == "FOV" else 1.0
    np.testing.assert_allclose([a[0], b[1]], 1e-6 * scale, rtol=1e-4)
    assert lens.distort(np.zeros(1), np.zeros(1))[0] == 0


def test_the_tangential_terms_of_the_late_model_are_swapped():
    """RAD_TAN_THIN_PRISM_FISHEYE: p0 stands with the square of x, and all works on the scaled place."""
    lens = colmap_lens("RAD_TAN_THIN_PRISM_FISHEYE", [1, 1, 0, 0, 0.5, *[0] * 5, 0.1, 0, 0.2, 0, 0, 0.3], "")[
        1
    ]
    t = np.arctan(0.5)
    a, b = lens.distort(np.array([0.3]), np.array([0.4]))
    s = 1 + 0.5 * t * t
    u, v, q = 0.6 * t * s, 0.8 * t * s, (t * s) ** 2
    assert a[0] == pytest.approx(u + 0.1 * (q + 2 * u * u) + 0.2 * q)
    assert b[0] == pytest.approx(v + 2 * 0.1 * u * v + 0.3 * q * q)


@pytest.mark.parametrize(
    ("model", "args", "message"),
    [
        ("OPENCV", [0, 300, 1, 1, 0, 0, 0, 0], "positive focal length"),
        ("FOV", [300, 300, 1, 1, 3.2], "omega below pi"),
        ("EUCM", [300, 300, 1, 1, 1.5, 1], "alpha from 0 to 1"),
        ("EUCM", [300, 300, 1, 1, 0.5, -1], "beta above 0"),
    ],
)
def test_numbers_that_are_no_lens(model, args, message):
    with pytest.raises(UserError, match=f"camera 7 must have .*{message}"):
        colmap_lens(model, args, "camera 7")


# ---- fold-over ----


@pytest.mark.parametrize(
    ("lens", "reach"),
    [
        (Lens(radial=(-0.3,)), np.sqrt(1 / 0.9)),  # 1 - 3 * 0.3 r^2 = 0
        (Lens(radial=(0.3,)), np.inf),
        (Lens("angle", radial=(-0.2,)), np.tan(np.sqrt(1 / 0.6))),
        (Lens("angle", radial=(-0.1,)), np.inf),  # beyond 90 degrees
        (Lens(divisor=(-0.25,)), 2.0),  # its pole
        (Lens("division", shape=(0.1,)), np.sqrt(2.5)),
        (Lens(), np.inf),
    ],
)
def test_where_a_lens_folds_over(lens, reach):
    assert lens.reach() == pytest.approx(reach, rel=2e-3) and lens.reach() <= reach
    if np.isfinite(reach):
        far = np.array([1.05 * reach])
        a, b = lens.distort(far, np.zeros(1))
        back = lens.rays(a, b)
        assert np.isnan(back[0, 0]) or abs(back[0, 0] / back[2, 0] - far[0]) > 1e-3


def test_the_zoom_stays_inside_the_good_part():
    """The border of the zoomed picture lies where the lens is still one to one."""
    K = np.array([[150.0, 0, 160], [0, 150, 120], [0, 0, 1]])
    lens = Lens(radial=(-0.3,))
    zoom = find_zoom(K, 320, 240, lens)
    corner = np.hypot(159.5, 119.5) / 150
    assert zoom == pytest.approx(corner / lens.reach(), rel=1e-6)
    wider = find_zoom(
        K, 320, 240, Lens(radial=(-0.1,))
    )  # a photo shows more than a pinhole's, all of it good
    a, b = straighten(K, Lens(radial=(-0.1,)), wider).positions(np.array([0.5, 160]), np.array([120, 0.5]))
    assert wider < 1 and min(a[0], b[1]) == pytest.approx(0, abs=1e-3)


def test_a_sideways_fold_is_seen():
    lens = Lens(tangential=(0.0, 0.4))  # x + 0.4 (3 x^2 + y^2) folds at x = -1 / 2.4
    assert lens.is_sound(np.array([-0.41]), np.zeros(1)) and not lens.is_sound(np.array([-0.5]), np.zeros(1))


# ---- photos through a lens ----

WIDTH, HEIGHT = 160, 120


def fine_pixels(width, height):
    return np.meshgrid(np.arange(0.25, width, 0.5), np.arange(0.25, height, 0.5))


def through_lens(camera, K, lens):
    u, v = fine_pixels(WIDTH, HEIGHT)
    a, b = (u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1]
    return cast(camera, lens.rays(a.ravel(), b.ravel()).reshape(3, *u.shape))


def pinhole(camera):
    u, v = fine_pixels(camera.width, camera.height)
    x, y = (u - camera.K[0, 2]) / camera.K[0, 0], (v - camera.K[1, 2]) / camera.K[1, 1]
    return cast(camera, np.stack([x, y, np.ones(x.shape)]) / np.sqrt(x * x + y * y + 1))


@pytest.mark.parametrize("model", COEFFICIENTS)
def test_a_photo_cast_through_a_lens_comes_back_straight(tmp_path, model):
    K, lens = lens_of(model, focal=110.0, width=WIDTH, height=HEIGHT)
    camera = Camera(demo.orbit_camera(0.1, WIDTH, HEIGHT).viewmat, K, WIDTH, HEIGHT)
    Image.fromarray(through_lens(camera, K, lens)).save(tmp_path / "a.png")
    (view,), report = load_photos(
        [PhotoFile("a.png", tmp_path / "a.png", camera, lens)], LoadOptions(cache=False)
    )
    straight = pinhole(view.camera)
    shifted = replace(view.camera, K=np.add(view.camera.K, [[0, 0, 0.3], [0, 0, 0.3], [0, 0, 0]]))
    # Sharp edges cost what resampling a small photo costs; three tenths of a pixel cost more.
    assert psnr(view.image, straight) > 28, report
    assert psnr(view.image, straight) > psnr(view.image, pinhole(shifted)) + 1
    assert psnr(pinhole(camera), through_lens(camera, K, lens)) < 27  # there was something to do


def test_a_wide_field_masks_what_the_lens_does_not_show(tmp_path):
    K, lens = lens_of("OPENCV_FISHEYE", focal=60.0, width=WIDTH, height=HEIGHT)
    camera = Camera(demo.orbit_camera(0.1, WIDTH, HEIGHT).viewmat, K, WIDTH, HEIGHT)
    Image.fromarray(through_lens(camera, K, lens)).save(tmp_path / "a.png")
    photos = [PhotoFile("a.png", tmp_path / "a.png", camera, lens)]
    (normal,), _ = load_photos(photos, LoadOptions(cache=False))
    assert normal.mask is None
    (wide,), _ = load_photos(photos, LoadOptions(cache=False, fov=130))
    width, height = wide.camera.width, wide.camera.height
    field = 2 * np.degrees(np.arctan(width / 2 / wide.camera.K[0, 0]))
    assert field == pytest.approx(130)
    assert wide.camera.K[0, 0] == pytest.approx(60, rel=0.03)  # the photo's pixels per degree on the axis
    shown = wide.mask > 0
    assert 0.3 < shown.mean() < 1 and shown[height // 2, width // 2] and not shown[0, width // 2]
    assert psnr(wide.image, pinhole(wide.camera), wide.mask) > 25


@pytest.mark.parametrize(
    ("model", "focal", "fov", "limit"),
    [
        ("FISHEYE", 60.0, 0, 0),  # wide: the picture is smaller than the photo
        ("FISHEYE", 110.0, 0, 0),  # narrow: larger
        ("FOV", 110.0, 0, 0),  # whose focal length is not its pixels per radian
        ("FISHEYE", 110.0, 0, 120),
        ("OPENCV", 110.0, 0, 0),
        ("OPENCV", 110.0, 50, 0),
        ("PINHOLE", 110.0, 50, 0),
        ("FISHEYE", 60.0, 120, 0),
    ],
)
def test_wide_lenses_keep_their_pixels_per_degree(tmp_path, model, focal, fov, limit):
    K, lens = lens_of(model, focal=focal, width=WIDTH, height=HEIGHT)
    camera = Camera(np.eye(4), K, WIDTH, HEIGHT)
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "a.png")
    photo = PhotoFile("a.png", tmp_path / "a.png", camera, lens)
    (view,), _ = load_photos([photo], LoadOptions(cache=False, fov=fov, max_size=limit))
    picture = view.camera
    a, b = lens.distort(np.array([1e-5, 0]), np.array([0, 1e-5]))
    densities = [K[0, 0] * a[0] / 1e-5, K[1, 1] * b[1] / 1e-5]
    if limit:
        assert max(view.image.shape) == limit
        assert picture.K[1, 1] / picture.K[0, 0] == pytest.approx(densities[1] / densities[0], rel=0.02)
    else:
        np.testing.assert_allclose(np.diag(picture.K)[:2], densities, rtol=0.035)  # in steps
    assert view.image.shape[:2] == (picture.height, picture.width)
    np.testing.assert_allclose(picture.K[:2, 2] * 2, [picture.width, picture.height])
    x, y = picture.K[:2, 2] / np.diag(picture.K)[:2]
    if fov:
        assert 2 * np.degrees(np.arctan(x)) == pytest.approx(fov)
    else:
        assert np.degrees(np.arctan(np.hypot(x, y))) < 60.3  # at the outer pixels' centres 60


def test_cameras_that_differ_a_little_have_pictures_of_one_size():
    sizes = set()
    for k in np.linspace(-0.03, 0.03, 9):
        sizes.add(
            picture_sizes(np.array([[130.0, 0, 80], [0, 130, 60], [0, 0, 1]]), (160, 120), opencv(k), 0, 0)
        )
    assert sizes == {((160, 120), (160, 120))}


def test_a_far_too_wide_field_makes_no_huge_picture(tmp_path):
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "a.png")
    camera = Camera(np.eye(4), [[400, 0, WIDTH / 2], [0, 400, HEIGHT / 2], [0, 0, 1]], WIDTH, HEIGHT)
    photo = PhotoFile("a.png", tmp_path / "a.png", camera)
    (view,), _ = load_photos([photo], LoadOptions(cache=False, fov=150))
    assert (view.camera.width, view.camera.height) == (2 * WIDTH, 2 * HEIGHT)
    assert 0.001 < (view.mask > 0).mean() < 0.01


@pytest.mark.parametrize("fov", [0, 120])
def test_masks_go_through_the_lens_with_their_photo(tmp_path, fov):
    K, lens = lens_of("OPENCV_FISHEYE", focal=80.0, width=WIDTH, height=HEIGHT)
    camera = Camera(np.eye(4), K, WIDTH, HEIGHT)
    mask = np.full((HEIGHT, WIDTH), 255, np.uint8)
    mask[:, : WIDTH // 3] = 0
    photo = np.dstack([mask] * 3)
    Image.fromarray(photo).save(tmp_path / "a.png")
    Image.fromarray(mask).save(tmp_path / "m.png")
    photo_file = PhotoFile("a.png", tmp_path / "a.png", camera, lens, tmp_path / "m.png")
    (view,), _ = load_photos([photo_file], LoadOptions(cache=False, fov=fov))
    assert view.mask.shape == view.image.shape[:2] != (HEIGHT, WIDTH)
    counted = view.mask > 0
    assert 0.3 < counted.mean() < 0.75
    assert (view.image[counted] > 100).all()  # the photo is white where it counts
    assert counted[view.image[:, :, 0] > 150].all() or fov


def test_a_panorama_becomes_six_views_of_one_group(tmp_path):
    width = 400
    camera = demo.orbit_camera(0.1, width, width // 2)
    u, v = fine_pixels(width, width // 2)
    longitude, latitude = (u / width - 0.5) * 2 * np.pi, (0.5 - 2 * v / width) * np.pi
    directions = np.stack(
        [np.cos(latitude) * np.sin(longitude), -np.sin(latitude), np.cos(latitude) * np.cos(longitude)]
    )
    model = [(1, "EQUIRECTANGULAR", width, width // 2, [width, width // 2])]
    quat = quaternion(camera.viewmat[:3, :3])
    images = [(1, list(quat), camera.viewmat[:3, 3].tolist(), 1, "p.png"), (*IMAGES[1][:3], 1, "q.png")]
    root = write_scene(
        tmp_path, binary_files(model, images, POINTS), photos=["q.png"], size=(width, width // 2)
    )
    Image.fromarray(cast(camera, directions)).save(root / "images/p.png")
    lines = []
    scene = load_scene(root, log=lines.append, cache=False, trust=True)
    assert any("2 panoramas, each cut into 6 views of 127x127" in line for line in lines)
    assert [view.name for view in scene.views[:6]] == sorted(f"p_{side}.png" for side in SIDES)
    for view in scene.views[:6]:
        np.testing.assert_allclose(view.camera.position, camera.position)
        assert psnr(view.image, pinhole(view.camera)) > 28, view.name
    front = next(view.camera for view in scene.views if view.name == "p_front.png")
    np.testing.assert_allclose(front.viewmat, camera.viewmat, atol=1e-12)
    train, test = scene.split(2)
    assert {view.name[0] for view in test} == {"p"} and {view.name[0] for view in train} == {"q"}


def test_the_sides_of_a_panorama_meet(tmp_path):
    front, right = Side("front", 400, 200, 100), Side("right", 400, 200, 100)
    v = np.array([10.0, 50, 90])
    for one, other in zip(
        front.positions(np.full(3, 100.0), v), right.positions(np.zeros(3), v), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=1e-9)
    _, top = Side("up", 400, 200, 100).positions(np.array([50.0]), np.array([50.0]))
    assert top[0] == pytest.approx(0)
    assert side_size(4000, 1600, 90) == 1273 and side_size(8000, 1600, 90) == 1600


def test_panoramas_with_the_seam_behind(tmp_path):
    """The back side is continuous where the left and the right border of the panorama meet."""
    u = np.arange(400)
    smooth = np.stack([127 + 120 * np.sin(2 * np.pi * (u + 0.5) / 400)] * 3, axis=1)
    Image.fromarray(np.broadcast_to(smooth.astype(np.uint8), (200, 400, 3)).copy()).save(tmp_path / "a.png")
    scene_camera = Camera(np.eye(4), [[1, 0, 200], [0, 1, 100], [0, 0, 1]], 400, 200)
    photo = PhotoFile("a.png", tmp_path / "a.png", scene_camera, PANORAMA)
    views, _ = load_photos([photo], LoadOptions(cache=False))
    back = next(view for view in views if "back" in view.name)
    assert np.abs(np.diff(back.image[64, :, 0].astype(int))).max() <= 5


def test_positions_beyond_the_good_part_are_none():
    warp = straighten(np.array([[50.0, 0, 40], [0, 50, 30], [0, 0, 1]]), Lens(radial=(-0.3,)), 0.3)
    x, _ = warp.positions(np.array([0.5, 40.0]), np.array([0.5, 30.0]))
    assert np.isnan(x[0]) and x[1] == 40


def test_panoramas_get_points_where_they_show_sky():
    cameras = [demo.orbit_camera(i / 6, 64, 64) for i in range(6)]
    views = []
    for i, camera in enumerate(cameras):
        panorama = replace(camera, width=128, height=64)
        for name in SIDES:
            side = Side(name, 128, 64, 32)
            image = np.full((32, 32, 3), 255 if name == "up" else 40, np.uint8)
            views.append(View(f"{i}_{name}.png", side.camera(panorama), Photo(image), group=str(i)))
    points, colors = demo.sample_points(cameras, 500, 0)
    scene = Scene("panoramas", tuple(views), points, colors)
    far, far_colors = dome(scene)
    assert 100 < len(far) < 2500 and set(np.unique(far_colors)) == {40, 255}
    reach = max(
        np.linalg.norm(camera.position - np.mean([c.position for c in cameras], 0)) for camera in cameras
    )
    assert np.linalg.norm(far, axis=1).min() > 8 * reach
    assert (far[far_colors[:, 0] == 255, 2] > 0).mean() > 0.5  # the sky is above
    seen = [len(in_picture(view.camera, np.concatenate([points, far]))[0]) for view in views]
    assert min(seen) > 10 > min(len(in_picture(view.camera, points)[0]) for view in views)
    assert not len(dome(replace(scene, views=tuple(replace(view, group="") for view in views)))[0])
