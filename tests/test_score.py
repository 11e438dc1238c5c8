# SPDX-License-Identifier: Apache-2.0
"""Every backend's score of a render beside its photo against the definition in evaluate/metrics.py."""

import mlx.core as mx
import numpy as np
import pytest
from test_losses import masks, pictures

from gsplat_train.errors import UserError
from gsplat_train.evaluate import metrics

PSNR, SSIM = 2e-3, 2e-5  # dB; float32 against float64
SAME = 1e-12  # PSNR from integers is the same number, but for the order of a float64 mean


def compare(backend, image, photo, mask=None):
    found, expected = backend.score(mx.array(image), photo, mask), metrics.score(image, photo, mask)
    np.testing.assert_array_equal(found.picture, expected.picture)
    assert found.picture.dtype == np.uint8
    assert found.psnr == pytest.approx(expected.psnr, rel=SAME, nan_ok=True)
    assert found.ssim == pytest.approx(expected.ssim, abs=SSIM, nan_ok=True)
    return found


# One pixel, less than a window, and more than one group of a kernel and one strip of rows.
@pytest.mark.parametrize("shape", [(1, 1), (3, 30), (37, 45), (70, 17)])
def test_score_is_the_definition(backend, shape):
    image, photo = pictures(*shape)
    compare(backend, image, photo)
    for mask in masks(*shape).values():
        compare(backend, image, photo, mask)


def test_masked_scores_see_what_lies_beside_the_mask(backend):
    """SSIM's windows reach over the mask's edge, as they do over no picture's."""
    image, photo = pictures(30, 40)
    mask = masks(30, 40)["half"].astype(np.uint8) * 255
    other = image.copy()
    other[:, 20:] = 0
    first, second = compare(backend, image, photo, mask), compare(backend, other, photo, mask)
    assert first.psnr == second.psnr and abs(first.ssim - second.ssim) > 10 * SSIM


def test_the_picture_is_rounded_exactly(backend):
    """Both neighbours of every value at which a byte changes; what is no colour is a colour's end."""
    ties = ((np.arange(255) + 0.5) / 255).astype(np.float32)
    values = [ties, np.nextafter(ties, np.float32(0)), np.nextafter(ties, np.float32(1))]
    odd = np.array(
        [np.nan, np.inf, -np.inf, -0.0, -1, 2, 1e-40, 1, np.nextafter(np.float32(1), 0)], np.float32
    )
    flat = np.concatenate([*values, odd])
    image = np.resize(flat, (22, 12, 3))
    assert image.size >= flat.size
    compare(backend, image, np.zeros(image.shape, np.uint8))


def test_score_of_bright_plain_pictures(backend):
    """Variances far below the squares of the means."""
    photo = np.full((48, 48, 3), 255, np.uint8)
    noise = np.random.default_rng(0).normal(size=photo.shape)
    for size in (0.002, 0.01, 0.05):
        compare(backend, (1 - size * np.abs(noise)).astype(np.float32), photo)
    rows = np.linspace(0.9, 1, 48)[:, None, None] * np.ones(photo.shape)
    compare(backend, rows.astype(np.float32), metrics.to_uint8(rows + 0.01 * noise))


def test_a_perfect_picture(backend):
    _, photo = pictures()
    found = compare(backend, (photo / 255).astype(np.float32), photo)
    assert found.psnr == np.inf and found.ssim == pytest.approx(1, abs=1e-6)


def test_nothing_to_score(backend):
    image, photo = pictures()
    for others in ((None,), (photo, np.zeros(photo.shape[:2], bool))):
        found = compare(backend, image, *others)
        assert np.isnan(found.psnr) and np.isnan(found.ssim)


def test_what_does_not_fit_is_said(backend):
    image, photo = pictures()
    with pytest.raises(UserError, match="the photo must be uint8"):
        backend.score(mx.array(image), photo[:-1])
    with pytest.raises(UserError, match="the photo must be uint8"):
        backend.score(mx.array(image), photo / 255)
    with pytest.raises(UserError, match="mask must have the render's size"):
        backend.score(mx.array(image), photo, np.ones((3, 3), bool))
