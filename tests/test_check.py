# SPDX-License-Identifier: Apache-2.0
"""Wrong scenes are refused, with what they probably are; sound ones never."""

import functools
from dataclasses import replace

import numpy as np
import pytest

from gsplat_train.datasets import load_scene
from gsplat_train.datasets.check import checked, judge
from gsplat_train.datasets.colmap_records import quaternion, rotation_matrix
from gsplat_train.datasets.demo import make_demo
from gsplat_train.errors import UserError
from gsplat_train.scene import Camera, Photo, View

FLIP = np.diag([1.0, -1.0, -1.0, 1.0])


@functools.cache
def sound():
    return make_demo(20, 160, 120, 2500)


def with_cameras(scene, change):
    """change: of a camera, or of a camera and the number of its view."""
    return replace(scene, views=tuple(replace(v, camera=change(v.camera)) for v in scene.views))


def posed(change):
    return with_cameras(sound(), lambda camera: replace(camera, viewmat=change(camera.viewmat)))


def with_photos(scene, images):
    views = (replace(view, photo=Photo(image)) for view, image in zip(scene.views, images, strict=True))
    return replace(scene, views=tuple(views))


def images(scene):
    return [view.image for view in scene.views]


def lines(scene, **options):
    said = []
    return checked(scene, log=said.append, **options), said


def as_xyzw(viewmat):
    w, x, y, z = quaternion(viewmat[:3, :3])
    wrong = viewmat.copy()
    wrong[:3, :3] = rotation_matrix((x, y, z, w))
    return wrong


def centre_for_translation(viewmat):
    wrong = viewmat.copy()
    wrong[:3, 3] = -viewmat[:3, :3].T @ viewmat[:3, 3]
    return wrong


def lens_changed(scene, scale=1.0, shift=0.0):
    return with_cameras(
        scene,
        lambda c: replace(
            c, K=c.K * [[scale, 1, 1], [1, scale, 1], [1, 1, 1]] + [[0, 0, shift], [0] * 3, [0] * 3]
        ),
    )


def stretched(factor):
    return with_cameras(sound(), lambda c: replace(c, K=c.K * [[1, 1, 1], [1, factor, 1], [1, 1, 1]]))


def squared(scene):
    """Square photos, so that a quarter turn leaves the shape."""
    cut = (160 - 120) // 2
    square = with_photos(scene, [image[:, cut : cut + 120] for image in images(scene)])
    K = scene.views[0].camera.K - [[0, 0, cut], [0, 0, 0], [0, 0, 0]]
    return with_cameras(square, lambda c: Camera(c.viewmat, K, 120, 120))


def quarter(scene):
    return with_photos(squared(scene), [np.rot90(image) for image in images(squared(scene))])


WRONG = {
    "inverted": (lambda: posed(np.linalg.inv), "the poses are inverted"),
    "opengl": (lambda: posed(lambda viewmat: FLIP @ viewmat), "OpenGL's axes"),
    "inverted opengl": (
        lambda: posed(lambda viewmat: np.linalg.inv(viewmat) @ FLIP),
        "inverted and have OpenGL's",
    ),
    "inverted in transforms.json": (
        lambda: posed(lambda viewmat: FLIP @ np.linalg.inv(viewmat) @ FLIP),
        "the poses are inverted",
    ),
    "xyzw": (lambda: posed(as_xyzw), "x y z w for w x y z"),
    "centres": (lambda: posed(centre_for_translation), "centres of the cameras stand where translations"),
    "mirrored": (lambda: replace(sound(), points=sound().points * [-1, 1, 1]), "turn the sign of their x"),
    "y up": (lambda: replace(sound(), points=sound().points[:, [0, 2, 1]] * [1, 1, -1]), "Y up for Z up"),
    "upside down": (
        lambda: with_photos(sound(), [i[::-1, ::-1] for i in images(sound())]),
        "photos are upside down",
    ),
    "quarter": (lambda: quarter(sound()), "turned by a quarter"),
    "focal": (lambda: lens_changed(sound(), scale=1 / 3), "wrong by a factor of about 3"),
    "fy alone": (lambda: stretched(27), "fx and fy are far apart, and fy is the wrong one"),
    "principal point": (lambda: lens_changed(sound(), shift=5000.0), "the principal point is wrong"),
    "focal 1e12": (lambda: lens_changed(sound(), scale=1e10), "see nothing in common|focal length"),
    "photos mixed up": (
        lambda: with_photos(sound(), [images(sound())[(7 * i + 3) % 20] for i in range(20)]),
        "photos stand at the wrong cameras",
    ),
    "photos shifted": (
        lambda: with_photos(sound(), images(sound())[1:] + images(sound())[:1]),
        "wrong cameras",
    ),
    "other photos": (
        lambda: with_photos(sound(), np.random.default_rng(0).integers(0, 255, (20, 120, 160, 3), np.uint8)),
        "do not fit",
    ),
    "black points, inverted": (
        lambda: replace(posed(np.linalg.inv), colors=np.zeros_like(sound().colors)),
        "the poses are inverted",
    ),
    "no points, inverted": (
        lambda: replace(posed(np.linalg.inv), points=np.empty((0, 3)), colors=np.empty((0, 3))),
        "cameras: photos agree",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_scene_is_refused_with_what_it_is_unless_trusted(name):
    make, message = WRONG[name]
    scene = make()
    with pytest.raises(UserError, match=message) as error:
        checked(scene)
    assert "\n" not in str(error.value) and "--trust goes on" in str(error.value)
    kept, said = lines(scene, trust=True)
    assert len(kept.views) == 20
    assert any(line.startswith("warning: ") for line in said)


def moved(scene):
    turn = np.eye(4)
    turn[:3, 3] = [450_000, 5_100_000, 300]
    views = with_cameras(scene, lambda c: replace(c, viewmat=c.viewmat @ np.linalg.inv(turn)))
    return replace(views, points=scene.points + turn[:3, 3])


def scaled(scene, scale):
    def grow(camera):
        viewmat = camera.viewmat.copy()
        viewmat[:3, 3] *= scale
        return replace(camera, viewmat=viewmat)

    return replace(with_cameras(scene, grow), points=scene.points * scale)


SOUND = {
    "demo": sound,
    "square": lambda: squared(sound()),
    "utm": lambda: moved(sound()),
    "tiny": lambda: scaled(sound(), 1e-5),
    "huge": lambda: scaled(sound(), 1e5),
    "a flat cloud": lambda: replace(sound(), points=sound().points * [1, 1, 0.01]),
    "few points of few views": lambda: replace(
        sound(), views=sound().views[:4], points=sound().points[:3], colors=sound().colors[:3]
    ),
    "few views": lambda: replace(sound(), views=sound().views[:2]),
    "one view": lambda: replace(sound(), views=sound().views[:1]),
    "one view often": lambda: replace(
        sound(), views=tuple(replace(sound().views[0], name=f"{i}") for i in range(9))
    ),
    "far points": lambda: replace(
        sound(),
        points=np.concatenate([sound().points, np.full((250, 3), 1e6)]),
        colors=np.concatenate([sound().colors, np.zeros((250, 3))]),
    ),
    "photos of one colour": lambda: with_photos(sound(), [np.full((120, 160, 3), 90, np.uint8)] * 20),
    "dim photos": lambda: with_photos(sound(), [image // 3 for image in images(sound())]),
    "no photos": lambda: replace(sound(), views=tuple(replace(v, photo=None) for v in sound().views)),
}


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_scene_passes_without_a_word(name):
    scene = SOUND[name]()
    kept, said = lines(scene)
    assert said == []
    assert len(kept.views) == len(scene.views)


def test_real_scenes_pass_without_a_word(data_folder):
    for name in ("fern", "plush", "lego"):
        if (data_folder / name).is_dir():
            said = []
            load_scene(data_folder / name, max_size=400, log=said.append)
            warnings = [line for line in said if line.startswith("warning") and "sorted order" not in line]
            assert not warnings, name


@pytest.mark.parametrize("factor", [30, 1e9])
def test_wild_cameras_are_named_and_left_out(factor):
    def wild(view: View):
        if view.name not in ("view_04.png", "view_09.png"):
            return view
        viewmat = view.camera.viewmat.copy()
        viewmat[:3, 3] *= factor
        return replace(view, camera=replace(view.camera, viewmat=viewmat))

    scene = replace(sound(), views=tuple(map(wild, sound().views)))
    kept, said = lines(scene)
    assert len(kept.views) == 18
    assert len(said) == 1 and said[0].startswith("warning: 2 of 20 cameras")
    assert "'view_04.png', 'view_09.png'" in said[0]
    assert len(lines(scene, trust=True)[0].views) == 20


def test_a_photo_of_something_else_is_named():
    pictures = images(sound())
    pictures[11] = pictures[2]
    kept, said = lines(with_photos(sound(), pictures))
    assert len(kept.views) == 20
    assert len(said) == 1 and "('view_11.png')" in said[0] and said[0].startswith("warning: 1 photo")


@pytest.mark.parametrize("level", [0, 128])
def test_points_without_colours_take_the_photos(level):
    scene = replace(sound(), colors=np.full_like(sound().colors, level))
    kept, said = lines(scene)
    assert said == [
        "points: they have no colours of their own; taken from the photos (the median over views)"
    ]
    off = np.abs(kept.colors.astype(int) - sound().colors).mean(axis=1)
    assert np.median(off) < 20


@pytest.mark.parametrize("where", ["none", "three", "elsewhere"])
def test_points_that_nobody_sees_are_drawn_where_the_cameras_look(where):
    scene = replace(sound(), points=sound().points + 1e4)
    if where != "elsewhere":
        n = 0 if where == "none" else 3
        scene = replace(sound(), points=sound().points[:n], colors=sound().colors[:n])
    kept, said = lines(scene)
    assert "20,000 drawn" in said[0] and said[0].startswith("warning") == (where != "none")
    assert ("has 3 only" in said[0]) == (where == "three")
    # three quarters lie where the solids and the floor around them are
    assert np.mean(np.linalg.norm(kept.points - [0, 0, 0.5], axis=1) < 4) > 0.75
    agreement = judge(kept).agreement
    assert agreement.usual > 0.4 and agreement.share > 0.4


def test_black_points_among_others_take_the_photos_unless_these_are_black():
    colors = sound().colors.copy()
    colors[::3] = 0
    kept, said = lines(replace(sound(), colors=colors))
    n = len(colors[::3])
    assert said == [
        f"points: {n:,} black ones have no colours of their own; taken from the photos (the median over views)"
    ]
    assert np.median(np.abs(kept.colors[::3].astype(int) - sound().colors[::3])) < 20
    untouched = np.arange(len(colors)) % 3 > 0
    assert (kept.colors[untouched] == colors[untouched]).all()
    dark = with_photos(replace(sound(), colors=colors), [image // 9 for image in images(sound())])
    assert (lines(dark, trust=True)[0].colors[::3] == 0).all()
