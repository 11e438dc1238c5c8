# SPDX-License-Identifier: Apache-2.0
"""Density control by what a Gaussian carries, forced splits, selection, and what changes late in a run."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from conftest import load_backend
from test_batch import trained
from test_scores import Scored, opacity
from tiny import random_state, settings

from gsplat_train.model.initialize import gaussians_from_points
from gsplat_train.training import checkpoint, rows, strategies
from gsplat_train.training.draws import Key
from gsplat_train.training.plan import Schedule, learning_rates, views_at
from gsplat_train.training.rows import HostPopulation
from gsplat_train.training.scores import Scores
from gsplat_train.training.strategies import contribution, mcmc


class Sized(HostPopulation):
    """A population of these widths, of the longer side of every photo."""

    def __init__(self, state: Any, widths: Any) -> None:
        super().__init__(state)
        self.widths = np.asarray(widths, np.float32)

    def screen_sizes(self, step: int, count: int) -> list[Any]:
        return [self.widths / 2, self.widths]


def test_what_carries_least_is_laid_down_and_moves_onto_others() -> None:
    state = random_state(40)
    population = Scored(state, [1.0] * 36 + [0.0, 0.1, 0.0, 0.2])
    assert contribution.lay_down(population, 5, 0.1) == 4
    logits = np.asarray(state.gaussians.logit_opacities)
    assert (logits[36:] < -10).all() and (logits[:36] > -10).all()
    assert mcmc.relocate(population, 0.005, Key(0, 5, 2)) == 4
    assert (opacity(np.asarray(state.gaussians.logit_opacities)) > 0.005).all() and state.n_splats == 40
    assert contribution.lay_down(population, 5, 0.01) == 0  # not even one


@pytest.mark.parametrize(("views", "found"), [(10, [10, 20, 30]), (200, [20]), (500, [])])
def test_many_photos_are_looked_at_less_often(views: int, found: list[int]) -> None:
    config = settings(steps=40, weigh_every=0.25, weigh_cost=10.0, refine_every=5)
    strategy: Any = strategies.load(config)
    assert [step for step in range(0, 40, 5) if strategy.weighs(step, views)] == found
    assert not strategies.load(settings(least_share=0.0)).weighs(20, 1)  # type: ignore[attr-defined]


def test_what_carries_most_stays_to_an_exact_count() -> None:
    state = random_state(40)
    kept = np.asarray(state.gaussians.means)[1::2].copy()
    assert contribution.keep_most(Scored(state, [0.0, 2.0] * 20), 5, 20) == 20
    np.testing.assert_array_equal(np.sort(np.asarray(state.gaussians.means), axis=0), np.sort(kept, axis=0))
    assert contribution.keep_most(Scored(state, [1.0] * 20), 5, 30) == 0
    assert contribution.keep_most(Scored(state, [0.0] * 20), 5, 7) == 13 and state.n_splats == 7


@pytest.mark.parametrize(("cap", "added"), [(100, 3), (41, 1), (40, 0)])
def test_what_is_too_wide_becomes_two_within_the_cap(cap: int, added: int) -> None:
    state = random_state(40)
    faint = np.argsort(np.asarray(state.gaussians.logit_opacities))
    wide = faint[-3:]  # the most opaque, so that others are the faintest
    widths = np.full(40, 0.1)
    widths[wide] = 0.7
    before = {name: leaf.copy() for name, leaf in rows.rows(state.gaussians).items()}
    assert contribution.halve_wide(Sized(state, widths), 5, 0.5, cap, 0.005) == added
    after = rows.rows(state.gaussians)
    longest = before["log_scales"][wide].argmax(axis=1)
    ratio = np.exp(after["log_scales"][wide, longest] - before["log_scales"][wide, longest])
    assert ratio == pytest.approx(0.6, rel=1e-5)
    changed = (after["means"][:40] != before["means"]).any(axis=1)
    assert set(np.flatnonzero(changed)) == {*wide, *faint[: 3 - added]}
    assert contribution.halve_wide(Sized(state, np.full(40 + added, 0.4)), 5, 0.5, cap, 0.005) == 0


def test_widths_are_those_that_are_drawn() -> None:
    scene = tiny.scene().normalized()[0]
    gaussians = gaussians_from_points(scene.points, scene.colors, sh_degree=1, init_opacity=0.5)
    state, views = rows.start(gaussians), scene.split(0)[0]
    scores = Scores(views, load_backend("python"), settings(sh_degree=1))
    widths = scores.screen_sizes(HostPopulation(state), 3, 2)
    rows.rows(state.gaussians)["log_scales"][...] += np.log(4)
    larger = scores.screen_sizes(HostPopulation(state), 3, 2)
    for one, four in zip(widths, larger, strict=True):
        seen = (one > 0.02) & (four > 0)
        assert seen.any() and (four[seen] > 2 * one[seen]).all() and (four[seen] < 5 * one[seen]).all()


def test_a_run_ends_with_the_share_that_is_to_stay() -> None:
    run = trained(None, final_share=0.5, refine_stop=0.5, select_stop=0.9, max_splats=400)
    assert run.n_splats == 200 and run.counts["refinements_due"] == []


def test_selections_that_meet_in_one_step_are_made_there() -> None:
    strategy: Any = strategies.load(
        settings(steps=40, final_share=0.5, refine_stop=0.5, select_stop=0.2, max_splats=40)
    )
    assert [step for step in range(1, 40) if strategy._selects(step)] == [20]
    state = random_state(40)
    assert strategy.refine(Scored(state, [1.0] * 40), 20) == {"pruned": 20} and state.n_splats == 20


@pytest.mark.parametrize(
    "changes",
    [
        {"least_share": 0.2, "weigh_cost": 2.0},
        {"screen_split": 0.8},
        {"final_share": 0.5, "refine_stop": 0.5},
        {"late_batch": 3, "late_from": 0.4},
    ],
)
def test_a_run_resumes_to_the_same_bytes(changes: dict[str, Any], tmp_path: Path) -> None:
    whole = trained(tmp_path / "a", **changes)
    plain = trained(None)
    trained(tmp_path / "b", **changes | {"steps": 22 if "late_batch" in changes else 21})
    kept = checkpoint.newest(tmp_path / "b" / "checkpoints", print)
    assert kept is not None and 0 < kept.state.step < 40
    again = trained(tmp_path / "b", resume=kept, **changes)
    for name, leaf in rows.rows(whole.stepper.look().gaussians).items():
        np.testing.assert_array_equal(leaf, rows.rows(again.stepper.look().gaussians)[name])
    assert np.asarray(whole.gaussians().means).tobytes() != np.asarray(plain.gaussians().means).tobytes()


def test_other_rates_fall_late_and_only_there() -> None:
    config = settings(steps=1000, lr_scales=1.0, lr_shN=2.0, lr_rest_end=0.01, lr_rest_from=0.5)
    found = [learning_rates(config, step) for step in (0, 500, 750, 1000, 2000)]
    assert [rates["log_scales"] for rates in found] == pytest.approx([1, 1, 0.1, 0.01, 0.01])
    assert [rates["shN"] for rates in found] == pytest.approx([2, 2, 0.2, 0.02, 0.02])
    assert found[2]["means"] == learning_rates(settings(steps=1000), 750)["means"]


def test_steps_are_over_several_views_late() -> None:
    config = settings(steps=100, late_batch=5, late_from=0.8)
    assert [views_at(config, step) for step in (0, 79, 80, 95)] == [1, 1, 5, 5]
    assert views_at(settings(steps=100, late_batch=5, batch=2), 90) == 2  # as whoever set batch wants it


def test_regularisers_and_noise_end() -> None:
    config = settings(steps=100, reg_stop=0.5, noise_stop=0.7, opacity_reg=0.3, scale_reg=0.2)
    schedule = Schedule(config, strategies.load(config))
    found = [schedule.at(step) for step in (50, 51, 70, 71)]
    assert [(plan.opacity_weight, plan.scale_weight) for plan in found] == [(0.3, 0.2), *[(0, 0)] * 3]
    assert [plan.noise > 0 for plan in found] == [True, True, True, False]
