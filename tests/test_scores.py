# SPDX-License-Identifier: Apache-2.0
"""What density control sees in pictures: sums over pixels of what each Gaussian blends; and who splits by it."""

import mlx.core as mx
import numpy as np
import pytest
import tiny
from conftest import load_backend
from tiny import random_gaussians, random_state, settings

from gsplat_train.model.initialize import gaussians_from_points
from gsplat_train.renderer import render
from gsplat_train.scene import Photo, View
from gsplat_train.training import draws, rows, strategies
from gsplat_train.training.draws import Key
from gsplat_train.training.rows import HostPopulation
from gsplat_train.training.scores import Scores, edges, errors
from gsplat_train.training.strategies import igs, mcmc

BACKENDS = ("python", "cpp")


class Scored(HostPopulation):
    """A population whose i-th Gaussian carries `carried[i]` of every map."""

    def __init__(self, state, carried) -> None:
        super().__init__(state)
        self.carried = np.asarray(carried, np.float32)

    view_count = 3

    def pixel_sums(self, step, count, maps):
        return [np.repeat(self.carried[:, None], 3, 1)] * min(count, 3)


def some_views(mask=None) -> list[View]:
    views = tiny.scene().normalized()[0].split(0)[0][:3]
    return [View(v.name, v.camera, Photo(v.pixels.image, mask), index=v.index) for v in views]


@pytest.mark.parametrize("name", BACKENDS)
def test_the_sums_are_of_what_each_gaussian_blends(name: str) -> None:
    backend, config = load_backend(name), settings(sh_degree=1)
    views, state = some_views(), rows.start(start())
    found = Scores(views, backend, config).sums(HostPopulation(state), 7, 3, errors)
    for view, sums in zip(views, found, strict=True):
        out = render(state.gaussians, view.camera, backend, sh_degree=0)
        alpha = np.asarray(out.alpha)[:, :, 0]
        assert sums[:, 1].sum() == pytest.approx(
            alpha.sum(), rel=1e-4
        )  # all that is blended, of a map of ones
        error = np.abs(np.clip(np.asarray(out.image), 0, 1) - view.pixels.image / 255).mean(axis=2)
        assert sums[:, 0].sum() == pytest.approx((alpha * error).sum(), rel=1e-3)
        assert not sums[:, 2].any() and (sums[:, :2] >= 0).all()


def start():
    scene = tiny.scene().normalized()[0]
    return gaussians_from_points(scene.points, scene.colors, sh_degree=1, init_opacity=0.5, init_scale=1.0)


def test_masked_pixels_carry_nothing() -> None:
    state, config = rows.start(start()), settings(sh_degree=1)
    mask = np.zeros((36, 48), bool)
    views = some_views(mask)
    found = Scores(views, load_backend("python"), config).sums(HostPopulation(state), 7, 2, errors)
    assert [sums.any() for sums in found] == [False, False]


def test_edges_are_where_the_photo_changes() -> None:
    photo = np.zeros((8, 10, 3), np.uint8)
    photo[:, 5:] = 200
    found = np.asarray(edges(some_views()[0], mx.array(photo), mx.zeros((8, 10, 3))))
    # On the bright side: the other side's Laplacian is negative.
    assert found[:, 5, 0] == pytest.approx(np.ones(8)) and found[..., 0].sum() == pytest.approx(8, abs=1e-4)
    assert (found[..., 1] == 1).all() and not found[..., 2].any()


def test_views_are_chosen_by_seed_and_step() -> None:
    scores = Scores(list(range(20)), None, settings())  # type: ignore[arg-type]
    assert scores.chosen(3, 5) == scores.chosen(3, 5) != scores.chosen(4, 5)
    assert len(set(scores.chosen(3, 5))) == 5 and len(scores.chosen(3, 99)) == 20


def test_who_carries_the_error_is_copied() -> None:
    counts = np.zeros(40, int)
    for step in range(200):
        state = random_state(40)
        rows.rows(state.gaussians)["logit_opacities"][:] = 0
        population = Scored(state, [3.0] * 10 + [0.0] * 30)
        shares = mcmc.error_shares(population, step, 2, 0.1)
        before = np.asarray(state.gaussians.means).copy()
        assert mcmc.grow(population, 0.1, 1000, 0.005, Key(0, step, 3), shares, 0.5) <= 4
        moved = (before != np.asarray(state.gaussians.means)[:40]).any(axis=1)
        counts += moved
    # Shares of 4.1 and 0.1 of the mean, less a little for those that are drawn twice.
    assert 0.88 < counts[:10].sum() / counts.sum() < 0.95


def test_copies_that_move_apart_cover_what_one_did() -> None:
    state = random_state(30)
    make = rows.rows(state.gaussians)
    one = {name: leaf.copy() for name, leaf in make.items()}
    population = HostPopulation(state)
    added = mcmc.grow(population, 0.5, 1000, 0.005, Key(0, 1, 3), None, 0.5)
    now = rows.rows(state.gaussians)
    parents = np.flatnonzero((one["means"] != now["means"][:30]).any(axis=1))
    assert len(parents) == added == state.n_splats - 30
    index = np.arange(added)
    middle = (now["means"][parents] + now["means"][30:]) / 2
    np.testing.assert_allclose(middle, one["means"][parents], atol=1e-6)
    half = np.linalg.norm(now["means"][30:] - now["means"][parents], axis=1) / 2
    longest = one["log_scales"][parents].argmax(axis=1)
    before = np.exp(one["log_scales"][parents][index, longest])
    after = np.exp(now["log_scales"][30:][index, longest])
    np.testing.assert_allclose(after**2 + half**2, before**2, rtol=1e-5)
    others = np.ones((added, 3), bool)
    others[index, longest] = False
    np.testing.assert_array_equal(now["log_scales"][30:][others], one["log_scales"][parents][others])
    together = 1 - (1 - opacity(now["logit_opacities"][30:])) ** 2
    np.testing.assert_allclose(together, opacity(one["logit_opacities"][parents]), rtol=1e-5)


def opacity(logits):
    return 1 / (1 + np.exp(-logits.astype(np.float64)))


def test_draws_without_return_follow_the_weights_and_never_come_twice() -> None:
    weights = np.array([0.0, 1, 2, 4, 8], np.float32)
    first = np.zeros(5)
    for step in range(3000):
        chosen = draws.without_return(np, weights, 1, Key(0, step, 3))
        assert chosen.sum() == 1
        first += chosen
    assert first[0] == 0 and first / 3000 == pytest.approx(weights / 15, abs=0.03)
    assert draws.without_return(np, weights, 4, Key(0, 1, 3)).tolist() == [False] + [True] * 4
    on_device = draws.without_return(mx, mx.array(weights), 2, Key(0, 5, 3))
    assert np.array(on_device).tolist() == draws.without_return(np, weights, 2, Key(0, 5, 3)).tolist()


def test_igs_splits_where_edges_are_and_keeps_to_its_budget() -> None:
    config = settings(strategy="igs", max_splats=100, steps=1000, refine_start=10, refine_every=10, recover=5)
    strategy, state = strategies.load(config), random_state(40)
    state.sums = rows.zero_sums(40)
    state.sums["absgrad_norm"][:20], state.sums["count"][:] = 1.0, 1
    assert strategy.budget(10) == 0 and strategy.budget(490) == 100 == strategy.budget(1000)
    population = Scored(state, [0.0] * 10 + [1.0] * 30)
    means = np.asarray(state.gaussians.means).copy()
    counts = strategy.refine(population, 250)
    room = strategy.budget(250) - 40
    assert 0 < counts["split"] == min(room, 20) and state.n_splats == 40 + counts["split"]
    moved = np.flatnonzero((means != np.asarray(state.gaussians.means)[:40]).any(axis=1))
    assert set(range(10, 20)) <= set(moved) <= set(range(20))  # candidates, those with edges first


def test_igs_culls_the_faintest_some_steps_after_a_reset() -> None:
    config = settings(strategy="igs", steps=1000, refine_start=10, refine_every=10, recover=5)
    strategy, state = strategies.load(config), random_state(40)
    state.sums = rows.zero_sums(40)
    strategy.refine(Scored(state, [1.0] * 40), 100)
    assert opacity(np.asarray(state.gaussians.logit_opacities)).max() <= 0.0501
    rows.rows(state.gaussians)["logit_opacities"][:8] = -6
    assert strategy.due(105) and not strategy.due(106)
    assert strategy.refine(Scored(state, [1.0] * 40), 105)["pruned"] == 8
    assert opacity(np.asarray(state.gaussians.logit_opacities)).min() > 0.01 and state.n_splats == 32


@pytest.mark.parametrize("gaussians", [random_gaussians(0)])
def test_nothing_to_score_is_nothing(gaussians) -> None:
    config = settings(sh_degree=1)
    found = Scores(some_views(), load_backend("python"), config).sums(
        HostPopulation(rows.start(gaussians)), 1, 1, errors
    )
    assert next(found).shape == (0, 3)
    assert pytest.approx(1.35) == igs.OFFSET
