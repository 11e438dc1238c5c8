# SPDX-License-Identifier: Apache-2.0
"""Where the time of a run goes: every second belongs to one stage. Training is the stages `steps` and `refinement`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import mlx.core as mx

# In the order in which they are told. Loading reads the scene; start-up is all else before the first step.
STAGES = ("start-up", "cameras", "loading", "steps", "refinement", "evaluation", "saving", "other")
TRAINING = ("steps", "refinement")


class Clock:
    """Adds up seconds by stage. It begins in the stage `start-up`, at `since` by time.monotonic().

    before: seconds of earlier parts of the run. spent: what of the time from `since` on belongs to other stages.
    """

    def __init__(
        self,
        since: float,
        before: Mapping[str, float] | None = None,
        spent: Mapping[str, float] | None = None,
    ) -> None:
        self._sums = dict.fromkeys(STAGES, 0.0) | dict(before or {})
        self.before = self.training_of(self._sums)
        for stage, seconds in (spent or {}).items():
            self._sums[stage] += seconds
            self._sums["start-up"] -= seconds
        self._stage, self._since = "start-up", since

    @staticmethod
    def training_of(sums: Mapping[str, float]) -> float:
        """Of seconds by stage those that are training."""
        return sum(sums[stage] for stage in TRAINING)

    @property
    def stages(self) -> dict[str, float]:
        """Seconds by stage, to now."""
        return self._sums | {self._stage: self._sums[self._stage] + time.monotonic() - self._since}

    @property
    def seconds(self) -> float:
        """Of training, to now."""
        return self.training_of(self.stages)

    def enter(self, stage: str) -> str:
        """From now on time belongs to `stage`; the stage before it."""
        left = self._stage
        if left in TRAINING:
            mx.synchronize()  # what is queued belongs to the steps before
        self._sums, self._stage, self._since = self.stages, stage, time.monotonic()
        return left

    @contextmanager
    def during(self, stage: str) -> Iterator[None]:
        """Time inside belongs to `stage`."""
        left = self.enter(stage)
        try:
            yield
        finally:
            self.enter(left)


def stage_summary(stages: Mapping[str, float]) -> str:
    """Seconds by stage in words, without those that took none."""
    return ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in stages.items() if seconds >= 0.05)
