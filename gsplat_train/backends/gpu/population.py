# SPDX-License-Identifier: Apache-2.0
"""The Gaussians between two steps as density control sees them, packed as the kernels have them: nothing is
brought to the host but counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import mlx.core as mx

from ...model.gaussians import Gaussians
from ...training.rows import Edit
from . import arrays
from .engine import Engine, pack, unpack
from .kernels import Sizes

Packed = tuple[mx.array, mx.array]  # the first five leaves behind each other, and shN: see engine.pack
WIDTHS = {"means": 3, "quats": 4, "log_scales": 3, "logit_opacities": 1, "sh0": 3}  # of a row in `params`
SHAPES = {"logit_opacities": (), "sh0": (1, 3)}  # of a row, where it is not [width]


class GpuPopulation:
    """See training.rows.Population. trees: parameters, first and second moments, packed."""

    def __init__(
        self,
        engine: Engine,
        trees: tuple[Packed, Packed, Packed],
        n: int,
        rest: int,
        sums: dict[str, mx.array],
    ) -> None:
        self.engine, self.trees, self.n, self.rest, self.kept_sums = engine, trees, n, rest, sums
        self.xp = arrays.module(engine)

    def column(self, name: str) -> mx.array:
        """See Population.column."""
        return _leaf(self.trees[0], name, self.n, self.rest)

    def sums(self, name: str) -> mx.array:
        """See Population.sums."""
        return self.kept_sums[name]

    def gaussians(self) -> Gaussians:
        """See Population.gaussians."""
        return unpack(*self.trees[0], self.n, self.rest)

    def halves(self, rows: mx.array, how: tuple[float, ...]) -> dict[str, mx.array]:
        """See training.strategies.copies.halves."""
        columns = arrays.halve(self.engine, self.trees[0][0], rows, self.n, how)
        return dict(zip(("means", "log_scales", "logit_opacities"), columns, strict=True))

    def apply(self, edit: Edit) -> None:
        """See Population.apply. All that is new is made beside the old, and takes its place when it is there."""
        params, *moments = self.trees
        n, source, new, columns = self.n, edit.source, edit.new, edit.columns
        if new is not None:
            order = mx.argsort(new)
            rising = self.xp.rows_of(new.astype(mx.int32), order)
            source = mx.arange(n) if source is None else source
        if source is not None:
            n, source = source.shape[0], source.astype(mx.int32)
            params = self._moved(params, source, n)
            if new is not None:
                source = self.xp.with_rows(source, rising, -1)  # whose moments are zero
            moments = [self._moved(tree, source, n) for tree in moments]
        if new is not None:
            columns = {
                name: self.xp.with_rows(_leaf(params, name, n, self.rest), rising, column, order)
                for name, column in columns.items()
            }
        params = self._replaced(params, n, columns)
        zeros = {name: mx.zeros(1) for name in edit.forget}
        trees = (params, *(self._replaced(tree, n, zeros) for tree in moments))
        mx.eval(trees)
        self.trees, self.n = trees, n  # type: ignore[assignment]
        if edit.source is not None:
            self.kept_sums = {name: mx.zeros(n) for name in self.kept_sums}

    def _moved(self, tree: Packed, source: mx.array, n: int) -> Packed:
        """The tree with rows `source`; zeros where that is negative."""
        sizes = Sizes(n, self.rest, 16, 16, 8, before=self.n)
        roomy = replace(sizes, n=self.engine.budget.rows(n))
        params, shn = self.engine.run("move", roomy, [*tree, source, self.engine.sizes(sizes)])
        return params, (shn if self.rest else tree[1])

    def _replaced(self, tree: Packed, n: int, columns: Mapping[str, mx.array]) -> Packed:
        """The tree with whole leaves of other values."""
        if not columns:
            return tree
        leaves = {name: _leaf(tree, name, n, self.rest) for name in (*WIDTHS, "shN")}
        for name, column in columns.items():
            leaves[name] = mx.broadcast_to(column, leaves[name].shape)
        params, shn = pack(Gaussians(**leaves), self.engine.budget.rows(n))
        return params, (shn if "shN" in columns and self.rest else tree[1])


def _leaf(tree: Packed, name: str, n: int, rest: int) -> mx.array:
    """[n, ...] of a packed tree."""
    if name == "shN":
        return tree[1][: 3 * rest * n].reshape(n, rest, 3)
    start = 0
    for other, width in WIDTHS.items():
        if other == name:
            break
        start += width
    width = WIDTHS[name]
    flat = tree[0][start * n : (start + width) * n]
    return flat.reshape(n, *SHAPES.get(name, (width,)))
