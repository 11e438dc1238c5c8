# SPDX-License-Identifier: Apache-2.0
"""The parameter tree: how it starts from points, and what it says about wrong shapes."""

import mlx.core as mx
import numpy as np
import pytest
from compare import assert_finite

from gsplat_train.errors import UserError
from gsplat_train.model import sh
from gsplat_train.model.gaussians import Gaussians, as_gaussians
from gsplat_train.model.initialize import LONELY_SCALE, gaussians_from_points
from gsplat_train.model.neighbors import LEAF, squared_distances_to_nearest


def brute_force(points, k):
    squares = ((points[:, None] - points[None]) ** 2).sum(axis=2)
    np.fill_diagonal(squares, np.inf)
    return np.sort(squares, axis=1)[:, :k]


@pytest.mark.parametrize(
    "points",
    [
        np.random.default_rng(0).normal(size=(1000, 3)),
        np.random.default_rng(1).standard_cauchy(size=(1000, 3)),  # most in one place, some far away
        np.random.default_rng(2).normal(size=(777, 3)) * [1, 1, 0],  # in a plane
        np.repeat(np.random.default_rng(3).normal(size=(200, 3)), 4, axis=0),  # each point four times
        np.stack(np.meshgrid(*[np.arange(9.0)] * 3), axis=-1).reshape(-1, 3),  # many equal distances
        np.random.default_rng(4).normal(size=(LEAF + 1, 3)),
        np.random.default_rng(5).normal(size=(5, 3)),
    ],
    ids=["cloud", "outliers", "plane", "copies", "grid", "two leaves", "five"],
)
def test_neighbors_are_exact(points):
    np.testing.assert_allclose(squared_distances_to_nearest(points, 3), brute_force(points, 3), rtol=1e-12)


def test_neighbors_where_there_are_too_few():
    assert squared_distances_to_nearest(np.zeros((0, 3)), 3).shape == (0, 3)
    np.testing.assert_array_equal(squared_distances_to_nearest(np.eye(3)[:2], 3), [[2, np.inf, np.inf]] * 2)


def test_coincident_points_take_no_quadratic_time():
    # with 20,000 copies of one point a search that opens every box of distance 0 would take minutes
    assert not squared_distances_to_nearest(np.ones((20_000, 3)), 3).any()


def test_start_from_points():
    rng = np.random.default_rng(0)
    points, colors = rng.normal(size=(300, 3)), rng.integers(0, 256, (300, 3), dtype=np.uint8)
    gaussians = gaussians_from_points(points, colors, sh_degree=2, init_opacity=0.3, init_scale=0.5)
    rms = np.sqrt(brute_force(points, 3).mean(axis=1))
    np.testing.assert_allclose(gaussians.scales, 0.5 * np.repeat(rms[:, None], 3, axis=1), rtol=1e-5)
    np.testing.assert_allclose(gaussians.means, points, rtol=1e-6)
    np.testing.assert_allclose(gaussians.opacities, 0.3, rtol=1e-6)
    np.testing.assert_allclose(sh.sh0_to_rgb(np.asarray(gaussians.sh0))[:, 0], colors / 255, atol=1e-6)
    assert gaussians.shN.shape == (300, 8, 3) and gaussians.sh_degree == 2
    assert all(leaf.dtype == mx.float32 for leaf in gaussians)
    assert as_gaussians(gaussians) is gaussians


@pytest.mark.parametrize("n", [1, 2, 3, 4])
@pytest.mark.parametrize("points", [np.eye(4, 3), np.zeros((4, 3))], ids=["apart", "together"])
def test_few_points_start_finite(points, n):
    gaussians = gaussians_from_points(points[:n], np.zeros((n, 3), np.uint8))
    assert_finite(*gaussians)
    if n == 1 or not points.any():
        np.testing.assert_allclose(gaussians.scales, LONELY_SCALE, rtol=1e-6)


def test_copies_start_finite_beside_others():
    points = np.concatenate([np.random.default_rng(0).normal(size=(50, 3)), np.ones((5, 3))])
    scales = np.asarray(gaussians_from_points(points, np.zeros((55, 3), np.uint8)).scales)
    assert_finite(np.log(scales))
    assert (scales[50:] < np.median(scales[:50])).all()


@pytest.mark.parametrize(
    ("points", "colors", "options", "message"),
    [
        (np.zeros((0, 3)), np.zeros((0, 3), np.uint8), {}, "must be [P, 3], P from 1, got (0, 3) and (0, 3)"),
        (np.zeros((4, 3)), np.zeros((3, 3), np.uint8), {}, "got (4, 3) and (3, 3)"),
        (np.zeros((4, 3)), np.zeros((4, 3)), {}, "colors must be uint8, got float64"),
        (np.array([[0, np.nan, 0], [0, 0, 1]]), np.zeros((2, 3), np.uint8), {}, "got 1 of 2 that are not"),
        (np.eye(3), np.zeros((3, 3), np.uint8), {"sh_degree": 4}, "sh_degree must be 0 to 3, got 4"),
        (np.eye(3), np.zeros((3, 3), np.uint8), {"init_opacity": 1.0}, "init_opacity must be in (0, 1)"),
        (np.eye(3), np.zeros((3, 3), np.uint8), {"init_scale": 0.0}, "init_scale above 0"),
    ],
)
def test_bad_points_say_what_is_wrong(points, colors, options, message):
    with pytest.raises(UserError) as error:
        gaussians_from_points(points, colors, **options)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_bad_shapes_say_what_is_wrong():
    good = gaussians_from_points(np.eye(3), np.zeros((3, 3), np.uint8))
    assert isinstance(as_gaussians(good._asdict()), Gaussians)
    for change, message in (
        ({"quats": good.quats[:2]}, "quats must be [N, 4] with N = 3 (as means), got (2, 4)"),
        ({"means": good.means[:, :2]}, "means must be [N, 3], got (3, 2)"),
        ({"logit_opacities": good.sh0}, "logit_opacities must be [N] with N = 3 (as means), got (3, 1, 3)"),
        ({"shN": good.shN[:, :7]}, "K-1 in [0, 3, 8, 15], got (3, 7, 3)"),
        (
            {"sh0": good.sh0.astype(mx.float16)},
            "sh0 must be an mx.array of float32, got mx.array of mlx.core.float16",
        ),
        ({"means": np.eye(3)}, "means must be an mx.array of float32, got ndarray"),
    ):
        with pytest.raises(UserError) as error:
            as_gaussians(good._replace(**change))
        assert message in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"gaussians need exactly means, .*, got points"):
        as_gaussians({"points": good.means})


def test_no_splat_starts_at_the_clamp_where_its_colour_would_stay():
    colors = np.array([[0, 0, 0], [0, 0, 7], [0, 200, 0], [8, 9, 10]], np.uint8)
    points = np.random.default_rng(0).normal(size=(4, 3))
    first = gaussians_from_points(points, colors)

    rgb = np.asarray(sh.sh0_to_rgb(first.sh0))[:, 0]
    np.testing.assert_allclose(rgb * 255, [[8, 8, 8], [8, 8, 8], [0, 200, 0], [8, 9, 10]], atol=1e-3)
    away = mx.array(np.eye(4, 3, dtype=np.float32))
    pull = mx.grad(lambda sh0: sh.evaluate(sh0, first.shN, away, 0).sum())(first.sh0)
    assert (np.asarray(pull)[[0, 1, 3]] > 0).all()
