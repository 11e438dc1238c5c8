# SPDX-License-Identifier: Apache-2.0
"""Parameters beyond the Gaussians: groups of rows by the names of views, with a rate, Adam and its moments.

A module of `registry.GROUPS` has

    Settings          a dataclass with `mode` ("off" by default) and `rate_at(step, horizon) -> float`
    WIDTH             numbers a row
    START             the row that changes nothing
    image(row, image) -> image      what a row [WIDTH] makes of a render [H, W, 3]; differentiable
    settle(values) -> values        what is done to all rows [views, WIDTH] after a step

and where it has them

    beside(image, photo) -> image   what of the image is held to the photo [H, W, 3] uint8
    begin(material) -> [views, WIDTH]               other rows to start from
    decide(mode, material, fused) -> (mode, what to say)        the mode for this scene
    camera(row, camera) -> camera                   the camera as a row moves it, and with it
    gradient(gaussians, moves, camera, degree) -> [WIDTH]       of a row, from the gradients of the splats
    settling(views) -> settle                       in the place of `settle`, where that depends on the views
    SHARED                                          True: one row for all views
    behind(row, camera) -> [H, W, 3]                what is behind the splats, differentiable
    is_on(config) -> bool                           in the place of `mode`, where another setting asks for it

Rows are known by the view's name, so that they survive a resume and another order of views.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any

import mlx.core as mx
import numpy as np

from .. import registry
from ..backends.python import ADAM_BETA1, ADAM_BETA2, ADAM_EPS
from ..config import Config, changed
from ..errors import UserError
from ..model.gaussians import Gaussians
from ..scene import Camera, View


@dataclass(frozen=True)
class Material:
    """What a run is about to train on."""

    views: Sequence[View]  # in training's frame, as the points
    points: np.ndarray  # [P, 3]
    rehearse: Callable[[], np.ndarray]  # [views, 3]: log gains that a short training finds; seconds


@dataclass
class Group:
    """One group. values, m, v: [views, width] float32; `row` finds a view's by its name."""

    name: str
    module: ModuleType
    mode: str
    row: dict[str, int]
    values: np.ndarray
    m: np.ndarray
    v: np.ndarray
    settle: Callable[[np.ndarray], np.ndarray]

    def camera(self, view: View, camera: Camera) -> Camera:
        """The camera of `view` as the group moves it."""
        if not hasattr(self.module, "camera"):
            return camera
        moved: Camera = self.module.camera(self.values[self.row[view.name]], camera)
        return moved

    def from_splats(
        self, view: View, gaussians: Gaussians, moves: Gaussians, camera: Camera, degree: int
    ) -> mx.array | None:
        """The gradient of all rows, where it follows from the splats'."""
        if not hasattr(self.module, "gradient"):
            return None
        rows = np.zeros_like(self.values)
        rows[self.row[view.name]] = self.module.gradient(gaussians, moves, camera, degree)
        return mx.array(rows)

    def _row(self, values: mx.array, view: View) -> mx.array:
        """The view's own, as a slice: for an index MLX on CUDA compiles kernels when they are first used, 3 s each."""
        i = self.row[view.name]
        return values[i : i + 1].reshape(-1)

    def behind(self, values: mx.array, view: View, camera: Camera) -> mx.array | None:
        """What is behind the splats, where the group says that."""
        if not hasattr(self.module, "behind"):
            return None
        seen: mx.array = self.module.behind(self._row(values, view), camera)
        return seen

    def image(self, values: mx.array, view: View, image: mx.array) -> mx.array:
        """The render of `view` after this group, as a function of all its rows."""
        shown: mx.array = self.module.image(self._row(values, view), image, self.mode)
        return shown

    def beside(self, image: mx.array, photo: mx.array) -> mx.array:
        """What of the image is held to the photo."""
        held: mx.array = self.module.beside(image, photo) if hasattr(self.module, "beside") else image
        return held

    def step(self, gradient: np.ndarray, rate: float, number: int, views: int = 1) -> None:
        """Adam's step over `views` views to number `number` on all rows, then what the group settles. In NumPy: these
        are a few hundred numbers.
        """
        beta1, beta2, eps = ADAM_BETA1**views, ADAM_BETA2**views, np.float32(ADAM_EPS / views**0.5)
        self.m = beta1 * self.m + (1 - beta1) * gradient
        self.v = beta2 * self.v + (1 - beta2) * gradient * gradient
        m, v = self.m / (1 - ADAM_BETA1**number), self.v / (1 - ADAM_BETA2**number)
        self.values = self.settle(self.values - rate * m / (np.sqrt(v) + eps))

    def tensors(self) -> dict[str, np.ndarray]:
        """What a checkpoint keeps, by the names that `restore` takes."""
        arrays = {"values": self.values, "m": self.m, "v": self.v}
        return {f"groups.{self.name}.{key}": array for key, array in arrays.items()}

    def restore(self, tensors: Mapping[str, np.ndarray], names: Sequence[str]) -> None:
        """Takes the rows of a checkpoint, `names` saying whose each is; UserError where one is missing."""
        if getattr(self.module, "SHARED", False):
            names, order = [""], np.zeros(1, int)
        elif missing := [name for name in self.row if name not in names]:
            raise UserError(f"the checkpoint has no {self.name} of view {missing[0]}; start a new run")
        else:
            order = np.array([names.index(name) for name in self.row])
        for key in ("values", "m", "v"):
            array = tensors[f"groups.{self.name}.{key}"]
            setattr(self, key, np.array(array.reshape(len(names), -1)[order], np.float32))


def decided(config: Config, material: Material, fused: frozenset[str], say: Callable[[str], None]) -> Config:
    """The settings with the mode of each group that this scene gets; `say` hears why. fused: at full speed."""
    for name, entry in registry.GROUPS.items():
        module = registry.module(entry)
        if hasattr(module, "decide"):
            mode, why = module.decide(config.sections[name].mode, material, name in fused)
            config = changed(config, {f"{name}.mode": mode})
            if why:
                say(why)
    return config


def open_groups(
    config: Config, names: Sequence[str], views: Sequence[View], material: Material | None = None
) -> dict[str, Group]:
    """The named groups at their start: what they `begin` with, otherwise for each view what changes nothing."""
    found: dict[str, Group] = {}
    for name in names:
        module: Any = registry.module(registry.GROUPS[name])
        if material is not None and hasattr(module, "begin"):
            values = np.array(module.begin(material), np.float32)
        else:
            shared = getattr(module, "SHARED", False)
            values = np.tile(np.array(module.START, np.float32), (1 if shared else len(views), 1))
        rows = {view.name: i if len(values) > 1 else 0 for i, view in enumerate(views)}
        mode = getattr(config.sections[name], "mode", "")
        settle = module.settling(views) if hasattr(module, "settling") else partial(module.settle, mode=mode)
        m, v = np.zeros((2, *values.shape), np.float32)
        found[name] = Group(name, module, mode, rows, values, m, v, settle)
    return found
