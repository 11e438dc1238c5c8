# SPDX-License-Identifier: Apache-2.0
"""The processes that train one model together: who they are, and how their gradients meet.

A step over several views is dealt in the order of the views: process r takes `each` of them, from r * each on. What
each made of its views is gathered, never summed on the way: every process then adds the same rows in the same order,
so that all hold the same bytes, and those of one process that takes all the views. docs/devices.md has the whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")


class Crew:
    """One process that works alone; `company.Company` is one of several."""

    rank, size, each = 0, 1, 1

    def own(self, views: Sequence[T]) -> Sequence[T]:
        """Of a step's views those that this process takes."""
        return views if self.size == 1 else views[self.rank * self.each : (self.rank + 1) * self.each]

    def gather(self, rows: Any) -> Any:
        """[k, L] of every process -> [views, L] in the order of the views, and maybe empty rows behind them."""
        return rows


ALONE = Crew()


def in_order(rows: np.ndarray) -> np.ndarray:
    """[L] the sum of rows [k, L], one after the other."""
    total: np.ndarray = reduce(np.add, rows)
    return total
