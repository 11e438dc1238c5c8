# SPDX-License-Identifier: Apache-2.0
"""Steps over several views in the kernels of the Metal backend, executed on the CPU, every access judged."""

import math
from dataclasses import replace

import numpy as np
import pytest
from compare import relative
from metal.emulated import ORDERS
from metal.emulated import backend as emulated
from metal.fixtures import clang  # noqa: F401
from plans import EVERYTHING, plan
from scenes import camera
from test_metal_emulated import CAMERA, begun, photo

from gsplat_train.backends import python
from gsplat_train.datasets.decode import dim
from gsplat_train.model.gaussians import Gaussians
from gsplat_train.scene import Photo, View
from gsplat_train.training import rows
from gsplat_train.training.stepper import GenericStepper

pytestmark = pytest.mark.usefixtures("clang")


def three():
    """Views of two sizes, the second see-through, the last with a mask."""
    rng = np.random.default_rng(1)
    mask, alpha = rng.integers(0, 2, (36, 40), dtype=np.uint8), rng.integers(0, 256, (24, 56), dtype=np.uint8)
    photos = [
        Photo(photo(40, 36)),
        Photo(dim(photo(56, 24) + np.uint8(1), alpha), alpha=alpha),
        Photo(photo(40, 36) + np.uint8(2), mask),
    ]
    cameras = (CAMERA, camera(56, 24), CAMERA)
    return [View(f"{i}", c, p, index=i) for i, (c, p) in enumerate(zip(cameras, photos, strict=True))]


def train(stepper, views, steps=3, **changes):
    """(arrays by name, sums, result) after steps over all the views."""
    for _ in range(steps):
        number = stepper.step + len(views)
        stepper.take(views[0], plan(number, views=len(views), **changes), *views[1:])
    result, state = stepper.result(), stepper.look()
    moments = {f"m {name}": leaf for name, leaf in rows.rows(state.m).items()}
    return rows.rows(state.gaussians) | moments, state.sums, result


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("changes", [{}, EVERYTHING], ids=["plain", "everything"])
def test_a_step_over_views_is_the_generic_one(order, count, changes):
    views = three()[:count]
    stepper = emulated(order).stepper(begun())
    found, sums, result = train(stepper, views, **changes)
    expected, other_sums, other = train(GenericStepper(python, begun()), views, **changes)
    assert stepper.step == 3 * count and result == pytest.approx(other, rel=1e-4)
    for name in Gaussians._fields:
        # Three steps of 1e-3. Adam divides by the gradient's size: where that is rounding, signs differ.
        assert (np.abs(found[name] - expected[name]) > 1e-4).mean() < 0.01, name
        assert relative(found[f"m {name}"], expected[f"m {name}"]) < 1e-3, name
    np.testing.assert_array_equal(sums["count"], other_sums["count"])
    for name in ("means2d_norm",) + (("absgrad_norm",) if changes else ()):
        assert sums[name] == pytest.approx(other_sums[name], rel=1e-3, abs=1e-6), name


def test_any_order_of_threads_and_too_little_room_give_the_same_bytes():
    views = three()
    found, sums, result = train(emulated(ORDERS[0]).stepper(begun()), views, steps=5, **EVERYTHING)
    assert np.isfinite(result[:3]).all()
    small = emulated(ORDERS[1])
    small.engine.first_capacity = 64
    others, other_sums, other = train(small.stepper(begun()), views, steps=5, **EVERYTHING)
    assert small.launcher.launched["combine"] > 5, "steps were repeated"
    assert other == result
    for name, values in (found | sums).items():
        assert values.tobytes() == (others | other_sums)[name].tobytes(), name


def test_room_for_all_but_one_view_is_too_little_for_all():
    """The small photo's lists fit, the large one's do not: no view moves anything until there is room."""
    backend = emulated()
    views = [three()[0], replace(three()[1], camera=camera(8, 8), photo=Photo(photo(8, 8)))]
    expected, _, _ = train(emulated().stepper(begun()), views, steps=2)
    backend.engine._capacity = {(40, 36): 64, (8, 8): 4096}
    found, _, result = train(backend.stepper(begun()), views, steps=2)
    assert result.is_finite and backend.engine.capacity(40, 36) > 64
    assert all(values.tobytes() == expected[name].tobytes() for name, values in found.items())


def test_a_loss_that_is_not_finite_moves_nothing():
    state = begun(30)
    before = {name: leaf.copy() for name, leaf in rows.rows(state.gaussians).items()}
    stepper = emulated().stepper(state)
    for number in (2, 4, 6):
        stepper.take(three()[0], plan(number, views=2, background=(0.0, math.nan, 0.0)), three()[1])
    result = stepper.result()
    assert np.isnan(result.loss) and result.whole and stepper.step == 0
    for name, leaf in rows.rows(stepper.look().gaussians).items():
        np.testing.assert_array_equal(leaf, before[name])


def test_a_gradient_that_is_not_finite_leaves_a_step_that_is_not_whole():
    """The scale of a Gaussian that nobody sees: its loss is a number, its gradient is none, the others move."""
    state = begun(30)
    leaves = rows.rows(state.gaussians)
    leaves["log_scales"][7], leaves["means"][7, 2] = 88.0, -5
    stepper = emulated().stepper(state)
    stepper.take(three()[0], plan(2, views=2, scale_weight=3e38), three()[1])
    result = stepper.result()
    assert np.isnan(result.loss) and not result.whole and stepper.step == 0
