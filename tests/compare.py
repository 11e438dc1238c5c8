# SPDX-License-Identifier: Apache-2.0
"""How far results may be apart, each figure with its reason, and how it is measured."""

import numpy as np

# "relative" is ||a - b|| / ||b|| over a whole array, in 2-norms.
TOLERANCES = {
    # float32 against float64, relative: positions of 100 px round at 1e-5 px, conics by their condition
    "stage": 2e-5,
    # a picture against the oracle: the same after blending, per value
    "image": 2e-4,
    # where rounding decides whether alpha is above 1/255 or T above 1e-4: the jump of one splat
    "image_edge": 5e-3,
    # gradients against central differences of the oracle, relative: float32 sums agree to about 1e-5
    "gradient": 1e-4,
    # the same where opaque splats hide each other: 1 / (1 - alpha), up to 1000, multiplies the rounding
    "gradient_opaque": 1e-3,
    # pictures of gsplat on CUDA: what the golden vectors' README asks for
    "golden_image": 2e-3,
    # a float32 mean of 1e3 to 1e6 numbers against float64, relative
    "loss": 1e-5,
}


def relative(actual, desired):
    """||actual - desired|| / ||desired||; of the difference alone where `desired` is zero; inf for NaN."""
    actual, desired = np.asarray(actual, np.float64), np.asarray(desired, np.float64)
    assert actual.shape == desired.shape, (actual.shape, desired.shape)
    error = np.linalg.norm(actual - desired) / (np.linalg.norm(desired) or 1.0)
    return error if np.isfinite(error) else np.inf


def assert_image(actual, desired, tolerance="image"):
    """Each value within the tolerance, one pixel of 10,000 (one at least) within the jump at an edge."""
    actual, desired = np.asarray(actual, np.float64), np.asarray(desired, np.float64)
    assert actual.shape == desired.shape and np.isfinite(actual).all()
    error = np.abs(actual - desired).max(axis=2).ravel()
    allowed = max(1, error.size // 10_000)
    assert (error > TOLERANCES[tolerance]).sum() <= allowed, np.sort(error)[-allowed - 1 :]
    assert error.max(initial=0) <= TOLERANCES["image_edge"], error.max()


def assert_finite(*arrays):
    """No NaN, no infinity."""
    for array in arrays:
        assert np.isfinite(np.asarray(array)).all()
