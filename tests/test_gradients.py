# SPDX-License-Identifier: Apache-2.0
"""Every VJP of every backend against central differences of the float64 oracle.

The scenes keep clear of every threshold (checked below): the renderer is smooth there, and differences mean
something.
"""

from functools import lru_cache

import mlx.core as mx
import numpy as np
import pytest
import reference
from compare import TOLERANCES, relative
from scenes import camera, scene, to_mlx

from gsplat_train.backends import Projected
from gsplat_train.model.gaussians import Gaussians
from gsplat_train.renderer import render

VIEW = camera(40, 28)
SCENES = {
    "plain": (lambda: scene(VIEW, 9, seed=12, degree=3, size=3), False),
    "antialiased": (lambda: scene(VIEW, 12, seed=1, degree=1, size=0.7, opacity=1), True),
    "opaque": (lambda: scene(VIEW, 12, seed=10, degree=0, size=16, opacity=6, spread=0.5), False),
    "border": (lambda: scene(VIEW, 10, seed=3, degree=1, size=10, spread=2.4), False),
}
BACKGROUND = np.array([0.3, 0.9, 0.1])
CLEAR = 5e-5  # relative distance of alphas and T from thresholds; a step of 1e-7 moves them by 1e-5 at most


def tolerance(case):
    return TOLERANCES["gradient_opaque" if case == "opaque" else "gradient"]


def weights(seed=0):
    """The loss is the sum of image and alpha with these, of either sign, so that nothing cancels."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(VIEW.height, VIEW.width, 3)), rng.normal(size=(VIEW.height, VIEW.width, 1))


def weighted(image, alpha):
    weight_image, weight_alpha = weights()
    if isinstance(image, mx.array):
        weight_image, weight_alpha = mx.array(weight_image, mx.float32), mx.array(weight_alpha, mx.float32)
    return (image * weight_image).sum() + (alpha * weight_alpha).sum()


@lru_cache
def case_of(name):
    """(parameters, antialiased, splats of the oracle)"""
    make, antialiased = SCENES[name]
    gaussians = make()
    degree = round((gaussians["shN"].shape[1] + 1) ** 0.5) - 1
    return gaussians, antialiased, reference.project(gaussians, VIEW, degree, antialiased)


@lru_cache
def expected_gradient(case, name):
    """Of the weighted picture with respect to one array: a parameter, or the background."""
    gaussians, antialiased, _ = case_of(case)

    def loss(values):
        changed = {} if name == "background" else {name: values}
        background = values if name == "background" else BACKGROUND
        return weighted(*reference.render(gaussians | changed, VIEW, None, background, antialiased))

    return reference.central_differences(loss, BACKGROUND if name == "background" else gaussians[name])


@lru_cache
def expected_splat_gradient(case, name):
    """Of the weighted picture with respect to one array of the projected splats."""
    splats = case_of(case)[2]
    return reference.central_differences(
        lambda values: weighted(
            *reference.blend(splats | {name: values}, VIEW.width, VIEW.height, BACKGROUND)
        ),
        splats[name],
    )


@lru_cache
def expected_absgrad(case):
    """[N, 2]: the derivative of each pixel's own part of the loss, then the sum of absolute values."""
    splats = case_of(case)[2]
    weight_image, weight_alpha = weights()
    result, step = np.zeros(splats["means2d"].shape), 1e-7

    def parts(i, axis, shift):
        means2d = splats["means2d"].copy()
        means2d[i, axis] += shift
        image, alpha = reference.blend(splats | {"means2d": means2d}, VIEW.width, VIEW.height, BACKGROUND)
        return (image * weight_image).sum(axis=2) + (alpha * weight_alpha)[..., 0]

    for i, axis in np.ndindex(result.shape):
        result[i, axis] = np.abs(parts(i, axis, step) - parts(i, axis, -step)).sum() / (2 * step)
    return result


@pytest.mark.parametrize("case", SCENES)
def test_the_scene_is_clear_of_thresholds_and_shows_its_case(case):
    gaussians, _, splats = case_of(case)
    visible = np.flatnonzero(splats["visible"])
    assert len(visible) >= 6
    margins, T = [], np.ones((VIEW.height, VIEW.width))
    going = np.ones(T.shape, bool)
    for i in visible[np.argsort(splats["depths"][visible])]:
        a, b, c = splats["conics"][i]
        dx = np.arange(VIEW.width)[None] + 0.5 - splats["means2d"][i, 0]
        dy = np.arange(VIEW.height)[:, None] + 0.5 - splats["means2d"][i, 1]
        free = splats["opacities"][i] * np.exp(-0.5 * (a * dx**2 + c * dy**2) - b * dx * dy)
        margins += [np.abs(free * 255 - 1).min(), np.abs(free / 0.999 - 1).min()]
        alpha = np.where(free < 1 / 255, 0, np.minimum(free, 0.999))
        margins.append(np.abs(T * (1 - alpha) / 1e-4 - 1)[going].min(initial=1))
        going &= T * (1 - alpha) > 1e-4
        T = np.where(going, T * (1 - alpha), T)
    assert min(margins) > CLEAR
    assert np.diff(np.sort(splats["depths"][visible])).min() > 1e-3
    points = gaussians["means"][visible] @ VIEW.viewmat[:3, :3].T + VIEW.viewmat[:3, 3]
    size = np.array([VIEW.width, VIEW.height])
    beyond = (np.abs(points[:, :2] / points[:, 2:] * np.diag(VIEW.K)[:2] + VIEW.K[:2, 2] - size / 2)) / size
    assert np.abs(beyond - 0.65).min() > CLEAR  # the Jacobian's clamp
    if case == "opaque":
        assert (~going).sum() > 100
    if case == "border":
        assert (beyond > 0.65).any(axis=1).sum() >= 2


@pytest.mark.parametrize("case", SCENES)
def test_gradients_of_the_renderer(backend, case):
    gaussians, antialiased, _ = case_of(case)
    n = len(gaussians["means"])

    def loss(gaussians, background, means2d_probe, absgrad_probe):
        output = render(
            gaussians,
            VIEW,
            backend,
            background=background,
            antialiased=antialiased,
            means2d_probe=means2d_probe,
            absgrad_probe=absgrad_probe,
        )
        return weighted(output.image, output.alpha)

    found, background, means2d, absgrad = mx.grad(loss, argnums=(0, 1, 2, 3))(
        to_mlx(gaussians), mx.array(BACKGROUND, mx.float32), mx.zeros((n, 2)), mx.zeros((n, 2))
    )
    errors = {
        name: relative(getattr(found, name), expected_gradient(case, name)) for name in Gaussians._fields
    }
    errors["background"] = relative(background, expected_gradient(case, "background"))
    errors["means2d_probe"] = relative(means2d, expected_splat_gradient(case, "means2d"))
    errors["absgrad_probe"] = relative(absgrad, expected_absgrad(case))
    assert max(errors.values()) < tolerance(case), errors
    assert np.linalg.norm(expected_absgrad(case)) > np.linalg.norm(expected_splat_gradient(case, "means2d"))


@pytest.mark.parametrize("case", SCENES)
def test_gradients_of_rasterize(backend, case):
    splats = case_of(case)[2]
    projected = Projected(
        *(
            mx.array(splats[name]).astype(mx.int32 if name == "radii" else mx.float32)
            for name in Projected._fields
        )
    )
    tiles = backend.isect_tiles(projected, VIEW.width, VIEW.height)
    names = ("means2d", "conics", "colors", "opacities")

    def loss(leaves, background):
        changed = projected._replace(**dict(zip(names, leaves, strict=True)))
        return weighted(*backend.rasterize(changed, tiles, background, VIEW.width, VIEW.height))

    found, background = mx.grad(loss, argnums=(0, 1))(
        [getattr(projected, name) for name in names], mx.array(BACKGROUND, mx.float32)
    )
    errors = {
        name: relative(leaf, expected_splat_gradient(case, name))
        for name, leaf in zip(names, found, strict=True)
    }
    errors["background"] = relative(background, expected_gradient(case, "background"))
    assert max(errors.values()) < tolerance(case), errors


@pytest.mark.parametrize(("opacity", "capped"), [(0.99999, True), (0.99, False)])
def test_no_gradient_through_the_cap(backend, opacity, capped):
    """Two splats over the middle of a pixel: alpha of the first is capped, yet T behind it is 0.001."""
    projected = Projected(
        means2d=mx.array([[8.5, 8.5], [9.0, 8.0]]),
        conics=mx.array([[0.01, 0.0, 0.01]] * 2),
        depths=mx.array([1.0, 2.0]),
        radii=mx.array([[34, 34]] * 2),
        colors=mx.array([[0.25, 0.5, 0.5], [1.0, 2.0, 3.0]]),
        opacities=mx.array([opacity, 0.5]),
    )
    tiles = backend.isect_tiles(projected, 16, 16)

    def loss(means2d, conics, colors, opacities):
        changed = projected._replace(means2d=means2d, conics=conics, colors=colors, opacities=opacities)
        return backend.rasterize(changed, tiles, mx.zeros(3), 16, 16)[0][8, 8].sum()

    leaves = (projected.means2d, projected.conics, projected.colors, projected.opacities)
    means2d, conics, colors, opacities = (
        np.asarray(leaf) for leaf in mx.grad(loss, argnums=(0, 1, 2, 3))(*leaves)
    )
    first, second = min(opacity, 0.999), 0.5 * np.exp(-0.5 * 0.01 * 0.5)
    behind = TOLERANCES["gradient_opaque"]
    np.testing.assert_allclose(colors[0], first, rtol=TOLERANCES["gradient"])
    np.testing.assert_allclose(colors[1], (1 - first) * second, rtol=behind)
    np.testing.assert_allclose(opacities[1], (1 - first) * second / 0.5 * 6, rtol=behind)
    np.testing.assert_allclose(opacities[0], 0 if capped else 1.25 - second * 6, rtol=TOLERANCES["gradient"])
    assert (
        not conics[0].any() and not means2d[0].any() and means2d[1].all()
    )  # the first lies on the pixel's middle


@pytest.mark.parametrize("case", SCENES)
def test_gradients_of_project(backend, case):
    gaussians, antialiased, splats = case_of(case)
    degree = round((gaussians["shN"].shape[1] + 1) ** 0.5) - 1
    names = ("means2d", "conics", "depths", "colors", "opacities")
    rng = np.random.default_rng(0)
    cotangents = {name: rng.normal(size=splats[name].shape) for name in names}
    for name in names:  # of the culled nothing counts
        cotangents[name][~splats["visible"]] = 0

    def expected(values, name):
        out = reference.project(gaussians | {name: values}, VIEW, degree, antialiased)
        return sum((out[key] * cotangents[key]).sum() for key in names)

    def loss(gaussians):
        out = backend.project(
            gaussians,
            VIEW.viewmat,
            VIEW.K,
            VIEW.width,
            VIEW.height,
            sh_degree=degree,
            antialiased=antialiased,
        )
        return sum((getattr(out, key) * mx.array(cotangents[key], mx.float32)).sum() for key in names)

    found = mx.grad(loss)(to_mlx(gaussians))
    for name in Gaussians._fields:
        differences = reference.central_differences(lambda x, name=name: expected(x, name), gaussians[name])
        assert relative(getattr(found, name), differences) < TOLERANCES["gradient"], name


def test_gradients_pass_through_more_than_a_sum(backend):
    """A loss that uses the picture twice and one camera after another, as a user may write it."""
    gaussians, _, _ = case_of("plain")
    other = camera(24, 36, focal=30)

    def loss(means):
        total = 0
        for view in (VIEW, other):
            if isinstance(means, mx.array):
                image = render(to_mlx(gaussians)._replace(means=means), view, backend).image
            else:
                image = reference.render(gaussians | {"means": means}, view)[0]
            total = total + (image * image).sum() * image.mean()
        return total

    expected = reference.central_differences(loss, gaussians["means"])
    assert relative(mx.grad(loss)(to_mlx(gaussians).means), expected) < TOLERANCES["gradient"]


def test_nothing_behind_the_splat_that_ends_a_pixel_has_a_gradient(backend):
    """The second splat touches one pixel and ends it there: the third, behind, must not see that pixel."""
    fixed = [mx.array([[1.5, 1.5]] * 3), mx.array([[20.0, 0, 20], [20, 0, 20], [1e-3, 0, 1e-3]])]
    depths, radii = mx.array([1.0, 2, 3]), mx.array([[3, 3], [3, 3], [100, 100]], dtype=mx.int32)

    def pixel(colors, opacities):
        splats = Projected(fixed[0], fixed[1], depths, radii, colors, opacities)
        tiles = backend.isect_tiles(splats, 16, 16)
        image, _ = backend.rasterize(splats, tiles, mx.zeros(3), 16, 16)
        return (image[1, 1] * mx.array([1.0, 2, 3])).sum()

    v_colors, v_opacities = mx.grad(pixel, argnums=(0, 1))(mx.full((3, 3), 0.5), mx.array([0.97, 0.999, 0.5]))
    np.testing.assert_allclose(v_colors, [[0.97, 1.94, 2.91], [0, 0, 0], [0, 0, 0]], atol=1e-5)
    np.testing.assert_allclose(v_opacities, [3, 0, 0], atol=1e-5)
