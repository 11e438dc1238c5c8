# SPDX-License-Identifier: Apache-2.0
"""The kernels of the loss and of the score executed on the CPU, in two orders of threads: every backend's tests."""

from types import SimpleNamespace

import numpy as np
import pytest
from metal.emulated import ORDERS
from metal.emulated import backend as emulated
from metal.fixtures import clang  # noqa: F401
from test_losses import (  # noqa: F401
    test_a_mask_of_all_pixels_is_no_mask,
    test_a_mask_of_another_size_is_said,
    test_an_empty_mask_is_no_nan,
    test_masked_loss_is_the_references,
    test_training_loss_and_its_gradient,
)
from test_metal_emulated import CAMERA, begun, photo
from test_score import (  # noqa: F401
    test_a_perfect_picture,
    test_masked_scores_see_what_lies_beside_the_mask,
    test_nothing_to_score,
    test_score_is_the_definition,
    test_score_of_bright_plain_pictures,
    test_the_picture_is_rounded_exactly,
    test_what_does_not_fit_is_said,
)

from gsplat_train.errors import UserError
from gsplat_train.evaluate.measure import measure
from gsplat_train.renderer import render
from gsplat_train.scene import Photo, View

pytestmark = pytest.mark.usefixtures("clang")


@pytest.fixture(params=ORDERS)
def backend(request):
    """The Metal backend in each order of threads."""
    return emulated(request.param)


def test_a_view_is_shown_as_by_the_stages(backend):
    """The same number, also where there was too little room; with a mask, see-through, without a photo."""
    gaussians, camera = begun(60).gaussians, CAMERA
    pictured, mask = photo(40, 36), np.random.default_rng(1).integers(0, 2, (36, 40), dtype=np.uint8)
    backend.engine.first_capacity = 64
    for antialiased, colour in ((False, (0.0, 0.0, 0.0)), (True, (1.0, 0.5, 0.0))):
        show = backend.show(gaussians, colour, antialiased)
        image = render(gaussians, camera, backend, background=colour, antialiased=antialiased).image
        backend.engine.forget()
        for beside in ((pictured, None), (pictured, mask), (pictured, 0 * mask), (None, None)):
            found = show(camera.viewmat, camera.K, camera.width, camera.height, *beside)
            expected = backend.score(image, *beside)
            np.testing.assert_array_equal(found[:2], expected[:2])
            np.testing.assert_array_equal(found.picture, expected.picture)
        assert backend.engine.capacity(40, 36) > 64
    with pytest.raises(UserError, match="photo must be uint8"):
        show(camera.viewmat, camera.K, camera.width, camera.height, pictured[:-1])


def test_evaluation_takes_what_a_backend_shows(backend):
    views = [
        View("masked", CAMERA, Photo(photo(40, 36), np.eye(36, 40, dtype=np.uint8)), index=0),
        View("plain", CAMERA),
    ]
    gaussians = begun(60).gaussians
    pictures, launched = [], backend.launcher.launched
    found = measure(
        gaussians, views, backend, background="white", each=lambda view, picture: pictures.append(picture)
    )
    assert launched["forward"] == launched["score"] == 2
    stages = SimpleNamespace(**vars(backend) | {"show": lambda *_: None})
    others = []
    expected = measure(
        gaussians, views, stages, background="white", each=lambda view, picture: others.append(picture)
    )
    assert found == expected and np.isfinite(found["psnr"])
    np.testing.assert_array_equal(pictures, others)
