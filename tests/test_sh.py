# SPDX-License-Identifier: Apache-2.0
"""Spherical harmonics: an orthonormal basis with the signs of 3DGS files, and colours made of it."""

import mlx.core as mx
import numpy as np
import pytest
import reference
from compare import TOLERANCES

from gsplat_train.model import sh


def test_basis_is_orthonormal():
    # Gauss-Legendre in z and equal steps in longitude integrate products of degree 6 exactly
    z, weights = np.polynomial.legendre.leggauss(8)
    longitude = np.arange(16) * 2 * np.pi / 16
    z, longitude = (grid.ravel() for grid in np.meshgrid(z, longitude, indexing="ij"))
    weights = np.repeat(weights, 16) * 2 * np.pi / 16
    radius = np.sqrt(1 - z * z)
    directions = np.stack([radius * np.cos(longitude), radius * np.sin(longitude), z], axis=1)
    values = np.asarray(sh.basis(mx.array(directions.astype(np.float32)), 3), np.float64)
    np.testing.assert_allclose((values * weights[:, None]).T @ values, np.eye(16), atol=1e-6)


def test_basis_has_the_order_and_signs_of_3dgs():
    # the first degree is -y, z, -x; each further value checked at a direction where it stands out
    def at(*direction):
        return np.asarray(sh.basis(mx.array([direction], dtype=mx.float32), 3))[0]

    c1 = np.sqrt(3 / (4 * np.pi))
    np.testing.assert_allclose(at(1, 0, 0)[1:4], [0, 0, -c1], atol=1e-6)
    np.testing.assert_allclose(at(0, 1, 0)[1:4], [-c1, 0, 0], atol=1e-6)
    np.testing.assert_allclose(at(0, 0, 1)[1:4], [0, c1, 0], atol=1e-6)
    assert at(0, 0, 1)[6] > 0 and at(0, 0, 1)[12] > 0  # zonal ones are positive at the pole
    assert at(1, 0, 0)[8] > 0 and at(1, 0, 0)[15] < 0  # x^2 - y^2; -x (x^2 - 3 y^2)


@pytest.mark.parametrize("degree", range(4))
def test_colours_against_the_oracle(degree):
    rng = np.random.default_rng(degree)
    directions = rng.normal(size=(50, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    coefficients = rng.normal(size=(50, 16, 3))  # bands above the degree are there, and not to be read
    colors = sh.evaluate(*(mx.array(part.astype(np.float32)) for part in np.split(coefficients, [1], axis=1)),
                         mx.array(directions.astype(np.float32)), degree)  # fmt: skip
    for i in range(50):
        expected = reference.sh_basis(directions[i], degree) @ coefficients[i, : (degree + 1) ** 2] + 0.5
        np.testing.assert_allclose(
            np.asarray(colors)[i], np.maximum(expected, 0), atol=10 * TOLERANCES["stage"]
        )


def test_unused_bands_get_no_gradient():
    sh0, shN, directions = mx.ones((4, 1, 3)), mx.zeros((4, 15, 3)), mx.array([[0.0, 0.6, 0.8]] * 4)
    v_shN = mx.grad(lambda rest: sh.evaluate(sh0, rest, directions, 1).sum())(shN)
    assert np.asarray(v_shN)[:, :3].any() and not np.asarray(v_shN)[:, 3:].any()


def test_rgb_and_sh0_are_inverse():
    rgb = np.linspace(0, 1, 7)
    np.testing.assert_allclose(sh.sh0_to_rgb(sh.rgb_to_sh0(rgb)), rgb)
    assert sh.rgb_to_sh0(0.5) == 0 and sh.rgb_to_sh0(1.0) == pytest.approx(0.5 * np.sqrt(4 * np.pi))
