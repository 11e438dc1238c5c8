# SPDX-License-Identifier: Apache-2.0
"""Photos that show nothing are told when a scene is read, and dark ones that show something are not."""

import foreign_scenes as foreign
import numpy as np
import pytest
from PIL import Image

from gsplat_train.cli.check import check
from gsplat_train.config import Config
from gsplat_train.datasets import load_scene, read_scene
from gsplat_train.datasets.blank import blank
from gsplat_train.scene import Photo

random = np.random.default_rng(0)
EMPTY = np.zeros((90, 120, 3), np.uint8)
DISC = (np.hypot(*np.mgrid[-45:45, -60:60]) < 30).astype(np.uint8)


def lit(*, light=200, size=6):
    """A night: black, and one lamp."""
    image = EMPTY.copy()
    image[20 : 20 + size, 30 : 30 + size] = light
    return image


def noisy(level, spread):
    return np.clip(random.normal(level, spread, EMPTY.shape), 0, 255).astype(np.uint8)


def shade(darkest, lightest):
    """An even slope from the left to the right."""
    return EMPTY + np.linspace(darkest, lightest, 120).astype(np.uint8)[:, None]


def hot():
    """A covered lens: noise, and pixels that are always lit."""
    image = np.clip(random.normal(2, 4, (360, 480, 3)), 0, 255).astype(np.uint8)
    image[random.random((360, 480)) < 1e-4] = 255
    return image


CASES = {
    "black": (EMPTY, "black"),
    "a covered lens": (hot(), "black"),
    "white": (EMPTY + 255, "of one colour"),
    "a colour": (EMPTY + np.array([0, 90, 200], np.uint8), "of one colour"),
    "a colour and noise": (noisy(90, 3), "of one colour"),
    "a lamp at night": (lit(), ""),
    "a small lamp at night": (lit(size=3), ""),
    "a dim lamp at night": (lit(light=30), ""),
    "dusk": (shade(0, 20), ""),
    "a plain wall": (shade(180, 200), ""),
    "one pixel": (EMPTY[:1, :1], "black"),
    "a line": (EMPTY[:1], "black"),
    "texture": (random.integers(0, 255, EMPTY.shape, np.uint8), ""),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("scale", [1, 7])
def test_what_shows_nothing(name, scale):
    image, kind = CASES[name]
    assert blank(Photo(np.repeat(np.repeat(image, scale, 0), scale, 1))) == kind


def test_an_outline_is_something():
    assert blank(Photo(EMPTY, alpha=255 * DISC)) == ""
    assert blank(Photo(EMPTY, alpha=np.full_like(DISC, 255))) == "black"
    assert blank(Photo(90 * DISC[:, :, None] + EMPTY, alpha=255 * DISC)) == ""


def scene_with(folder, images):
    """The demo in transforms.json, with these pictures by number in place of its own."""
    foreign.write_transforms(folder, ply_file_path="points.ply")
    demo = foreign.small_demo()
    foreign.write_ascii_ply(folder / "points.ply", demo.points, demo.colors)
    for i, image in images.items():
        Image.fromarray(image).resize((96, 72)).save(folder / "images" / f"view_{i:02d}.png")
    return folder


def warnings(folder, **options):
    lines = []
    load_scene(folder, log=lines.append, **options)
    return [line for line in lines if "show nothing" in line]


def test_they_are_told_in_one_line_and_kept(tmp_path):
    scene_with(tmp_path, {2: EMPTY, 5: EMPTY, 7: EMPTY + 255})
    assert warnings(tmp_path) == [
        "warning: photos that show nothing: 2 of 12 are black ('images/view_02.png', 'images/view_05.png'), 1 of 12 "
        "is of one colour ('images/view_07.png'); they are trained on all the same: take them out, or export them again"
    ]
    assert len(load_scene(tmp_path).views) == 12


def test_a_set_of_nothing_but_black(tmp_path):
    said = warnings(scene_with(tmp_path, dict.fromkeys(range(12), EMPTY)))
    assert len(said) == 1 and "12 of 12 are black ('images/view_00.png'" in said[0]


def test_a_night_is_not_told(tmp_path):
    assert warnings(scene_with(tmp_path, {i: lit(light=120 + i) for i in range(12)}), trust=True) == []


def test_photos_on_disk_are_told_the_second_time_too(tmp_path, monkeypatch):
    """Where memory is short they are decoded once, into the cache."""
    monkeypatch.setenv("GS_CACHE", str(tmp_path / "cache"))
    folder = scene_with(tmp_path / "scene", {3: EMPTY})
    first, second = (warnings(folder, memory=200_000) for _ in range(2))
    assert list((tmp_path / "cache").rglob("*.photos"))
    assert first == second and "1 of 12 is black ('images/view_03.png')" in first[0]


def test_the_check_says_it_once(tmp_path, capsys):
    folder = scene_with(tmp_path, {2: EMPTY, 7: EMPTY + 255})
    check(Config(scene=str(folder)), tmp_path / "out", False)
    said = "".join(capsys.readouterr())
    assert said.count("view_02.png") == 1 and "1 picture is black" in said
    assert "1 picture is of one colour" in said and "show nothing" not in said
    lines = []
    read_scene(Config(scene=str(folder)), lines.append)
    assert sum("show nothing" in line for line in lines) == 1
