# SPDX-License-Identifier: Apache-2.0
"""Single steps, for tests that take them without a trainer."""

from typing import Any

import tiny

from gsplat_train.scene import View
from gsplat_train.training.plan import Statistics, StepPlan
from gsplat_train.training.protocol import Stepper, StepResult

ABSGRADIENTS = {"statistics": Statistics.ABSGRADIENTS}
OFF_THE_DEFAULTS: list[dict[str, Any]] = [  # regularisers, noise and a background; another mode, with sums
    {"opacity_weight": 0.05, "scale_weight": 0.07, "noise": 10.0, "seed": 7, "background": (0.2, 0.5, 0.9)},
    {"antialiased": True, "sh_degree": 0, **ABSGRADIENTS},
]
EVERYTHING: dict[str, Any] = {**OFF_THE_DEFAULTS[0], **OFF_THE_DEFAULTS[1], "sh_degree": 2}  # at once


def plan(number: int, rate: float = 1e-3, **changes: Any) -> StepPlan:
    """Step `number`, from 1: the same rate for all leaves, degree 3, gradients summed; `changes` to that."""
    return tiny.plan(number, rate, **({"sh_degree": 3, "statistics": Statistics.GRADIENTS} | changes))


def take(stepper: Stepper, view: View, steps: int = 1, **changes: Any) -> StepResult:
    """Asks for `steps` steps and waits; the result of the last."""
    for _ in range(steps):
        stepper.take(view, plan(stepper.step + 1, **changes))
    return stepper.result()
