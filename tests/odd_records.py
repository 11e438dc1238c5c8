# SPDX-License-Identifier: Apache-2.0
"""Odd sets: conventions that were not kept, broken records, points, units."""

from __future__ import annotations

import functools
import shutil
from dataclasses import replace

import numpy as np
from foreign_scenes import write_ascii_ply
from odd_corpus import add, add_reference
from odd_makers import (
    bare,
    camera_row,
    colmap,
    edit,
    moved,
    similarity,
    sound,
    with_photos,
    with_viewmats,
    write_photos,
)
from PIL import Image

FLIP = np.diag([1.0, -1.0, -1.0, 1.0])


# ---- conventions ----


def changed(change):
    return lambda root: colmap(root, with_viewmats(sound(), change))


def rows_of(change):
    return lambda root: colmap(root, rows=lambda rows: [change(*row) for row in rows])


def centres(viewmat):
    wrong = viewmat.copy()
    wrong[:3, 3] = -viewmat[:3, :3].T @ viewmat[:3, 3]
    return wrong


def with_points(change):
    return lambda root: colmap(root, replace(sound(), points=change(sound().points)))


def pictures(change, scene=None):
    """The photos changed, the model as it is."""

    def make(root):
        colmap(root, scene)
        shutil.rmtree(root / "images")
        write_photos(root / "images", with_photos(scene or sound(), change))

    return make


@functools.cache
def square():
    """Square photos, so that a quarter turn leaves the shape."""
    side = sound().views[0].camera.height
    left = (sound().views[0].camera.width - side) // 2
    scene = with_photos(sound(), lambda image: image[:, left : left + side])
    K = sound().views[0].camera.K - [[0, 0, left], [0, 0, 0], [0, 0, 0]]
    views = (replace(v, camera=replace(v.camera, K=K, width=side, height=side)) for v in scene.views)
    return replace(scene, views=tuple(views))


def exif_turned(scene):
    """Photos that lie on their side with an EXIF tag that rights them."""

    def make(root):
        colmap(root, scene)
        for view in scene.views:
            lying = Image.fromarray(np.rot90(view.image))
            exif = lying.getexif()
            exif[0x0112] = 6
            lying.save(root / "images" / view.name, exif=exif)

    return make


def shuffled(shift):
    def make(root):
        names = [view.name for view in sound().views]
        order = dict(zip(names, [names[(i + shift) % len(names)] for i in range(len(names))], strict=True))
        colmap(root, file=lambda name: order[name])

    return make


def wild(factor):
    def change(number, quat, translation, *rest):
        far = factor if number in (4, 9) else 1
        return (number, quat, [far * x for x in translation], *rest)

    return rows_of(change)


def lens(scale=1.0, shift=0.0, model="PINHOLE", more=()):
    def make(root):
        K = sound().views[0].camera.K
        params = [scale * K[0, 0], *([scale * K[1, 1]] if model == "PINHOLE" else [])]
        colmap(
            root,
            cameras=[camera_row(sound().views[0].camera, model, [*params, K[0, 2] + shift, K[1, 2], *more])],
        )

    return make


def twice(differ):
    def rows(rows):
        _, quat, translation, camera, name = rows[7]
        return [*rows, (99, quat, [x + differ for x in translation], camera, name)]

    return lambda root: colmap(root, rows=rows)


def text(name, change):
    return lambda root: edit(colmap(root) / name, change)


def in_encoding(encoding):
    def make(root):
        model = colmap(root)
        for path in model.glob("*.txt"):
            path.write_bytes(path.read_text().encode(encoding))

    return make


def stripped(text):
    return "\n".join(line for line in text.splitlines() if line) + "\n"


def one_of_another(root):
    colmap(root)
    Image.fromarray(sound().views[2].image).save(root / "images/view_13.png")


def bad_line(line):
    return text("points3D.txt", lambda text: f"{line}\n{text}")


def far_points(root):
    far = 1e5 * sound().points[:600]
    points = np.concatenate([sound().points, far])
    colmap(
        root, replace(sound(), points=points, colors=np.concatenate([sound().colors, sound().colors[:600]]))
    )


add(
    "conventions",
    "camera to world for world to camera",
    changed(np.linalg.inv),
    code=2,
    says="poses are inverted",
)
add("conventions", "OpenGL's axes", changed(lambda v: FLIP @ v), code=2, says="OpenGL's axes for OpenCV's")
add(
    "conventions",
    "both",
    changed(lambda v: np.linalg.inv(v) @ FLIP),
    code=2,
    says="inverted and have OpenGL's axes",
)
add(
    "conventions",
    "quaternions x y z w",
    rows_of(lambda i, q, *rest: (i, [*q[1:], q[0]], *rest)),
    code=2,
    says="x y z w for w x y z",
)
add(
    "conventions",
    "centres for translations",
    changed(centres),
    code=2,
    says="centres of the cameras stand where",
)
add(
    "conventions",
    "points mirrored",
    with_points(lambda p: p * [-1, 1, 1]),
    code=2,
    says="points are mirrored",
)
add(
    "conventions",
    "points Y up",
    with_points(lambda p: p[:, [0, 2, 1]] * [1, 1, -1]),
    code=2,
    says="Y up for Z up",
)
add(
    "conventions",
    "photos upside down",
    pictures(lambda i: i[::-1, ::-1]),
    code=2,
    says="photos are upside down",
)
add(
    "conventions",
    "square photos a quarter turned",
    pictures(np.rot90, square()),
    code=2,
    says="turned by a quarter",
)
add("conventions", "photos mirrored", pictures(lambda i: i[:, ::-1]), code=2, says="photos are mirrored")
add(
    "conventions",
    "EXIF tags that turn the photos",
    exif_turned(sound()),
    says="turned as their EXIF tag says",
)
add(
    "conventions",
    "photos of half the size",
    pictures(lambda i: np.array(Image.fromarray(i).reduce(2))),
    loses=2.5,
)
add(
    "conventions",
    "photos of twice the size",
    pictures(lambda i: np.array(Image.fromarray(i).resize((240, 180), Image.Resampling.BICUBIC))),
    options=("--max-size", "120"),
    loses=0.6,
)
add("conventions", "photos cut by three percent", pictures(lambda i: i[:, :-4]), code=2, says="another shape")
add(
    "conventions",
    "every photo at the next camera",
    shuffled(1),
    code=2,
    says="photos stand at the wrong cameras",
)
add(
    "conventions", "photos mixed up", shuffled(8), code=2, says="photos stand at the wrong cameras|do not fit"
)
add(
    "conventions",
    "one photo of something else",
    one_of_another,
    loses=1.5,
    says=r"1 photo shows something else .*view_13",
)
add(
    "conventions",
    "two cameras 30 times too far out",
    wild(30),
    loses=0.9,
    says="warning: 2 of 21 cameras are over 10",
)
add("conventions", "two cameras at 10^9", wild(1e9), loses=0.9, says="warning: 2 of 21 cameras")
add("conventions", "a third of the focal length", lens(1 / 3), code=2, says="wrong by a factor of about 3")
add("conventions", "a focal length of 10^12", lens(1e10), code=2, says="see nothing in common|focal length")
add(
    "conventions",
    "the principal point 5,000 px out",
    lens(shift=5000),
    code=2,
    says="principal point is wrong",
)
add(
    "conventions",
    "all points behind the cameras",
    with_points(lambda p: p + np.array([0, 0, 1e4])),
    like="drawn",
    says="warning: points: 20,000 drawn",
)
add("records", "an image given twice, alike", twice(0.0), says="1 images are given twice, alike")
add(
    "records",
    "an image given twice, and differs",
    twice(0.5),
    code=2,
    says="two images have the name 'view_09.png'",
)
add(
    "records",
    "two quaternions of zero length",
    rows_of(lambda i, q, *rest: (i, [0.0] * 4 if i in (4, 9) else q, *rest)),
    loses=0.9,
    says=r"2 of 21 images .*no usable pose",
)
add("records", "quaternions of length 2", rows_of(lambda i, q, *rest: (i, [2 * x for x in q], *rest)))
add(
    "records",
    "images.txt without empty lines",
    text("images.txt", stripped),
    says="lost 20 of its second lines",
)
add("records", "byte-order marks", in_encoding("utf-8-sig"))
add("records", "UTF-16, as PowerShell writes it", in_encoding("utf-16"))
add(
    "records",
    "CRLF and tabs",
    text("images.txt", lambda text: text.replace(" ", "\t", 9).replace("\n", "\r\n")),
)
add("records", "a point at 10^30", bad_line("9999 1e30 0 0 1 2 3 0"), says="1 of 2,001 points lie nowhere")
add("records", "a point that is NaN", bad_line("9999 nan 0 0 1 2 3 0"), says="1 of 2,001 points lie nowhere")
add("records", "600 points at 10^5", far_points, loses=0.5)
add(
    "records",
    "a colour of 300",
    bad_line("9999 1 0 0 300 2 3 0"),
    code=2,
    says="points3D.txt, line 1: expected",
)
add(
    "records",
    "no number in images.txt",
    text("images.txt", lambda t: t.replace(" ", " x", 1)),
    code=2,
    says="line 1: exp",
)


# ---- points ----


def coloured(change):
    def make(root):
        colmap(root, replace(sound(), colors=change(sound().colors.copy())))

    return make


def third_black(colors):
    colors[::3] = 0
    return colors


def with_init(root):
    """No points in the model, those of a PLY beside it."""
    colmap(root, bare())
    write_ascii_ply(root / "cloud.ply", sound().points, sound().colors)


def only_points(which):
    return lambda root: colmap(
        root, replace(sound(), points=sound().points[which], colors=sound().colors[which])
    )


def few_points(n):
    return only_points(np.arange(0, len(sound().points), len(sound().points) // n)[:n])


add("points", "none", lambda root: colmap(root, bare()), like="drawn", says="20,000 drawn")
add(
    "points",
    "in binary, none",
    lambda root: colmap(root, bare(), binary=True),
    like="drawn",
    says="20,000 drawn",
)
add(
    "points",
    "all black",
    coloured(np.zeros_like),
    loses=0.5,
    says="no colours of their own; taken from the photos",
)
add("points", "all grey", coloured(lambda c: np.full_like(c, 128)), loses=0.5, says="no colours of their own")
add("points", "a third black", coloured(third_black), loses=0.4, says="667 black ones have no colours")
add(
    "points",
    "none in view",
    with_points(lambda p: p + 1e4),
    like="drawn",
    says="warning: points: 20,000 drawn",
)
add("points", "--init", with_init, options=("--init", "{folder}/cloud.ply"), says=r"2,000 from .*\(--init\)")
add(
    "points",
    "--init of no PLY",
    colmap,
    options=("--init", "{folder}/sparse/0/images.txt"),
    code=2,
    says="images.txt",
)
add("points", "three", few_points(3), like="drawn", says="warning: points: 20,000 drawn .* has 3 only")
add("points", "a hundred and twenty", few_points(120), like="drawn", says="has 120 only")
add("points", "of the floor only", only_points(sound().points[:, 2] < 0.03), loses=7)


# ---- units and places ----

for name, frame in (
    ("10^-5 in size", similarity(1e-5)),
    ("10^5 in size", similarity(1e5)),
    ("UTM coordinates", similarity(shift=(450_000, 5_100_000, 300))),
    ("UTM coordinates, a kilometre wide", similarity(200, 0.3, (450_000, 5_100_000, 300))),
    ("an offset of 10^5", similarity(shift=(1e5, -1e5, 1e5))),
):
    add("units", name, lambda root, frame=frame: colmap(root, moved(sound(), frame)), frame=frame)
# Adam's steps go along the axes, so that a scene that is turned learns a little slower: it has its own reference.
TURNED, CENTIMETRES = similarity(1, 1.2), similarity(100, 1.2, (30, -700, 12))
add_reference("turned", lambda root: colmap(root, moved(sound(), TURNED)), frame=TURNED)
add(
    "units",
    "turned, in centimetres",
    lambda root: colmap(root, moved(sound(), CENTIMETRES)),
    frame=CENTIMETRES,
    like="turned",
)
