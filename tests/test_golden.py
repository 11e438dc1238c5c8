# SPDX-License-Identifier: Apache-2.0
"""Golden vectors, forward and backward: gsplat's (GS_GOLDEN) and our own (scripts/make_golden.py)."""

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from compare import TOLERANCES, assert_image, relative

from gsplat_train.model.gaussians import Gaussians
from gsplat_train.renderer import render
from gsplat_train.scene import Camera

ORDINARY = ("small", "dense", "dc", "background", "antialiased", "one", "two")
SPECIAL = ("stop", "cap", "clamp", "behind", "ties", "faint")
OWN = ("own_mixed", "own_antialiased", "own_opaque")


@pytest.fixture(params=ORDINARY + SPECIAL + OWN)
def case(request):
    return request.param


@pytest.fixture
def golden(case, request):
    """The arrays of a case."""
    if case in OWN:
        return dict(np.load(Path(__file__).parent / "data" / f"golden_{case}.npz"))
    return dict(np.load(request.getfixturevalue("golden_folder") / f"gsplat_{case}.npz"))


def test_golden(backend, golden, case):
    gaussians = Gaussians(
        *(mx.array(golden[name]) for name in ("means", "quats", "log_scales", "logit_opacities")),
        mx.array(golden["sh"][:, :1]),
        mx.array(golden["sh"][:, 1:]),
    )
    view = Camera(golden["viewmat"], golden["K"], int(golden["width"]), int(golden["height"]))

    def loss(gaussians, means2d_probe):
        output = render(
            gaussians,
            view,
            backend,
            sh_degree=int(golden["sh_degree"]),
            background=golden["background"],
            antialiased=bool(golden["antialiased"]),
            means2d_probe=means2d_probe,
        )
        total = (output.image * mx.array(golden["weight_image"])).sum()
        return total + (output.alpha * mx.array(golden["weight_alpha"])).sum(), output

    (_, output), (v_gaussians, v_means2d) = mx.value_and_grad(lambda *args: loss(*args), argnums=(0, 1))(
        gaussians, mx.zeros((len(golden["means"]), 2))
    )

    assert_image(output.image, golden["image"], "golden_image")
    assert_image(output.alpha, golden["alpha"], "golden_image")

    visible = (golden["radii"] > 0).all(axis=1)
    np.testing.assert_array_equal((np.asarray(output.projected.radii) > 0).all(axis=1), visible)
    for name in ("means2d", "conics", "depths"):
        error = relative(np.asarray(getattr(output.projected, name))[visible], golden[name][visible])
        assert error < TOLERANCES["stage"], name

    found = v_gaussians._asdict() | {"means2d": v_means2d}
    found["sh"] = mx.concatenate([found.pop("sh0"), found.pop("shN")], axis=1)
    errors = {name: relative(leaf, golden[f"grad_{name}"]) for name, leaf in found.items()}
    kind = "gradient_opaque" if case in (*SPECIAL, "own_opaque") else "gradient"
    assert max(errors.values()) < TOLERANCES[kind], errors
