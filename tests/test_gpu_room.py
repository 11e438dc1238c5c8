# SPDX-License-Identifier: Apache-2.0
"""Arrays on a GPU with room for more Gaussians than there are: the same bytes, and few sizes while they grow."""

from typing import Any

import numpy as np
import pytest
from metal.emulated import ORDERS
from metal.emulated import backend as emulated
from metal.fixtures import clang  # noqa: F401
from plans import EVERYTHING, plan
from test_metal_batch import three
from test_metal_emulated import begun
from tiny import settings

from gsplat_train.backends.gpu.limits import Budget
from gsplat_train.training import rows, strategies
from gsplat_train.training.protocol import Bounds

MORE = 300  # whole groups of threads of every kernel


@pytest.mark.usefixtures("clang")
@pytest.mark.parametrize("order", ORDERS)
def test_steps_and_refinements_in_arrays_with_room_give_the_same_bytes(
    order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trained() -> tuple[Any, dict[str, np.ndarray]]:
        backend: Any = emulated(order)
        strategy = strategies.load(settings(max_splats=190, least_share=0.0))
        stepper, views, result = backend.stepper(begun()), three(), None
        for _ in range(2):
            stepper.take(views[1], plan(stepper.step + 1, **EVERYTHING))
            stepper.take(views[0], plan(stepper.step + 3, views=3, **EVERYTHING), *views[1:])
            stepper.take(views[2], plan(stepper.step + 1))
            result = stepper.result()
            stepper.refine(lambda population: strategy.refine(population, 10))
        stepper.take(views[0], plan(stepper.step + 1, **EVERYTHING))
        assert stepper.result().is_finite
        state = stepper.look()
        trees = ((name, rows.rows(getattr(state, name))) for name in ("gaussians", "m", "v"))
        leaves = {f"{tree}.{name}": leaf for tree, all_leaves in trees for name, leaf in all_leaves.items()}
        return result, leaves | state.sums

    expected, arrays = trained()
    monkeypatch.setattr(Budget, "rows", lambda budget, n: n + MORE)
    result, roomy = trained()
    assert result == expected and len(roomy["gaussians.means"]) > 150
    for name, array in arrays.items():
        assert roomy[name].tobytes() == array.tobytes(), name


def test_few_sizes_serve_all_that_a_growing_scene_has() -> None:
    budget, n, sizes = Budget(Bounds(most_splats=1_000_000)), 10_091, set()
    while n < 1_000_000:
        assert n <= budget.rows(n) <= min(1.25 * n + 1, 1_000_000)
        sizes.add(budget.rows(n))
        n = int(1.05 * n)
    assert len(sizes) <= 29  # of 95 refinements: four a doubling
    assert budget.rows(1_000_000) == 1_000_000 and budget.rows(1_200_000) == 1_200_000
    assert [budget.rows(n) for n in range(9)] == [0, 1, 2, 3, 4, 5, 6, 7, 8]
    assert Budget(Bounds()).rows(777) == 777, "nobody said how many there will be"
