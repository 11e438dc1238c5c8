# SPDX-License-Identifier: Apache-2.0
"""Frames: depth against what the oracle blends, opacity, averaging; what is written of them; films."""

import os
import resource
import threading
from importlib import util
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import tiny
from PIL import Image

from gsplat_train.errors import UserError
from gsplat_train.evaluate.depth import colored, depth_unit, read_depth, write_depths
from gsplat_train.evaluate.frames import Look, background_of, depth_range, ground_of, shoot
from gsplat_train.evaluate.pictures import Row, Writers, with_alpha, write_sheets
from gsplat_train.evaluate.video import Video, check_video
from gsplat_train.model.sky import Sky
from gsplat_train.renderer import render
from gsplat_train.scene import Camera

CAMERA = Camera(np.eye(4), [[40.0, 0, 24], [0, 40, 20], [0, 0, 1]], 48, 40)


def wall(z: float, opacity: float = 0.98):
    """Gaussians that fill the picture at depth z."""
    x, y = np.meshgrid(np.linspace(-z, z, 41), np.linspace(-z, z, 41))
    gaussians = tiny.random_gaussians(x.size)
    return gaussians._replace(
        means=mx.array(np.stack([x.ravel(), y.ravel(), np.full(x.size, z)], 1).astype(np.float32)),
        log_scales=mx.array(np.full((x.size, 3), np.log(z / 15), np.float32)),
        logit_opacities=mx.array(np.full(x.size, np.log(opacity / (1 - opacity)), np.float32)),
    )


def test_depth_is_that_of_the_wall(backend) -> None:
    frame = shoot(wall(3.0), CAMERA, backend, Look(depth=True))
    assert frame.depth is not None and frame.depth.shape == (40, 48)
    np.testing.assert_allclose(frame.depth, 3.0, rtol=1e-3)
    assert (frame.alpha > 0.9).all()


def test_depth_is_the_mean_by_weight(backend) -> None:
    """Of two walls of half opacity; and the depth is that of the picture, whose weights it has."""
    both = [mx.concatenate([a, b]) for a, b in zip(wall(2.0, 0.05), wall(4.0, 0.05), strict=True)]
    gaussians = tiny.random_gaussians(1)._replace(
        **dict(zip(tiny.random_gaussians(1)._fields, both, strict=True))
    )
    frame = shoot(gaussians, CAMERA, backend, Look(depth=True))
    out = render(
        gaussians._replace(sh0=mx.zeros_like(gaussians.sh0), shN=mx.zeros_like(gaussians.shN)),
        CAMERA,
        backend,
    )
    hidden = np.asarray(out.image)[..., 0] / 0.5  # every splat is grey: the sum of the weights
    np.testing.assert_allclose(hidden, frame.alpha, atol=1e-4)
    inner = frame.depth[10:-10, 10:-10]
    assert (inner > 2.3).all() and (inner < 3.2).all()


def test_nothing_has_no_depth(backend) -> None:
    gaussians = wall(3.0)
    behind = gaussians._replace(means=gaussians.means * mx.array([1.0, 1, -1]))
    frame = shoot(behind, CAMERA, backend, Look(depth=True, background=(1.0, 0, 0)))
    assert not frame.depth.any() and not frame.alpha.any()
    np.testing.assert_array_equal(np.asarray(frame.image)[0, 0], [1, 0, 0])


def test_supersampling_averages() -> None:
    from gsplat_train import backends

    backend = backends.load(tiny.BACKEND)
    gaussians = tiny.random_gaussians(200)
    fine = np.asarray(render(gaussians, CAMERA.resized(96, 80), backend).image)
    frame = shoot(gaussians, CAMERA, backend, Look(supersample=2, depth=True))
    expected = (fine[::2, ::2] + fine[1::2, ::2] + fine[::2, 1::2] + fine[1::2, 1::2]) / 4
    np.testing.assert_allclose(np.asarray(frame.image), expected, atol=1e-6)
    assert frame.depth.shape == frame.alpha.shape == (40, 48)


def test_depth_pictures_say_their_unit(tmp_path: Path) -> None:
    depth = np.array([[0.0, 1.5], [2.25, 80.0]])
    unit = depth_unit(3.0)
    assert unit == 1e-4
    write_depths(tmp_path / "view.png", depth, unit, 1.0, 3.0)
    read = read_depth(tmp_path / "view_depth.png")
    np.testing.assert_allclose(read, [[0, 1.5], [2.25, 6.5535]], atol=unit)
    with Image.open(tmp_path / "view_depth.png") as picture:
        assert picture.mode.startswith("I") and picture.info["depth_unit"] == "0.0001"
    colors = np.asarray(Image.open(tmp_path / "view_depth_color.png"))
    assert not colors[0, 0].any() and colors[0, 1].sum() > colors[1, 0].sum() > colors[1, 1].sum()
    assert colored(depth, 1, 3).dtype == np.uint8


def test_the_range_is_what_is_seen() -> None:
    near, far = depth_range(wall(3.0), [CAMERA])
    assert near == pytest.approx(3) and far >= near


def test_alpha_pictures_are_straight() -> None:
    image, alpha = np.full((2, 2, 3), 0.25), np.array([[0.5, 1.0], [0.25, 0.0]])
    picture = with_alpha(image, alpha)
    assert picture[0, 0].tolist() == [128, 128, 128, 128] and picture[0, 1].tolist() == [64, 64, 64, 255]


@pytest.mark.parametrize(
    ("text", "color"), [("white", (1, 1, 1)), ("#ff0080", (1, 0, 128 / 255)), ("0.5,0,1", (0.5, 0, 1))]
)
def test_backgrounds(text: str, color: tuple[float, ...]) -> None:
    assert background_of(text) == pytest.approx(color)


SETTINGS_ONLY = ["auto", "random", "random-first"]  # a training's, no colours: they were rendered as black


@pytest.mark.parametrize("text", ["red", "#12", "1,2,3", "1,0", "nan,0,0", "#gggggg", *SETTINGS_ONLY])
def test_a_wrong_background_is_told(text: str) -> None:
    with pytest.raises(UserError, match="--background takes"):
        background_of(text)


def test_what_is_behind_by_default_and_by_name() -> None:
    sky = Sky(np.zeros((9, 3), np.float32))
    assert ground_of(None, sky, "white") is sky and ground_of("sh", sky) is sky
    assert ground_of("white", sky) == ground_of(None, None, "white") == (1, 1, 1)
    assert ground_of(None, None, "random-first") == ground_of(None, None, "sh") == (0, 0, 0)
    with pytest.raises(
        UserError, match="--background sh is the model's sky, and this model has none; give black"
    ):
        ground_of("sh", None)


def test_an_error_in_a_thread_comes_out(tmp_path: Path) -> None:
    def fail() -> None:
        raise OSError("no room")

    with pytest.raises(OSError, match="no room"), Writers() as writers:
        writers.add(fail)


def test_sheets_are_numbered(tmp_path: Path) -> None:
    rows = [Row(f"view {i}", [np.zeros((10, 20, 3), np.uint8)] * 2) for i in range(13)]
    written = write_sheets(tmp_path / "sheet.png", rows)
    assert [path.name for path in written] == ["sheet.png", "sheet_2.png"]
    assert Image.open(written[1]).size == (40, 28)


def needs_av() -> None:
    if util.find_spec("av") is None:
        if "video" in os.environ.get("GS_REQUIRE", "").replace(",", " ").split():
            pytest.fail("GS_REQUIRE asks for video: PyAV is not installed")
        pytest.skip("PyAV is not installed (extra [video])")


@pytest.mark.parametrize("end", [".mp4", ".webm"])
def test_a_film_reads_back(end: str, tmp_path: Path) -> None:
    needs_av()
    import av

    with Video(tmp_path / f"film{end}", 24, 65, 49) as video:
        for i in range(10):
            video.add(np.full((49, 65, 3), 20 * i + 20, np.uint8))
    assert [path.name for path in tmp_path.iterdir()] == [f"film{end}"]
    with av.open(str(tmp_path / f"film{end}")) as file:
        assert file.streams.video[0].average_rate == 24
        frames = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
    assert len(frames) == 10 and frames[0].shape == (48, 64, 3)
    for i, frame in enumerate(frames):
        assert abs(frame.mean() - (20 * i + 20)) < 6


def test_a_film_that_is_given_up_leaves_nothing(tmp_path: Path) -> None:
    needs_av()
    with pytest.raises(KeyboardInterrupt), Video(tmp_path / "film.mp4", 24, 64, 48) as video:
        video.add(np.zeros((48, 64, 3), np.uint8))
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_a_film_where_nothing_can_be_written_is_told(tmp_path: Path) -> None:
    needs_av()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"), Video(tmp_path / "file" / "film.mp4", 24, 64, 48):
        pass


@pytest.mark.parametrize("end", [".mp4", ".webm"])
def test_a_disk_that_is_full_when_the_last_frames_are_written_ends_the_film(end: str, tmp_path: Path) -> None:
    """Few frames: the encoder writes its first bytes after it has taken the last of them."""
    needs_av()
    errors: list[BaseException] = []

    def write() -> None:
        try:
            with Video(tmp_path / f"film{end}", 24, 64, 48) as video:
                for _ in range(4):
                    video.add(np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8))
        except UserError as error:
            errors.append(error)

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        thread = threading.Thread(target=write, daemon=True)
        thread.start()
        thread.join(20)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not thread.is_alive()
    assert "cannot write" in str(errors[0]) and not list(tmp_path.iterdir())


def test_a_film_in_a_folder_that_takes_none_is_told_before_it_is_rendered(tmp_path: Path) -> None:
    needs_av()
    name = "x" * 250 + ".mp4"  # the name while it is written is longer than a file system takes
    with (
        pytest.raises(UserError, match=r"cannot write .* choose another folder"),
        Video(tmp_path / name, 24, 64, 48),
    ):
        pytest.fail("frames were asked for")


def test_a_missing_pyav_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'gsplat-train\[video\]'"):
        check_video(Path("film.mp4"))
