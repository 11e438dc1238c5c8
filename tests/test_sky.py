# SPDX-License-Identifier: Apache-2.0
"""The sky behind the splats: learnt, kept, rendered, measured over, and baked into far splats."""

import json
from dataclasses import replace
from functools import cache

import mlx.core as mx
import numpy as np
import pytest
import tiny
from test_background import GREY, pixels
from test_cli import call
from test_trainer import make

from gsplat_train import backends, train
from gsplat_train.datasets.demo import orbit_camera, rays
from gsplat_train.errors import UserError
from gsplat_train.model import io, sky
from gsplat_train.model.sky import Sky
from gsplat_train.renderer import render
from gsplat_train.scene import Photo, Scene, View
from gsplat_train.training.run_folder import RunFolder, remove_splats
from gsplat_train.training.trainer import Trainer

FEW = {"steps": 400, "max_splats": 600, "exposure": "off", "backend": tiny.BACKEND}


def gradient(directions):
    """[n, 3] of unit directions [n, 3]: a blue zenith, a pale horizon, a warm side."""
    up, side = directions[:, 2:], directions[:, :1]
    return np.hstack([0.6 - 0.3 * up + 0.2 * side, 0.6 - 0.1 * up, 0.6 + 0.3 * up - 0.1 * side])


@cache
def scene():
    """A grey cube before a sky that no point lies on."""
    views = []
    for i in range(12):
        camera = orbit_camera(i / 12, 48, 36)
        u, v = np.meshgrid(np.arange(48) + 0.5, np.arange(36) + 0.5)
        shown = gradient(rays(camera, u.ravel(), v.ravel()).T).reshape(36, 48, 3)
        image = np.where(pixels(camera)[..., None], GREY / 255, shown)
        views.append(View(f"{i:02d}.png", camera, Photo(np.rint(255 * image).clip(0, 255).astype(np.uint8))))
    random = np.random.default_rng(0)
    points = random.uniform(-0.5, 0.5, (200, 3))
    points[np.arange(200), random.integers(0, 3, 200)] = random.choice([-0.5, 0.5], 200)
    return Scene("sky", tuple(views), points + np.array([0, 0, 0.5]), np.full((200, 3), GREY, np.uint8))


@cache
def learnt():
    trainer = Trainer(tiny.settings(background="sh", **FEW), scene())
    return trainer, trainer.train()


def test_a_sky_is_learnt_and_measured_over():
    trainer, metrics = learnt()
    black = train(scene(), tiny.settings(background="black", **FEW)).metrics
    assert metrics["test"]["psnr"] > black["test"]["psnr"] + 3
    view = trainer.test_views[0]
    behind = np.asarray(trainer.ground.behind(view.camera))
    off = np.abs(behind - view.pixels.image / 255)[~pixels(view.camera)]
    assert off.mean() < 0.04


def test_the_rays_are_those_of_the_pixels():
    camera = orbit_camera(0.3, 20, 12)
    u, v = np.meshgrid(np.arange(20) + 0.5, np.arange(12) + 0.5)
    directions = rays(camera, u.ravel(), v.ravel()).T
    coefficients = np.random.default_rng(0).normal(0, 0.2, (9, 3)).astype(np.float32)
    expected = np.maximum(sky.frame.basis(directions.astype(np.float64), 2) @ coefficients + 0.5, 0)
    assert np.asarray(Sky(coefficients).behind(camera)).reshape(-1, 3) == pytest.approx(expected, abs=1e-5)


def test_the_gradient_of_the_coefficients_is_the_difference_quotient():
    camera, c = orbit_camera(0.3, 20, 12), mx.zeros((9, 3))
    weights = mx.array(np.random.default_rng(0).normal(size=(12, 20, 3)).astype(np.float32))
    found = mx.grad(lambda x: (weights * sky.colours(x, camera)).sum())(c)
    one = mx.zeros((9, 3)).at[4, 1].add(0.1)
    step = float((weights * (sky.colours(one, camera) - sky.colours(c, camera))).sum()) / 0.1
    assert float(found[4, 1]) == pytest.approx(step, rel=1e-3, abs=1e-3)


def test_a_sky_turns_with_the_axes():
    camera, turn = orbit_camera(0.3, 20, 12), sky.frame.euler((10.0, 40.0, 70.0))
    one = Sky(np.random.default_rng(0).normal(0, 0.2, (9, 3)).astype(np.float32))
    moved = replace(camera, viewmat=camera.viewmat @ np.block([[turn.T, np.zeros((3, 1))], [np.eye(4)[3:]]]))
    assert np.asarray(one.turned(turn).behind(moved)) == pytest.approx(
        np.asarray(one.behind(camera)), abs=1e-5
    )


def test_far_splats_look_as_the_sky():
    trainer, _ = learnt()
    backend, view = backends.load(tiny.BACKEND), trainer.test_views[0]
    splats = io.to_splats(trainer.gaussians(), False)
    cameras = [view.camera for view in trainer.train_views]
    far = io.from_splats(sky.baked(splats, trainer.ground, cameras)).gaussians
    wanted = render(trainer.gaussians(), view.camera, backend, background=trainer.ground).image
    found = render(far, view.camera, backend).image
    assert float(mx.abs(wanted - found).mean()) < 0.02


def test_a_resumed_run_learns_the_same_sky(tmp_path):
    """And the model has it, from a checkpoint and from the file beside its splats."""
    settings = {"background": "sh", "schedule_steps": 40}
    whole = make(tiny.settings(steps=40, **settings), tmp_path / "whole")
    whole.train()
    make(tiny.settings(steps=20, **settings), tmp_path / "half").train()
    again = make(tiny.settings(steps=40, **settings), tmp_path / "half", resume=True)
    again.train()
    for name in ("point_cloud.ply", "point_cloud.ply.sky.json"):
        assert (tmp_path / "half" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    models = [io.open_model(tmp_path / "whole"), io.open_model(tmp_path / "whole" / "point_cloud.ply")]
    for model in models:
        assert (model.sky.coefficients == again.ground.coefficients).all() and model.sky.coefficients.any()
    beside = tmp_path / "whole" / "point_cloud.ply.sky.json"
    beside.write_text("{}")
    with pytest.raises(UserError, match="take it away"):
        io.open_model(tmp_path / "whole" / "point_cloud.ply")


@pytest.mark.parametrize(
    "text",
    [
        "3",
        "[]",
        "{",
        '{"coefficients": [[1, 2]]}',
        f'{{"coefficients": {[[10**400] * 3] * 9}}}',
        f'{{"coefficients": {[[1e39] * 3] * 9}}}',
    ],
)
def test_a_damaged_sky_is_one_line(text, tmp_path):
    sky.sky_beside(tmp_path / "a.ply").write_text(text)
    with pytest.raises(UserError, match="take it away"):
        sky.read_sky(tmp_path / "a.ply")


def test_no_sky_is_left_behind_where_its_splats_go(tmp_path):
    run = RunFolder(tmp_path)
    places = [sky.sky_beside(path) for path in (run.ply, run.best)]
    for clear in (lambda: [remove_splats(run.ply), remove_splats(run.best)], run.clear):
        for path in (run.ply, run.best):
            sky.write_sky(path, Sky(np.zeros((9, 3), np.float32)))
        assert all(place.is_file() for place in places)
        clear()
        assert not any(place.exists() for place in places)


def test_see_through_photos_have_no_sky():
    photo = Photo(np.zeros((36, 48, 3), np.uint8), alpha=np.zeros((36, 48), np.uint8))
    views = tuple(replace(view, photo=photo) for view in scene().views)
    with pytest.raises(UserError, match="background=sh learns what is behind"):
        Trainer(tiny.settings(background="sh"), replace(scene(), views=views))


def test_the_commands_render_and_bake_it(tmp_path):
    run = tmp_path / "run"
    options = ["--steps", 30, "--max-size", 48, "--set", "max_splats=300", "--background", "sh", "--out", run]
    call("train", "demo", *options)
    score = json.loads((run / "metrics.json").read_text())["test"]["psnr"]
    call("render", run, "--out", tmp_path / "views")
    assert json.loads((tmp_path / "views" / "metrics.json").read_text())["psnr"] == pytest.approx(
        score, abs=0.02
    )
    assert "no part of the file" in call("export", run, tmp_path / "plain.ply").stderr
    assert "far splats more" in call("export", run, tmp_path / "baked.ply", "--bake-sky").stderr
    assert (
        "has no sky"
        in call("export", tmp_path / "plain.ply", tmp_path / "x.ply", "--bake-sky", code=2).stderr
    )
