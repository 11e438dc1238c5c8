# SPDX-License-Identifier: Apache-2.0
"""Learning rates at the ends of their schedules, and that rows of parameters and moments move together."""

import numpy as np
import pytest
from gsplat_train.training.optimizer import GROUPS, TrainState
from tiny import random_state, settings

from gsplat_train.training import optimizer


def row_numbers(state: TrainState) -> np.ndarray:
    """[N] the row that each row's moments name (tiny.random_state), after checking that all of them agree."""
    numbers = np.asarray(state.m.logit_opacities)
    for factor, tree in ((1, state.m), (2, state.v)):
        for leaf in optimizer.rows(tree).values():
            assert (leaf.reshape(len(numbers), -1) == factor * numbers[:, None]).all()
    return numbers


def test_means_decay_exponentially_from_the_first_rate_to_the_last() -> None:
    config = settings(steps=1000, lr_means=1e-3, lr_means_end=1e-5)
    rates = [optimizer.learning_rates(config, step)["means"] for step in (0, 500, 1000, 2000)]
    assert rates == pytest.approx([1.1e-3, 1.1e-4, 1.1e-5, 1.1e-5])
    assert optimizer.learning_rates(settings(lr_means=0), 5)["means"] == 0


def test_other_rates_are_the_settings_and_every_group_has_one() -> None:
    config = settings(lr_scales=1.0, lr_quats=2.0, lr_opacities=3.0, lr_sh0=4.0, lr_shN=5.0)
    rates = optimizer.learning_rates(config, 17)
    assert set(rates) == set(GROUPS)
    assert [rates[name] for name in GROUPS[1:]] == [2.0, 1.0, 3.0, 4.0, 5.0]


def test_a_prolonged_run_keeps_its_horizon() -> None:
    short, prolonged = settings(steps=100), settings(steps=200, schedule_steps=100)
    for step in (0, 50, 99):
        assert optimizer.learning_rates(short, step) == optimizer.learning_rates(prolonged, step)


def test_sh_degree_rises_by_one_an_interval() -> None:
    config = settings(sh_interval=100, sh_degree=2)
    assert [optimizer.sh_degree_at(config, step) for step in (0, 99, 100, 250, 999)] == [0, 0, 1, 2, 2]
    assert optimizer.sh_degree_at(settings(sh_interval=0), 0) == 3


def test_keep_rows_moves_parameters_with_their_moments() -> None:
    state = random_state(10)
    before = {name: leaf.copy() for name, leaf in optimizer.rows(state.gaussians).items()}
    keep = np.array([1, 0, 0, 1, 1, 0, 1, 0, 0, 1], bool)
    optimizer.keep_rows(state, keep)
    assert row_numbers(state).tolist() == [0, 3, 4, 6, 9]
    for name, leaf in optimizer.rows(state.gaussians).items():
        assert (leaf == before[name][keep]).all()


def test_append_rows_adds_them_at_the_end_with_zero_moments() -> None:
    state = random_state(5)
    before = {name: leaf.copy() for name, leaf in optimizer.rows(state.gaussians).items()}
    optimizer.append_rows(state, {name: leaf[[2, 2]] + 1 for name, leaf in before.items()})
    assert row_numbers(state).tolist() == [0, 1, 2, 3, 4, 0, 0]
    for name, leaf in optimizer.rows(state.gaussians).items():
        assert (leaf[:5] == before[name]).all() and (leaf[5:] == before[name][[2, 2]] + 1).all()


def test_copy_and_reset_touch_no_other_row() -> None:
    state = random_state(6)
    before = {name: leaf.copy() for name, leaf in optimizer.rows(state.gaussians).items()}
    optimizer.copy_rows(state, np.array([1, 1]), np.array([4, 5]))
    optimizer.reset_moments(state, np.array([4, 5]))
    assert row_numbers(state).tolist() == [0, 1, 2, 3, 0, 0]
    for name, leaf in optimizer.rows(state.gaussians).items():
        assert (leaf == before[name][[0, 1, 2, 3, 1, 1]]).all()


def test_reset_of_one_group_leaves_the_others() -> None:
    state = random_state(4)
    optimizer.reset_moments(state, slice(None), ("quats",))
    assert not np.asarray(state.m.quats).any() and not np.asarray(state.v.quats).any()
    assert np.asarray(state.m.means)[3, 0] == 3 and np.asarray(state.v.sh0)[3, 0, 0] == 6


@pytest.mark.parametrize("tree", ["gaussians", "m", "v"])
def test_one_value_that_is_not_finite_is_found(tree: str) -> None:
    state = random_state(4)
    assert optimizer.is_finite(state)
    optimizer.rows(getattr(state, tree))["shN"][2, 1, 0] = np.inf
    assert not optimizer.is_finite(state)
