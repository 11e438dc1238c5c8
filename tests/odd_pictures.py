# SPDX-License-Identifier: Apache-2.0
"""Odd sets: lenses, masks, see-through photos, picture files, names of scenes."""

from __future__ import annotations

import functools
import os
from dataclasses import replace
from typing import Any

import numpy as np
from odd_corpus import add, add_reference
from odd_makers import (
    HEIGHT,
    WIDTH,
    alpha_of,
    blotted,
    camera_row,
    colmap,
    cut,
    cut_truth,
    image_rows,
    rgba,
    sound,
    through,
    with_photos,
    write_masks,
    write_photos,
    write_text,
)
from PIL import Image

CAST: dict[str, Any] = {"like": "cast", "options": ("--max-size", str(WIDTH))}


# ---- lenses ----

LENSES: dict[str, tuple[float, ...]] = {
    "SIMPLE_PINHOLE": (),
    "SIMPLE_RADIAL": (0.1,),
    "RADIAL": (-0.1, 0.05),
    "OPENCV": (-0.1, 0.05, 0.01, -0.02),
    "OPENCV_FISHEYE": (0.05, -0.02, 0.01, -0.003),
    "FULL_OPENCV": (-0.1, 0.05, 0.01, -0.02, 0.01, 0.02, -0.03, 0.01),
    "FOV": (0.9,),
    "SIMPLE_RADIAL_FISHEYE": (0.05,),
    "RADIAL_FISHEYE": (0.05, -0.02),
    "THIN_PRISM_FISHEYE": (0.05, -0.02, 0.01, -0.02, 0.01, -0.003, 0.02, -0.01),
    "RAD_TAN_THIN_PRISM_FISHEYE": (0.05, -0.02, 0.01, 0, 0, 0, 0.01, -0.02, 0.02, -0.01, 0.005, 0.003),
    "SIMPLE_DIVISION": (-0.2,),
    "DIVISION": (0.1,),
    "SIMPLE_FISHEYE": (),
    "FISHEYE": (),
    "EUCM": (0.6, 1.1),
}


def lens(root, model, coefficients, binary=False):
    scene, row = through(model, coefficients)
    colmap(root, scene, cameras=[row], binary=binary)


add_reference("cast", functools.partial(lens, model="PINHOLE", coefficients=()), options=CAST["options"])
for number, (model, coefficients) in enumerate(LENSES.items()):
    make = functools.partial(lens, model=model, coefficients=coefficients, binary=number % 2 == 0)
    add("lenses", model, make, loses=0.5, **CAST)
add(
    "lenses",
    "EQUIRECTANGULAR",
    functools.partial(lens, model="EQUIRECTANGULAR", coefficients=()),
    loses=5.5,  # its sides have 120 pixels for 90 degrees; the sound photos have 144 for 58
    says="each cut into 6 views",
    **CAST,
)


def wrong_lens(model, *more):
    def make(root):
        K = sound().views[0].camera.K
        colmap(root, cameras=[camera_row(sound().views[0].camera, model, [K[0, 0], K[0, 2], K[1, 2], *more])])

    return make


# Pinhole photos with a lens that folds inside their border: the zoom stays within it, and the check warns.
add(
    "lenses",
    "a lens that folds over",
    wrong_lens("SIMPLE_RADIAL", -1.5),
    loses=13,
    says=r"zoom 1\.39[\s\S]*warning: cameras: .* are they of this scene",
)
add(
    "lenses",
    "a model that nobody knows",
    wrong_lens("MAGIC_EYE"),
    code=2,
    says="MAGIC_EYE; known are SIMPLE_PINHOLE",
)
add(
    "lenses",
    "too few parameters",
    wrong_lens("OPENCV"),
    code=2,
    says="must have 8 parameters for OPENCV, got 3",
)


def own_cameras(root):
    """Each photo cut elsewhere, with a camera of its own."""
    views, cameras = [], []
    for i, view in enumerate(sound().views):
        left, top = (5 * i) % 17, (3 * i) % 11
        K = view.camera.K - [[0, 0, left], [0, 0, top], [0, 0, 0]]
        camera = replace(view.camera, K=K, width=WIDTH - 17, height=HEIGHT - 11)
        image = view.image[top : top + HEIGHT - 11, left : left + WIDTH - 17]
        views.append(
            with_photos(replace(sound(), views=(replace(view, camera=camera),)), lambda _, i=image: i).views[
                0
            ]
        )
        cameras.append((i + 1, *camera_row(camera)[1:]))
    scene = replace(sound(), views=tuple(views))
    write_photos(root / "images", scene)
    rows = [(i, q, t, i, name) for i, q, t, _, name in image_rows(scene)]
    write_text(root / "sparse/0", cameras, rows, scene)


# The border is seen less: all photos cut alike, with one camera, lose 2.6 dB.
add("lenses", "a camera for each photo, off centre", own_cameras, loses=2.8)


# ---- masks ----


def masked(folder="masks", name=str, file=str, **how):
    def make(root):
        # Colour at full size: at half, JPEG's pixels beside a square, which count, take some of its pink.
        saved = {"quality": 97, "subsampling": 0} if file is jpg else {}
        colmap(root, blotted(), file=file, name=file, **saved)
        write_masks(root / folder, name, **how)

    return make


def one_mask(root):
    """The car's bonnet: the same lower rows in all photos."""

    def bonnet(image):
        image = image.copy()
        image[78:] = (20, 200, 30)
        return image

    colmap(root, with_photos(sound(), bonnet))
    (root / "masks").mkdir()
    good = np.full((HEIGHT, WIDTH), 255, np.uint8)
    good[78:] = 0
    Image.fromarray(good).save(root / "masks/mask.png")


def other_shape(root):
    masked()(root)
    Image.new("L", (50, 50)).save(root / "masks/view_02.png")


def jpg(name):
    return f"{name[:-4]}.jpg"


HIDDEN: dict[str, Any] = {"loses": 0.6, "says": "21 have a mask"}
add("masks", "none, so that the squares are learnt", lambda root: colmap(root, blotted()), loses=25)
add("masks", "masks/, the same names", masked(), **HIDDEN)
add("masks", "masks/<name>.png", masked(name=lambda name: f"{name}.png"), **HIDDEN)
add("masks", ".png for .jpg", masked(file=jpg), **HIDDEN)
add("masks", "masks/<stem>_mask.png", masked(name=lambda name: f"{name[:-4]}_mask.png"), **HIDDEN)
add("masks", "images_mask/", masked("images_mask"), **HIDDEN)
add("masks", "images/<stem>_mask.png", masked("images", lambda name: f"{name[:-4]}_mask.png"), **HIDDEN)
add("masks", "of half the size", masked(size=(WIDTH // 2, HEIGHT // 2)), **HIDDEN)
add("masks", "black for what counts", masked(invert=True), options=("--invert-masks",), **HIDDEN)
add("masks", "one for all photos", one_mask, **HIDDEN | {"loses": 2.5})
add("masks", "of another shape", other_shape, code=2, says="mask .*view_02.png is 50x50, another shape")
add("masks", "switched off", masked(), options=("--mask-mode", "off"), loses=25, silent="have a mask")


# ---- see-through photos ----


def see_through(junk=0):
    def make(root):
        colmap(root, cut(sound()))
        for view in sound().views:
            rgba(view, junk).save(root / "images" / view.name)

    return make


def cut_masks(root):
    colmap(root, cut(sound(), 255))
    for view in sound().views:
        path = root / "masks" / view.name
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(alpha_of(view)).save(path)


def opaque(root):
    colmap(root)
    for view in sound().views:
        Image.fromarray(np.dstack([view.image, np.full((HEIGHT, WIDTH), 255, np.uint8)])).save(
            root / "images" / view.name
        )


BLACK: dict[str, Any] = {"like": "cut", "truth": cut_truth}
WHITE: dict[str, Any] = {
    "options": ("--background", "white"),
    "truth": functools.partial(cut_truth, 255),
    "background": "white",
}
add_reference("cut", lambda root: colmap(root, cut(sound())), truth=cut_truth)
add_reference("cut, white", lambda root: colmap(root, cut(sound(), 255)), **WHITE)
add("alpha", "over black by default", see_through(), says="21 are see-through", **BLACK)
add("alpha", "pink where it is see-through", see_through(255), says="21 are see-through", **BLACK)
add("alpha", "a white background", see_through(200), like="cut, white", **WHITE)
add("alpha", "a random background", see_through(255), options=("--background", "random"), loses=0.5, **BLACK)
add("alpha", "masks that are see-through", cut_masks, options=("--mask-mode", "transparent"), **BLACK)
add("alpha", "255 everywhere", opaque, silent="see-through")
add("alpha", "ignored", opaque, options=("--alpha-mode", "ignore"))


# ---- picture files ----


def saved(mode=None, ending="png", change=None, **options):
    def make(root):
        colmap(root, name=lambda name: f"{name[:-4]}.{ending}", file=lambda name: None)
        for view in sound().views:
            picture = Image.fromarray(view.image)
            picture = picture.convert(mode) if mode else picture
            picture = change(picture) if change else picture
            path = root / f"images/{view.name[:-4]}.{ending}"
            path.parent.mkdir(exist_ok=True)
            picture.save(path, **options)

    return make


def mac(root):
    colmap(root)
    for view in sound().views:
        for name in (f"images/._{view.name}", f"__MACOSX/images/._{view.name}"):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(b"\0\5\x16\7")


add("pictures", "JPEG", saved(ending="jpg", quality=95))
add("pictures", "CMYK JPEG", saved("CMYK", "jpeg", quality=97))
add("pictures", "progressive JPEG, an EXIF tag of 1", saved(ending="JPG", quality=95, progressive=True))
add("pictures", "a palette of 256", saved("P"), loses=1.0)
add("pictures", "TIFF", saved(ending="tif"))
add("pictures", "WebP", saved(ending="webp", lossless=True))
add("pictures", "BMP", saved(ending="bmp"))
add("pictures", "the Mac's ._ files and __MACOSX beside", mac)
add("pictures", "grey", saved("L"), loses=9, says="do not fit|correlat|matched")


# ---- names of scenes ----


def called(name):
    def make(root):
        colmap(root / os.fsdecode(name))

    return make


for shown, name in (
    ("bytes that are no UTF-8", b"sc\xff"),
    ("a line break and quotes", b"my \"best\"\n'scene'"),
    ("a leading dash", b"-scene"),
    ("Chinese", "场景 一".encode()),
):
    add("names of scenes", shown, called(name), give=f"./{os.fsdecode(name)}")
add("names of scenes", "fern, here and nowhere else", called(b"fern"), give="fern", inside=True)
add("names of scenes", "./demo", called(b"demo"), give="./demo", inside=True)
add(
    "names of scenes",
    "a symbolic link",
    lambda root: (colmap(root / "x"), (root / "y").symlink_to("x")),
    give="y",
)
