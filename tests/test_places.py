# SPDX-License-Identifier: Apache-2.0
"""Where models and photos are found, which photo is whose, and what is said of a folder that is no scene."""

import errno
import glob
import os
import shutil
import threading
import unicodedata
from pathlib import Path

import pytest
from colmap_files import CAMERAS, IMAGES, POINTS, binary_files, check_good, text_files, write_scene
from PIL import Image

from gsplat_train.cli.from_photos import poseless
from gsplat_train.datasets import holds_photos_only, load_scene
from gsplat_train.datasets.names import guess, match, natural
from gsplat_train.errors import UserError

NAMES = ("a.png", "b.png", "sub/c.png")


@pytest.fixture
def good(tmp_path):
    return write_scene(tmp_path / "scene", binary_files(CAMERAS, IMAGES, POINTS))


def move(root, old, new):
    (root / new).parent.mkdir(parents=True, exist_ok=True)
    (root / old).rename(root / new)


# ---- names alone ----


def files_of(names, files):
    matches = match(names, files)
    assert not matches.doubtful and not matches.shared
    return {name: hit.file for name, hit in matches.found.items()}


def gbk(name):
    return os.fsdecode(name.encode("gbk"))


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("x.png", "x.png"),
        ("x.png", "X.PNG"),
        ("x.jpg", "x.png"),
        ("images/x.jpg", "x.jpg"),
        ("x.jpg", "day1/x.jpg"),
        ("day1\\x.jpg", "day1/x.jpg"),
        ("./x.jpg", "x.jpg"),
        ("old/home/x.jpeg", "new/X.png"),
        (unicodedata.normalize("NFD", "Cópia 1.png"), "Cópia 1.png"),
        ("Ｆｏｔｏ１.jpg", "foto1.jpg"),
        (gbk("副本7.jpg"), "副本7.jpg"),
        ("副本7.jpg", gbk("副本7.jpg")),
        (os.fsdecode("写真7.jpg".encode("shift_jis")), "写真7.jpg"),
        (os.fsdecode("Stück.jpg".encode("cp1252")), "Stück.jpg"),
        ("Stück.jpg", "Stück.jpg".encode().decode("cp437")),  # UTF-8, unpacked as if it were DOS's
        ("C?pia de 17.png", "Cópia de 17.png"),
    ],
)
def test_a_name_finds_its_file_among_others(name, file):
    others = ["images/zz.png", "y.png", "day2/w.png"]
    assert files_of([name, "y.png"], [file, *others]) == {name: file, "y.png": "y.png"}


def test_each_name_goes_its_own_way():
    names = [f"{i:02d}.png" for i in range(9)]
    files = ["00.png", "01.PNG", "images/02.png", "03.jpg", "a/b/04.jpg", "05.png", "06.png", "08.png"]
    assert files_of(names, files) == dict(zip([*names[:7], names[8]], files, strict=True))


def test_the_folder_decides_between_equal_base_names():
    names, files = ["x/cam0/1.png", "x/cam1/1.png"], ["cam0/1.png", "cam1/1.png", "2.png"]
    assert files_of(names, files) == dict(zip(names, files[:2], strict=True))


@pytest.mark.parametrize("folder", ["/home/me/job/", "../job/"])
def test_names_that_are_whole_paths_lead_nowhere_else(tmp_path, folder):
    images = [(*image[:4], f"{folder}{image[4]}") for image in IMAGES]
    scene = load_scene(write_scene(tmp_path / "scene", binary_files(CAMERAS, images, POINTS)))
    inside = folder.replace("../", "").lstrip("/")
    assert [view.name for view in scene.views] == [f"{inside}{name}" for name in NAMES]


def test_another_folder_does_not_stand_in_for_a_missing_one():
    """Of a rig with photos of the same names, cam0 is gone; cam2 has no poses."""
    names = [f"{cam}/{i}.png" for cam in ("cam0", "cam1") for i in range(3)]
    files = [f"{cam}/{i}.png" for cam in ("cam1", "cam2") for i in range(3)]
    assert files_of(names, files) == {name: name for name in names[3:]}


def test_what_is_doubtful_is_said_and_not_guessed():
    matches = match(["1.png"], ["cam0/1.png", "cam1/1.png"])
    assert not matches.found and matches.doubtful == {"1.png": ["cam0/1.png", "cam1/1.png"]}
    matches = match(["cam0/1.png", "cam1/1.png"], ["1.png"])
    assert not matches.found and matches.shared == {"1.png": ["cam0/1.png", "cam1/1.png"]}
    assert match(["a.png"], ["b.png"]) == ({}, {}, {})


def test_strangers_are_paired_by_number_then_by_natural_order():
    names = [f"bild_{i}" for i in range(12)]
    pairs = guess(names, [f"IMG_{i:03d}.png" for i in range(20)])
    assert {name: hit.file for name, hit in pairs.items()} == {
        f"bild_{i}": f"IMG_{i:03d}.png" for i in range(12)
    }
    pairs = guess(names, [f"IMG_{i + 100}.png" for i in range(12)])
    assert pairs["bild_10"].file == "IMG_110.png" and pairs["bild_10"].way == "sorted order"
    assert guess(names, [f"IMG_{i + 100}.png" for i in range(13)]) == {}
    assert sorted(["10.png", "2.png", "a.png", "1.png"], key=natural) == ["1.png", "2.png", "10.png", "a.png"]


# ---- photos on disk ----


def rename_photos(root, names):
    for old, new in zip(NAMES, names, strict=True):
        if new is None:
            (root / "images" / old).unlink()
        else:
            move(root, f"images/{old}", f"images/{new}")


@pytest.mark.parametrize(
    ("names", "way"),
    [
        (NAMES, "matched by name (a.png is a.png)"),
        (("A.PNG", "B.tiff", "Sub/C.webp"), "1 by name, ignoring case (a.png is A.PNG)"),
        (("a.png", "b.png", "c.png"), "2 by name, 1 by base name, ignoring the folders (sub/c.png is c.png)"),
        (("000.png", "001.png", "002.png"), "matched by sorted order (a.png is 000.png)"),
    ],
)
def test_photos_are_matched(good, names, way):
    rename_photos(good, names)
    (good / "images" / ".hidden.png").write_bytes(b"")
    (good / "images" / "notes.txt").write_bytes(b"")
    lines = []
    check_good(load_scene(good, log=lines.append))
    assert any(way in line for line in lines), lines
    assert any(line.startswith("warning: no photo in") for line in lines) == ("sorted" in way)


@pytest.mark.parametrize("names", [("a.png", None, "sub/c.png"), ("A.jpeg", None, "sub/c.jpeg")])
def test_views_without_a_photo_are_left_out_with_a_warning(good, names):
    rename_photos(good, names)
    lines = []
    assert [view.name for view in load_scene(good, log=lines.append).views] == ["a.png", "sub/c.png"]
    assert lines[1].startswith("warning: 1 of 3 views ('b.png') have no photo in ")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("x.png", "y.png", None), "none of the model's 3 images .* is among the 2 pictures"),
        ((None, None, None), "holds no pictures"),
        (("A.bmp", "A.jpg", None), "'a.png' could be any of 'A.bmp', 'A.jpg'"),
    ],
)
def test_photos_that_cannot_be_matched(good, names, message):
    rename_photos(good, names)
    with pytest.raises(UserError, match=message):
        load_scene(good)


def test_two_images_of_one_stem_are_no_match(tmp_path):
    images = [(*IMAGES[0][:4], "a.png"), (*IMAGES[1][:4], "a.jpg")]
    root = write_scene(tmp_path, binary_files(CAMERAS, images, POINTS), photos=["A.tif"])
    with pytest.raises(UserError, match=r"'A.tif' .* fits several images, such as 'a.jpg'"):
        load_scene(root)


def test_files_that_are_no_photos_are_not_opened(good):
    (good / "images/a.png").unlink()
    os.mkfifo(good / "images/a.png")
    assert [view.name for view in load_scene(good).views] == ["b.png", "sub/c.png"]


@pytest.mark.parametrize(("extra", "loud"), [(1, False), (4, True)])
def test_photos_without_a_pose_are_counted(good, extra, loud):
    for i in range(extra):
        Image.new("RGB", (40, 30)).save(good / "images" / f"unposed{i}.png")
    (good / "images/masks").mkdir()
    Image.new("L", (40, 30)).save(good / "images/masks/a.png")
    lines = []
    check_good(load_scene(good, log=lines.append))
    assert f"{extra} of {extra + 3} " in lines[1] and "no pose" in lines[1]
    assert lines[1].startswith("warning:") == loud


def test_many_more_photos_in_another_folder_are_told(good):
    """input/ holds the capture, images/ what one of several models was undistorted from."""
    copy_photos(good, "input", names=[*NAMES[:2], *(f"c{i}.png" for i in range(4))])
    lines = []
    check_good(load_scene(good, log=lines.append))
    assert any(
        line.startswith("warning: 4 more photos in") and "input have no pose" in line for line in lines
    )
    shutil.rmtree(good / "input")
    copy_photos(good, "input", names=[f"c{i}.png" for i in range(4)])  # of something else
    check_good(load_scene(good, log=lines.append))
    assert sum("more photos" in line for line in lines) == 1


# ---- where models and photos lie ----


@pytest.mark.parametrize(
    ("model", "photos"),
    [
        ("sparse/0", "input"),
        ("sparse/0", "Images"),
        ("sparse/0", "rgb"),
        ("sparse/0", "data/frames"),
        ("sparse/0", "."),
        ("sparse", "images_2"),
        ("0", "images"),
        ("colmap/sparse/0", "colmap/images"),
        ("colmap_sparse/0", "images"),
        ("colmap_text", "images"),
        ("sparse_text", "photos"),
        ("dense/sparse", "dense/images"),
        ("dense/0/sparse", "dense/0/images"),
        ("distorted/sparse/0", "input"),
        ("undistorted/sparse/0", "undistorted/images"),
        ("colmap_output/sparse/0", "images"),
        ("mvs/sparse", "mvs/images"),
    ],
)
@pytest.mark.parametrize("files", [binary_files, text_files])
def test_models_and_photos_are_found_where_they_are(tmp_path, model, photos, files):
    root = write_scene(tmp_path / "scene", files(CAMERAS, IMAGES, POINTS), model=model)
    if photos == ".":
        for name in NAMES:
            move(root, f"images/{name}", name)
        shutil.rmtree(root / "images")
    elif photos != "images":
        move(root, "images", photos)
    check_good(load_scene(root))


def copy_photos(root, folder, size=(40, 30), names=NAMES):
    for i, name in enumerate(names):
        path = root / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (i, 100, 200)).save(path)


def test_the_photos_beside_the_model_win(tmp_path):
    """dense/ is undistorted; images/ are the photos before that."""
    root = write_scene(tmp_path / "scene", binary_files(CAMERAS, IMAGES, POINTS), model="dense/sparse")
    (root / "images").rename(root / "dense/images")
    copy_photos(root, "images", (44, 33))
    check_good(load_scene(root))


def test_the_model_before_undistortion_takes_the_photos_before_it(tmp_path):
    root = write_scene(tmp_path / "scene", binary_files(CAMERAS, IMAGES, POINTS), model="distorted/sparse/0")
    (root / "images").rename(root / "input")
    copy_photos(root, "images", (44, 33))
    check_good(load_scene(root))


def test_the_folder_with_the_names_wins_over_its_neighbours(good):
    move(good, "images", "photos")
    copy_photos(good, "images", names=("other.png", "a.png"))
    copy_photos(good, "masks")
    check_good(load_scene(good))


def test_a_project_file_names_the_folder(good):
    move(good, "images", "one/raw")
    copy_photos(good, "two", names=NAMES, size=(44, 33))
    (good / "sparse/0/project.ini").write_text("log=1\nimage_path=C:\\Users\\me\\raw\n[Mapper]\n")
    (good / "one/raw").rename(good / "raw")
    check_good(load_scene(good))


def test_photos_that_are_there_twice_are_not_chosen_by_chance(good):
    move(good, "images", "first")
    copy_photos(good, "second")
    with pytest.raises(UserError, match="more than once; choose first or second with --images"):
        load_scene(good)
    check_good(load_scene(good, images="second"))


def test_the_largest_of_the_same_photos_is_taken(good):
    move(good, "images", "images_2")
    copy_photos(good, "images_4", (20, 15))
    check_good(load_scene(good))


def test_a_place_whose_model_or_photos_are_broken_is_passed_over(tmp_path):
    good = binary_files(CAMERAS, IMAGES, POINTS)
    root = write_scene(tmp_path / "scene", good, model="dense/sparse")
    write_scene(root, good | {"images.bin": b"\1" * 99}, photos=())
    lines = []
    check_good(load_scene(root, log=lines.append))
    assert any(line.startswith("warning: took the COLMAP model in ") and "dense" in line for line in lines)
    (root / "dense/sparse/cameras.bin").write_bytes(b"")
    with pytest.raises(UserError, match=r"sparse/0/images\.bin claims"):
        load_scene(root)


# What COLMAP's undistorter starts from: the same poses, another lens, photos of another size.
BEFORE = [(1, "SIMPLE_RADIAL", 44, 31, [55.0, 22.0, 15.5, -0.1])]
SAME_SHAPE = [(1, "SIMPLE_RADIAL", 44, 33, [55.0, 22.0, 16.5, -0.1])]


@pytest.mark.parametrize("cameras", [BEFORE, SAME_SHAPE])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("sparse/0", "dense/0/sparse"),
        ("colmap_sparse/0", "colmap_dense/sparse"),
        ("sparse", "undistorted"),
        ("colmap/sparse/0", "dense/sparse"),
    ],
)
def test_undistorted_photos_take_their_own_model(tmp_path, cameras, before, after):
    """The photos before undistortion are gone; those after it have the same names."""
    root = write_scene(tmp_path / "scene", binary_files(CAMERAS, IMAGES, POINTS), model=after)
    write_scene(root, binary_files(cameras, IMAGES, POINTS), model=before, photos=())
    move(root, "images", f"{after.removesuffix('sparse').rstrip('/')}/images")
    lines = []
    check_good(load_scene(root, log=lines.append))
    assert any(line.startswith(f"warning: took the COLMAP model in {root / after}, as ") for line in lines)


def test_the_photos_before_undistortion_take_the_model_before_it(tmp_path):
    root = write_scene(tmp_path / "scene", binary_files(CAMERAS, IMAGES, POINTS), model="distorted/sparse/0")
    after = [(1, "PINHOLE", 44, 33, [50.0, 50.0, 22.0, 16.5])]
    write_scene(root, binary_files(after, IMAGES, POINTS), photos=())
    (root / "images").rename(root / "input")
    check_good(load_scene(root))


def test_photos_that_were_moved_take_the_model_of_their_shape(tmp_path):
    root = write_scene(tmp_path / "scene", binary_files(CAMERAS, IMAGES, POINTS), model="dense/sparse")
    write_scene(root, binary_files(BEFORE, IMAGES, POINTS), photos=())
    lines = []
    check_good(load_scene(root, log=lines.append))
    assert any(line.startswith("warning: took ") and "its camera is 44x31" in line for line in lines)
    for name in NAMES:
        Image.new("RGB", (30, 30)).save(root / "images" / name)
    with pytest.raises(UserError, match="is 30x30 but its camera is 44x31"):
        load_scene(root)


def test_a_model_takes_anothers_photos_where_that_is_broken(tmp_path):
    root = write_scene(tmp_path / "scene", binary_files(CAMERAS, IMAGES, POINTS))
    write_scene(root, binary_files(CAMERAS, IMAGES, POINTS), model="dense/sparse", photos=())
    (root / "images").rename(root / "dense/images")
    cut_off(root / "dense/sparse")
    lines = []
    check_good(load_scene(root, log=lines.append))
    assert any(line.startswith(f"warning: took the COLMAP model in {root / 'sparse/0'}: ") for line in lines)


def cut_off(folder):
    (folder / "images.bin").write_bytes(b"\1" * 99)


def without_cameras(folder):
    (folder / "cameras.bin").write_bytes(
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    )


@pytest.mark.parametrize("fault", [cut_off, without_cameras])
def test_of_several_models_the_largest_sound_one_is_taken(tmp_path, fault):
    files = binary_files(CAMERAS, IMAGES, POINTS)
    root = write_scene(tmp_path / "scene", files, model="sparse/1")
    write_scene(root, binary_files(CAMERAS, IMAGES[:1], POINTS), model="sparse/2")
    write_scene(root, binary_files(CAMERAS, [*IMAGES, (11, [1.0, 0, 0, 0], [0.0, 0, 5], 1, "d.png")], POINTS))
    fault(root / "sparse/0")
    lines = []
    check_good(load_scene(root, log=lines.append))
    assert any(line.startswith("warning: took the COLMAP model in ") and "sparse/1" in line for line in lines)


def test_a_broken_binary_file_gives_way_to_its_text(good):
    for name, data in text_files(CAMERAS, IMAGES, POINTS).items():
        (good / "sparse/0" / name).write_bytes(data)
    without_cameras(good / "sparse/0")
    lines = []
    check_good(load_scene(good, log=lines.append))
    warnings = [line for line in lines if line.startswith("warning: took")]
    assert len(warnings) == 1 and "cameras.txt" in warnings[0] and "Git LFS pointer" in warnings[0]


def test_images_outside_the_scene(good):
    move(good, "images", "../photos")
    check_good(load_scene(good, images="../photos"))
    with pytest.raises(UserError, match=r"no folder 'images_4' of photos in .*; put the photos there"):
        load_scene(good, images="images_4")
    copy_photos(good, "images")
    with pytest.raises(UserError, match=r"no folder 'images_4' of photos in .*; choose images with --images"):
        load_scene(good, images="images_4")


def test_rigs_and_frames_do_no_harm(good):
    for name in ("rigs.bin", "frames.bin"):
        (good / "sparse/0" / name).write_bytes(b"\1" + bytes(40))
    check_good(load_scene(good))


# ---- what is no scene ----


def answer(path):
    with pytest.raises(UserError) as error:
        load_scene(path)
    assert error.value.exit_code == 2 and "\n" not in str(error.value)
    return str(error.value)


def test_a_scene_above_or_below_is_named(tmp_path, good):
    assert answer(tmp_path).endswith(f"; give {good}, where a scene is")
    assert answer(good / "images").endswith(f"; it is a part of the scene {good}: give that")
    assert answer(good / "sparse/0").endswith(f"; or give {good}, the scene it is a part of")
    assert answer(good / "sparse/0/cameras.bin").endswith(f"; give the folder: {good}")
    assert answer(good / "images/a.png").endswith(f"; give the folder: {good}")


@pytest.mark.parametrize(
    ("files", "remedy"),
    [
        ([], "it is empty"),
        (["database.db", "images/a.png"], "features only: run its mapper"),
        (["x/a.JPG", "b.png"], "it holds 2 photos but no poses: gs-prepare"),
        (["clip.MP4"], "clip.MP4 is a video: give its name"),
        (["set.zip"], "set.zip is an archive: unpack it first"),
        (["a.HEIC"], "a.HEIC must be converted"),
    ],
)
def test_the_next_step_is_named(tmp_path, files, remedy):
    (tmp_path / "x").mkdir()
    if not files:
        assert answer(tmp_path / "x").endswith(remedy)
    for file in files:
        path = tmp_path / "x" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    assert remedy in answer(tmp_path / "x")


@pytest.mark.parametrize(
    ("file", "program"),
    [
        ("reconstruction.json", "OpenSfM"),
        ("reconstruction/sfm_data.json", "OpenMVG"),
        ("cameras_sphere.npz", "NeuS"),
        ("out/bundle.rd.out", "Bundler"),
        ("mill.nvm", "VisualSFM"),
        ("keyframes/corrected_cameras/1.json", "Polycam"),
        ("rgbd/0.json", "Record3D"),
        ("mill.rcproj", "RealityCapture"),
    ],
)
def test_cameras_that_no_reader_takes_are_named(tmp_path, file, program):
    root = tmp_path / "x"
    (root / file).parent.mkdir(parents=True)
    (root / file).write_bytes(b"")
    said = answer(root)
    assert f"holds cameras of {program}, which are not read: " in said and str(tmp_path) in said
    (root / "photos").mkdir()
    Image.new("RGB", (40, 30)).save(root / "photos/a.png")
    assert f"holds cameras of {program}" in answer(root)
    assert answer(root).endswith(
        "without them it holds 1 photos but no poses: gs-prepare finds them (or COLMAP)"
    )
    assert holds_photos_only(root)
    assert program in poseless(root) and "\n" not in poseless(root)


def test_a_file_that_is_no_folder(tmp_path):
    for name, remedy in {
        "a.zip": "unpack it",
        "a.mov": "gs-train VIDEO",
        "a.json": "the folder that it is in",
    }.items():
        (tmp_path / name).write_bytes(b"")
        assert remedy in answer(tmp_path / name)


@pytest.mark.parametrize("name", ["sparse/0/cameras.bin", "sparse/0/points3D.bin", "images/a.png"])
def test_git_lfs_pointers_are_recognised(good, name):
    (good / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    assert "is a Git LFS pointer" in answer(good) and "git lfs pull" in answer(good)


def test_a_name_that_no_file_can_have_matches_nothing() -> None:
    """JSON can hold half of a pair of surrogates."""
    found = match(["\ud800.png", "b.png"], ["a.png", "b.png"])
    assert list(found.found) == ["b.png"]


@pytest.fixture
def closed(monkeypatch):
    """Makes folders of a name such that they may not be listed, whoever asks: searches pass over them in silence."""

    def close(name):
        def refused(really):
            def listing(path="."):
                if Path(path).name == name:
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
                return really(path)

            return listing

        if globber := getattr(
            glob, "_StringGlobber", None
        ):  # of Python 3.13: it holds scandir as it was at first
            monkeypatch.setattr(globber, "scandir", staticmethod(refused(os.scandir)))
        monkeypatch.setattr(os, "scandir", refused(os.scandir))
        monkeypatch.setattr(os, "listdir", refused(os.listdir))

    return close


def test_photos_that_may_not_be_listed_are_not_called_missing(good, closed):
    for name in NAMES:  # whose exact names are found without a list
        move(good, f"images/{name}", f"images/x/{name}")
    closed("images")
    assert answer(good).startswith(f"{good / 'images'} cannot be listed: permission denied; without it: ")


def test_a_scene_that_may_not_be_listed_is_not_called_empty(tmp_path, closed):
    (tmp_path / "scene").mkdir()
    closed("scene")
    assert answer(tmp_path / "scene").startswith(f"{tmp_path / 'scene'} cannot be listed: permission denied")


def test_masks_that_may_not_be_listed_are_missed(good, closed):
    (good / "masks").mkdir()
    closed("masks")
    lines = []
    load_scene(good, trust=True, log=lines.append)
    assert any(line.startswith(f"warning: {good / 'masks'} cannot be listed") for line in lines)


def test_a_pipe_is_no_scene_and_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    failed = []

    def load():
        try:
            load_scene(tmp_path / "pipe")
        except UserError as error:
            failed.append(str(error))

    thread = threading.Thread(target=load, daemon=True)
    thread.start()
    thread.join(10)
    assert failed and "is not a folder" in failed[0]
