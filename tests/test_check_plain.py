# SPDX-License-Identifier: Apache-2.0
"""Photos of plain things tell little of their cameras: the check then says nothing, and what it can tell it tells."""

import numpy as np
import plain
import pytest

from gsplat_train.datasets import load_scene
from gsplat_train.datasets.agreement import small_views_of
from gsplat_train.datasets.check import checked, judge
from gsplat_train.datasets.demo import make_demo
from gsplat_train.datasets.sweep import TELLING, detail, tell
from gsplat_train.errors import UserError

DRAWN = "points: 20,000 drawn where the photos agree best, as the scene has none"


def said(scene):
    lines = []
    checked(scene, log=lines.append)
    return lines


PLAIN = [
    ("ball", "flat", "dome", 24, 0),
    ("ball", "sun", "ring", 24, 0),
    ("ball", "lamp", "round", 24, 0),
    ("box", "flat", "ring", 24, 0),
    ("box", "sun", "ring", 40, 0),
    ("box", "lamp", "ring", 40, 0),
    ("plate", "flat", "round", 24, 0),
    ("plate", "sun", "dome", 40, 0),  # warned of before
    ("plate", "sun", "ring", 8, 0),  # refused before
    ("plate", "lamp", "round", 8, 0),  # refused before
]


@pytest.mark.parametrize(("shape", "light", "where", "n", "seed"), PLAIN)
def test_sound_photos_of_a_plain_thing_are_not_warned_of(shape, light, where, n, seed):
    assert said(plain.thing(shape, light, where, n=n, seed=seed)) == [DRAWN]


@pytest.mark.parametrize("light", ["flat", "sun"])
@pytest.mark.parametrize("noise", [0, 5])
@pytest.mark.parametrize("shape", ["ball", "box", "plate"])
def test_nor_are_points_on_it(shape, light, noise):
    scene = plain.points_on(shape, plain.thing(shape, light, noise=noise))
    assert [line for line in said(scene) if not line.startswith("points: they have no colours")] == []


def test_a_plain_thing_in_a_folder_of_blender_s(tmp_path):
    plain.write(plain.thing("plate", "sun", "dome", n=40), tmp_path)
    lines = []
    scene = load_scene(tmp_path, log=lines.append)
    assert len(scene.views) == 40
    assert not [line for line in lines if line.startswith("warning")]


WRONG = {
    "other photos": plain.shuffled,
    "OpenGL's axes": lambda scene: plain.posed(scene, lambda viewmat: plain.FLIP @ viewmat),
    "inverted": lambda scene: plain.posed(scene, np.linalg.inv),
}


@pytest.mark.parametrize("light", ["flat", "sun"])
def test_photos_of_a_patterned_thing_at_wrong_cameras_are_warned_of(light):
    scene = plain.thing("box", light, texture=50, n=40)
    assert said(scene) == [DRAWN]
    lines = said(plain.shuffled(scene))
    assert len(lines) == 2 and lines[1].startswith("warning: cameras: they hardly fit the photos"), lines


@pytest.mark.parametrize("texture", [6, 50])  # on the faces hardly any, and much
@pytest.mark.parametrize("wrong", ["OpenGL's axes", "inverted"])
def test_poses_in_another_convention_are_refused_by_colours_or_outlines(wrong, texture):
    scene = WRONG[wrong](plain.thing("box", "sun", texture=texture, n=40, side=96))
    with pytest.raises(UserError, match=wrong):
        checked(scene)


@pytest.mark.parametrize("wrong", WRONG)
def test_a_patterned_thing_with_points_is_refused(wrong):
    scene = plain.points_on("box", plain.thing("box", "sun", texture=50))
    assert said(scene) == []
    assert judge(WRONG[wrong](scene)).refused


def test_detail_is_what_can_be_told_apart_whatever_the_noise():
    for noise in (0, 6):
        for shape in ("box", "plate"):
            for light in ("flat", "sun", "lamp"):
                small = small_views_of(plain.thing(shape, light, noise=noise, n=8, side=96).views, 8)
                assert max(detail(small), detail(small, dim=True)) < 0.8 * TELLING
    scene = make_demo(8, 96, 72, 100)
    small = small_views_of(scene.views, 8)
    dark = [view._replace(image=view.image // 8) for view in small]
    assert detail(small) > 2 * TELLING
    assert tell(dark, dim=True) and detail(small[:0]) == 0
