# SPDX-License-Identifier: Apache-2.0
"""Odd sets: where models and photos lie, what is no scene, damaged photos, names."""

from __future__ import annotations

import functools
import os
import unicodedata
import zipfile
from dataclasses import replace

from odd_corpus import add, add_reference
from odd_makers import (
    bare,
    camera_row,
    colmap,
    edit,
    image_rows,
    sound,
    truth,
    with_photos,
    write_binary,
    write_photos,
)
from PIL import Image

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"


add_reference("sound", colmap)
add_reference("drawn", lambda root: colmap(root, bare()))


# ---- folders ----

for model, photos in (
    ("sparse", "images"),
    (".", "images"),
    ("colmap/sparse/0", "images"),
    ("colmap/sparse", "colmap/images"),
    ("colmap_sparse/0", "images"),
    ("colmap_text", "images"),
    ("sparse_text", "images"),
    ("dense/sparse", "dense/images"),
    ("dense/0/sparse", "dense/0/images"),
    ("distorted/sparse/0", "input"),
    ("undistorted/sparse", "undistorted/images"),
    ("undistorted/sparse/0", "undistorted/images"),
    ("sparse/0", "input"),
    ("sparse/0", "Images"),
    ("sparse/0", "rgb"),
    ("sparse/0", "."),
    ("sparse/0", "data/day 1/frames"),
):
    make = functools.partial(colmap, model=model, photos=photos, binary=len(model) % 2 == 0)
    add("folders", f"model in {model}, photos in {photos}", make)


def largest(root):
    colmap(root, model="sparse/1", binary=True)
    few = replace(sound(), views=sound().views[:3])
    write_binary(root / "sparse/0", [camera_row(few.views[0].camera)], image_rows(few), few)


def two_photo_folders(root):
    """photos/ has what the model names; images/ are others."""
    colmap(root, photos="photos")
    write_photos(root / "images", with_photos(sound(), lambda image: 255 - image), lambda name: f"x{name}")


def project_ini(root):
    model = colmap(root, photos="raw")
    write_photos(root / "small", with_photos(sound(), lambda image: image[:60, :80]))
    (model / "project.ini").write_text("database_path=x.db\nimage_path=C:\\Users\\me\\job\\raw\n[Mapper]\n")


def chosen_by_hand(root):
    colmap(root, photos="good")
    write_photos(root / "images", with_photos(sound(), lambda image: image[::-1]))


def next_place(root):
    """sparse/0 is cut off, as a full disk leaves it; dense/ is whole."""
    broken = colmap(root, binary=True)
    (broken / "images.bin").write_bytes((broken / "images.bin").read_bytes()[:900])
    colmap(root, model="dense/sparse", photos="dense/images")


def undistorted_only(root):
    """The model before undistortion is there, its photos are not: those after it have the same names and shape."""
    colmap(root, model="dense/0/sparse", photos="dense/0/images")
    camera = sound().views[0].camera
    lens = camera_row(camera, "SIMPLE_RADIAL", [camera.K[0, 0], camera.K[0, 2], camera.K[1, 2], -0.2])
    write_binary(root / "sparse/0", [lens], image_rows(sound()), sound())


def rigs(root):
    model = colmap(root, binary=True)
    (model / "rigs.bin").write_bytes(b"\1" + bytes(7) + b"\1\0\0\0\1\0\0\0\0\0\0\0\1\0\0\0")
    (model / "frames.bin").write_bytes(bytes(8))


add("folders", "the larger of two models", largest, says="largest of 2 models")
add("folders", "another folder of photos beside", two_photo_folders)
add("folders", "project.ini names the photos", project_ini)
add("folders", "--images rules", chosen_by_hand, options=("--images", "good"))
add(
    "folders",
    "a broken model before a whole one",
    next_place,
    says="warning: took the COLMAP model in .*dense",
)
add(
    "folders",
    "undistorted photos, and the model before beside theirs",
    undistorted_only,
    says="warning: took the COLMAP model in .*dense/0/sparse",
)
add("folders", "rigs.bin and frames.bin", rigs)
add(
    "folders",
    "a scene one level down",
    lambda root: colmap(root / "data"),
    code=2,
    says=r"give .*/data, where a scene is",
)
add(
    "folders",
    "sparse/0 is given",
    colmap,
    give="sparse/0",
    code=2,
    says="or give .*, the scene it is a part of",
)
add(
    "folders",
    "images is given",
    colmap,
    give="images",
    code=2,
    says="it is a part of the scene .*: give that",
)
add(
    "folders",
    "a file of the model is given",
    colmap,
    give="sparse/0/cameras.txt",
    code=2,
    says="give the folder",
)


# ---- no scene, or a damaged one ----


def only(*files):
    def make(root):
        for name in files:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(b"SQLite format 3\0" if name.endswith(".db") else b"x")

    return make


def zipped(root):
    with zipfile.ZipFile(root / "scene.zip", "w") as archive:
        archive.writestr("sparse/0/cameras.txt", "1 PINHOLE 4 4 4 4 2 2\n")


def pointer(path):
    def make(root):
        colmap(root, binary=True)
        (root / path).write_text(POINTER)

    return make


def all_pointers(root):
    for name in ("images/a.jpg", "images/b.jpg", "model.zip"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(POINTER)


def without(name):
    def make(root):
        (colmap(root) / name).unlink()

    return make


def photo(change, name="view_02.png"):
    def make(root):
        colmap(root)
        change(root / "images" / name)

    return make


def cut_off(path):
    path.write_bytes(path.read_bytes()[:2000])


def as_folder(path):
    path.unlink()
    path.mkdir()


def stray(path):
    path.with_name("stray.png").write_bytes(b"no picture")


def unknown_camera(root):
    edit(colmap(root) / "images.txt", lambda text: text.replace(" 1 view_05.png", " 9 view_05.png"))


def other_camera_twice(root):
    edit(colmap(root) / "cameras.txt", lambda text: text + "1 PINHOLE 120 90 40 40 60 45\n")


def cut_model(name):
    def make(root):
        path = colmap(root, binary=True) / name
        path.write_bytes(path.read_bytes()[:-30])

    return make


add("no scene", "an empty folder", lambda root: None, code=2, says="it is empty")
add("no scene", "a path that is not there", lambda root: None, give="nothing", code=2, says="is not there")
add("no scene", "database.db alone", only("database.db"), code=2, says="run its mapper")
add("no scene", "a zip in the folder", zipped, code=2, says="scene.zip is an archive: unpack it first")
add("no scene", "a zip is given", zipped, give="scene.zip", code=2, says="unpack it")
add("no scene", "photos of a phone", only("IMG_1.HEIC", "IMG_2.HEIC"), code=2, says="converted|cameras|HEIC")
add("no scene", "a clone without git-lfs", all_pointers, code=2, says="Git LFS pointer.* git lfs pull")
add(
    "no scene",
    "photos only, --check",
    lambda root: write_photos(root, sound()),
    code=2,
    options=("--check",),
    says="gs-prepare",
)
for name in ("sparse/0/images.bin", "sparse/0/points3D.bin", "images/view_03.png"):
    add("no scene", f"{name} is an LFS pointer", pointer(name), code=2, says="Git LFS pointer")
for name in ("cameras.txt", "images.txt", "points3D.txt"):
    add("no scene", f"without {name}", without(name), code=2, says=f"has no {name[:-4]}.bin or {name}")
for name in ("cameras.bin", "images.bin", "points3D.bin"):
    add("no scene", f"{name} is cut off", cut_model(name), code=2, says=f"{name} .*cut off")
add("no scene", "an image of a camera that is not there", unknown_camera, code=2, says="needs the camera 9")
add("no scene", "a camera twice, and differs", other_camera_twice, code=2, says="camera 1 is given twice")
add("damaged", "a photo that is cut off", photo(cut_off), code=2, says="view_02.png is damaged")
add(
    "damaged",
    "a photo of no bytes",
    photo(lambda path: path.write_bytes(b"")),
    code=2,
    says="view_02.png is not a",
)
add(
    "damaged",
    "a photo that is text",
    photo(lambda path: path.write_text("<html>")),
    code=2,
    says="view_02.png is not",
)
add("damaged", "a folder for a photo", photo(as_folder), loses=0.6, says="1 of 21 views .*have no photo")
add("damaged", "a damaged photo that no view has", photo(stray), says="1 of 22 have no pose")


# ---- names ----


def renamed(name=str, file=str, **more):
    return lambda root: colmap(root, name=name, file=file, **more)


def number(name):
    return int(name[5:7])


def stem(name):
    return name[:-4]


def some(change, every=3):
    """The change for some of the names only."""
    return lambda name: change(name) if number(name) % every == 0 else name


def accents(form, page="utf-8"):
    def change(name):
        raw = unicodedata.normalize(form, f"Cópia de {number(name)}.png").encode(page)
        return os.fsdecode(raw)

    return change


def mixed_accents(name):
    return accents("NFD" if number(name) % 3 == 0 else "NFC")(name)


def foreign(word, page):
    return lambda name: os.fsdecode(f"{word}{number(name):03d}.png".encode(page))


def twins(root):
    """The same photos as .png too, the model knows .jpg."""
    colmap(root, name=lambda name: f"{stem(name)}.jpg", file=lambda name: f"{stem(name)}.jpg", quality=98)
    write_photos(root / "images", sound())


def beside(extra, gone=()):
    """Photos that no view has, and views that have none."""

    def make(root):
        colmap(root, file=lambda name: None if number(name) in gone else name)
        for i in range(extra):
            Image.fromarray(sound().views[0].image[::-1]).save(root / f"images/extra_{i}.png")

    return make


def unposed(root):
    colmap(root, rows=lambda rows: rows[::3])


def strangers(change):
    """Names that have nothing in common with the files', which sort alike, but for `change`."""

    def make(root):
        words = [f"{a}{b}" for a in "abcdef" for b in ("lfa", "ravo", "ulu", "ox")]
        order = {view.name: sorted(words)[i] for i, view in enumerate(sound().views)}
        colmap(root, file=lambda name: f"{order[name]}.png")
        change(root / "images")

    return make


def one_for_another(folder):
    (folder / "eulu.png").unlink()
    Image.fromarray(truth()[0].image).save(folder / "aaa.png")


def ambiguous(root):
    colmap(root, file=lambda name: f"cam0/{name}")
    write_photos(root / "images", sound(), lambda name: f"cam1/{name}")


add("names", "the extension in capitals", renamed(file=lambda name: f"{stem(name)}.PNG"))
add("names", "some in capitals", renamed(file=some(str.upper)), says="ignoring case")
add("names", ".jpg in the model, .png on disk", renamed(name=lambda name: f"{stem(name)}.jpg"))
add("names", "each photo as .jpg and as .png", twins)
add("names", "images/ before every name", renamed(name=lambda name: f"images/{name}"))
add("names", "images/ before some", renamed(name=some(lambda name: f"images/{name}", 2)))
add("names", "photos in day1/ and day2/", renamed(file=lambda name: f"day{1 + number(name) % 2}/{name}"))
add("names", "folders in the names only", renamed(name=lambda name: f"cam{number(name) % 2}/{name}"))
add("names", "absolute paths of another machine", renamed(name=lambda name: f"D:\\job\\{name}"))
add("names", "absolute paths of a machine like this", renamed(name=lambda name: f"/home/me/job/{name}"))
add(
    "names",
    "one base name in two folders",
    renamed(*[lambda n: f"cam{number(n) % 2}/{number(n) // 2}.png"] * 2),
)
add("names", "split accents in the model, a Mac's", renamed(accents("NFD"), accents("NFC")))
add("names", "split accents for some files", renamed(accents("NFC"), mixed_accents))
add("names", "GBK in the model", renamed(foreign("副本", "gbk"), foreign("副本", "utf-8"), binary=True))
add("names", "Shift-JIS on disk", renamed(foreign("写真", "utf-8"), foreign("写真", "shift_jis")))
add("names", "cp1252 in the model", renamed(foreign("Stück", "cp1252"), foreign("Stück", "utf-8")))
add(
    "names",
    "question marks for accents",
    renamed(lambda n: f"C?pia {number(n)}.png", lambda n: f"Cópia {number(n)}.png"),
)
add("names", "blanks, quotes and brackets", renamed(*[lambda n: f"my '{number(n):02d}' (1) [x].png"] * 2))
add(
    "names",
    "other words, the same numbers",
    renamed(lambda n: f"bild_{number(n)}.png", lambda n: f"IMG_{number(n)}.png"),
    says="warning: .*paired by number",
)
add(
    "names",
    "other words, sorted alike",
    strangers(lambda folder: None),
    says="warning: .*paired by sorted order",
)
add(
    "names",
    "other words, one photo for another",
    strangers(one_for_another),
    code=2,
    says="wrong cameras|do not fit",
)
add("names", "two photos for each name", ambiguous, code=2, says="more than once|could be any of")
add("names", "photos without a pose", beside(4), says="4 of 25 have no pose")
add("names", "three photos are gone", beside(0, (5, 13, 20)), loses=0.9, says="3 of 21 views .*have no photo")
add(
    "names",
    "a third of the photos has poses",
    unposed,
    loses=5,
    says="warning: 14 of 21 photos .*have no pose",
)
