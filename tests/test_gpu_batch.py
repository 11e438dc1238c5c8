# SPDX-License-Identifier: Apache-2.0
"""Steps over several views on the GPU backends, on their GPU."""

from dataclasses import replace

import numpy as np
import pytest
from plans import OFF_THE_DEFAULTS, plan
from test_gpu import copy, gpu, numbers, scene  # noqa: F401

from gsplat_train.scene import Camera, Photo, View
from gsplat_train.training import rows
from gsplat_train.training.stepper import GenericStepper


def views_of(view: View) -> list[View]:
    """The view, one of another size and place, and one with a mask."""
    rng = np.random.default_rng(3)
    viewmat = np.eye(4)
    viewmat[0, 3] = 0.3
    camera = Camera(viewmat, [[90, 0, 48], [0, 90, 32], [0, 0, 1]], 96, 64)
    mask = rng.integers(0, 2, view.pixels.image.shape[:2], dtype=np.uint8)
    return [
        replace(view, index=0),
        replace(view, index=1, camera=camera, photo=Photo(rng.integers(0, 256, (64, 96, 3), dtype=np.uint8))),
        replace(view, index=2, photo=Photo(view.pixels.image, mask)),
    ]


def train(stepper, views, steps, **changes):
    for _ in range(steps):
        number = stepper.step + len(views)
        stepper.take(views[0], plan(number, views=len(views), **changes), *views[1:])
    return stepper.result(), stepper.look()


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("n", [1, 2, 300])
@pytest.mark.parametrize(
    "changes",
    OFF_THE_DEFAULTS,
)
def test_a_step_over_views_is_the_generic_one(gpu, count, n, changes):  # noqa: F811
    gaussians, view = scene(n, 123, 77)
    views = views_of(view)[:count]
    found, ours = train(gpu.stepper(rows.start(copy(gaussians))), views, 3, **changes)
    expected, theirs = train(GenericStepper(gpu, rows.start(copy(gaussians))), views, 3, **changes)
    np.testing.assert_allclose(found[:3], expected[:3], rtol=1e-5)
    assert ours.step == theirs.step == 3 * count
    for a, b in zip(numbers(ours), numbers(theirs), strict=True):
        # Sums of hundreds of pixels, added up in another order.
        assert np.linalg.norm(a - b) <= 2e-4 * np.linalg.norm(b) + 5e-7
    for name in rows.SUMS[:: 1 if "statistics" in changes else 2]:
        a, b = ours.sums[name], theirs.sums[name]
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3 * b.max())


def test_any_first_capacity_gives_the_same_bytes(gpu):  # noqa: F811
    gaussians, view = scene(5000, 300, 200)
    results = []
    for first in (1 << 16, 1000):
        gpu.engine.first_capacity = first
        gpu.engine.forget()
        stepper = gpu.stepper(rows.start(copy(gaussians)))
        result, state = train(stepper, views_of(view), 40, noise=1.0, seed=3)
        results.append([*numbers(state), *state.sums.values(), np.array(result)])
    gpu.engine.first_capacity = 1 << 16
    assert all((a == b).all() for a, b in zip(*results, strict=True))
