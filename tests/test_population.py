# SPDX-License-Identifier: Apache-2.0
"""Density control where a GPU has its rows: the same rows as on the host, bit for bit, all or nothing."""

from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from test_rows import snapshot
from tiny import random_state, settings

from gsplat_train.backends.gpu.engine import pack, unpack
from gsplat_train.backends.gpu.population import GpuPopulation
from gsplat_train.model.gaussians import Gaussians
from gsplat_train.training import rows, strategies
from gsplat_train.training.rows import Edit, HostPopulation, TrainState


def packed(state: TrainState) -> GpuPopulation:
    trees = tuple(pack(tree) for tree in (state.gaussians, state.m, state.v))
    sums = {name: mx.array(array) for name, array in state.sums.items()}
    return GpuPopulation(trees, state.n_splats, state.gaussians.shN.shape[1], sums)  # type: ignore[arg-type]


def unpacked(population: GpuPopulation) -> list[Gaussians]:
    return [unpack(*tree, population.n, population.rest) for tree in population.trees]


def some_state(n: int = 200) -> TrainState:
    state = random_state(n)
    rng = np.random.default_rng(0)
    rows.rows(state.gaussians)["logit_opacities"][::7] = -8  # dead
    rows.rows(state.gaussians)["log_scales"][::3] = np.log(0.001)
    state.sums = {name: rng.uniform(0, 1e-3, n).astype(np.float32) for name in rows.SUMS}
    state.sums["count"][:] = 1
    return state


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"split": 0.0},
        {"strategy": "igs", "grow_absgradient": 1e-5, "edge_views": 0},
        {"strategy": "adc"},
        {"strategy": "adc", "reset_every": 10},
    ],
)
def test_a_refinement_gives_the_same_rows_on_a_gpu_and_on_the_host(changes: dict[str, Any]) -> None:
    config = settings(max_splats=300, **changes)
    state = some_state()
    population = packed(state)
    for step in (10, 15):
        strategy = strategies.load(config)
        ours = strategy.refine(population, step)
        theirs = strategy.refine(HostPopulation(state), step)
        assert ours == theirs and population.n == state.n_splats
        for found, expected in zip(unpacked(population), (state.gaussians, state.m, state.v), strict=True):
            for name in Gaussians._fields:
                a, b = np.asarray(getattr(found, name)), np.asarray(getattr(expected, name))
                # The same rows; what is computed for the new ones is rounded by another library.
                np.testing.assert_allclose(a, b, rtol=3e-6, atol=3e-6, err_msg=name)
        assert all(array.shape == (population.n,) for array in population.kept_sums.values())


def test_without_room_nothing_has_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    state = some_state(20)
    before, population = snapshot(state), packed(state)

    def full(*_: Any) -> None:
        raise RuntimeError("[malloc] Unable to allocate 9 bytes.")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(mx, "eval", full)
        population.apply(Edit(mx.arange(21) % 20))
    assert population.n == 20 and population.kept_sums["count"].sum().item() == 20
    for name, leaf in unpacked(population)[0]._asdict().items():
        assert (np.asarray(leaf) == before[name]).all()
