# SPDX-License-Identifier: Apache-2.0
"""Parameters beyond the Gaussians: groups of rows by the names of views, with a rate, Adam and its moments.

A module of `registry.GROUPS` has

    Settings          a dataclass with `mode` ("off" by default) and `rate_at(step, horizon) -> float`
    WIDTH             numbers a row
    START             the row that changes nothing
    image(row, image) -> image      what a row [WIDTH] makes of a render [H, W, 3]; differentiable
    settle(values) -> values        what is done to all rows [views, WIDTH] after a step

Rows are known by the view's name, so that they survive a resume and another order of views.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import mlx.core as mx
import numpy as np

from .. import registry
from ..backends.python import ADAM_BETA1, ADAM_BETA2, ADAM_EPS
from ..config import Config
from ..errors import UserError
from ..scene import View


@dataclass
class Group:
    """One group. values, m, v: [views, width] float32; `row` finds a view's by its name."""

    name: str
    module: ModuleType
    mode: str
    row: dict[str, int]
    values: mx.array
    m: mx.array
    v: mx.array

    def image(self, values: mx.array, view: View, image: mx.array) -> mx.array:
        """The render of `view` after this group, as a function of all its rows."""
        changed: mx.array = self.module.image(values[self.row[view.name]], image, self.mode)
        return changed

    def step(self, gradient: mx.array, rate: float, number: int, views: int = 1) -> None:
        """Adam's step over `views` views to number `number` on all rows, then what the group settles."""
        beta1, beta2, eps = ADAM_BETA1**views, ADAM_BETA2**views, ADAM_EPS / views**0.5
        self.m = beta1 * self.m + (1 - beta1) * gradient
        self.v = beta2 * self.v + (1 - beta2) * gradient * gradient
        m, v = self.m / (1 - ADAM_BETA1**number), self.v / (1 - ADAM_BETA2**number)
        self.values = self.module.settle(self.values - rate * m / (mx.sqrt(v) + eps), self.mode)
        mx.eval(self.values, self.m, self.v)

    def tensors(self) -> dict[str, np.ndarray]:
        """What a checkpoint keeps, by the names that `restore` takes."""
        arrays = {"values": self.values, "m": self.m, "v": self.v}
        return {f"groups.{self.name}.{key}": np.asarray(array) for key, array in arrays.items()}

    def restore(self, tensors: Mapping[str, np.ndarray], names: Sequence[str]) -> None:
        """Takes the rows of a checkpoint, `names` saying whose each is; UserError where one is missing."""
        if missing := [name for name in self.row if name not in names]:
            raise UserError(f"the checkpoint has no {self.name} of view {missing[0]}; start a new run")
        order = np.array([names.index(name) for name in self.row])
        for key in ("values", "m", "v"):
            array = tensors[f"groups.{self.name}.{key}"]
            setattr(self, key, mx.array(np.ascontiguousarray(array.reshape(len(names), -1)[order])))


def open_groups(config: Config, names: Sequence[str], views: Sequence[View]) -> dict[str, Group]:
    """The named groups at their start: for each view the row that changes nothing."""
    found: dict[str, Group] = {}
    for name in names:
        module: Any = registry.module(registry.GROUPS[name])
        values = mx.array(np.tile(np.array(module.START, np.float32), (len(views), 1)))
        zeros = mx.zeros_like(values)
        rows = {view.name: i for i, view in enumerate(views)}
        found[name] = Group(name, module, config.sections[name].mode, rows, values, zeros, mx.array(zeros))
    return found
