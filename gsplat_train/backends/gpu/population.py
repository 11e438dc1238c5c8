# SPDX-License-Identifier: Apache-2.0
"""The Gaussians between two steps as density control sees them, packed as the kernels have them: nothing is
brought to the host but counts.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from ...model.gaussians import Gaussians
from ...training.rows import Edit
from .engine import at_least_eight, unpack

Packed = tuple[mx.array, mx.array]  # the first five leaves behind each other, and shN: see engine.pack
WIDTHS = {
    "means": 3,
    "quats": 4,
    "log_scales": 3,
    "logit_opacities": 1,
    "sh0": 3,
}  # of the leaves in `params`
SHAPES = {"logit_opacities": (), "sh0": (1, 3)}  # of a row, where it is not [width]


class GpuPopulation:
    """See training.rows.Population. trees: parameters, first and second moments, packed."""

    xp: Any = mx

    def __init__(
        self, trees: tuple[Packed, Packed, Packed], n: int, rest: int, sums: dict[str, mx.array]
    ) -> None:
        self.trees, self.n, self.rest, self.kept_sums = trees, n, rest, sums

    def column(self, name: str) -> mx.array:
        """See Population.column."""
        return _leaf(self.trees[0], name, self.n, self.rest)

    def sums(self, name: str) -> mx.array:
        """See Population.sums."""
        return self.kept_sums[name]

    def gaussians(self) -> Gaussians:
        """See Population.gaussians."""
        return unpack(*self.trees[0], self.n, self.rest)

    def apply(self, edit: Edit) -> None:
        """See Population.apply. All that is new is made beside the old, and takes its place when it is there."""
        n = self.n if edit.source is None else edit.source.shape[0]
        trees = tuple(self._moved(tree, edit, n, moments=i > 0) for i, tree in enumerate(self.trees))
        mx.eval(trees)
        self.trees, self.n = trees, n  # type: ignore[assignment]
        if edit.source is not None:
            self.kept_sums = {name: mx.zeros(n) for name in self.kept_sums}

    def _moved(self, tree: Packed, edit: Edit, n: int, moments: bool) -> Packed:
        leaves = {}
        for name in Gaussians._fields:
            leaf = _leaf(tree, name, self.n, self.rest)
            if edit.source is not None:
                leaf = leaf[edit.source]
            if not moments and name in edit.columns:
                column = edit.columns[name]
                leaf = column if edit.new is None else _laid_over(leaf, edit.new, column)
            elif moments and name in edit.forget:
                leaf = mx.zeros_like(leaf)
            elif moments and edit.new is not None:
                leaf = _laid_over(leaf, edit.new, mx.zeros((edit.new.shape[0], *leaf.shape[1:])))
            leaves[name] = leaf.reshape(-1)
        params = mx.concatenate([leaves[name] for name in WIDTHS])
        return params, at_least_eight(leaves["shN"])


def _laid_over(leaf: mx.array, rows: mx.array, values: mx.array) -> mx.array:
    """`leaf` with other values in some rows; a row that is named twice has the same values twice."""
    if leaf.size and rows.size:
        leaf[rows] = values
    return leaf


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
