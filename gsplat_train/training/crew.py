# SPDX-License-Identifier: Apache-2.0
"""The processes that train one model together: who they are, and how their gradients meet.

A step over several views is dealt in the order of the views: process r takes `each` of them, from r * each on. What
each made of its views is gathered, never summed on the way: every process then adds the same rows in the same order,
so that all hold the same bytes, and those of one process that takes all the views. docs/devices.md has the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import reduce
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")


class Crew:
    """One process that works alone; `company.Company` is one of several. each: views of a step that it takes."""

    rank, size = 0, 1

    def __init__(self, each: int = 1) -> None:
        self.each = each

    @property
    def fuses(self) -> bool:
        """Whether a step is over one view: gradients and update may then be one. The last step of a run may have
        fewer views than others, and is still taken as these are.
        """
        return self.size * self.each == 1

    def own(self, views: Sequence[T]) -> Sequence[T]:
        """Of a step's views those that this process takes."""
        return views if self.size == 1 else views[self.rank * self.each : (self.rank + 1) * self.each]

    def takes(self, place: int) -> bool:
        """Whether the view in this place of a step is one of its own."""
        return self.size == 1 or place // self.each == self.rank

    def gather(self, rows: Any) -> Any:
        """[k, L] of every process -> [views, L] in the order of the views, and maybe empty rows behind them.

        NumPy's arrays are there when this returns, MLX's when they are evaluated.
        """
        return rows

    def waiting(self) -> AbstractContextManager[Any]:
        """Around what may wait for the other processes."""
        return nullcontext()

    def agree(self, wish: bool, all_here: bool) -> bool:
        """Whether any process wishes it. all_here: every process asks now; where not, there is no wish yet."""
        return wish

    def least(self, count: int) -> int:
        """The least of the processes' counts, below 2^31."""
        return count

    def first_does(self, work: Callable[[], object], others: Callable[[], object]) -> None:
        """The first process works, the others do something else and wait for it."""
        work()

    def alike(self, **what: bytes) -> None:
        """UserError where the processes do not have the same."""

    def where(self) -> str:
        """What to go on with when the others are gone."""
        return ""


ALONE = Crew()


def in_order(rows: np.ndarray) -> np.ndarray:
    """[L] the sum of rows [k, L], one after the other."""
    total: np.ndarray = reduce(np.add, rows)
    return total
