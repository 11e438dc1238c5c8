# SPDX-License-Identifier: Apache-2.0
"""What is behind the splats: dark things are solid, whatever colour they are later shown over."""

import weakref
from functools import cache

import numpy as np
import tiny

from gsplat_train import config, train
from gsplat_train.backends import load
from gsplat_train.datasets.demo import orbit_camera, rays
from gsplat_train.renderer import render
from gsplat_train.scene import Photo, Scene, View
from gsplat_train.training.background import decided

HALF, ROOM = 0.5, 6.0  # half the sides of a black cube and of the grey room that it stands in
CENTRE = np.array([0, 0, 0.5])
BLACK, GREY = 6, 128


def cast(camera, directions):
    """(places [n, 3], whether they are on the cube [n]) that rays [3, n] meet."""
    origin, along = camera.position - CENTRE, directions.T.astype(np.float64)
    with np.errstate(divide="ignore"):
        near, far = (-np.sign(along) * HALF - origin) / along, (np.sign(along) * HALF - origin) / along
        wall = ((np.sign(along) * ROOM - origin) / along).min(axis=1)
    enter = near.max(axis=1)
    met = (enter < far.min(axis=1)) & (enter > 0)
    return camera.position + np.where(met, enter, wall)[:, None] * along, met


def pixels(camera):
    """bool [H, W]: where the camera sees the cube."""
    u, v = np.meshgrid(np.arange(camera.width) + 0.5, np.arange(camera.height) + 0.5)
    return cast(camera, rays(camera, u.ravel(), v.ravel()))[1].reshape(camera.height, camera.width)


def inner(camera):
    """bool [H, W]: where the camera sees the cube, and two pixels around."""
    seen = pixels(camera)
    for axis in (0, 1):
        seen = seen & np.roll(seen, 2, axis) & np.roll(seen, -2, axis)
    return seen


@cache
def black_cube():
    """A black cube before grey walls; and points on the walls alone, as there is nothing on the cube to find again."""
    views, points = [], []
    random = np.random.default_rng(0)
    for i in range(16):
        camera = orbit_camera(i / 16, 64, 48)
        image = np.where(pixels(camera)[..., None], BLACK, GREY) * np.ones(3)
        views.append(View(f"{i:02d}.png", camera, Photo(image.astype(np.uint8))))
        u, v = random.uniform(0, 64, 60), random.uniform(0, 48, 60)
        places, met = cast(camera, rays(camera, u, v))
        points.append(places[~met])
    places = np.concatenate(points)
    return Scene("cube", tuple(views), places, np.full(places.shape, GREY, np.uint8))


def shining_through(**settings):
    """How much of white shines through the cube, of 255, in the mean of its pixels in all views."""
    few = {"backend": tiny.BACKEND, "steps": 700, "max_splats": 2000, "exposure": "off"}
    result = train(black_cube(), **few | settings)
    backend, values = load(tiny.BACKEND), []
    for view in black_cube().views:
        over = [
            np.asarray(render(result.gaussians, view.camera, backend, background=3 * [c]).image)
            for c in (0.0, 1.0)
        ]
        values.append(255 * (over[1] - over[0])[inner(view.camera)])
    return float(np.concatenate(values).mean())


def test_a_black_cube_is_no_hole_when_it_is_shown_over_white():
    assert shining_through(background="black") > 15, "or the scene shows nothing"
    for seed in range(4):  # black alone in the second half let 0.6 to 15 through
        assert shining_through(seed=seed) < 1


def ended(image, alpha=None, mask=None):
    """What auto becomes for photos of this kind."""
    camera = orbit_camera(0, *image.shape[1::-1])
    views = [View(f"{i}", camera, Photo(image, mask, alpha)) for i in range(3)]
    assert decided("white", views) == "white"
    return decided("auto", views)


def test_auto_asks_the_photos():
    grey = np.full((12, 16, 3), GREY, np.uint8)
    stage = np.zeros_like(grey)
    stage[3:-3, 3:-3] = GREY
    assert ended(grey) == "random-first"
    assert ended(grey, alpha=np.full((12, 16), 255, np.uint8)) == "black", "its alpha says what is empty"
    assert ended(stage) == "black", "nobody wants a black cloth built of splats"
    assert ended(255 - stage) == "random-first"
    assert ended(stage, mask=(stage[..., 0] > 0).astype(np.uint8)) == "random-first", (
        "what does not count is no border"
    )


def test_auto_holds_one_photo_at_a_time():
    """Where photos stay in their files, all of them would not fit."""
    alive = []

    class Large:
        def decode(self):
            assert all(photo() is None for photo in alive[:-1])
            photo = Photo(np.full((12, 16, 3), GREY, np.uint8))
            alive.append(weakref.ref(photo))
            return photo

    views = [View(f"{i}", orbit_camera(0, 16, 12), Large()) for i in range(6)]
    assert decided("auto", views) == "random-first" and len(alive) == 6


def test_a_run_keeps_what_was_decided(tmp_path):
    train(tiny.scene(), tiny.settings(steps=3), out=tmp_path / "run")
    assert config.read(tmp_path / "run" / "config.toml")["background"] == "random-first"
