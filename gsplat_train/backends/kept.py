# SPDX-License-Identifier: Apache-2.0
"""What a stepper keeps of each view on its device, up to a number of bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Kept:
    """Values by the key of their view. What does not fit in `budget` bytes is made again at every use: views come
    in turns, so keeping a fixed set of c of n of them serves c of n uses, and dropping the oldest would serve none.
    """

    def __init__(self, budget: int) -> None:
        self.budget, self.bytes = budget, 0
        self._values: dict[tuple[int, int], tuple[Any, int]] = {}

    def __contains__(self, key: tuple[int, int]) -> bool:
        return key in self._values

    def get(self, key: tuple[int, int], make: Callable[[], tuple[Any, int]]) -> Any:
        """The value of `key`; `make` returns it with its size in bytes."""
        entry = self._values.get(key)
        if entry is not None:
            return entry[0]
        value, size = make()
        if self.bytes + size > self.budget:
            self._forget_other_levels(key[1])
        if self.bytes + size <= self.budget:
            self._values[key] = value, size
            self.bytes += size
        return value

    def shrink(self, budget: int) -> None:
        """Another number of bytes; of what is too much, the newest goes."""
        self.budget = budget
        while self.bytes > budget:
            self.bytes -= self._values.popitem()[1][1]

    def _forget_other_levels(self, level: int) -> None:
        """Photos of another resolution are not used again."""
        for key in [key for key in self._values if key[1] != level]:
            self.bytes -= self._values.pop(key)[1]
