# SPDX-License-Identifier: Apache-2.0
"""What a training run tells while it goes on. Subclass `Callback`, override what is of interest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from ..scene import View
    from .protocol import StepResult
    from .trainer import Trainer


class Callback:
    """Every method does nothing here. `trainer.stop()` ends the run after the step under way."""

    def message(self, line: str) -> None:
        """A line worth knowing; warnings begin with `warning`."""

    def start(self, trainer: Trainer) -> None:
        """Before the first step; `trainer.step` steps are done."""

    def step(self, trainer: Trainer, newest: StepResult) -> None:
        """After each step; `newest` is the newest result known, maybe of an older step."""

    def record(self, trainer: Trainer, record: dict[str, Any]) -> None:
        """A record of the log: step, loss, splats, speed, scores where they were measured."""

    def progress(self, what: str, done: int, total: int) -> None:
        """Of a long action between steps, as `evaluating`, `done` of `total` parts are done."""

    def pictured(self, trainer: Trainer, view: View, picture: np.ndarray) -> None:
        """During an evaluation: the render [H, W, 3] uint8 of a view that is measured."""

    def evaluated(self, trainer: Trainer, metrics: dict[str, Any]) -> None:
        """After an evaluation; `metrics` as metrics.json."""

    def end(self, trainer: Trainer) -> None:
        """After the last step, or when the run ends for any reason."""
