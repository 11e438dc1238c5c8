# SPDX-License-Identifier: Apache-2.0
"""The state that training changes, and edits of its rows.

Rows of the parameters, of both moments and of the sums always move together. An `Edit` is a value: a strategy
says which rows there shall be, a stepper moves them where they are, all or nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import mlx.core as mx
import numpy as np

from ..model.gaussians import Gaussians

SUMS = ("means2d_norm", "absgrad_norm", "count")  # what plan.Statistics asks for, each [N] float32


@dataclass
class TrainState:
    """What a step changes: parameters, Adam's first and second moments (trees alike), the steps done, and the
    sums since the last refinement for the Gaussians that a step's view showed (empty: nobody asked for them).
    """

    gaussians: Gaussians
    m: Gaussians
    v: Gaussians
    step: int = 0
    sums: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def n_splats(self) -> int:
        return self.gaussians.means.shape[0]


@dataclass(frozen=True)
class Edit:
    """New rows: row i is the old row `source[i]`, then `columns` are laid over whole leaves.

    source [n] int: None keeps all. fresh [n] bool: whose moments become zero in all leaves. columns: leaves
    [n, ...] by name. forget: leaves whose moments become zero in all rows.
    """

    source: np.ndarray | None = None
    fresh: np.ndarray | None = None
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    forget: tuple[str, ...] = ()


class Population(Protocol):
    """The Gaussians as a strategy sees them, between two steps."""

    @property
    def n(self) -> int: ...

    def column(self, name: str) -> np.ndarray:
        """A leaf of the parameters, [n, ...]; not to be written."""
        ...

    def sums(self, name: str) -> np.ndarray:
        """One of SUMS, [n]."""
        ...

    def apply(self, edit: Edit) -> None:
        """Moves the rows; other rows start with empty sums. MemoryError, and nothing moved, where there is no room."""
        ...


class HostPopulation:
    """The Population of a TrainState in the processor's memory."""

    def __init__(self, state: TrainState) -> None:
        self.state = state

    @property
    def n(self) -> int:
        return self.state.n_splats

    def column(self, name: str) -> np.ndarray:
        """See Population.column."""
        return rows(self.state.gaussians)[name]

    def sums(self, name: str) -> np.ndarray:
        """See Population.sums."""
        return self.state.sums[name]

    def apply(self, edit: Edit) -> None:
        """See Population.apply."""
        edit_rows(self.state, edit)
        if self.state.sums and edit.source is not None:
            self.state.sums = zero_sums(self.n)


def start(gaussians: Gaussians) -> TrainState:
    """The state before the first step: zero moments."""
    m, v = (Gaussians(*map(mx.zeros_like, gaussians)) for _ in range(2))
    mx.eval(gaussians, m, v)
    return TrainState(gaussians, m, v)


def zero_sums(n: int) -> dict[str, np.ndarray]:
    """The sums before the first step of a window."""
    return {name: np.zeros(n, np.float32) for name in SUMS}


def rows(gaussians: Gaussians) -> dict[str, np.ndarray]:
    """Each leaf as a writable NumPy view of the evaluated array: what is written there is in the tree at
    once.
    """
    mx.eval(gaussians)
    return {name: np.asarray(leaf) for name, leaf in zip(Gaussians._fields, gaussians, strict=True)}


def is_finite(state: TrainState) -> bool:
    """Whether every parameter and moment is."""
    trees = (state.gaussians, state.m, state.v)
    return all(np.isfinite(leaf).all() for tree in trees for leaf in rows(tree).values())


def edit_rows(state: TrainState, edit: Edit) -> None:
    """Applies an edit to a state: all of it, or MemoryError and nothing.

    Everything new is made before anything old is touched. As many rows as before: in place.
    """
    n = state.n_splats
    trees = [rows(tree) for tree in (state.gaussians, state.m, state.v)]
    source = np.arange(n) if edit.source is None else edit.source
    if len(source) == n:
        changed = np.flatnonzero(source != np.arange(n))
        taken = [{name: leaf[source[changed]] for name, leaf in tree.items()} for tree in trees]
        for tree, parts in zip(trees, taken, strict=True):
            for name, leaf in tree.items():
                leaf[changed] = parts[name]
    else:
        size = sum(leaf.nbytes for tree in trees for leaf in tree.values())
        make_sure_of(size * (len(source) + n) // max(n, 1))
        made = [Gaussians(*(_gathered(leaf, source) for leaf in tree.values())) for tree in trees]
        trees = [rows(tree) for tree in made]
        state.gaussians, state.m, state.v = made
    for name, column in edit.columns.items():
        trees[0][name][...] = column
    for tree in trees[1:]:
        for name, leaf in tree.items():
            if name in edit.forget:
                leaf[...] = 0
            elif edit.fresh is not None:
                leaf[edit.fresh] = 0


def _gathered(leaf: np.ndarray, source: np.ndarray) -> mx.array:
    """leaf[source], in MLX's memory."""
    made = mx.zeros((len(source), *leaf.shape[1:]))
    mx.eval(made)
    view, kept = np.asarray(made), min(len(source), len(leaf))
    if np.array_equal(source[:kept], np.arange(kept)):  # rows were appended, or the last ones go
        view[:kept], view[kept:] = leaf[:kept], leaf[source[kept:]]
    else:
        np.take(leaf, source, axis=0, out=view, mode="clip")  # "clip" writes without a copy between
    return made


def make_sure_of(count: int) -> None:
    """MemoryError where there is no room for `count` bytes. MLX on processors ends in a segmentation fault
    where memory runs out, so the room is asked for, and given back, first.
    """
    np.empty(max(count, 1), np.uint8)


Change = Callable[[Population], Any]
