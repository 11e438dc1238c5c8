# SPDX-License-Identifier: Apache-2.0
"""Photos: decoding, reducing, undistorting, the cache."""

from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from gsplat_train.datasets import cache, file_photo
from gsplat_train.datasets import undistort as undistort_module
from gsplat_train.datasets.images import PhotoFile, decode, load_views
from gsplat_train.datasets.lenses import opencv
from gsplat_train.datasets.undistort import find_zoom, resample, straighten, undistort
from gsplat_train.errors import UserError
from gsplat_train.scene import Camera

LENSES = {  # name: (k1, k2, p1, p2) for a photo of 90x60 with focal length 70
    "pincushion": (0.12, 0.0, 0.0, 0.0),
    "barrel": (-0.12, 0.0, 0.0, 0.0),
    "moustache": (-0.15, 0.35, 0.0, 0.0),
    "tangential": (0.02, 0.01, 0.015, -0.02),
}
K = np.array([[70.0, 0, 43], [0, 72, 31], [0, 0, 1]])
WIDTH, HEIGHT = 90, 60


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GS_CACHE", str(tmp_path / "cache"))


def camera(width=WIDTH, height=HEIGHT):
    return Camera(np.eye(4), K, WIDTH, HEIGHT).resized(width, height)


def texture(x, y):
    """A smooth picture as a function of the ray (x, y, 1)."""
    return (
        127 + 60 * np.sin(9 * x + 2)[..., None] * np.cos(7 * y)[..., None] * [1, 0.5, -1] + 40 * x[..., None]
    )


def noise_photo(path, width=WIDTH, height=HEIGHT):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def centres(width=WIDTH, height=HEIGHT):
    return np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)


# ---- undistortion ----


@pytest.mark.parametrize("lens", LENSES)
def test_the_zoom_is_the_smallest_that_keeps_the_border_inside(lens):
    u, v = centres()
    border = np.ones_like(u, bool)
    border[1:-1, 1:-1] = False
    for zoom in np.arange(0.8, 2, 1e-4):
        x, y = straighten(K, opencv(*LENSES[lens]), zoom).positions(u[border], v[border])
        if x.min() >= 0 and x.max() <= WIDTH and y.min() >= 0 and y.max() <= HEIGHT:
            break
    assert find_zoom(K, WIDTH, HEIGHT, LENSES[lens]) == pytest.approx(zoom, abs=1.1e-4)
    assert (zoom > 1) == (lens != "barrel")


def test_the_zoom_of_fern():
    K = np.array([[3260.52633 / 8, 0, 252], [0, 3260.52633 / 8, 189], [0, 0, 1]])
    assert find_zoom(K, 504, 378, (0.0197505, 0, 0, 0)) == pytest.approx(1.00952, abs=5e-6)


def test_a_lens_that_leaves_nothing_is_refused():
    with pytest.raises(UserError, match="leaves nothing of the 90x60 photo"):
        find_zoom(K, WIDTH, HEIGHT, (0.0, 0.0, 0.0, 1e6))


def test_the_lens_model_is_opencvs():
    """COLMAP's OPENCV model at one ray, worked out by hand: r^2 = 0.25, radial = 1 + 0.25 k1 + 0.0625 k2."""
    x, y = opencv(0.1, 0.2, 0.01, 0.02).distort(np.array([0.3]), np.array([0.4]))
    assert x[0] == pytest.approx(0.3 * 1.0375 + 2 * 0.01 * 0.12 + 0.02 * (0.25 + 0.18))
    assert y[0] == pytest.approx(0.4 * 1.0375 + 2 * 0.02 * 0.12 + 0.01 * (0.25 + 0.32))


@pytest.mark.parametrize("lens", LENSES)
def test_a_photo_through_a_known_lens_comes_back_straight(lens):
    u, v = centres()
    x_photo, y_photo = (u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1]
    x, y = x_photo.copy(), y_photo.copy()
    for _ in range(60):  # the ray behind each pixel of the photo, by fixed-point iteration
        x_seen, y_seen = opencv(*LENSES[lens]).distort(x, y)
        x, y = x + x_photo - x_seen, y + y_photo - y_seen
    photo = np.rint(texture(x, y)).astype(np.uint8)
    zoom = find_zoom(K, WIDTH, HEIGHT, LENSES[lens])
    expected = texture(x_photo / zoom, y_photo / zoom)
    error = np.abs(undistort(photo, K, LENSES[lens], zoom) - expected)
    assert error[1:-1, 1:-1].max() < 1.6  # rounding twice, and the kernel
    assert error.max() < 6  # a border pixel may lie half a pixel outside the photo's outermost centres
    assert np.abs(photo - expected).max() > 5  # it had something to do


def test_the_kernel_is_catmull_roms_with_clamped_edges():
    """Against Keys' piecewise formula, pixel by pixel, on noise that overshoots 0 and 255."""
    photo = np.random.default_rng(2).choice([0, 255], (HEIGHT, WIDTH, 3)).astype(np.uint8)
    zoom, lens = 1.1, LENSES["tangential"]
    result = undistort(photo, K, lens, zoom)

    def keys(t):
        t = abs(t)
        if t < 1:
            return 1.5 * t**3 - 2.5 * t**2 + 1
        return -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2 if t < 2 else 0.0

    for row, column in [(0, 0), (0, 89), (59, 0), (59, 89), (30, 45), (17, 3), (1, 70)]:
        x, y = straighten(K, opencv(*lens), zoom).positions(np.array(column + 0.5), np.array(row + 0.5))
        x, y = float(x) - 0.5, float(y) - 0.5
        total = np.zeros(3)
        for j in range(int(np.floor(y)) - 1, int(np.floor(y)) + 3):
            for i in range(int(np.floor(x)) - 1, int(np.floor(x)) + 3):
                pixel = photo[np.clip(j, 0, HEIGHT - 1), np.clip(i, 0, WIDTH - 1)]
                total += keys(y - j) * keys(x - i) * pixel
        np.testing.assert_allclose(result[row, column], np.clip(total, 0, 255), atol=0.51)


def test_no_distortion_changes_no_pixel():
    photo = np.random.default_rng(2).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    np.testing.assert_array_equal(undistort(photo, K, (0.0, 0.0, 0.0, 0.0), 1.0), photo)


@pytest.mark.parametrize("wraps", [False, True])
@pytest.mark.parametrize("size", [(HEIGHT, WIDTH), (1, 1), (1, 3), (5, 2), (4, 6)])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_the_compiled_module_resamples_as_numpy_does(monkeypatch, channels, size, wraps):
    """To the byte, far outside the photo and where the lens shows nothing too."""
    if undistort_module.native is None:
        pytest.skip("the compiled module is not here")
    rng = np.random.default_rng(channels)
    photo = rng.choice([0, 1, 254, 255], (*size, channels)).astype(np.uint8)
    photo[: size[0] // 2] = rng.integers(0, 256, (size[0] // 2, *photo.shape[1:]))

    class Anywhere(NamedTuple):
        wraps: bool

        def positions(self, u, v):
            there = np.random.default_rng(int(v[0, 0])).uniform(-0.3, 1.3, (2, *np.broadcast(u, v).shape))
            x, y = there * np.array([size[1], size[0]])[:, None, None]
            x[0, :6] = np.nan, np.inf, -np.inf, 1e300, 0.5, size[1]
            y[0, 3:9] = np.nan, np.inf, -np.inf, 1e300, 0.5, size[0]
            x[1, :8], y[1, :8] = np.arange(-4, 4) / 2, np.arange(8) / 4
            return x, y

    found = resample(photo, Anywhere(wraps), 80, 40)
    monkeypatch.setattr(undistort_module, "native", None)
    np.testing.assert_array_equal(found, resample(photo, Anywhere(wraps), 80, 40))


@pytest.mark.parametrize("width", [50, undistort_module.KEPT_PIXELS // 8 + 1])
def test_where_pixels_lie_is_found_once_for_all_photos_of_a_camera(width):
    """Unless they are very many."""
    asked = []

    class Asked(NamedTuple):
        wraps: bool = False

        def positions(self, u, v):
            asked.append(v[0, 0])
            return np.broadcast_arrays(u, v)

    for value in (7, 8):
        photo = np.full((8, 3, 3), value, np.uint8)
        assert (resample(photo, Asked(), width, 8) == value).all()
    assert len(asked) == (1 if width == 50 else 2 * 8)


# ---- loading ----


def test_an_undistorted_view_has_the_zoomed_camera_and_says_so(tmp_path):
    photo, lines = noise_photo(tmp_path / "a.png"), []
    lens = LENSES["pincushion"]
    (view,), report = load_views([PhotoFile("a.png", tmp_path / "a.png", camera(), lens)], log=lines.append)
    zoom = find_zoom(K, WIDTH, HEIGHT, lens)
    np.testing.assert_allclose(view.camera.K, [[70 * zoom, 0, 43], [0, 72 * zoom, 31], [0, 0, 1]])
    np.testing.assert_array_equal(view.image, undistort(photo, K, lens, zoom))
    assert report == {"zoom": round(zoom, 5), "kernel": "bicubic"}
    assert lines == [f"photos: 1 undistorted, zoom {zoom:.5f}, bicubic"]


def test_distortion_can_be_ignored(tmp_path):
    photo, lines = noise_photo(tmp_path / "a.png"), []
    photos = [PhotoFile("a.png", tmp_path / "a.png", camera(), LENSES["barrel"])]
    (view,), report = load_views(photos, undistorted=False, log=lines.append)
    np.testing.assert_array_equal(view.image, photo)
    np.testing.assert_array_equal(view.camera.K, K)
    assert report is None
    assert lines == ["photos: their lens distortion is ignored (undistort=false)"]


def test_a_camera_is_fitted_to_the_size_of_the_file(tmp_path):
    noise_photo(tmp_path / "half.png", 45, 30)
    (view,), _ = load_views([PhotoFile("half.png", tmp_path / "half.png", camera())])
    np.testing.assert_allclose(view.camera.K, [[35, 0, 21.5], [0, 36, 15.5], [0, 0, 1]])
    assert view.image.shape == (30, 45, 3)


def test_large_photos_are_reduced_and_small_ones_are_not(tmp_path):
    u, v = centres()
    smooth = np.stack([u, v, u + v], axis=2).astype(np.uint8)
    Image.fromarray(smooth).save(tmp_path / "large.png")
    noise_photo(tmp_path / "small.png", 30, 20)
    photos = [PhotoFile(name, tmp_path / name, camera()) for name in ("large.png", "small.png")]
    lines = []
    (large, small), _ = load_views(photos, max_size=45, log=lines.append)
    assert (large.camera.width, large.camera.height) == (45, 30)
    np.testing.assert_allclose(large.camera.K, [[35, 0, 21.5], [0, 36, 15.5], [0, 0, 1]])
    # A ramp stays one: pixel i of the reduced photo covers pixels 2i and 2i + 1.
    np.testing.assert_allclose(large.image[15, 5:-5, 0], 2 * np.arange(5, 40) + 0.5, atol=1)
    assert small.image.shape == (20, 30, 3)
    assert lines == ["photos: 1 of 2 reduced from 90x60 to 45x30 (--max-size)"]
    (large, _), _ = load_views(photos, max_size=0)
    np.testing.assert_array_equal(large.image, smooth)


def test_a_photo_of_another_shape_is_refused(tmp_path):
    noise_photo(tmp_path / "turned.png", HEIGHT, WIDTH)
    with pytest.raises(UserError, match="is 60x90 but its camera is 90x60, another shape"):
        load_views([PhotoFile("turned.png", tmp_path / "turned.png", camera())])


def test_exif_rotation_is_not_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # a viewer would turn it by 90 degrees
    Image.new("RGB", (WIDTH, HEIGHT), "red").save(tmp_path / "a.jpg", exif=exif)
    assert decode(tmp_path / "a.jpg").shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize(
    ("mode", "color", "expected"),
    [
        ("RGB", (10, 20, 30), (10, 20, 30)),
        ("L", 77, (77, 77, 77)),
        ("1", 1, (255, 255, 255)),
        ("LA", (100, 255), (100, 100, 100)),
        ("RGBA", (200, 100, 50, 128), (100, 50, 25)),  # over black
        ("I;16", 200 * 257, (200, 200, 200)),
        ("P", 0, (12, 34, 56)),
    ],
)
def test_every_kind_of_picture_becomes_rgb(tmp_path, mode, color, expected):
    picture = Image.new(mode, (5, 4), color)
    if mode == "P":
        picture.putpalette([*expected, 255, 255, 255])
    picture.save(tmp_path / "a.png")
    pixels = decode(tmp_path / "a.png")
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, np.broadcast_to(np.uint8(expected), (4, 5, 3)))


def test_pictures_of_unknown_range_are_refused(tmp_path):
    Image.new("F", (5, 4), 0.5).save(tmp_path / "a.tif")
    with pytest.raises(UserError, match="32-bit pixels"):
        decode(tmp_path / "a.tif")


def test_unreadable_pictures_are_one_line_each(tmp_path):
    noise_photo(tmp_path / "good.png")
    data = (tmp_path / "good.png").read_bytes()
    broken = {
        "empty.png": (b"", "is not a picture"),
        "text.png": (b"<html>not found</html>", "is not a picture"),
        "cut.png": (data[: len(data) // 2], "is damaged"),
        "missing.png": (None, "cannot be read: No such file"),
    }
    for name, (content, message) in broken.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=message) as error:
            load_views([PhotoFile(name, tmp_path / name, camera())])
        assert name in str(error.value) and "\n" not in str(error.value)


def test_max_size_is_checked():
    with pytest.raises(UserError, match="max_size must be"):
        load_views([], max_size=-1)


# ---- the cache ----


@pytest.fixture
def kept(monkeypatch):
    """Photos are kept that are made again as fast."""
    monkeypatch.setattr(file_photo, "MADE_AGAIN", 0.0)


def load_lens(path, lens="pincushion", **options):
    (view,), _ = load_views([PhotoFile("a.png", path, camera(), LENSES[lens])], **options)
    return view.image


def test_the_cache_saves_the_work(tmp_path, monkeypatch, kept):
    noise_photo(tmp_path / "a.png")
    first, lines = load_lens(tmp_path / "a.png"), []
    monkeypatch.setattr(file_photo, "resample", lambda *_: pytest.fail("undistorted again"))
    np.testing.assert_array_equal(load_lens(tmp_path / "a.png", log=lines.append), first)
    assert "1 from the cache" in lines[-1]
    assert len(list((tmp_path / "cache").iterdir())) == 1  # and no temporary file


def test_the_cache_knows_lens_and_content(tmp_path, kept):
    noise_photo(tmp_path / "a.png")
    first = load_lens(tmp_path / "a.png")
    assert (load_lens(tmp_path / "a.png", "tangential") != first).any()
    Image.new("RGB", (WIDTH, HEIGHT), "red").save(tmp_path / "a.png")
    assert (load_lens(tmp_path / "a.png")[..., 0] == 255).all()


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "other size"])
def test_a_damaged_cache_is_made_again(tmp_path, damage, kept):
    noise_photo(tmp_path / "a.png")
    first = load_lens(tmp_path / "a.png")
    (file,) = (tmp_path / "cache").iterdir()
    data = bytearray(file.read_bytes())
    if damage == "flipped":
        data[len(data) // 2] ^= 0x10
    elif damage == "cut":
        del data[len(data) // 2 :]
    elif damage == "empty":
        data.clear()
    else:
        Image.new("RGB", (4, 4)).save(file)
        data = file.read_bytes()
    file.write_bytes(data)
    np.testing.assert_array_equal(load_lens(tmp_path / "a.png"), first)
    assert cache.read(file.stem, (HEIGHT, WIDTH)) is not None


def test_no_cache_where_none_is_wanted_or_possible(tmp_path, monkeypatch, kept):
    noise_photo(tmp_path / "a.png")
    first = load_lens(tmp_path / "a.png", use_cache=False)
    assert not (tmp_path / "cache").exists()
    monkeypatch.setenv("GS_CACHE", str(tmp_path / "a.png" / "no folder"))
    np.testing.assert_array_equal(load_lens(tmp_path / "a.png"), first)


@pytest.mark.parametrize("larger", [1, 2])
@pytest.mark.parametrize("compiled", [True, False])
def test_what_is_made_again_as_fast_is_not_kept(tmp_path, monkeypatch, larger, compiled):
    """Undistorted in the compiled module from a photo hardly larger than the picture."""
    monkeypatch.setattr(undistort_module, "native", undistort_module.native if compiled else None)
    if compiled and undistort_module.native is None:
        pytest.skip("the compiled module is not here")
    noise_photo(tmp_path / "a.png", larger * WIDTH, larger * HEIGHT)
    load_lens(tmp_path / "a.png", max_size=WIDTH)
    assert bool(list(tmp_path.glob("cache/*"))) == (larger > 1 or not compiled)


def test_where_the_cache_is(monkeypatch, tmp_path):
    assert cache.cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("GS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert str(cache.cache_folder()) == "/xdg/gsplat_train"
