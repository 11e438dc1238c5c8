# SPDX-License-Identifier: Apache-2.0
"""Write the project's own golden vectors, tests/data/golden_<case>.npz: python scripts/make_golden.py

The arrays are those of gsplat's golden vectors (tests/test_golden.py reads both): a scene, a camera, the
oracle's picture, and its central differences as gradients of
sum(image * weight_image) + sum(alpha * weight_alpha).
"""

import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import reference  # noqa: E402
from scenes import camera, scene  # noqa: E402

CASES = {  # name: (scene, antialiased, background)
    "own_mixed": (scene(camera(33, 20), 10, seed=21, spread=1.5), False, [0.2, 0.6, 0.9]),
    "own_antialiased": (scene(camera(33, 20), 16, seed=22, degree=1, size=0.6, opacity=1), True, [0, 0, 0]),
    "own_opaque": (
        scene(camera(33, 20), 24, seed=23, degree=0, size=8, opacity=3, spread=0.6),
        False,
        [0, 0, 0],
    ),
}


def golden(gaussians, antialiased, background):
    """The arrays of one case."""
    view = camera(33, 20)
    rng = np.random.default_rng(0)
    weight_image, weight_alpha = rng.normal(size=(20, 33, 3)), rng.normal(size=(20, 33, 1))
    degree = round((gaussians["shN"].shape[1] + 1) ** 0.5) - 1
    splats = reference.project(gaussians, view, degree, antialiased)

    def weighted(image, alpha):
        return (image * weight_image).sum() + (alpha * weight_alpha).sum()

    gradients = {
        name: reference.central_differences(
            lambda values, name=name: weighted(
                *reference.render(gaussians | {name: values}, view, degree, background, antialiased)
            ),
            gaussians[name],
        )
        for name in reference.PARAMETERS
    }
    gradients["means2d"] = reference.central_differences(
        lambda values: weighted(
            *reference.blend(splats | {"means2d": values}, view.width, view.height, background)
        ),
        splats["means2d"],
    )
    image, alpha = reference.render(gaussians, view, degree, background, antialiased)
    for tree in (gaussians, gradients):
        tree["sh"] = np.concatenate([tree.pop("sh0"), tree.pop("shN")], axis=1)
    arrays = gaussians | {f"grad_{name}": values for name, values in gradients.items()}
    arrays |= {name: splats[name] for name in ("means2d", "conics", "depths")}
    arrays |= {"image": image, "alpha": alpha, "weight_image": weight_image, "weight_alpha": weight_alpha}
    arrays |= {"viewmat": view.viewmat, "K": view.K, "background": background}
    arrays = {name: np.asarray(values, np.float32) for name, values in arrays.items()}
    arrays["radii"] = (splats["radii"] * splats["visible"][:, None]).astype(np.int32)
    return arrays | {"width": 33, "height": 20, "sh_degree": degree, "antialiased": antialiased}


if __name__ == "__main__":
    if sys.argv[1:]:  # --help among them: it writes files of the repository
        sys.exit(__doc__)
    folder = ROOT / "tests" / "data"
    folder.mkdir(exist_ok=True)
    for name, case in CASES.items():
        np.savez_compressed(folder / f"golden_{name}.npz", **golden(*case))
        print(f"{folder / f'golden_{name}.npz'}: {(folder / f'golden_{name}.npz').stat().st_size} bytes")
