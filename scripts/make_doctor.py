# SPDX-License-Identifier: Apache-2.0
"""Write the golden scenes of gs-doctor, gsplat_train/doctor/golden_<case>.npz: python scripts/make_doctor.py

Each holds a few splats, a camera and a photo, and what the oracle (tests/reference.py, float64, no code shared with
the package) makes of them: the picture, the loss (1 - lambda) L1 + lambda (1 - SSIM), and its central differences.
"""

import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import reference  # noqa: E402
from scenes import camera, scene  # noqa: E402

WIDTH, HEIGHT, LAMBDA = 33, 20, 0.2
VIEW = camera(WIDTH, HEIGHT)
CASES = {  # name: (splats, antialiased, background)
    "mixed": (scene(VIEW, 10, seed=31, spread=1.5), False, [0.2, 0.6, 0.9]),
    "antialiased": (scene(VIEW, 16, seed=32, degree=1, size=0.6, opacity=1), True, [0, 0, 0]),
    "opaque": (scene(VIEW, 24, seed=33, degree=0, size=8, opacity=3, spread=0.6), False, [0, 0, 0]),
}


def blur(maps):
    """[H, W, C] under the window of SSIM, zeros outside."""
    taps = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    taps /= taps.sum()
    for axis in (0, 1):
        border = [(5, 5) if a == axis else (0, 0) for a in range(3)]
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(maps, border), 11, axis=axis)
        maps = windows @ taps
    return maps


def loss(image, target):
    """The training loss, by the definition of SSIM (Wang et al. 2004)."""
    a, b = blur(image), blur(target)
    variances = blur(image**2) - a * a + blur(target**2) - b * b
    covariance = blur(image * target) - a * b
    ssim = (2 * a * b + 1e-4) * (2 * covariance + 9e-4) / ((a * a + b * b + 1e-4) * (variances + 9e-4))
    return (1 - LAMBDA) * np.abs(image - target).mean() + LAMBDA * (1 - ssim.mean())


def golden(gaussians, antialiased, background):
    """The arrays of one case."""
    photo = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    degree = round((gaussians["shN"].shape[1] + 1) ** 0.5) - 1

    def loss_of(values):
        return loss(reference.render(values, VIEW, degree, background, antialiased)[0], photo / 255)

    arrays = dict(gaussians)
    for name in reference.PARAMETERS:
        arrays[f"grad_{name}"] = reference.central_differences(
            lambda values, name=name: loss_of(gaussians | {name: values}), gaussians[name]
        )
    image, alpha = reference.render(gaussians, VIEW, degree, background, antialiased)
    arrays |= {"image": image, "alpha": alpha, "loss": loss(image, photo / 255), "photo": photo}
    return arrays | {
        "viewmat": VIEW.viewmat, "K": VIEW.K, "background": background, "antialiased": antialiased,
        "sh_degree": degree, "ssim_lambda": LAMBDA,
    }  # fmt: skip


if __name__ == "__main__":
    if sys.argv[1:]:  # --help among them: it writes files of the repository
        sys.exit(__doc__)
    for name, case in CASES.items():
        path = ROOT / "gsplat_train" / "doctor" / f"golden_{name}.npz"
        np.savez_compressed(path, **golden(*case))
        print(f"{path}: {path.stat().st_size:,} bytes")
