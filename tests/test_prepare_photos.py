# SPDX-License-Identifier: Apache-2.0
"""Photos as people have them: turned, in odd formats, twice, broken; and what their metadata say."""

import math
import struct

import numpy as np
import pytest
from PIL import Image

from gsplat_train.prepare.metadata import APPLE_HEAD, apple_down, gimbal_down
from gsplat_train.prepare.photos import NoScene, find_photos, gather


def scenery(seed=0, size=(120, 90)):
    random = np.random.default_rng(seed)
    blocks = random.integers(0, 255, (9, 12, 3)).astype(np.uint8)
    return Image.fromarray(blocks).resize(size, Image.Resampling.NEAREST)


def gathered(folder, target):
    root, names, others = find_photos(folder)
    photos, left_out = gather(root, names, target, lambda done: None)
    return {photo.source: photo for photo in photos}, left_out, others


@pytest.fixture
def folder(tmp_path):
    """Three good photos."""
    path = tmp_path / "photos"
    path.mkdir()
    for i in range(3):
        scenery(i).save(path / f"{i}.png")
    return path


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_are_written_upright(folder, tmp_path, orientation):
    upright = scenery(7)
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # what pillow calls the way from upright to stored
    stored = upright if orientation == 1 else upright.transpose(Image.Transpose(back[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(folder / "phone.png", exif=exif)
    photos, _, _ = gathered(folder, tmp_path / "out")
    written = Image.open(tmp_path / "out" / photos["phone.png"].name)
    assert written.size == upright.size == (photos["phone.png"].width, photos["phone.png"].height)
    assert np.array_equal(np.asarray(written.convert("RGB")), np.asarray(upright))
    assert written.getexif().get(0x0112, 1) == 1


def test_upright_photos_are_copied_to_the_byte(folder, tmp_path):
    scenery(9).save(folder / "a.jpg", quality=80)
    photos, _, _ = gathered(folder, tmp_path / "out")
    assert (tmp_path / "out" / photos["a.jpg"].name).read_bytes() == (folder / "a.jpg").read_bytes()


def test_odd_formats_become_rgb_in_8_bits(folder, tmp_path):
    grey = np.asarray(scenery(3).convert("L"), np.uint16) * 257
    Image.fromarray(grey).save(folder / "deep.png")
    scenery(4).convert("P").save(folder / "palette.gif.png")
    scenery(5).convert("CMYK").save(folder / "print.tif")
    half = scenery(6).convert("RGBA")
    half.putalpha(Image.new("L", half.size, 128))
    half.save(folder / "half.png")
    photos, left_out, _ = gathered(folder, tmp_path / "out")
    for name in ("deep.png", "palette.gif.png", "print.tif", "half.png"):
        assert Image.open(tmp_path / "out" / photos[name].name).mode == "RGB", name
    deep = np.asarray(Image.open(tmp_path / "out" / "deep.png"))[:, :, 0]
    assert np.abs(deep.astype(int) - grey // 257).max() <= 1
    assert photos["print.tif"].name == "print.jpg" and not left_out


def test_heic_is_read_where_the_package_is(folder, tmp_path, monkeypatch):
    pillow_heif = pytest.importorskip("pillow_heif", reason="HEIC needs pillow-heif")
    heic = pillow_heif.from_pillow(scenery(5))
    heic.save(folder / "phone.HEIC", quality=90)
    photos, left_out, others = gathered(folder, tmp_path / "out")
    assert not left_out and not others
    written = Image.open(tmp_path / "out" / photos["phone.HEIC"].name)
    assert written.format == "JPEG" and written.size == (120, 90)
    difference = np.asarray(written.convert("L"), float) - np.asarray(scenery(5).convert("L"), float)
    assert np.abs(difference).mean() < 10
    monkeypatch.setattr("gsplat_train.prepare.photos._register_heif", lambda: False)
    assert find_photos(folder)[2] == ["phone.HEIC"]


def test_what_is_left_out_and_why(folder, tmp_path):
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing")
    whole = folder / "2.png"
    (folder / "cut.png").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    (folder / "lfs.jpg").write_text("version https://git-lfs.github.com/spec/v1\n")
    (folder / "again.png").write_bytes((folder / "0.png").read_bytes())
    (folder / ".hidden.png").write_bytes((folder / "0.png").read_bytes())
    (folder / "notes.pdf").write_bytes(b"%PDF")
    Image.new("RGB", (1, 1)).save(folder / "dot.png")
    Image.new("RGB", (99, 99)).save(folder / "lid.png")
    photos, left_out, others = gathered(folder, tmp_path / "out")
    assert len(photos) == 3 and others == ["notes.pdf"]
    expected = {
        "broken.jpg": "no picture",
        "cut.png": "no picture",
        "lfs.jpg": "git lfs pull",
        "again.png": "the same as 0.png",
        "dot.png": "1x1",
        "lid.png": "one colour",
    }
    assert set(left_out) == set(expected)
    assert all(why in left_out[name] for name, why in expected.items())
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["0.png", "1.png", "2.png"]


def test_names_have_no_blanks_and_never_meet(folder, tmp_path):
    scenery(11).save(folder / "IMG 1 (2).PNG")
    scenery(12).save(folder / "x.tif")
    scenery(13).save(folder / "X.jpg")
    (folder / "day 1").mkdir()
    scenery(14).save(folder / "day 1" / "ä b.png")
    photos, _, _ = gathered(folder, tmp_path / "out")
    assert photos["IMG 1 (2).PNG"].name == "IMG_1_(2).PNG"
    assert photos["day 1/ä b.png"].name == "day_1/ä_b.png"
    assert {photos["x.tif"].name, photos["X.jpg"].name} == {"x_2.jpg", "X.jpg"}
    for photo in photos.values():
        assert (tmp_path / "out" / photo.name).is_file()


def test_a_folder_in_a_folder_and_a_scenes_images(folder, tmp_path):
    assert find_photos(folder.parent) == (folder, ["0.png", "1.png", "2.png"], [])
    scene = tmp_path / "scene"
    (scene / "images_2").mkdir(parents=True)
    scenery().save(scene / "images_2" / "0.png")
    folder.rename(scene / "images")
    assert find_photos(scene)[0] == scene / "images"


def test_depth_maps_and_masks_are_no_photos(tmp_path):
    """As Polycam, TUM and 7-Scenes lay them beside the photos."""
    for name in ("images/1.jpg", "depth/1.png", "confidence/1.png", "2_mask.png", "3.depth.png", "2.png"):
        path = tmp_path / "keyframes" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        scenery().save(path)
    root, names, others = find_photos(tmp_path)
    assert (root, names) == (tmp_path / "keyframes", ["2.png", "images/1.jpg"])
    assert "keyframes/depth/1.png" in others and len(others) == 4
    assert find_photos(tmp_path / "keyframes/depth")[1] == [
        "1.png"
    ]  # where there is nothing else, it is taken


def test_focal_length_and_camera_come_from_exif(folder, tmp_path):
    exif = Image.Exif()
    exif[0x010F], exif[0x0110] = "Maker", "Model"
    details = exif.get_ifd(0x8769)
    details[0xA405] = 26
    scenery(8, (160, 120)).save(folder / "a.jpg", exif=exif)
    details[0xA405] = 0  # unknown, as EXIF says it
    scenery(9, (160, 120)).save(folder / "b.jpg", exif=exif)
    photos, _, _ = gathered(folder, tmp_path / "out")
    assert photos["a.jpg"].focal == pytest.approx(26 / math.hypot(36, 24) * 200)
    assert photos["a.jpg"].camera == "Maker Model 26 mm"
    assert photos["b.jpg"].focal is None and photos["0.png"].focal is None


def maker_note(vector):
    """An Apple maker note with an acceleration only."""
    head = APPLE_HEAD + struct.pack(">H", 1)
    at = len(head) + 12 + 4
    entry = struct.pack(">HHII", 8, 10, 3, at)
    return head + entry + bytes(4) + b"".join(struct.pack(">ii", round(v * 1000), 1000) for v in vector)


@pytest.mark.parametrize(
    ("vector", "down"),
    [
        ((0, -1, 0), (0, 1, 0)),  # held upright: gravity is along -y of the telephone
        ((-1, 0, 0), (0, 1, 0)),  # on its side; the picture is turned, so down is down again
        ((0, -0.8, -0.6), (0, 0.8, 0.6)),  # tilted to look down
        ((0.1, -0.995, 0), (0.1, 0.995, 0)),  # rolled: the right side is lower
        ((-0.995, -0.1, 0), (0.1, 0.995, 0)),  # the same roll on its side
    ],
)
def test_gravity_of_a_telephone(vector, down):
    assert apple_down(maker_note(vector)) == pytest.approx(down, abs=0.01)


@pytest.mark.parametrize(
    "note",
    [b"", b"Nikon", maker_note((0, 0, -1)), maker_note((3, 0, 0)), maker_note((0, -1, 0))[:40], "text", None],
)
def test_gravity_that_is_not_known(note):
    assert apple_down(note) is None


def test_gravity_of_a_gimbal():
    xmp = b'<rdf drone-dji:GimbalRollDegree="+0.00" drone-dji:GimbalPitchDegree="-90.00"/>'
    assert gimbal_down(xmp) == pytest.approx((0, 0, 1), abs=1e-9)
    assert gimbal_down(b'GimbalPitchDegree="-30"') == pytest.approx((0, math.cos(math.pi / 6), 0.5))
    assert gimbal_down(b"<x/>") is None


def test_too_few(tmp_path):
    (tmp_path / "in").mkdir()
    scenery(0).save(tmp_path / "in" / "a.png")
    with pytest.raises(NoScene, match="1 photos"):
        gathered(tmp_path / "in", tmp_path / "out")
