# SPDX-License-Identifier: Apache-2.0
"""The kernels of the loss and of the score executed on the CPU, in two orders of threads: every backend's tests."""

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
from test_score import (  # noqa: F401
    test_a_perfect_picture,
    test_masked_scores_see_what_lies_beside_the_mask,
    test_nothing_to_score,
    test_score_is_the_definition,
    test_score_of_bright_plain_pictures,
    test_the_picture_is_rounded_exactly,
    test_what_does_not_fit_is_said,
)

pytestmark = pytest.mark.usefixtures("clang")


@pytest.fixture(params=ORDERS)
def backend(request):
    """The Metal backend in each order of threads."""
    backend = emulated(request.param)
    backend.score = backend.engine.score
    return backend
