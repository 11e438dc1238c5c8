# SPDX-License-Identifier: Apache-2.0
"""Floaters and plates: what is one, how much of the error is theirs, and how they are taken away."""

import json
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
import tiny
from conftest import load_backend
from test_cli import call

from gsplat_train import train
from gsplat_train.errors import UserError
from gsplat_train.evaluate.floaters import near_error, sightings
from gsplat_train.model.gaussians import Gaussians
from gsplat_train.training import rows
from gsplat_train.training.rows import HostPopulation
from gsplat_train.training.scores import Scores

FLOATER, PLATE, SOLID = 0, 1, 2  # rows


def crowd():
    """The demo's first view and two from elsewhere, and Gaussians that all see, but for a floater close before the
    first; one is a faint plate as large as the picture, one as large but opaque.
    """
    scene = tiny.scene().normalized()[0]
    views = (scene.views[0], scene.views[3], scene.views[6])
    n, camera = 60, views[0].camera
    rng = np.random.default_rng(0)
    middle = scene.points.mean(axis=0)
    means = middle + rng.uniform(-0.1, 0.1, (n, 3))
    means[FLOATER] = camera.position + 0.1 * (middle - camera.position)
    scales, opacities = np.full((n, 3), 0.03), np.full(n, 0.9)
    scales[FLOATER] = 0.004
    scales[[PLATE, SOLID]] = 0.5
    opacities[PLATE] = 0.05
    arrays = {
        "means": means,
        "quats": np.tile([1.0, 0, 0, 0], (n, 1)),
        "log_scales": np.log(scales),
        "logit_opacities": np.log(opacities / (1 - opacities)),
        "sh0": rng.standard_normal((n, 1, 3)),
        "shN": np.zeros((n, 0, 3)),
    }
    return views, Gaussians(**{name: mx.array(a.astype(np.float32)) for name, a in arrays.items()})


def test_what_is_a_floater_and_what_a_plate(backend):
    views, gaussians = crowd()
    seen = sightings(gaussians, [view.camera for view in views], backend)
    assert int(seen.views[FLOATER]) == 1 and float(seen.nearest[FLOATER]) < 0.2
    assert np.flatnonzero(np.array(seen.unwanted(gaussians.opacities))).tolist() == [FLOATER, PLATE]
    twice = sightings(gaussians, [views[0].camera] * 2, backend)
    assert not bool(twice.unwanted(gaussians.opacities)[FLOATER]), "two views show it"


def test_the_share_of_the_error_is_that_of_what_is_near(backend):
    views, gaussians = crowd()
    share = near_error(gaussians, views[:1], backend)
    assert 0.001 < share < 0.5 and near_error(gaussians, views[1:2], backend) == 0
    gone = gaussians._replace(
        logit_opacities=mx.where(mx.arange(60) == FLOATER, -20.0, gaussians.logit_opacities)
    )
    assert near_error(gone, views[:1], backend) == 0
    assert np.isnan(near_error(gaussians, [replace(views[0], photo=None)] * 0, backend))


def test_they_become_too_faint_for_any_strategy():
    views, gaussians = crowd()
    state = rows.start(gaussians)
    scores = Scores(views, load_backend(tiny.BACKEND), tiny.settings())
    before = np.array(gaussians.logit_opacities)
    assert scores.drop_floaters(HostPopulation(state)) == 2
    after = np.array(state.gaussians.logit_opacities)
    assert (after[[FLOATER, PLATE]] < -10).all() and (after[2:] == before[2:]).all()
    assert scores.drop_floaters(HostPopulation(state)) == 0


def test_a_run_without_them_resumes_to_the_same_bytes(tmp_path):
    settings = {"floaters_every": 10, "steps": 40}
    whole = train(tiny.scene(), tiny.settings(**settings), out=tmp_path / "whole")
    assert 0 <= whole.metrics["near_error"] <= 1
    again = train(tiny.scene(), tiny.settings(**settings), out=tmp_path / "again")
    for a, b in zip(whole.gaussians, again.gaussians, strict=True):
        assert (np.asarray(a) == np.asarray(b)).all()


def test_an_odd_number_of_steps_is_told():
    with pytest.raises(UserError, match=r"floaters_every must be a multiple of refine_every .5., got 7"):
        train(tiny.scene(), tiny.settings(floaters_every=7))


def test_an_export_leaves_them_out(tmp_path):
    call(
        "train", "demo", "--steps", 30, "--max-size", 48, "--set", "max_splats=300", "--out", tmp_path / "run"
    )
    said = call("export", tmp_path / "run", tmp_path / "out.ply", "--floaters").stderr
    assert "that few views show" in said
    assert "near_error" in json.loads((tmp_path / "run" / "metrics.json").read_text())
