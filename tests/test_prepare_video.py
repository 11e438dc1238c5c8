# SPDX-License-Identifier: Apache-2.0
"""Frames of a video: the sharpest of each window, upright; blurred, repeated and missing ones are told."""

import struct

import numpy as np
import pytest
from PIL import Image, ImageFilter

from gsplat_train.prepare.photos import NoScene
from gsplat_train.prepare.video import extract

av = pytest.importorskip("av", reason="the extra [video] is not installed")

WIDTH, HEIGHT, RATE = 160, 96, 10


def wall():
    random = np.random.default_rng(0)
    return Image.fromarray(random.integers(0, 255, (24, 200, 3)).astype(np.uint8)).resize((1600, 192))


def frame(i, blur=0.0):
    """A window that moves along a wall; its corner at the top left is white."""
    picture = wall().crop((10 * i, 20, 10 * i + WIDTH, 20 + HEIGHT))
    picture.paste("white", (0, 0, 24, 24))
    return picture.filter(ImageFilter.GaussianBlur(blur)) if blur else picture


def write(path, frames, options=None):
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.options = {"crf": "12"}
        for picture in frames:
            for packet in stream.encode(av.VideoFrame.from_image(picture)):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def taken(path, tmp_path, **asked):
    output: list[int] = []

    def begin(total):
        output.append(total)
        return output.append

    frames = extract(path, tmp_path / "images", asked.get("frames"), asked.get("fps"), begin)
    return frames, output


def test_the_sharpest_of_each_window_is_taken(tmp_path):
    sharp = {2, 7, 11, 19}  # one in each five
    path = write(tmp_path / "a.mp4", [frame(i, 0 if i in sharp else 1.5) for i in range(20)])
    found, output = taken(path, tmp_path, frames=4)
    times = [float(photo.source.split()[-2]) for photo in found.photos]
    assert [round(time * RATE) for time in times] == sorted(sharp)
    assert found.decoded == 20 and output[0] == 20 and output[-1] == 20 and not found.warnings
    assert [photo.name for photo in found.photos] == [f"frame_{i:05d}.jpg" for i in range(1, 5)]
    files = sorted(path.name for path in (tmp_path / "images").iterdir())
    assert files == [photo.name for photo in found.photos]


def test_how_many_frames(tmp_path):
    path = write(tmp_path / "a.mp4", [frame(i) for i in range(40)])
    assert len(taken(path, tmp_path)[0].photos) == 24  # 4 s, at most 6 a second
    assert len(taken(path, tmp_path, fps=2.0)[0].photos) == 8
    assert len(taken(path, tmp_path, frames=400)[0].photos) == 40
    with pytest.raises(NoScene, match=r"2 frames .*--frames or --fps"):
        taken(path, tmp_path, fps=0.5)


def test_blurred_and_repeated_frames_are_left_out_and_counted(tmp_path):
    pictures = [frame(i) for i in range(10)] + [frame(9)] * 4 + [frame(i, 6) for i in (10, 11)]
    pictures += [frame(i) for i in range(12, 24)]
    found, _ = taken(write(tmp_path / "a.mp4", pictures), tmp_path, frames=400)
    assert (found.blurred, found.repeated) == (2, 4)
    assert len(found.photos) == len(pictures) - 6


@pytest.mark.parametrize(("quarter", "corner"), [(0, (0, 0)), (1, (1, 0)), (2, (1, 1)), (3, (0, 1))])
def test_frames_are_turned_as_the_file_says(tmp_path, quarter, corner):
    """A telephone writes how the film is to be turned (clockwise) into the header of the track."""
    path = write(tmp_path / "a.mp4", [frame(i) for i in range(6)])
    data = path.read_bytes()
    at = data.index(b"tkhd") + 4 + 40
    one = 1 << 16
    a, b = {0: (one, 0), 1: (0, one), 2: (-one, 0), 3: (0, -one)}[quarter]
    matrix = struct.pack(">9i", a, b, 0, -b, a, 0, 0, 0, 1 << 30)
    path.write_bytes(data[:at] + matrix + data[at + 36 :])
    found, _ = taken(path, tmp_path, frames=6)
    picture = Image.open(tmp_path / "images" / found.photos[0].name)
    size = (WIDTH, HEIGHT) if quarter % 2 == 0 else (HEIGHT, WIDTH)
    assert picture.size == size == (found.photos[0].width, found.photos[0].height)
    x, y = (12 if side == 0 else length - 12 for side, length in zip(corner, size, strict=True))
    assert min(picture.getpixel((x, y))) > 230


def test_of_a_film_that_was_cut_off_the_beginning_is_used(tmp_path):
    pictures = [frame(i) for i in range(30)]
    whole = write(tmp_path / "a.mp4", pictures, {"movflags": "+faststart"})
    data = whole.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) * 6 // 10])
    found, _ = taken(tmp_path / "cut.mp4", tmp_path, frames=400)
    assert 8 < len(found.photos) < 25
    assert "up to " in found.warnings[0]


def test_what_is_no_film(tmp_path):
    whole = write(tmp_path / "a.mp4", [frame(i) for i in range(9)])
    (tmp_path / "cut.mp4").write_bytes(whole.read_bytes()[:2000])  # without its index, at the end
    (tmp_path / "text.mp4").write_text("hello")
    (tmp_path / "empty.mp4").write_bytes(b"")
    for name in ("cut", "text", "empty"):
        with pytest.raises(NoScene, match="no video that can be read"):
            taken(tmp_path / f"{name}.mp4", tmp_path)
    still = write(tmp_path / "still.mp4", [frame(1)] * 20)
    with pytest.raises(NoScene, match="move the camera"):
        taken(still, tmp_path, frames=20)
    black = write(tmp_path / "black.mp4", [Image.new("RGB", (WIDTH, HEIGHT))] * 20)
    with pytest.raises(NoScene, match="one colour"):
        taken(black, tmp_path, frames=20)
