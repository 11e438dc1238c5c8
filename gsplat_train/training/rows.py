# SPDX-License-Identifier: Apache-2.0
"""The state that training changes, and edits of its rows.

Rows of the parameters, of both moments and of the sums always move together. An `Edit` is a value: a strategy
says which rows there shall be, a stepper moves them where they are, all or nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import mlx.core as mx
import numpy as np

from ..errors import Torn
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
    """New rows: row i is the old row `source[i]`; then the rows `new` get `columns`, and moments of zero.

    source [n] int: None keeps all. new [k] int: new rows; one that is there twice has the same values twice.
    columns: leaves by name, [k, ...], or [n, ...] where `new` is None. forget: leaves whose moments become zero
    in all rows. All arrays are of the Population's kind.
    """

    source: Any = None
    new: Any = None
    columns: Mapping[str, Any] = field(default_factory=dict)
    forget: tuple[str, ...] = ()
    most: int = 0  # rows that there will never be more of: no room is made beyond


class Population(Protocol):
    """The Gaussians as a strategy sees them, between two steps, where they are."""

    @property
    def xp(self) -> Any:
        """The module whose arrays these are: numpy, or on a GPU mlx.core."""
        ...

    @property
    def n(self) -> int: ...

    def column(self, name: str) -> Any:
        """A leaf of the parameters, [n, ...]; not to be written."""
        ...

    def sums(self, name: str) -> Any:
        """One of SUMS, [n]."""
        ...

    def gaussians(self) -> Gaussians:
        """The parameters as the backend's stages take them."""
        ...

    def apply(self, edit: Edit) -> None:
        """Moves the rows; other rows start with empty sums. MemoryError, and nothing moved, where there is no room."""
        ...


class HostPopulation:
    """The Population of a TrainState in the processor's memory. room: where its rows can grow."""

    xp: Any = np

    def __init__(self, state: TrainState, room: Room | None = None) -> None:
        self.state, self.room = state, room

    @property
    def n(self) -> int:
        return self.state.n_splats

    def column(self, name: str) -> np.ndarray:
        """See Population.column."""
        return rows(self.state.gaussians)[name]

    def sums(self, name: str) -> np.ndarray:
        """See Population.sums."""
        return self.state.sums[name]

    def gaussians(self) -> Gaussians:
        """See Population.gaussians."""
        return self.state.gaussians

    def apply(self, edit: Edit) -> None:
        """See Population.apply."""
        new_sums = self.state.sums and edit.source is not None
        sums = zero_sums(len(edit.source)) if new_sums else self.state.sums  # before anything is moved
        edit_rows(self.state, edit, self.room)
        self.state.sums = sums


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


class Native(Protocol):
    """What a backend can do faster with rows of arrays [n, ...] than NumPy."""

    def copy_rows(self, leaves: list[np.ndarray], to: np.ndarray, source: np.ndarray) -> None:
        """Row to[i] of each becomes its row source[i]; int32, no row in both."""
        ...

    def clear_rows(self, leaves: list[np.ndarray], rows: np.ndarray) -> None:
        """The rows of each become zero; int32."""
        ...

    def give_back(self, array: np.ndarray, first: int) -> None:
        """The memory behind row `first` is the system's until somebody writes there."""
        ...


class Room:
    """The arrays behind the leaves of a state, with spare rows: growing does not copy what is there each time.

    most: rows that there will never be more of. native, whole: room for all of these at once, whose memory is taken
    only when it is written to.
    """

    def __init__(
        self, spare: float = 0.0, most: int = 0, native: Native | None = None, whole: bool = False
    ) -> None:
        self.spare, self.most, self.native = spare, most, native
        self.whole = whole and native is not None
        self._buffers: dict[tuple[str, str], mx.array] = {}

    def reserve(self, state: TrainState, n: int) -> None:
        """Makes room for `n` rows, leaf after leaf, so that one is there twice and not all. MemoryError where there
        is none; the state is the same either way.
        """
        for tree in TREES:
            for name in Gaussians._fields:
                leaf = getattr(getattr(state, tree), name)
                buffer = self._buffers.get((tree, name))
                if buffer is not None and len(buffer) >= n and _address(buffer) == _address(leaf):
                    continue
                rows = max(n, self.most if self.whole else min(int((1 + self.spare) * n), self.most))
                reserve(rows * max(leaf.nbytes // max(len(leaf), 1), 4))
                buffer = self._buffers[tree, name] = mx.zeros((rows, *leaf.shape[1:]))
                mx.eval(buffer)
                if self.whole and self.native is not None:
                    self.native.give_back(np.asarray(buffer), 0)
                np.asarray(buffer)[: len(leaf)] = np.asarray(leaf)
                _put(state, tree, name, buffer[: len(leaf)])

    def resize(self, state: TrainState, n: int) -> None:
        """The state with `n` rows, after `reserve`: the first of those that it has, or what nobody has written."""
        for tree in TREES:
            for name, leaf in getattr(state, tree)._asdict().items():
                _put(state, tree, name, (leaf if n <= len(leaf) else self._buffers[tree, name])[:n])


TREES = ("gaussians", "m", "v")  # of a TrainState
MARGIN, INDEX_BYTES = 1 << 20, 32  # bytes, and bytes a row, that an edit takes while it moves rows


def _put(state: TrainState, tree: str, name: str, leaf: mx.array) -> None:
    mx.eval(leaf)  # a view: rows of an array are not copied
    setattr(state, tree, getattr(state, tree)._replace(**{name: leaf}))


def _address(array: mx.array) -> int:
    return int(np.asarray(array).ctypes.data)


def edit_rows(state: TrainState, edit: Edit, room: Room | None = None) -> None:
    """Applies an edit to a state in place: all of it, or MemoryError and nothing. Only rows that change are touched.

    Torn where memory for a few indices runs out although there was some just before.
    """
    n, room = state.n_splats, room or Room()
    source = changed = None
    if edit.source is not None:
        source, count = np.asarray(edit.source), len(edit.source)
        kept = min(n, count)
        changed = np.flatnonzero(source[:kept] != np.arange(kept, dtype=source.dtype))
        changed = np.concatenate([changed, np.arange(kept, count)])
        if count > n:
            room.most = edit.most or room.most
            room.reserve(state, count)
        native = room.native if _apart(changed, source[changed], max(n, count)) else None
        taken = [] if native else [{k: leaf[source[changed]] for k, leaf in t.items()} for t in _views(state)]
    reserve(MARGIN + INDEX_BYTES * max(state.n_splats, 0 if source is None else len(source)))
    try:
        if source is not None and changed is not None:
            _move(state, source, changed, (taken, native), edit.new, room)
        _fill(state, edit, room)
    except MemoryError as error:
        raise Torn(*error.args) from error


def _move(
    state: TrainState, source: np.ndarray, changed: np.ndarray, how: tuple, new: Any, room: Room
) -> None:
    """Rows `changed` become their source's, in a state of another size."""
    (taken, native), n, count = how, state.n_splats, len(source)
    if count > n:
        room.resize(state, count)
    if native:
        _copy(native, state, changed, source, new)
    if count < n:
        room.resize(state, count)
    for tree, parts in zip(_views(state), taken, strict=False):
        for name, leaf in tree.items():
            leaf[changed] = parts[name]


def _fill(state: TrainState, edit: Edit, room: Room) -> None:
    """The new rows get their columns, and moments of zero."""
    parameters, *moments = _views(state)
    for name, column in edit.columns.items():
        parameters[name][... if edit.new is None else edit.new] = column
    for tree in moments:
        for name in edit.forget:
            tree[name][...] = 0
    if edit.new is not None:
        leaves = [leaf for tree in moments for name, leaf in tree.items() if name not in edit.forget]
        if room.native:
            room.native.clear_rows(leaves, np.ascontiguousarray(edit.new, np.int32))
        else:
            for leaf in leaves:
                leaf[edit.new] = 0


def _apart(a: np.ndarray, b: np.ndarray, n: int) -> bool:
    """Whether no row below `n` is in both."""
    marked = np.zeros(n, bool)
    marked[a] = True
    return not marked[b].any()


def _copy(native: Native, state: TrainState, to: np.ndarray, source: np.ndarray, new: Any) -> None:
    """Rows `to` of a state become its rows source[to]; not the moments of `new` rows, which will be zero."""
    parameters, *moments = _views(state)
    kept = to
    if new is not None:
        old = np.ones(state.n_splats, bool)
        old[new] = False
        kept = to[old[to]]
    for trees, rows in (([parameters], to), (moments, kept)):
        leaves = [leaf for tree in trees for leaf in tree.values()]
        native.copy_rows(leaves, rows.astype(np.int32), source[rows].astype(np.int32))


def _views(state: TrainState) -> list[dict[str, np.ndarray]]:
    return [rows(getattr(state, tree)) for tree in TREES]


def reserve(count: int) -> None:
    """MemoryError where there is no room for `count` bytes. MLX on processors ends in a segmentation fault
    where memory runs out, so the room is asked for, and given back, first.
    """
    np.empty(max(count, 1), np.uint8)
