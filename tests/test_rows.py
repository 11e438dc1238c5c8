# SPDX-License-Identifier: Apache-2.0
"""Rows of parameters and moments move together, all or nothing."""

from typing import Any

import numpy as np
import pytest
from tiny import random_state

from gsplat_train.training import rows
from gsplat_train.training.draws import Key
from gsplat_train.training.rows import Edit, HostPopulation, Room, TrainState
from gsplat_train.training.strategies import adc, mcmc


def row_numbers(state: TrainState) -> np.ndarray:
    """[N] the row that each row's moments name (tiny.random_state), after checking that all of them agree."""
    numbers = np.asarray(state.m.logit_opacities)
    for factor, tree in ((1, state.m), (2, state.v)):
        for leaf in rows.rows(tree).values():
            assert (leaf.reshape(len(numbers), -1) == factor * numbers[:, None]).all()
    return numbers


def snapshot(state: TrainState) -> dict[str, np.ndarray]:
    return {name: leaf.copy() for name, leaf in rows.rows(state.gaussians).items()}


@pytest.mark.parametrize(
    "source", [[0, 3, 4, 6, 9], [*range(10), 2, 2], [9, 8, 7], [0, 0, 1, 5], [5, 1, 2, 3, 4, 0, 6, 7, 8, 9]]
)
def test_rows_go_where_the_edit_says_with_their_moments(source: list[int]) -> None:
    state = random_state(10)
    before = snapshot(state)
    rows.edit_rows(state, Edit(np.array(source)))
    assert row_numbers(state).tolist() == source
    for name, leaf in rows.rows(state.gaussians).items():
        assert (leaf == before[name][source]).all()


@pytest.mark.parametrize("source", [[0, 1, 2, 2, 2], [0, 1, 2, 3, 4, 1, 1]])
def test_fresh_rows_have_zero_moments(source: list[int]) -> None:
    state = random_state(5)
    new_rows = np.array([1, *range(3, len(source)), 1])
    rows.edit_rows(state, Edit(np.array(source), new_rows))
    assert row_numbers(state).tolist() == [0 if i in new_rows else row for i, row in enumerate(source)]


def test_columns_of_fresh_rows_are_theirs_alone() -> None:
    state = random_state(4)
    before = snapshot(state)
    columns = {"quats": np.array([[1, 0, 0, 0], [2, 0, 0, 0]], np.float32)}
    rows.edit_rows(state, Edit(np.array([0, 1, 2, 3, 0]), np.array([4, 1]), columns))
    after = snapshot(state)
    assert after["quats"][[4, 1], 0].tolist() == [1, 2]
    assert (after["quats"][[0, 2, 3]] == before["quats"][[0, 2, 3]]).all()


def test_growth_in_spare_room_copies_nothing() -> None:
    state, room = random_state(10), Room(spare=1.0, most=18)
    rows.edit_rows(state, Edit(np.array([*range(10), 3])), room)
    place = [leaf.ctypes.data for leaf in rows.rows(state.v).values()]
    for source in ([*range(11), 4, 4], [0, 1, 12, 3], [*range(4), *range(4), *range(4), 0, 1, 2, 3, 0, 1]):
        rows.edit_rows(state, Edit(np.array(source)), room)
    assert [leaf.ctypes.data for leaf in rows.rows(state.v).values()] == place
    numbers = np.array([0, 1, 4, 3])
    assert row_numbers(state).tolist() == [*np.tile(numbers, 4), 0, 1] and state.n_splats == 18


def test_no_room_is_made_beyond_the_cap() -> None:
    for strategy in (mcmc, adc):
        state, room = random_state(10), Room(spare=1.0, most=1 << 62)
        population, key = HostPopulation(state, room), Key(0, 5, 3)
        if strategy is mcmc:
            mcmc.grow(population, 0.3, 14, 0.005, key)
        else:
            adc.grow(population, np.full(10, 2.0, np.float32) * (np.arange(10) < 3), adc.Settings(), 14, key)
        assert state.n_splats == 13 and {len(buffer) for buffer in room._buffers.values()} == {14}


def test_arrays_put_in_the_place_of_those_with_room_are_kept() -> None:
    state, other, room = random_state(4), random_state(4, seed=1), Room(spare=1.0, most=100)
    rows.edit_rows(state, Edit(np.array([0, 1, 2, 3, 3])), room)
    state.gaussians, state.m, state.v = other.gaussians, other.m, other.v
    rows.edit_rows(state, Edit(np.array([0, 1, 2, 3, 2])), room)
    assert row_numbers(state).tolist() == [0, 1, 2, 3, 2]
    assert (np.asarray(state.gaussians.means)[:4] == snapshot(random_state(4, seed=1))["means"]).all()


def test_columns_are_laid_over_and_moments_of_a_leaf_forgotten() -> None:
    state = random_state(4)
    before = snapshot(state)
    rows.edit_rows(state, Edit(columns={"quats": np.ones((4, 4), np.float32)}, forget=("quats",)))
    after = snapshot(state)
    assert (after["quats"] == 1).all() and (after["means"] == before["means"]).all()
    assert not np.asarray(state.m.quats).any() and not np.asarray(state.v.quats).any()
    assert np.asarray(state.m.means)[3, 0] == 3 and np.asarray(state.v.sh0)[3, 0, 0] == 6


def test_without_room_nothing_has_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    state = random_state(6)
    state.sums = rows.zero_sums(6)
    state.sums["count"][:] = 1
    before = snapshot(state)

    def full(*_: Any, **__: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(np, "empty", full)
        edit = Edit(np.array([0, 1, 2, 3, 4, 5, 5]), np.arange(7), {"quats": np.ones((7, 4), np.float32)})
        HostPopulation(state).apply(edit)
    assert row_numbers(state).tolist() == [0, 1, 2, 3, 4, 5] and state.sums["count"].sum() == 6
    assert all((leaf == before[name]).all() for name, leaf in snapshot(state).items())


def test_other_rows_start_new_sums_and_the_same_rows_keep_them() -> None:
    state = random_state(4)
    state.sums = rows.zero_sums(4)
    state.sums["count"][:] = 1
    population = HostPopulation(state)
    population.apply(Edit(columns={"quats": np.ones((4, 4), np.float32)}))
    assert state.sums["count"].tolist() == [1, 1, 1, 1]
    population.apply(Edit(np.array([0, 1, 1])))
    assert all(sums.tolist() == [0, 0, 0] for sums in state.sums.values())


@pytest.mark.parametrize("tree", ["gaussians", "m", "v"])
def test_one_value_that_is_not_finite_is_found(tree: str) -> None:
    state = random_state(4)
    assert rows.is_finite(state)
    rows.rows(getattr(state, tree))["shN"][2, 1, 0] = np.inf
    assert not rows.is_finite(state)
