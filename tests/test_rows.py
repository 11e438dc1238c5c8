# SPDX-License-Identifier: Apache-2.0
"""Rows of parameters and moments move together, all or nothing."""

from typing import Any

import numpy as np
import pytest
from tiny import random_state

from gsplat_train.training import rows
from gsplat_train.training.rows import Edit, HostPopulation, TrainState


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
    fresh = np.arange(len(source)) >= 3
    rows.edit_rows(state, Edit(np.array(source), fresh))
    assert row_numbers(state).tolist() == [0 if new else row for row, new in zip(source, fresh, strict=True)]


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
        edit = Edit(np.array([0, 1, 2, 3, 4, 5, 5]), np.ones(7, bool), {"quats": np.ones((7, 4), np.float32)})
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
