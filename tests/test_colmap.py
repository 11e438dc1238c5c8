# SPDX-License-Identifier: Apache-2.0
"""COLMAP scenes: what is read, how photos are found, and what broken ones answer."""

import struct
import tracemalloc

import numpy as np
import pytest
from colmap_files import CAMERAS, IMAGES, POINTS, binary_files, check_good, text_files, write_scene
from PIL import Image

from gsplat_train.datasets import load_scene
from gsplat_train.datasets.colmap_binary import read_images, read_points
from gsplat_train.datasets.colmap_records import quaternion, rotation_matrix
from gsplat_train.errors import UserError


@pytest.fixture
def good(tmp_path):
    return write_scene(tmp_path / "scene", binary_files(CAMERAS, IMAGES, POINTS))


# ---- what is read ----


@pytest.mark.parametrize("files", [binary_files, text_files])
@pytest.mark.parametrize("model", ["sparse/0", "sparse/12", "sparse", "colmap/sparse/0", "."])
def test_a_model_is_read_wherever_it_lies(tmp_path, files, model):
    check_good(load_scene(write_scene(tmp_path / "scene", files(CAMERAS, IMAGES, POINTS), model=model)))


def test_binary_goes_before_text(good):
    write_scene(good, text_files(CAMERAS, IMAGES[:1], POINTS))
    check_good(load_scene(good))


def test_a_text_name_may_hold_spaces(tmp_path):
    images = [(*IMAGES[0][:4], "my photo 1.png")]
    root = write_scene(tmp_path, text_files(CAMERAS, images, POINTS), photos=["my photo 1.png"])
    assert load_scene(root).views[0].name == "my photo 1.png"


@pytest.mark.parametrize(
    ("model", "params", "focal", "lens"),
    [
        ("SIMPLE_PINHOLE", [50, 19, 16], (50, 50), None),
        ("PINHOLE", [50, 52, 19, 16], (50, 52), None),
        ("SIMPLE_RADIAL", [50, 19, 16, 0.1], (50, 50), (0.1, 0, 0, 0)),
        ("RADIAL", [50, 19, 16, 0.1, 0.02], (50, 50), (0.1, 0.02, 0, 0)),
        ("OPENCV", [50, 52, 19, 16, 0.1, 0.02, 0.003, -0.004], (50, 52), (0.1, 0.02, 0.003, -0.004)),
        ("OPENCV", [50, 52, 19, 16, 0, 0, 0, 0], (50, 52), None),
    ],
)
@pytest.mark.parametrize("files", [binary_files, text_files])
def test_camera_models(tmp_path, monkeypatch, files, model, params, focal, lens):
    monkeypatch.setenv("GS_CACHE", str(tmp_path / "cache"))
    root = write_scene(tmp_path / "scene", files([(1, model, 40, 30, params)], IMAGES, POINTS))
    straight, ignored = load_scene(root), load_scene(root, undistort=False)
    K = np.array([[focal[0], 0, 19], [0, focal[1], 16], [0, 0, 1.0]])
    np.testing.assert_array_equal(ignored.views[0].camera.K, K)
    assert ignored.undistort is None
    if lens is None:
        assert straight.undistort is None
        zoom = 1.0
    else:
        from gsplat_train.datasets.undistort import find_zoom

        zoom = find_zoom(K, 40, 30, lens)
        assert straight.undistort == {"zoom": round(zoom, 5), "kernel": "bicubic"}
        assert zoom > 1
    K[:2, :2] *= zoom
    np.testing.assert_allclose(straight.views[0].camera.K, K)


def test_several_cameras_each_fitted_to_its_files(tmp_path):
    cameras = [*CAMERAS, (5, "SIMPLE_PINHOLE", 80, 80, [90.0, 40, 41])]
    images = [IMAGES[1], (*IMAGES[0][:3], 5, "b.png")]
    root = write_scene(tmp_path, binary_files(cameras, images, POINTS), photos=["a.png"])
    write_scene(root, {}, photos=["b.png"], size=(20, 20))
    a, b = (view.camera for view in load_scene(root).views)
    np.testing.assert_array_equal(a.K, [[50, 0, 19], [0, 52, 16], [0, 0, 1]])
    np.testing.assert_array_equal(b.K, [[22.5, 0, 10], [0, 22.5, 10.25], [0, 0, 1]])
    assert (b.width, b.height) == (20, 20)


def test_an_unsupported_camera_that_no_image_uses_does_no_harm(tmp_path):
    cameras = [(3, "FOV", 40, 30, [50.0, 50, 19, 16, 0.1]), *CAMERAS]
    check_good(load_scene(write_scene(tmp_path / "scene", binary_files(cameras, IMAGES, POINTS))))


def test_the_largest_of_several_models_is_taken(good):
    write_scene(good, binary_files(CAMERAS, IMAGES[:1], POINTS[:1]), model="sparse/1")
    write_scene(good, text_files(CAMERAS, IMAGES[:2], POINTS[:1]), model="sparse/2")
    lines = []
    check_good(load_scene(good, log=lines.append))
    assert "largest of 3 models (0: 3 images, 1: 1 images, 2: 2 images)" in lines[0]


def test_the_chosen_folder_of_photos_decides_the_size(good):
    for name in ("a.png", "b.png", "sub/c.png"):
        path = good / "images_2" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 15)).save(path)
    scene = load_scene(good, images="images_2")
    np.testing.assert_array_equal(scene.views[0].camera.K, [[25, 0, 9.5], [0, 26, 8], [0, 0, 1]])
    check_good(load_scene(good))


def test_the_only_folder_of_photos_is_found(good):
    (good / "images").rename(good / "images_8")
    check_good(load_scene(good))


def test_2d_points_are_stepped_over(tmp_path):
    """20 MB of them cost no memory."""
    n = 800_000
    head = struct.pack("<Qi7di", 1, 1, 1, 0, 0, 0, 0, 0, 1, 1) + b"a.png\0"
    (tmp_path / "images.bin").write_bytes(head + struct.pack("<Q", n) + bytes(24 * n))
    tracemalloc.start()
    (image,) = read_images(tmp_path / "images.bin")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert image.name == "a.png"
    assert peak < 1e5


def test_many_points_with_tracks_of_all_lengths(tmp_path):
    random = np.random.default_rng(0)
    points = [
        (random.normal(size=3), random.integers(0, 256, 3), int(random.integers(0, 9))) for _ in range(5000)
    ]
    (tmp_path / "points3D.bin").write_bytes(binary_files([], [], points)["points3D.bin"])
    positions, colors = read_points(tmp_path / "points3D.bin")
    np.testing.assert_array_equal(positions, [position for position, _, _ in points])
    np.testing.assert_array_equal(colors, [color for _, color, _ in points])


def test_quaternions_there_and_back():
    quats = np.concatenate([np.random.default_rng(0).normal(size=(50, 4)), np.eye(4), [[1e-9, 1, 0, 0]]])
    quats /= np.linalg.norm(quats, axis=1, keepdims=True)
    quats[quats[:, 0] < 0] *= -1
    for quat in quats:
        rotation = rotation_matrix(tuple(quat))
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-14)
        np.testing.assert_allclose(rotation_matrix(quaternion(rotation)), rotation, atol=1e-14)


# ---- broken input ----


def change(name, old, new):
    return lambda files: files | {name: files[name].replace(old, new, 1)}


def replace(cameras=None, images=None, points=None):
    def make(files):
        args = [CAMERAS if cameras is None else cameras, IMAGES if images is None else images]
        return binary_files(*args, POINTS if points is None else points)

    return make


def cut(name, n):
    return lambda files: files | {name: files[name][:n]}


def count(name, n):
    return lambda files: files | {name: struct.pack("<Q", n) + files[name][8:]}


def without(name):
    return lambda files: {key: data for key, data in files.items() if key != name}


def image(**fields):
    record = dict(zip(("id", "quat", "translation", "camera", "name"), IMAGES[0], strict=True)) | fields
    return tuple(record.values())


NAN, INF = float("nan"), float("inf")
TRACK_LENGTH = struct.pack("<dQ", 0.5, 2)  # of the first point, after its error
BROKEN = {
    "cameras claim 2^60": (
        count("cameras.bin", 2**60),
        "cameras.bin claims 1,152,921,504,606,846,976 cameras",
    ),
    "images claim 2^60": (count("images.bin", 2**60), "images.bin claims 1,152,921,504,606,846,976 images"),
    "points claim 2^64-1": (
        count("points3D.bin", 2**64 - 1),
        "points3D.bin claims 18,446,744,073,709,551,615",
    ),
    "points claim one more": (count("points3D.bin", 4), "points3D.bin .*cut off or not COLMAP's"),
    "2D points claim 2^60": (
        change("images.bin", b"b.png\0" + struct.pack("<Q", 2), b"b.png\0" + struct.pack("<Q", 2**60)),
        "images.bin claims 1,152,921,504,606,846,976 2D points",
    ),
    "track claims 2^60": (
        change("points3D.bin", TRACK_LENGTH, struct.pack("<dQ", 0.5, 2**60)),
        "points3D.bin ends too early",
    ),
    "empty cameras file": (cut("cameras.bin", 0), "cameras.bin is empty"),
    "cut cameras": (cut("cameras.bin", 30), "cameras.bin .*cut off"),
    "cut images": (cut("images.bin", 100), "images.bin .*cut off"),
    "cut points": (cut("points3D.bin", 100), "points3D.bin .*cut off"),
    "a name without end": (
        cut("images.bin", 78),
        "images.bin: image 1 has no readable name|images.bin .*cut off",
    ),
    "text instead": (lambda files: files | {"images.bin": b"<html></html>" * 99}, "images.bin claims"),
    "no cameras file": (without("cameras.bin"), "has no cameras.bin or cameras.txt"),
    "no images file": (without("images.bin"), "has no images.bin or images.txt"),
    "no points file": (without("points3D.bin"), "has no points3D.bin or points3D.txt"),
    "no cameras": (replace(cameras=[]), "has no cameras"),
    "no images": (replace(images=[]), "empty model: it has no images"),
    "model id 18": (
        change("cameras.bin", struct.pack("<iiQ", 1, 1, 40), struct.pack("<iiQ", 1, 18, 40)),
        "camera 1 has the model id 18; 0 to 17 are known",
    ),
    "camera of no size": (replace(cameras=[(1, "PINHOLE", 0, 30, CAMERAS[0][4])]), "claims 0x30 pixels"),
    "absurd camera": (
        replace(cameras=[(1, "PINHOLE", 2**60, 30, CAMERAS[0][4])]),
        "claims 1152921504606846976x30",
    ),
    "focal length NaN": (replace(cameras=[(1, "PINHOLE", 40, 30, [NAN, 52, 19, 16])]), "not a finite number"),
    "focal length 0": (
        replace(cameras=[(1, "PINHOLE", 40, 30, [0, 52, 19, 16])]),
        "positive focal length, got 0.0",
    ),
    "absurd lens": (
        replace(cameras=[(1, "OPENCV", 40, 30, [50, 52, 19, 16, 0, 0, 1e9, 0])]),
        "leaves nothing of the 40x30 photo",
    ),
    "camera missing": (
        replace(images=[image(camera=4)]),
        "image 'b.png' needs the camera 4, which is not there",
    ),
    "pose NaN": (replace(images=[image(translation=[NAN, 0, 0])]), "image 'b.png' has no usable pose"),
    "pose infinite": (replace(images=[image(translation=[0, INF, 0])]), "image 'b.png' has no usable pose"),
    "pose absurd": (replace(images=[image(translation=[0, 1e300, 0])]), "image 'b.png' has no usable pose"),
    "rotation zero": (replace(images=[image(quat=[0.0, 0, 0, 0])]), "image 'b.png' has no usable pose"),
    "two of a name": (
        replace(images=[image(), image(id=8, translation=[0, 0, 5])]),
        "two images have the name 'b.png'",
    ),
    "name upwards only": (replace(images=[image(name="../..")]), r"image name '\.\./\.\.' names no photo"),
    "name of the root": (replace(images=[image(name="/")]), "image name '/' names no photo"),
    "name empty": (replace(images=[image(name="")]), "image name '' names no photo"),
    "points NaN": (replace(points=[([NAN, 0, 0], [0, 0, 0], 0)] * 2), "2 of 2 points lie nowhere, the first"),
    "point absurd": (replace(points=[([1e300, 0, 0], [0, 0, 0], 0)]), r"number 1, at \[1e\+300"),
    "a camera twice": (
        replace(cameras=[*CAMERAS, (1, "PINHOLE", 40, 30, [51.0, 52.0, 19.0, 16.0])]),
        "camera 1 is given twice and differs",
    ),
}


def test_a_model_without_points_gets_drawn_ones(tmp_path):
    lines = []
    scene = load_scene(write_scene(tmp_path, replace(points=[])({})), log=lines.append)
    assert len(scene.points) == 20_000
    assert any("20,000 drawn" in line for line in lines)


@pytest.mark.parametrize("case", BROKEN)
def test_broken_models_answer_one_line_and_take_no_memory(tmp_path, case):
    damage, message = BROKEN[case]
    root = write_scene(tmp_path / "scene", damage(binary_files(CAMERAS, IMAGES, POINTS)))
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=message) as error:
            load_scene(root)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert "\n" not in str(error.value)
    assert error.value.exit_code == 2
    assert peak < 5e6


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("cameras", b"1 PINHOLE", b"one PINHOLE", "cameras.txt, line 3: expected CAMERA_ID MODEL"),
        ("cameras", b" 40 30", b" 40", "cameras.txt, line 3: expected CAMERA_ID"),
        ("cameras", b"50.0", b"fifty", "cameras.txt, line 3"),
        ("cameras", b"PINHOLE", b"FISHEYE624", "has the camera model FISHEYE624; known are SIMPLE_PINHOLE"),
        ("images", b"b.png", b"", "images.txt, line 3: expected IMAGE_ID QW"),
        ("points3D", b"0.1 0.2", b"0.1 ?", "points3D.txt, line 3: expected POINT3D_ID"),
        ("points3D", b"1 2 3", b"1 2 300", "points3D.txt, line 3"),
    ],
)
def test_broken_text_answers_its_line(tmp_path, name, old, new, message):
    files = text_files(CAMERAS, IMAGES, POINTS)
    assert old in files[f"{name}.txt"]
    files[f"{name}.txt"] = files[f"{name}.txt"].replace(old, new, 1)
    with pytest.raises(UserError, match=message):
        load_scene(write_scene(tmp_path, files))


MENDED = {
    "a point NaN": (replace(points=[*POINTS, ([NAN, 0, 0], [0, 0, 0], 0)]), "1 of 4 points lie nowhere"),
    "a point at 1e30": (replace(points=[*POINTS, ([0, 1e30, 0], [0, 0, 0], 0)]), "1 of 4 points lie nowhere"),
    "a rotation of zero": (
        replace(images=[*IMAGES, image(quat=[0.0, 0, 0, 0], name="d.png")]),
        "1 of 4 images ('d.png') have no usable pose",
    ),
    "a pose NaN": (
        replace(images=[image(translation=[0, NAN, 0], name="d.png"), *IMAGES]),
        "1 of 4 images ('d.png') have no usable pose",
    ),
    "an image twice": (replace(images=[*IMAGES, image(id=50)]), "1 images are given twice, alike"),
    "a camera twice, alike": (replace(cameras=CAMERAS * 2), ""),
}


@pytest.mark.parametrize("case", MENDED)
def test_single_faults_are_mended_with_a_word(tmp_path, case):
    damage, word = MENDED[case]
    lines = []
    root = write_scene(tmp_path / "scene", damage(binary_files(CAMERAS, IMAGES, POINTS)))
    check_good(load_scene(root, log=lines.append))
    warnings = [line for line in lines if line.startswith("warning") and "show nothing" not in line]
    assert len(warnings) == bool(word) and all(word in line for line in warnings)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16-le", "utf-16-be"])
def test_byte_order_marks_are_read(tmp_path, encoding):
    files = text_files(CAMERAS, IMAGES, POINTS)
    for name, data in files.items():
        mark = "" if encoding == "utf-8-sig" else "\ufeff"
        files[name] = (mark + data.decode().replace("\n", "\r\n")).encode(encoding)
    check_good(load_scene(write_scene(tmp_path / "scene", files)))


@pytest.mark.parametrize("damage", ["stripped", "half stripped", "points kept", "no last line"])
def test_images_txt_without_its_second_lines(tmp_path, damage):
    files = text_files(CAMERAS, IMAGES, POINTS)
    lines = [line for line in files["images.txt"].decode().split("\n") if line]
    if damage == "half stripped":
        lines.insert(2, "")
    if damage != "points kept":
        lines = [line for line in lines if line != "1.5 2.5 1"]
    text = "\n".join(lines) + ("" if damage == "no last line" else "\n")
    said = []
    root = write_scene(tmp_path / "scene", files | {"images.txt": text.encode()})
    check_good(load_scene(root, log=said.append))
    assert any(line.startswith("warning: ") and "second lines" in line for line in said)


@pytest.mark.parametrize(
    "points", ["", "1 2 -1", "320 240 -1 5 6 -1 7 8 9 10 11 12", "1.5 2.5 1 " * 500, "1 2 3 4 5 6 7 8 9"]
)
def test_2d_points_in_text_are_no_images(tmp_path, points):
    files = text_files(CAMERAS, IMAGES, POINTS)
    files["images.txt"] = files["images.txt"].replace(b"1.5 2.5 1\n", points.encode() + b"\n")
    lines = []
    check_good(load_scene(write_scene(tmp_path / "scene", files), log=lines.append))
    assert not any("warning" in line and "show nothing" not in line for line in lines)


@pytest.mark.parametrize("name", ["cameras.bin", "images.bin", "points3D.bin"])
def test_every_cut_is_noticed(tmp_path, name):
    files = binary_files(CAMERAS, IMAGES, POINTS)
    root = write_scene(tmp_path, files)
    for n in range(len(files[name])):
        (root / "sparse/0" / name).write_bytes(files[name][:n])
        with pytest.raises(UserError):
            load_scene(root)


@pytest.mark.parametrize("make", [binary_files, text_files])
def test_any_damage_is_a_scene_or_one_line(tmp_path, make):
    """Random bytes in random places: never another exception, whatever they say."""
    files, random = make(CAMERAS, IMAGES, POINTS), np.random.default_rng(5)
    root = write_scene(tmp_path, files)
    outcomes = set()
    for _ in range(150):
        name = str(random.choice(list(files)))
        data = bytearray(files[name])
        for _ in range(random.integers(1, 4)):
            data[random.integers(len(data))] = random.integers(256)
        (root / "sparse/0" / name).write_bytes(bytes(data))
        try:
            outcomes.add(type(load_scene(root, cache=False)).__name__)
        except UserError as error:
            assert "\n" not in str(error)
            outcomes.add("UserError")
        (root / "sparse/0" / name).write_bytes(files[name])
    assert outcomes == {"Scene", "UserError"}


# ---- what is a scene ----


def test_what_is_no_scene(tmp_path, good):
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="nowhere is not there"):
        load_scene(tmp_path / "nowhere")
    with pytest.raises(UserError, match="file is not a folder; a scene is a folder"):
        load_scene(tmp_path / "file")
    with pytest.raises(UserError, match=r"looked for a COLMAP model .* and poses_bounds.npy"):
        load_scene(tmp_path / "empty")
    with pytest.raises(UserError, match=r"looked for a COLMAP model \(.*\); it is empty"):
        load_scene(tmp_path / "empty", reader="colmap")
    with pytest.raises(UserError, match=r"reader must be one of auto, colmap, .*llff, .*got 'blender'"):
        load_scene(good, reader="blender")


# ---- Fern ----


def test_fern(data_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("GS_CACHE", str(tmp_path))
    lines = []
    scene = load_scene(data_folder / "fern", images="images_8", log=lines.append)
    assert len(scene.views) == 20
    assert scene.points.shape == (10_091, 3)
    assert scene.undistort == {"zoom": 1.00952, "kernel": "bicubic"}
    assert [view.name for view in scene.split()[1]] == ["IMG_4026.JPG", "IMG_4034.JPG", "IMG_4042.JPG"]
    K = scene.views[0].camera.K
    np.testing.assert_allclose(K[0, 0], 3260.52633 / 8 * 1.00952, rtol=1e-5)
    np.testing.assert_array_equal(K[:2, 2], [252, 189])
    assert lines[0].startswith("warning: no photo in ") and "paired by sorted order" in lines[0]
    assert "matched by sorted order (IMG_4026.JPG is image000.png)" in lines[1]
    # Where a view sees the points, its photo has their colours, no other so well: axes and order are right.
    for view in scene.views:
        seen = scene.points[::4] @ view.camera.viewmat[:3, :3].T + view.camera.viewmat[:3, 3]
        uv = (seen @ view.camera.K.T)[:, :2] / seen[:, 2:]
        inside = (seen[:, 2] > 0) & (uv >= 0).all(axis=1) & (uv < [504, 378]).all(axis=1)
        u, v = uv[inside].astype(int).T
        colors = scene.colors[::4][inside].ravel()
        agreement = [np.corrcoef(other.image[v, u].ravel(), colors)[0, 1] for other in scene.views]
        assert scene.views[int(np.argmax(agreement))] is view
        assert max(agreement) > 0.5
