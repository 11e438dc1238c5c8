# SPDX-License-Identifier: Apache-2.0
"""transforms.json in the dialects of its writers, from the built-in scene."""

import json
import shutil
from dataclasses import replace

import foreign_scenes as foreign
import numpy as np
import pytest
from foreign_scenes import frames, lens, small_demo, write_json, write_photos, write_transforms
from PIL import Image

from gsplat_train.datasets import demo, load_scene, transforms_file
from gsplat_train.errors import UserError
from gsplat_train.scene import Camera, Photo, View


def load(root, **options):
    lines = []
    return load_scene(root, log=lines.append, **options), "\n".join(lines)


def demo_lens(**changes):
    return lens(small_demo().views[0].camera) | changes


def test_one_lens_for_all_and_drawn_points(tmp_path):
    scene, said = load(write_transforms(tmp_path, camera_angle_x=9.9, aabb_scale=16, scale=0.33))
    foreign.same_cameras(scene, small_demo().views)
    assert [view.name for view in scene.views] == [f"images/{view.name}" for view in small_demo().views]
    assert "100% look at one place" in said and "drawn" in said and "warning" not in said
    assert len(scene.points) == 20_000
    assert scene.test_names is None


def test_nerfstudio_with_its_points(tmp_path):
    demo = small_demo()
    root = write_transforms(
        tmp_path,
        camera_model="OPENCV",
        k1=0.0,
        applied_transform=[[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, -1, 0]],
        ply_file_path="sparse_pc.ply",
    )
    foreign.write_ascii_ply(root / "sparse_pc.ply", demo.points, demo.colors)
    scene, said = load(root)
    foreign.same_cameras(scene, demo.views)
    np.testing.assert_allclose(scene.points, demo.points, atol=1e-6)
    np.testing.assert_array_equal(scene.colors, demo.colors)
    assert "900 from sparse_pc.ply" in said


def test_a_lens_for_each_frame_beats_the_top(tmp_path):
    views = small_demo().views
    write_photos(tmp_path / "images", views)
    own = [frame | lens(view.camera) for frame, view in zip(frames(views), views, strict=True)]
    scene, _ = load(write_json(tmp_path / "transforms.json", demo_lens(fl_x=7, fl_y=7, cx=1), own))
    foreign.same_cameras(scene, views)


@pytest.mark.parametrize(
    "top",
    [
        lambda camera: {"camera_angle_x": foreign.angle_x(camera)},
        lambda camera: {"camera_angle_x": foreign.angle_x(camera), "w": 96.0, "h": 72.0},
        lambda camera: {"x_fov": np.degrees(foreign.angle_x(camera))},
        lambda camera: {"K": camera.K.tolist()},
        lambda camera: {"fx": camera.K[0, 0], "fy": camera.K[1, 1], "cx": 48.0, "cy": 36.0},
        lambda camera: {"f1_x": camera.K[0, 0], "f1_y": camera.K[1, 1], "c1_x": 48, "c1_y": 36},
        lambda camera: {"fl_x": camera.K[0, 0], "width": 96, "height": 72},
        # the lens of a photo four times as large
        lambda camera: {"fl_x": 4 * camera.K[0, 0], "w": 384, "h": 288, "cx": 192, "cy": 144},
    ],
)
def test_ways_to_say_the_lens(tmp_path, top):
    views = small_demo().views
    write_photos(tmp_path / "images", views)
    scene, _ = load(write_json(tmp_path / "transforms.json", top(views[0].camera), frames(views)))
    foreign.same_cameras(scene, views)


@pytest.mark.parametrize(
    "written",
    [
        lambda view: f"./images/{view.name}",
        lambda view: f".\\images\\{view.name}",
        lambda view: f"images/{view.name[:-4]}",
        lambda view: f"C:\\Users\\me\\capture\\{view.name}",
        lambda view: f"/home/me/capture/images/{view.name}",
        lambda view: f"../frames/{view.name}",
        lambda view: f"./uploads\\images/{view.name[:-4]}.jpg",
        lambda view: f"rgb/{view.name}",
    ],
)
def test_paths_as_people_write_them(tmp_path, written):
    views = small_demo().views
    write_photos(tmp_path / "images", views)
    scene, _ = load(write_json(tmp_path / "transforms.json", demo_lens(), frames(views, written)))
    foreign.same_cameras(scene, views)
    assert not any(part in view.name for view in scene.views for part in ("..", "\\", ":"))


def test_photos_in_the_folder_itself(tmp_path):
    views = small_demo().views
    write_photos(tmp_path, views)
    scene, _ = load(write_json(tmp_path / "transforms.json", demo_lens(), frames(views)))
    foreign.same_cameras(scene, views)


def test_photos_that_are_not_there_are_left_out_with_a_warning(tmp_path):
    root = write_transforms(tmp_path)
    for i in (3, 5):
        (root / "images" / f"view_{i:02d}.png").unlink()
    scene, said = load(root)
    assert len(scene.views) == 10
    assert "warning: 2 of 12 photos are not there ('images/view_03.png', 'images/view_05.png')" in said


def test_photos_of_other_frames_do_not_stand_in_for_missing_ones(tmp_path):
    """Blender's parts name their photos alike; other names may have the same numbers."""
    views = small_demo().views
    root = write_split(tmp_path / "split", views[:8], test=views[:4])
    for part in ("train", "test"):
        write_json(
            root / f"transforms_{part}.json",
            demo_lens(),
            [
                frame | {"file_path": f"{part}/r_{i}"}
                for i, frame in enumerate(frames(views[:8] if part == "train" else views[8:]))
            ],
        )
    shutil.rmtree(root / "test")
    for i in range(8):
        (root / "train" / f"view_{i:02d}.png").rename(root / "train" / f"r_{i}.png")
    scene, said = load(root)
    assert [view.name for view in scene.views] == [f"train/r_{i}" for i in range(8)]
    assert scene.test_names is None and "warning: 4 of 12 photos are not there ('test/r_0'" in said
    foreign.same_cameras(scene, views[:8], names=[f"train/r_{i}" for i in range(8)])

    numbered = write_transforms(tmp_path / "numbers")
    named = [f"images/view_{i:02d}.png" if i < 8 else f"images/other_{i - 8}.png" for i in range(12)]
    listed = [frame | {"file_path": name} for frame, name in zip(frames(views), named, strict=True)]
    write_json(numbered / "transforms.json", demo_lens(), listed)
    assert [view.name for view in load(numbered)[0].views] == named[:8]


def test_paths_from_a_folder_above(tmp_path):
    """As a script writes them that is run there."""
    views = small_demo().views
    write_photos(tmp_path / "raw", views)
    root = write_json(
        tmp_path / "out/transforms.json", demo_lens(), frames(views, lambda view: f"raw/{view.name}")
    )
    scene, said = load(root)
    foreign.same_cameras(scene, views)
    assert "warning: 12 photos lie outside of" in said
    (tmp_path / "out/transforms.json").write_text(
        (root / "transforms.json").read_text().replace("raw/", "")  # a name alone is nobody's
    )
    with pytest.raises(UserError, match=r"none of the 12 photos .* is in a folder of"):
        load(root)


def test_none_of_the_photos(tmp_path):
    root = write_json(tmp_path / "transforms.json", demo_lens(), frames(small_demo().views))
    with pytest.raises(UserError, match=r"none of the 12 photos .* is in a folder of"):
        load(root)


def write_split(root, train, val=(), test=()):
    """As Blender's: no extensions, one angle, a file for each part."""
    for part, views in (("train", train), ("val", val), ("test", test)):
        if views:
            write_photos(root / part, views)
            top = {"camera_angle_x": foreign.angle_x(views[0].camera)}
            listed = frames(views, lambda view, part=part: f"./{part}/{view.name[:-4]}", rotation=0.01)
            write_json(root / f"transforms_{part}.json", top, listed)
    return root


def test_blenders_split_is_kept(tmp_path):
    views = small_demo().views
    scene, said = load(write_split(tmp_path, views[:7], views[7:9], views[9:]))
    train, test = scene.split()
    assert [view.name for view in train] == [f"train/{view.name[:-4]}" for view in views[:7]]
    assert [view.name for view in test] == [f"test/{view.name[:-4]}" for view in views[9:]]
    assert "7 to train on, 3 held out" in said and "transforms_val.json is used for nothing" in said


def test_a_validation_file_alone_is_held_out(tmp_path):
    views = small_demo().views
    scene, _ = load(write_split(tmp_path, views[:9], views[9:]))
    assert [view.name for view in scene.split()[1]] == [f"val/{view.name[:-4]}" for view in views[9:]]


def test_a_test_file_of_the_same_photos_holds_out_none_of_its_own(tmp_path):
    root = write_transforms(tmp_path)
    whole = (root / "transforms.json").read_text()
    (root / "transforms.json").unlink()
    for part in ("train", "test"):
        (root / f"transforms_{part}.json").write_text(whole)
    scene, said = load(root)
    assert len(scene.views) == 12 and scene.test_names is None
    assert "transforms_test.json has no others to hold out" in said


def test_photos_that_are_trained_on_as_well_are_not_held_out(tmp_path):
    """Small captures are split into the same photos twice, each in its folder: scores of them tell nothing."""
    views = small_demo().views
    scene, said = load(write_split(tmp_path / "some", views[:8], test=[*views[6:8], *views[8:]]))
    assert [view.name for view in scene.split()[1]] == [f"test/{view.name[:-4]}" for view in views[8:]]
    assert len(scene.views) == len(views)
    assert "warning: 2 of 6 photos held out ('test/view_06', 'test/view_07') are trained on as well" in said
    scene, said = load(write_split(tmp_path / "all", views, test=views))
    assert len(scene.views) == len(views) and scene.test_names is None
    assert all(view.name.startswith("train/") for view in scene.views)
    moved = write_split(tmp_path / "moved", views[:8], test=[views[8]])
    (moved / "test/view_08.png").write_bytes((moved / "train/view_00.png").read_bytes())
    assert load(moved, trust=True)[0].test_names == {"test/view_08"}  # another camera: it is not the same


def test_parts_beside_the_whole_say_what_is_held_out(tmp_path):
    root = write_transforms(tmp_path)
    whole = json.loads((root / "transforms.json").read_text())
    for part, listed in (("train", whole["frames"][2:]), ("test", whole["frames"][:2])):
        (root / f"transforms_{part}.json").write_text(json.dumps(whole | {"frames": listed}))
    scene, _ = load(root)
    assert scene.test_names == {"images/view_00.png", "images/view_01.png"}


def test_nerfstudios_own_split(tmp_path):
    names = [f"images/view_{i:02d}.png" for i in range(12)]
    root = write_transforms(
        tmp_path, train_filenames=names[3:], val_filenames=names[:3], test_filenames=names[:3]
    )
    assert load(root)[0].test_names == set(names[:3])


def test_frames_apart_are_held_out_and_bad_ones_left_out(tmp_path):
    """As ScanNet++ writes its split and its blurred photos."""
    root = write_transforms(tmp_path)
    whole = json.loads((root / "transforms.json").read_text())
    named = sorted(whole["frames"], key=lambda frame: frame["file_path"])
    named[0]["is_bad"] = named[-1]["is_bad"] = True
    named[1]["is_bad"] = False
    write_json(root / "transforms.json", whole | {"test_frames": named[8:]}, named[:8])
    scene, said = load(root)
    assert [view.name for view in scene.views] == [frame["file_path"] for frame in named[1:-1]]
    assert scene.test_names == {frame["file_path"] for frame in named[8:-1]}
    assert "2 frames that the file calls bad (is_bad) are left out" in said


def test_a_matrix_that_is_scaled_whole(tmp_path):
    views = small_demo().views
    write_photos(tmp_path / "images", views)
    scaled = frames(views, matrix=lambda camera: foreign.opengl(camera) / 844)
    foreign.same_cameras(load(write_json(tmp_path / "transforms.json", demo_lens(), scaled))[0], views)


def test_a_left_handed_world_is_turned(tmp_path):
    views = small_demo().views
    write_photos(tmp_path / "images", views)
    flip = np.diag([1.0, 1, -1, 1])
    mirrored = frames(views, matrix=lambda camera: flip @ foreign.opengl(camera))
    scene, said = load(write_json(tmp_path / "transforms.json", demo_lens(), mirrored))
    foreign.same_cameras(scene, views)
    assert "left-handed" in said


def test_axes_of_opencv_are_recognised_by_the_photos(tmp_path):
    views = small_demo().views
    write_photos(tmp_path / "images", views)
    wrong = frames(views, matrix=lambda camera: camera.camtoworld)
    scene, said = load(write_json(tmp_path / "transforms.json", demo_lens(), wrong))
    foreign.same_cameras(scene, views)
    assert "warning: the matrices are read in OpenCV's axes" in said


def test_axes_of_opencv_among_cameras_that_look_elsewhere(tmp_path):
    """A third of the cameras look outward, so that in neither axes all look at one place: photos tell."""
    views = []
    for i in range(14):
        camera = demo.orbit_camera(i / 28, 96, 72)
        if i >= 9:
            camera = replace(camera, viewmat=np.diag([-1.0, 1.0, -1.0, 1.0]) @ camera.viewmat)
        views.append(View(f"{i:02}.png", camera, Photo(demo.photograph(camera))))
    write_photos(tmp_path / "images", views)
    top = foreign.lens(views[0].camera)
    sound = frames(views)
    scene, said = load(write_json(tmp_path / "transforms.json", top, sound))
    foreign.same_cameras(scene, views)
    assert "64% look at one place, in OpenGL's axes" in said and "warning" not in said
    wrong = frames(views, matrix=lambda camera: camera.camtoworld)
    scene, said = load(write_json(tmp_path / "transforms.json", top, wrong))
    foreign.same_cameras(scene, views)
    assert "warning: the matrices are read in OpenCV's axes" in said


@pytest.mark.parametrize("forgot", [False, True])
def test_axes_of_opencv_of_a_turn_on_the_spot(tmp_path, forgot):
    """Read in the other axes, cameras that look out of a ring look into it: only photos tell."""
    K = np.array([[80, 0, 48], [0, 80, 36], [0, 0, 1.0]])
    views = []
    for i in range(20):
        ahead = np.array([np.cos(0.1 * np.pi * i), np.sin(0.1 * np.pi * i), -0.1])
        ahead /= np.linalg.norm(ahead)
        right = np.cross(ahead, [0, 0, 1]) / np.linalg.norm(np.cross(ahead, [0, 0, 1]))
        viewmat = np.eye(4)
        viewmat[:3, :3] = [right, np.cross(ahead, right), ahead]
        viewmat[:3, 3] = -viewmat[:3, :3] @ (0.3 * ahead + [-1.5, 1.5, 0.8])
        camera = Camera(viewmat, K, 96, 72)
        views.append(View(f"{i:02d}.png", camera, Photo(demo.photograph(camera))))
    write_photos(tmp_path / "images", views)
    matrix = (lambda camera: np.linalg.inv(camera.viewmat)) if forgot else foreign.opengl
    scene, said = load(write_json(tmp_path / "transforms.json", lens(camera), frames(views, matrix=matrix)))
    foreign.same_cameras(scene, views)
    assert ("warning: the matrices are read in OpenCV's axes" in said) == forgot


def test_axes_of_opencv_where_photos_tell_nothing(tmp_path):
    """Six photos that have nothing in common, and cameras that all look away from one place, side by side."""
    noise = np.random.default_rng(0).integers(0, 255, (6, 36, 48, 3), np.uint8)
    cameras = [demo.orbit_camera(i / 24, 48, 36) for i in range(6)]
    views = [View(f"{i}.png", c, Photo(n)) for i, (c, n) in enumerate(zip(cameras, noise, strict=True))]
    write_photos(tmp_path / "images", views)
    wrong = frames(views, matrix=lambda camera: camera.camtoworld)
    root = write_json(tmp_path / "transforms.json", foreign.lens(cameras[0]), wrong)
    scene, said = load(root, trust=True)
    foreign.same_cameras(scene, views)
    assert "so 100% look at one place, in OpenGL's 0%" in said


def test_what_is_not_used_is_said(tmp_path):
    views = small_demo().views
    write_photos(tmp_path / "images", views)
    root = write_json(
        tmp_path / "transforms.json", demo_lens(), frames(views, depth_file_path="depth/x.png") * 2
    )
    scene, said = load(root)
    assert len(scene.views) == 12
    assert "depth pictures are not used" in said and "12 photos more than once" in said


def test_masks_that_the_file_names(tmp_path):
    views = small_demo().views
    write_photos(tmp_path / "images", views)
    listed = frames(views)
    for i, frame in enumerate(listed[:6]):
        frame["mask_path"] = f"cut/{i}.png"
        (tmp_path / "cut").mkdir(exist_ok=True)
        white = np.full((72, 96), 255, np.uint8)
        white[:10] = 0
        if i:
            Image.fromarray(white).save(tmp_path / "cut" / f"{i}.png")
    root = write_json(tmp_path / "transforms.json", demo_lens(), listed)
    scene, said = load(root)
    assert [view.mask is not None for view in scene.views] == [False] + [True] * 5 + [False] * 6
    assert not scene.views[2].mask[:10].any() and scene.views[2].mask[10:].all()
    assert (
        "5 have the mask that the file names" in said and "1 of 6 masks that the file names are not" in said
    )
    assert all(view.mask is None for view in load(root, mask_mode="off")[0].views)


def test_a_panorama_is_cut_and_its_sides_are_held_out_together(tmp_path):
    rng = np.random.default_rng(0)
    listed = []
    for i in range(3):
        small = rng.integers(0, 255, (8, 16, 3), np.uint8)
        Image.fromarray(small).resize((128, 64)).save(tmp_path / f"{i}.png")
        matrix = np.eye(4)
        matrix[0, 3] = i
        listed.append({"file_path": f"{i}.png", "transform_matrix": matrix.tolist()})
    top = {"camera_model": "EQUIRECTANGULAR", "w": 128, "h": 64, "test_filenames": ["1.png"]}
    scene, _ = load(write_json(tmp_path / "transforms.json", top, listed), trust=True)
    train, test = scene.split()
    assert len(scene.views) == 3 * len(test) and all(view.name.startswith("1_") for view in test)
    assert not any(view.name.startswith("1_") for view in train)


def test_a_points_file_that_is_not_there(tmp_path):
    _, said = load(write_transforms(tmp_path, ply_file_path="sparse_pc.ply"))
    assert "drawn" in said and "warning: the points sparse_pc.ply are not there" in said


def frame_of(**values):
    matrix = np.eye(4).tolist()
    return transforms_file.Frame("a.png", np.array(matrix), None, None, values, {}, None)


@pytest.mark.parametrize(
    ("values", "model", "params"),
    [
        ({}, "PINHOLE", ()),
        ({"k1": 0.1, "k2": 0.2, "p1": 0.3, "p2": 0.4}, "OPENCV", (0.1, 0.2, 0.3, 0.4)),
        ({"distortion_params": [0.1, 0.2, 0, 0, 0.3, 0.4]}, "OPENCV", (0.1, 0.2, 0.3, 0.4)),
        ({"k1": 0.1, "k3": 0.2}, "FULL_OPENCV", (0.1, 0, 0, 0, 0.2, 0, 0, 0)),
        ({"camera_model": "OPENCV_FISHEYE", "k1": 0.1, "k4": 0.2}, "OPENCV_FISHEYE", (0.1, 0, 0, 0.2)),
        ({"is_fisheye": True, "k1": 0.1}, "OPENCV_FISHEYE", (0.1, 0, 0, 0)),
    ],
)
def test_lenses(values, model, params):
    record = transforms_file.record(frame_of(fl_x=50, **values), (64, 48))
    assert record.model == model
    assert record.params == (50, 50, 32, 24, *params)


def test_a_panorama_needs_no_focal_length():
    record = transforms_file.record(frame_of(camera_model="EQUIRECTANGULAR"), (64, 32))
    assert record.model == "EQUIRECTANGULAR" and record.params == (64, 32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[:-3], "is not JSON"),
        (lambda text: '{"frames": []}', "has no frames"),
        (lambda text: '{"a": 1}', "must have a list 'frames'"),
        (lambda text: text.replace("file_path", "file"), "frame 0 of .* has no file_path"),
        (lambda text: text.replace("transform_matrix", "matrix"), "has no transform_matrix"),
        (lambda text: text.replace('"fl_', '"no_'), "has no focal length"),
        (lambda text: text.replace('"w"', '"camera_model": "ORTHOPHOTO", "w"'), "camera_model ORTHOPHOTO"),
        (lambda text: text.replace('"w"', '"k4": 0.5, "w"'), "k4 = 0.5"),
        (lambda text: text.replace("1.0]]", "NaN]]", 1), r"transform_matrix \[4, 4\] of finite numbers"),
    ],
)
def test_broken_files(tmp_path, change, message):
    root = write_transforms(tmp_path)
    file = root / "transforms.json"
    file.write_text(change(file.read_text()))
    with pytest.raises(UserError, match=message):
        load(root, cache=False)


def test_one_matrix_that_mirrors(tmp_path):
    root = write_transforms(tmp_path)
    data = json.loads((root / "transforms.json").read_text())
    data["frames"][4]["transform_matrix"][0] = [-x for x in data["frames"][4]["transform_matrix"][0]]
    (root / "transforms.json").write_text(json.dumps(data))
    with pytest.raises(UserError, match=r"the matrix of 'images/view_04.png' mirrors"):
        load(root)


def test_a_byte_order_mark_and_a_bare_list(tmp_path):
    root = write_transforms(tmp_path)
    data = json.loads((root / "transforms.json").read_text())
    listed = [frame | demo_lens() for frame in data["frames"]]
    (root / "transforms.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(listed).encode())
    foreign.same_cameras(load(root)[0], small_demo().views)


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
BROKEN = {  # models beside a sound transforms.json
    "no images": ({"cameras.txt": b"1 PINHOLE 96 72 90 90 48 36\n"}, "no images.bin or images.txt"),
    "no cameras": ({"images.bin": bytes(8), "points3D.bin": bytes(8)}, "is an empty model"),
    "pointers": ({f"{name}.bin": LFS for name in ("cameras", "images", "points3D")}, "Git LFS pointer"),
    "cut off": ({"images.bin": b"\1" * 99}, "cut off or not COLMAP's"),
    "no COLMAP": ({"images.txt": b"hello\n"}, "images.txt"),
}


def write_model(root, files):
    (root / "sparse" / "0").mkdir(parents=True)
    for name, data in files.items():
        (root / "sparse" / "0" / name).write_bytes(data)


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_model_beside_it_is_passed_over_with_a_warning(tmp_path, kind):
    root, (files, fault) = write_transforms(tmp_path), BROKEN[kind]
    write_model(root, files)
    scene, said = load(root)
    foreign.same_cameras(scene, small_demo().views)
    warning = next(line for line in said.splitlines() if line.startswith("warning: took transforms.json"))
    assert "reader=transforms" in warning and fault in warning
    with pytest.raises(UserError, match=fault):
        load(root, reader="colmap")


def test_where_all_readers_find_a_fault_each_is_named(tmp_path):
    root = write_transforms(tmp_path)
    write_model(root, BROKEN["no images"][0])
    (root / "transforms.json").write_text("{")
    with pytest.raises(UserError, match=r"no images.bin .*; transforms.json .* either: .* is not JSON"):
        load(root)


def test_a_broken_whole_file_gives_way_to_its_parts(tmp_path):
    root = write_transforms(tmp_path)
    (root / "transforms.json").rename(root / "transforms_train.json")
    (root / "transforms.json").write_text('{"frames": []}')
    scene, said = load(root)
    foreign.same_cameras(scene, small_demo().views)
    assert "warning: took transforms_train.json" in said and "has no frames" in said


def test_lego(data_folder):
    if not (data_folder / "lego").is_dir():
        pytest.skip("no lego in GS_DATA")
    scene, said = load(data_folder / "lego", max_size=100)
    train, test = scene.split()
    assert (len(train), len(test)) == (100, 25)
    assert all(view.name.startswith("test/") for view in test)
    assert "100% look at one place" in said
