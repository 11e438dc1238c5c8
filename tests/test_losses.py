# SPDX-License-Identifier: Apache-2.0
"""The losses and metrics against the definition of SSIM, window by window, and central differences."""

import mlx.core as mx
import numpy as np
import pytest
import reference
from compare import TOLERANCES, relative
from conftest import load_backend

from gsplat_train import losses
from gsplat_train.errors import UserError
from gsplat_train.evaluate import metrics


def ssim_by_definition(x, y):
    """[H, W, 3] by Wang et al. 2004, each window on its own, with zeros outside of the picture."""
    taps = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    window = np.outer(taps, taps)[..., None] / taps.sum() ** 2
    padded_x, padded_y = (np.pad(image, [(5, 5), (5, 5), (0, 0)]) for image in (x, y))
    result = np.empty(x.shape)
    for i, j in np.ndindex(x.shape[:2]):
        a, b = padded_x[i : i + 11, j : j + 11], padded_y[i : i + 11, j : j + 11]
        mean_a, mean_b = (window * a).sum((0, 1)), (window * b).sum((0, 1))
        var_a, var_b = (window * (a - mean_a) ** 2).sum((0, 1)), (window * (b - mean_b) ** 2).sum((0, 1))
        covariance = (window * (a - mean_a) * (b - mean_b)).sum((0, 1))
        result[i, j] = (2 * mean_a * mean_b + 1e-4) * (2 * covariance + 9e-4)
        result[i, j] /= (mean_a**2 + mean_b**2 + 1e-4) * (var_a + var_b + 9e-4)
    return result


def pictures(height=19, width=14, seed=0):
    """(render, photo): float32 values a little outside [0, 1] too, and uint8."""
    rng = np.random.default_rng(seed)
    photo = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return (photo / 255 + 0.2 * rng.normal(size=photo.shape)).astype(np.float32), photo


def loss_by_definition(image, photo, ssim_lambda, mask=None):
    counts = np.ones(photo.shape) if mask is None else np.repeat(mask[..., None], 3, axis=2).astype(float)
    image, target = image * counts, photo / 255 * counts
    l1 = (np.abs(image - target) * counts).sum() / counts.sum()
    ssim = (ssim_by_definition(image, target) * counts).sum() / counts.sum()
    return (1 - ssim_lambda) * l1 + ssim_lambda * (1 - ssim), l1, ssim


@pytest.mark.parametrize("shape", [(19, 14), (1, 1), (3, 30)])
def test_ssim_is_the_definition(shape):
    image, photo = pictures(*shape)
    expected = ssim_by_definition(image.astype(np.float64), photo / 255)
    np.testing.assert_allclose(losses.ssim_map(mx.array(image), mx.array(photo) / 255), expected, atol=1e-4)
    rounded = np.floor(255 * np.clip(image.astype(np.float64), 0, 1) + 0.5) / 255
    assert metrics.ssim(image, photo) == pytest.approx(
        ssim_by_definition(rounded, photo / 255).mean(), abs=1e-12
    )


def test_metrics_round_to_8_bits_first():
    photo = np.full((4, 5, 3), 100, np.uint8)
    image = np.full((4, 5, 3), 103.4 / 255, np.float32)
    assert metrics.psnr(image, photo) == pytest.approx(20 * np.log10(255 / 3))
    assert metrics.psnr(mx.array(image), photo) == metrics.psnr(metrics.to_uint8(image), photo)
    assert metrics.psnr(np.full((4, 5, 3), 7.0), np.full((4, 5, 3), 255, np.uint8)) == np.inf  # clipped
    assert metrics.ssim(photo, photo) == pytest.approx(1)
    assert np.isnan(metrics.psnr(np.full((4, 5, 3), np.nan), photo))
    np.testing.assert_array_equal(
        metrics.to_uint8(np.array([-1, 0.5 / 255, 0.49 / 255, 2, np.nan])), [0, 1, 0, 255, 0]
    )


def test_masked_metrics_count_only_the_mask():
    image, photo = pictures()
    mask = np.zeros(photo.shape[:2], bool)
    mask[:, :7] = True
    assert metrics.psnr(image, photo, mask) == pytest.approx(metrics.psnr(image[:, :7], photo[:, :7]))
    whole = ssim_by_definition(np.floor(255 * np.clip(image.astype(float), 0, 1) + 0.5) / 255, photo / 255)
    assert metrics.ssim(image, photo, mask) == pytest.approx(whole[:, :7].mean())


@pytest.mark.parametrize("ssim_lambda", [0.2, 1.0])
@pytest.mark.parametrize("masked", [False, True])
def test_training_loss_and_its_gradient(backend, masked, ssim_lambda):
    image, photo = pictures()
    mask = np.random.default_rng(1).uniform(size=photo.shape[:2]) < 0.6 if masked else None
    target, mx_mask = mx.array(photo), None if mask is None else mx.array(mask)

    found = backend.photometric_loss(mx.array(image), target, ssim_lambda, mx_mask)
    expected = loss_by_definition(image.astype(np.float64), photo, ssim_lambda, mask)
    np.testing.assert_allclose([float(x) for x in found], expected, rtol=10 * TOLERANCES["loss"])

    def loss(image):
        return backend.photometric_loss(image, target, ssim_lambda, mx_mask)[0]

    gradient = np.asarray(mx.grad(loss)(mx.array(image)), np.float64)
    for seed in range(5):  # along a few directions
        direction = np.random.default_rng(seed).normal(size=image.shape)

        def along(t, direction=direction):
            return loss_by_definition(image + t[0] * direction, photo, ssim_lambda, mask)[0]

        slope = reference.central_differences(along, np.zeros(1), 1e-6)[0]
        assert (gradient * direction).sum() == pytest.approx(slope, rel=1e-3, abs=1e-5)


def test_ssim_of_a_bright_plain_photo():
    """Variances far below the squares of the means: the window's sum must be one to the last bit."""
    photo = np.full((48, 48, 3), 255, np.uint8)
    image = (1 + 0.05 * np.random.default_rng(0).normal(size=photo.shape)).astype(np.float32)
    found = load_backend("cpp").photometric_loss(mx.array(image), mx.array(photo), 1.0)
    expected = ssim_by_definition(image.astype(np.float64), photo / 255).mean()
    assert float(found[2]) == pytest.approx(expected, abs=1.5e-5)


def test_float_and_uint8_photos_are_the_same(backend):
    image, photo = pictures()
    found = [
        [float(x) for x in backend.photometric_loss(mx.array(image), target, 0.2)]
        for target in (mx.array(photo), mx.array(photo).astype(mx.float32) / 255)
    ]
    np.testing.assert_allclose(*found, rtol=TOLERANCES["loss"])


def masks(height, width):
    """Name -> [H, W] bool."""
    one, half = np.zeros((2, height, width), bool)
    one[height // 2, width // 3], half[:, : (width + 1) // 2] = True, True
    scattered = np.random.default_rng(2).uniform(size=(height, width)) < 0.5
    scattered[0, 0] = True
    return {"all": ~np.zeros_like(one), "one": one, "all but one": ~one, "half": half, "scattered": scattered}


# Odd sizes: a picture of one pixel, one of less than a window, and one with edges inside of a kernel's group.
@pytest.mark.parametrize("shape", [(1, 1), (3, 30), (37, 45)])
def test_masked_loss_is_the_references(backend, shape):
    image, photo = pictures(*shape)
    python = load_backend("python")
    for name, mask in masks(*shape).items():
        if not mask.any():
            continue
        odd = image.copy()
        odd[~mask] = np.nan  # what does not count is not looked at
        gradients, values = [], []
        for one, x in ((python, image), (backend, odd)):

            def loss(x, one=one, mask=mask):
                return one.photometric_loss(x, mx.array(photo), 0.2, mx.array(mask))[0]

            gradients.append(np.asarray(mx.grad(loss)(mx.array(x))))
            values.append(
                [float(v) for v in one.photometric_loss(mx.array(x), mx.array(photo), 0.2, mx.array(mask))]
            )
        np.testing.assert_allclose(values[1], values[0], rtol=10 * TOLERANCES["loss"], err_msg=name)
        assert relative(gradients[1], gradients[0]) < TOLERANCES["gradient"], name
        assert not gradients[1][~mask].any(), name


def test_a_mask_of_all_pixels_is_no_mask(backend):
    image, photo = pictures(37, 45)
    mask = mx.full(photo.shape[:2], 255, mx.uint8)

    def found(*mask):
        return mx.value_and_grad(lambda x: backend.photometric_loss(x, mx.array(photo), 0.2, *mask)[0])(
            mx.array(image)
        )

    (loss, gradient), (masked_loss, masked_gradient) = found(), found(mask)
    assert float(loss) == pytest.approx(float(masked_loss), rel=TOLERANCES["loss"])
    assert relative(masked_gradient, gradient) < TOLERANCES["loss"]


def test_an_empty_mask_is_no_nan(backend):
    image, photo = pictures()
    mask = mx.zeros(photo.shape[:2], dtype=mx.bool_)
    loss, gradient = mx.value_and_grad(lambda x: backend.photometric_loss(x, mx.array(photo), 0.2, mask)[0])(
        mx.array(image)
    )
    assert float(loss) == pytest.approx(0.2) and not np.asarray(gradient).any()


def test_a_mask_of_another_size_is_said(backend):
    image, photo = pictures()
    with pytest.raises(UserError, match=r"mask must have the render's size \(19, 14\), got \(18, 14\)"):
        backend.photometric_loss(mx.array(image), mx.array(photo), 0.2, mx.ones((18, 14)))


def test_the_blur_is_its_own_transpose():
    rng = np.random.default_rng(0)
    x, y = (mx.array(rng.normal(size=(9, 21, 3)).astype(np.float32)) for _ in range(2))
    assert float((losses._blur(x) * y).sum()) == pytest.approx(float((x * losses._blur(y)).sum()), rel=1e-4)
    v = mx.grad(lambda z: (losses._blur(z) * y).sum())(x)
    assert relative(v, losses._blur(y)) < TOLERANCES["loss"]


def test_a_photo_of_another_size_is_said(backend):
    image, photo = pictures()
    with pytest.raises(UserError, match=r"render's shape \(19, 14, 3\), got \(18, 14, 3\)"):
        backend.photometric_loss(mx.array(image), mx.array(photo[:-1]), 0.2)


def test_a_photo_of_another_size_is_said_by_the_metrics():
    image, photo = pictures()
    with pytest.raises(UserError, match="the photo must be uint8"):
        metrics.psnr(image, photo / 255)
