# SPDX-License-Identifier: Apache-2.0
"""What a stepper promises, whichever backend made it.

A stepper alone knows whether steps are under way. `take` asks for one and need not wait; `result`, `look` and
`refine` wait; nothing else does. Views are known by `View.key`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeVar

from ..scene import View
from .crew import Crew
from .plan import StepPlan
from .rows import Population, TrainState

T = TypeVar("T")


class StepResult(NamedTuple):
    """What a step measured before it moved anything."""

    loss: float  # (1 - lambda) L1 + lambda (1 - SSIM): without the other terms; NaN: the step was not done
    l1: float
    ssim: float
    whole: bool = True  # False: a gradient was not finite, and some of the Gaussians had moved by then

    @property
    def is_finite(self) -> bool:
        return math.isfinite(self.loss)


class Bounds(NamedTuple):
    """What a stepper is told of the run to come, so that it can divide its device's memory."""

    gpu_memory: float = 0.0  # bytes of a GPU, up to 1 a share of what it has; 0: what keeps it busy
    most_splats: int = 0  # never more than these; 0: unknown
    size: tuple[int, int] = (0, 0)  # width and height of the largest photo; 0: unknown
    photos: int | None = (
        None  # bytes of the host's memory for photos in a form of the stepper's own; None: as it likes
    )
    reached: int = 0  # splats that the run can have at its end; 0: unknown


class Stepper(Protocol):
    """Takes steps on one state."""

    crew: Crew  # who takes which views of a step, and where gradients meet

    @property
    def step(self) -> int:
        """How many views' steps have been asked for; after `result`, how many were done."""
        ...

    @property
    def n_splats(self) -> int: ...

    def has_photo(self, key: tuple[int, int]) -> bool:
        """Whether the photo of the view of that key is kept where the steps are taken, and not decoded again."""
        ...

    def take(self, view: View, plan: StepPlan, *more: View) -> StepResult:
        """Asks for a step on `view`, and on `more` at once. Does not wait: the result is the newest known, maybe of
        an older step; of several views it is the mean.

        Where the loss is not finite nothing moves. Where a gradient is not, the step is not whole. Either way
        the loss reported from then on is NaN, and `step` stays.
        """
        ...

    def result(self) -> StepResult:
        """Waits for all steps asked for; the result of the last."""
        ...

    def look(self) -> TrainState:
        """Waits; the state as it is now. Later steps may change its arrays: copy what is to be kept."""
        ...

    def refine(self, change: Callable[[Population], T]) -> T:
        """Waits, and lets `change` edit the rows where they are; what it returned."""
        ...
