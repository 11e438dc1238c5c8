# SPDX-License-Identifier: Apache-2.0
"""Masks beside the photos, transparent photos, photos that EXIF turns, and photos that stay on disk."""

import numpy as np
import pytest
from colmap_files import CAMERAS, IMAGES, POINTS, binary_files, write_scene
from PIL import Image

from gsplat_train.datasets import load_scene
from gsplat_train.datasets.decode import dim
from gsplat_train.datasets.images import FilePhoto, same_shape
from gsplat_train.datasets.masks import counts
from gsplat_train.errors import UserError
from gsplat_train.scene import Photo

NAMES = ("a.png", "b.png", "sub/c.png")


@pytest.fixture
def good(tmp_path):
    return write_scene(tmp_path / "scene", binary_files(CAMERAS, IMAGES, POINTS))


def put_mask(path, size=(40, 30), left=255, right=0, mode="L"):
    """White on the left half, black on the right."""
    picture = Image.new("L", size, right)
    picture.paste(left, (0, 0, size[0] // 2, size[1]))
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.convert(mode).save(path)


LEFT = np.repeat([[255] * 20 + [0] * 20], 30, axis=0)


@pytest.mark.parametrize(
    "pattern",
    [
        "masks/{path}/{name}.png",
        "masks/{path}/{name}.png.png",
        "masks/{path}/{name}_mask.png",
        "masks/{path}/{name}.JPG",
        "mask/{path}/{name}.png",
        "images_mask/{path}/{name}.png",
        "images_mask/{path}/{name}-removebg-preview.png",
        "images/masks/{path}/{name}.png",
        "images/{path}/dynamic_mask_{name}.png",
        "images/{path}/{name}_mask.png",
        "masks/mask.png",
    ],
)
def test_masks_are_found(good, pattern):
    for name in NAMES:
        folder, _, base = name.rpartition("/")
        put_mask(good / pattern.format(path=folder or ".", name=base.removesuffix(".png")))
    lines = []
    scene = load_scene(good, log=lines.append)
    assert [view.name for view in scene.views] == list(NAMES)
    for view in scene.views:
        np.testing.assert_array_equal(view.mask, LEFT)
    assert any("3 have a mask in" in line for line in lines) and "photos: 50 % of their pixels count" in lines
    assert not any("no pose" in line for line in lines)
    assert load_scene(good, mask_mode="off").views[0].mask is None
    np.testing.assert_array_equal(load_scene(good, invert_masks=True).views[0].mask, 255 - LEFT)


def test_what_becomes_of_masks_is_nothing_where_there_are_none(good):
    for options, says in (
        ({"invert_masks": True}, "invert_masks"),
        ({"mask_mode": "transparent"}, "mask_mode=transparent"),
    ):
        with pytest.raises(
            UserError, match=f"^{says}: there is no mask of any photo of .*, looked in masks, mask"
        ):
            load_scene(good, **options)


def test_a_mask_for_each_camera(good):
    put_mask(good / "masks/sub.png")
    put_mask(good / "masks/a.png", right=255)
    lines = []
    a, b, c = load_scene(good, log=lines.append).views
    assert a.mask.all() and b.mask is None
    np.testing.assert_array_equal(c.mask, LEFT)
    assert any(line.startswith("warning: 1 of 3 photos ('b.png') have no mask") for line in lines)


def test_a_mask_goes_the_way_of_its_photo(good):
    for name in NAMES:
        put_mask(good / "masks" / name, size=(80, 60))
    view = load_scene(good, max_size=20).views[0]
    assert view.mask.shape == (15, 20)
    np.testing.assert_array_equal(view.mask, LEFT[::2, ::2])
    files = binary_files([(1, "OPENCV", 40, 30, [50, 52, 19, 16, 0.2, 0, 0, 0])], IMAGES, POINTS)
    (good / "sparse/0/cameras.bin").write_bytes(files["cameras.bin"])
    view = load_scene(good, cache=False).views[0]
    assert set(np.unique(view.mask)) == {0, 255}
    border = np.flatnonzero(np.diff(view.mask[15].astype(int)))
    assert border.tolist() == [19]  # near the centre nothing moves
    put_mask(good / "masks/a.png", size=(80, 80))
    with pytest.raises(UserError, match="is 80x80, another shape than its photo"):
        load_scene(good)


def test_masked_pixels_may_be_transparent(good):
    for name in NAMES:
        put_mask(good / "masks" / name)
    photo = load_scene(good, mask_mode="transparent").views[0].pixels
    assert photo.mask is None
    np.testing.assert_array_equal(photo.alpha, LEFT)
    assert photo.image[0, 0].any() and not photo.image[0, 30].any()


def test_photos_without_a_pixel_that_counts_are_told(good):
    for name in NAMES:
        put_mask(good / "masks" / name, left=0)
    lines = []
    load_scene(good, log=lines.append)
    assert any("no pixel of 3 photos" in line and "--invert-masks" in line for line in lines)


@pytest.mark.parametrize(
    ("mode", "low", "high"),
    [("L", 0, 255), ("L", 0, 1), ("L", 0, 3), ("1", 0, 1), ("I;16", 0, 60000), ("L", 90, 170)],
)
def test_what_a_mask_says(mode, low, high):
    values = np.array([[low, high]])
    picture = Image.fromarray(values.astype({"1": bool, "I;16": np.uint16}.get(mode, np.uint8)))
    np.testing.assert_array_equal(counts(picture), [[0, 255]])
    np.testing.assert_array_equal(counts(picture, invert=True), [[255, 0]])


def test_a_cut_out_picture_is_a_mask():
    rgba = np.full((1, 2, 4), 200, np.uint8)
    rgba[0, :, 3] = [0, 255]
    np.testing.assert_array_equal(counts(Image.fromarray(rgba)), [[0, 255]])


# ---- transparent photos ----


def make_transparent(root):
    rgba = np.full((30, 40, 4), [200, 100, 50, 255], np.uint8)
    rgba[:, 20:, 3] = 0
    rgba[:, 10:20, 3] = 128
    Image.fromarray(rgba).save(root / "images/a.png")


def test_the_alpha_of_a_photo_is_kept(good):
    make_transparent(good)
    a, b, _ = load_scene(good).views
    assert b.pixels.alpha is None
    np.testing.assert_array_equal(a.pixels.alpha[0, ::10], [255, 128, 0, 0])
    np.testing.assert_array_equal(a.image[0, ::10], [[200, 100, 50], [100, 50, 25], [0, 0, 0], [0, 0, 0]])
    white = a.pixels.over((1.0, 1.0, 1.0))
    np.testing.assert_allclose(white[0, 0] * 255, [200, 100, 50])
    np.testing.assert_allclose(white[0, 10] * 255, [227, 177, 152], atol=1)
    np.testing.assert_allclose(white[0, 30], 1)
    np.testing.assert_array_equal(Photo(b.image).over((1, 1, 1)), b.image / np.float32(255))


def test_a_photo_of_alpha_255_is_opaque(good):
    Image.fromarray(np.full((30, 40, 4), 255, np.uint8)).save(good / "images/a.png")
    lines = []
    assert load_scene(good, log=lines.append).views[0].pixels.alpha is None
    assert not any("see-through" in line for line in lines)


def test_see_through_photos_are_told(good):
    make_transparent(good)
    lines = []
    load_scene(good, log=lines.append)
    assert any("1 are see-through" in line and "--alpha-mode" in line for line in lines)


def test_alpha_may_be_ignored(good, tmp_path, monkeypatch):
    """The colours as they stand in the file, also from the cache of undistorted photos."""
    monkeypatch.setenv("GS_CACHE", str(tmp_path / "cache"))
    make_transparent(good)
    photo = load_scene(good, alpha_mode="ignore").views[0].pixels
    assert photo.alpha is None and photo.mask is None
    assert (photo.image == [200, 100, 50]).all()
    files = binary_files([(1, "OPENCV", 40, 30, [50, 52, 19, 16, 0.2, 0, 0, 0])], IMAGES, POINTS)
    (good / "sparse/0/cameras.bin").write_bytes(files["cameras.bin"])
    assert load_scene(good).views[0].pixels.alpha is not None
    for _ in range(2):
        photo = load_scene(good, alpha_mode="ignore").views[0].pixels
        assert photo.alpha is None and (photo.image == [200, 100, 50]).all()


def cut_out(root, name="a.png", size=(160, 120)):
    """A white disc on garbage: magenta and black where nothing is seen. The straight pixels as they should be."""
    x, y = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    inside = np.hypot(x - 80, y - 60) < 40
    rgba = np.zeros((size[1], size[0], 4), np.uint8)
    rgba[x % 2 == 0] = [255, 0, 255, 0]
    rgba[inside] = 255
    Image.fromarray(rgba).save(root / "images" / name)


@pytest.mark.parametrize("distorted", [False, True])
def test_cut_out_photos_have_no_fringe(good, distorted):
    """Reduced and undistorted, a white disc over white is white, whatever stands where nothing is seen."""
    cut_out(good)
    if distorted:
        files = binary_files([(1, "OPENCV", 40, 30, [50, 52, 19, 16, 0.2, 0, 0, 0])], IMAGES, POINTS)
        (good / "sparse/0/cameras.bin").write_bytes(files["cameras.bin"])
    for size in (160, 50):
        photo = load_scene(good, max_size=size, cache=False).views[0].pixels
        assert photo.image.shape[1] == size and (photo.alpha % 255 > 0).any() == (distorted or size == 50)
        assert (photo.image <= photo.alpha[:, :, None]).all()
        assert photo.shown((1.0, 1.0, 1.0)).min() >= 254


@pytest.mark.parametrize("inverted", [False, True])
def test_masks_and_alpha_together(good, inverted):
    make_transparent(good)
    put_mask(good / "masks/a.png", *((40, 30), 0, 255) if inverted else ((40, 30),))
    options = {"invert_masks": inverted}
    photo = load_scene(good, **options).views[0].pixels  # a mask on top of an alpha
    np.testing.assert_array_equal(photo.mask, LEFT)
    np.testing.assert_array_equal(photo.alpha[0, ::10], [255, 128, 0, 0])
    photo = load_scene(good, mask_mode="transparent", **options).views[0].pixels
    assert photo.mask is None
    np.testing.assert_array_equal(photo.alpha[0, ::10], [255, 128, 0, 0])
    photo = load_scene(good, mask_mode="transparent", alpha_mode="ignore", **options).views[0].pixels
    assert photo.mask is None
    np.testing.assert_array_equal(photo.alpha, LEFT)
    np.testing.assert_array_equal(photo.shown((1.0, 1.0, 1.0))[0, ::10, 2], [50, 50, 255, 255])
    photo = load_scene(good, mask_mode="transparent", alpha_mode="mask", **options).views[0].pixels
    np.testing.assert_array_equal(photo.mask, LEFT)  # alpha 128 counts
    np.testing.assert_array_equal(photo.alpha, LEFT)
    photo = load_scene(good, alpha_mode="ignore", **options).views[0].pixels
    np.testing.assert_array_equal(photo.mask, LEFT)
    assert photo.alpha is None


def test_transparent_pixels_may_not_count(good):
    make_transparent(good)
    photo = load_scene(good, alpha_mode="mask").views[0].pixels
    assert photo.alpha is None
    np.testing.assert_array_equal(photo.mask, LEFT)


def test_alpha_is_reduced_undistorted_and_cached(good, tmp_path, monkeypatch):
    monkeypatch.setenv("GS_CACHE", str(tmp_path / "cache"))
    make_transparent(good)
    files = binary_files([(1, "OPENCV", 40, 30, [50, 52, 19, 16, 0.2, 0, 0, 0])], IMAGES, POINTS)
    (good / "sparse/0/cameras.bin").write_bytes(files["cameras.bin"])
    first, again = (load_scene(good).views[0].pixels for _ in range(2))
    assert first.alpha[0, 0] == 255 and first.alpha[0, 39] == 0
    np.testing.assert_array_equal(first.alpha, again.alpha)
    np.testing.assert_array_equal(first.image, again.image)
    assert (first.image <= dim(np.full((30, 40, 3), 201, np.uint8), first.alpha) + 8).all()


@pytest.mark.parametrize(
    "options", [{"mask_mode": "some"}, {"alpha_mode": "off"}, {"fov": 5}, {"fov": 170}, {"max_size": -1}]
)
def test_options_are_checked(good, options):
    with pytest.raises(UserError, match="must be"):
        load_scene(good, **options)


# ---- shapes ----


@pytest.mark.parametrize(
    ("size", "other", "same"),
    [
        ((4032, 3024), (504, 378), True),
        ((4946, 3286), (1237, 822), True),
        ((4000, 2667), (1600, 1067), True),
        ((320, 240), (310, 240), False),
        ((1920, 1080), (1920, 1088), False),
        ((4000, 3000), (3000, 4000), False),
    ],
)
def test_shapes_agree_to_rounding(size, other, same):
    assert same_shape(*size, *other) == same and same_shape(*other, *size) == same


def test_a_cropped_photo_is_refused(good):
    Image.new("RGB", (36, 30)).save(good / "images/a.png")
    with pytest.raises(
        UserError, match=r"a.png is 36x30 but its camera is 40x30, another shape; it is cropped"
    ):
        load_scene(good)


def test_a_photo_is_turned_where_its_camera_asks_for_it(good):
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.zeros((40, 30, 3), np.uint8)
    pixels[:8] = 255
    Image.fromarray(pixels).save(good / "images/a.jpg", exif=exif, quality=100)
    (good / "images/a.png").unlink()
    lines = []
    image = load_scene(good, log=lines.append).views[0].image
    assert image[:, -7:].min() > 200 and image[:, :30].max() < 50  # what was above is on the right
    assert any("1 turned as their EXIF tag says" in line for line in lines)


# ---- photos that stay on disk ----


def test_large_sets_stay_on_disk(good, monkeypatch):
    for name in NAMES:
        put_mask(good / "masks" / name)
    kept = load_scene(good)
    lines = []
    scene = load_scene(good, log=lines.append, memory=1000, cache=False)
    assert any("left in their files and decoded when needed" in line for line in lines)
    for view, other in zip(scene.views, kept.views, strict=True):
        assert isinstance(view.photo, FilePhoto) and isinstance(other.photo, Photo)
        photo = view.photo.decode()
        assert view.photo.decode() is photo  # not made twice while somebody holds it
        np.testing.assert_array_equal(photo.image, other.image)
        np.testing.assert_array_equal(photo.mask, other.mask)
    (good / "images/a.png").unlink()
    del photo
    with pytest.raises(UserError, match=r"a.png cannot be read"):
        scene.views[0].photo.decode()


@pytest.mark.parametrize("cache", [True, False])
def test_a_damaged_photo_is_found_at_once(good, tmp_path, monkeypatch, cache):
    monkeypatch.setenv("GS_CACHE", str(tmp_path / "cache"))
    data = (good / "images/a.png").read_bytes()
    (good / "images/a.png").write_bytes(data[: len(data) - 30])
    with pytest.raises(UserError, match=r"is damaged|is not a picture"):
        load_scene(good, memory=1000, cache=cache)
    assert not list(tmp_path.glob("cache/*"))
