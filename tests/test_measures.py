# SPDX-License-Identifier: Apache-2.0
"""What is measured beside PSNR and SSIM: MS-SSIM, PSNR with fitted exposure, the photos that are shown worst."""

from dataclasses import replace

import numpy as np
import pytest
import tiny

from gsplat_train.datasets.demo import make_demo, orbit_camera, photograph
from gsplat_train.evaluate.corrected import corrected, half_fitted
from gsplat_train.evaluate.measure import means_of
from gsplat_train.evaluate.metrics import psnr, ssim, to_uint8
from gsplat_train.evaluate.perceptual import ms_ssim
from gsplat_train.scene import Photo
from gsplat_train.training.trainer import Trainer

PHOTO = photograph(orbit_camera(0.1, 240, 184))


def shifted(pixels: int) -> np.ndarray:
    return np.roll(PHOTO, pixels, axis=1)


def noisy(sigma: float) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, sigma, PHOTO.shape)
    return np.clip(np.round(PHOTO + noise), 0, 255).astype(np.uint8)


def test_ms_ssim_is_one_for_the_photo_and_falls_with_errors() -> None:
    assert ms_ssim(PHOTO, PHOTO) == pytest.approx(1, abs=1e-5)
    for worse in ([noisy(s) for s in (4, 12, 36)], [shifted(n) for n in (1, 3, 9)]):
        values = [ms_ssim(picture, PHOTO) for picture in worse]
        assert 1 > values[0] > values[1] > values[2] > 0.1


def test_ms_ssim_minds_coarse_errors_more_than_ssim_does() -> None:
    """Noise is worse than a shift of a pixel by SSIM, and not so by MS-SSIM."""
    fine = noisy(14)
    assert ssim(fine, PHOTO) < ssim(shifted(3), PHOTO) and ms_ssim(fine, PHOTO) > ms_ssim(shifted(3), PHOTO)


def test_ms_ssim_with_a_mask_sees_only_what_counts() -> None:
    mask = np.zeros(PHOTO.shape[:2], np.uint8)
    mask[:, :200] = 255
    spoilt = PHOTO.copy()
    spoilt[:, 200:] = 0
    assert ms_ssim(spoilt, PHOTO, mask) == pytest.approx(1, abs=1e-5) and ms_ssim(spoilt, PHOTO) < 0.9
    assert np.isnan(ms_ssim(PHOTO, PHOTO, np.zeros_like(mask)))


def test_small_pictures_have_fewer_scales_and_tiny_ones_none() -> None:
    crop = PHOTO[40:100, 60:120]
    assert (
        ms_ssim(crop, crop) == pytest.approx(1, abs=1e-5) and ms_ssim(noisy(20)[40:100, 60:120], crop) < 0.99
    )
    assert np.isnan(ms_ssim(crop[:8, :8], crop[:8, :8]))


def test_exposure_is_fitted_and_scored_apart() -> None:
    """A darker, greener photo of the same: raw is poor, fitted is only rounding; what is wrong on the right half
    alone is seen by `half`.
    """
    darker = to_uint8(PHOTO / 255 * np.array([0.7, 0.8, 0.6]) + 0.03)
    assert psnr(PHOTO, darker) < 20 and half_fitted(PHOTO, darker) > 45 and corrected(PHOTO, darker) > 45
    spoilt = PHOTO.copy()
    spoilt[:, 120:] = 255 - spoilt[:, 120:]
    assert half_fitted(spoilt, PHOTO) < psnr(spoilt, PHOTO) < corrected(spoilt, PHOTO)
    left = np.zeros(PHOTO.shape[:2], np.uint8)
    left[:, :100] = 1
    assert np.isnan(half_fitted(PHOTO, darker, left)) and corrected(PHOTO, darker, left) > 45


def test_a_perfect_picture_does_not_make_the_mean_infinite() -> None:
    """As of nothing, before black: a view that looks past the scene."""
    scores = {
        "a": {"psnr": 20.0, "ssim": 0.5},
        "b": {"psnr": np.inf, "ssim": 1.0},
        "c": {"psnr": np.nan, "ssim": 0.6},
    }
    means = means_of(scores, ("psnr", "ssim"))
    assert means["psnr"] == 60 and means["ssim"] == pytest.approx(0.7) and means["views"] == scores
    assert np.isnan(means_of({}, ("psnr",))["psnr"])


def test_the_photos_that_are_shown_worst_are_named() -> None:
    scene = make_demo(n_views=9, width=48, height=36, n_points=300)
    blurred = scene.views[5]
    spoilt = replace(blurred, photo=Photo(blurred.pixels.image[::-1].copy()))
    scene = replace(scene, views=tuple(spoilt if v is blurred else v for v in scene.views))
    metrics = Trainer(tiny.settings(steps=60, eval_train_views=2), scene).train()
    worst = metrics["worst_photos"]
    assert next(iter(worst["psnr"])) == blurred.name and len(worst["psnr"]) == 5 and worst["measured"] == 7
    assert worst["psnr"][blurred.name] < worst["median_psnr"] - 1 and len(metrics["train"]["views"]) == 2
    assert metrics["test"].keys() == {"psnr", "ssim", "ms_ssim", "psnr_half", "psnr_corrected", "views"}
