# SPDX-License-Identifier: Apache-2.0
"""A camera that turned on the spot is told from one that moved before something flat."""

import numpy as np
import pytest

from gsplat_train.prepare.motion import turned_only

WIDTH, HEIGHT = 640, 480
K = np.array([[520.0, 0, 320], [0, 520, 240], [0, 0, 1]])


def turn(degrees, axis=1):
    a, (i, j) = np.radians(degrees), [(1, 2), (0, 2), (0, 1)][axis]
    R = np.eye(3)
    R[i, i] = R[j, j] = np.cos(a)
    R[i, j], R[j, i] = -np.sin(a), np.sin(a)
    return R


def homographies(shift, noise=0.0, plane=2.5, seed=0):
    """Of ten cameras that turn by 6 degrees and step sideways by `shift` before a plane; of some scale."""
    random = np.random.default_rng(seed)
    found = []
    for i in range(10):
        R = turn(6 * (i + 1)) @ turn(random.uniform(-3, 3), 0)
        moved = R + np.outer([shift * (i + 1), 0, 0], [0, 0, 1]) / plane
        H = K @ moved @ np.linalg.inv(K)
        found.append(H * random.uniform(-2, 2) + noise * random.standard_normal((3, 3)) / [[1], [1], [500]])
    return found


@pytest.mark.parametrize(
    "shift, noise, turned", [(0, 0, True), (0, 1e-3, True), (0.1, 0, False), (0.02, 0, False)]
)
def test_turning_and_moving(shift, noise, turned):
    assert turned_only(homographies(shift, noise), WIDTH, HEIGHT) == turned


def test_a_few_pairs_of_the_same_place_do_not_decide():
    moved = homographies(0.1)
    assert not turned_only(moved[:6] + homographies(0)[:4], WIDTH, HEIGHT)
    assert not turned_only([], WIDTH, HEIGHT)


def test_what_is_no_homography_does_not_count():
    odd = [np.zeros((3, 3)), np.full((3, 3), np.nan)]
    assert turned_only(homographies(0) + odd, WIDTH, HEIGHT) and not turned_only(odd, WIDTH, HEIGHT)
