# SPDX-License-Identifier: Apache-2.0
"""Splats in another frame: the same picture from a camera that moves with them."""

import mlx.core as mx
import numpy as np
import pytest
import splats as made

from gsplat_train.model import frame, sh
from gsplat_train.model.formats.axes import flipped
from gsplat_train.model.splats import Splats

TURN = frame.euler((20.0, -70.0, 130.0))


def directions(n: int = 200) -> np.ndarray:
    found = np.random.default_rng(1).standard_normal((n, 3))
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def colours(splats: Splats, along: np.ndarray) -> np.ndarray:
    """[N, D, 3] without clamping, by direct evaluation of the basis."""
    coefficients = np.concatenate([splats.arrays["sh0"], splats.arrays["shN"]], axis=1)
    return np.einsum("dk,nkc->ndc", frame.basis(along, splats.sh_degree), coefficients)


def test_the_basis_is_that_of_the_renderer() -> None:
    along = directions()
    theirs = np.array(sh.basis(mx.array(along.astype(np.float32)), 3))
    assert frame.basis(along, 3) == pytest.approx(theirs, abs=1e-6)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_colours_and_covariances_turn_with_the_splats(degree: int) -> None:
    before = made.random_splats(30, degree)._replace(up=(0.0, -1.0, 0.0))
    offset = np.array([1.0, -2.0, 3.0])
    after = frame.moved(before, TURN, 2.5, offset)
    assert after.arrays["means"] == pytest.approx(2.5 * before.arrays["means"] @ TURN.T + offset, abs=1e-5)
    assert made.covariances(after) == pytest.approx(
        2.5**2 * TURN @ made.covariances(before) @ TURN.T, rel=1e-4, abs=1e-8
    )
    along = directions()
    assert colours(after, along @ TURN.T) == pytest.approx(colours(before, along), abs=1e-5)
    assert after.up == pytest.approx(TURN @ [0, -1, 0])


@pytest.mark.parametrize("signs", [(1, -1, -1), (-1, -1, 1), (-1, 1, 1), (1, 1, -1)])
def test_mirrored_splats_show_their_colours_in_the_mirror(signs: tuple[int, int, int]) -> None:
    before = made.random_splats(30)
    after, mirror = flipped(before, signs), np.diag(signs)
    along = directions()
    assert colours(after, along @ mirror) == pytest.approx(colours(before, along), abs=1e-5)
    assert made.covariances(after) == pytest.approx(
        mirror @ made.covariances(before) @ mirror, rel=1e-5, abs=1e-9
    )
    if np.prod(signs) == 1:
        turned = frame.moved(before, mirror)
        assert turned.arrays["shN"] == pytest.approx(after.arrays["shN"], abs=1e-5)


def test_quaternions_of_matrices() -> None:
    for quat in np.random.default_rng(0).standard_normal((50, 4)):
        found = frame.quaternion(frame.matrix(quat))
        assert abs(found @ quat) == pytest.approx(np.linalg.norm(quat))


@pytest.mark.parametrize("end", [(0, 0, 1), (0, 1, 0), (0, -2, 0), (1, 2, 3)])
def test_the_smallest_turn_between_two_directions(end: tuple[float, ...]) -> None:
    turn = frame.between(np.array([0.0, -1.0, 0.0]), np.array(end))
    assert turn @ [0, -1, 0] == pytest.approx(np.array(end) / np.linalg.norm(end), abs=1e-9)
    assert turn @ turn.T == pytest.approx(np.eye(3), abs=1e-9) and np.linalg.det(turn) == pytest.approx(1)
