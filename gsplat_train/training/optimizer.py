# SPDX-License-Identifier: Apache-2.0
"""Parameter groups, their learning rates, and the state that Adam trains.

Rows of the parameters and of both moments always move together: `density` says which rows, the functions here
move them, and know no policy. A group is one leaf of `Gaussians`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import numpy as np

from ..config import Config
from ..model.gaussians import Gaussians

GROUPS = Gaussians._fields
# Of training's frame: 1.1 times the distance of its farthest camera, which is 1 (3DGS, getNerfppNorm).
EXTENT = 1.1


@dataclass
class TrainState:
    """What a step changes: parameters, Adam's first and second moments (trees alike), and the steps done."""

    gaussians: Gaussians
    m: Gaussians
    v: Gaussians
    step: int = 0
    # A backend that works ahead of the host keeps the newest trees to itself; a look at one calls this first.
    settle: Callable[[], object] | None = field(default=None, repr=False, compare=False)

    def __getattribute__(self, name: str) -> Any:
        if name in ("gaussians", "m", "v"):
            settle = self.__dict__.get("settle")
            if settle is not None:
                self.settle = None
                settle()
        return super().__getattribute__(name)

    @property
    def n_splats(self) -> int:
        return self.__dict__["gaussians"].means.shape[0]  # steps under way do not change it


def start(gaussians: Gaussians) -> TrainState:
    """The state before the first step: zero moments."""
    m, v = (Gaussians(*map(mx.zeros_like, gaussians)) for _ in range(2))
    mx.eval(gaussians, m, v)
    return TrainState(gaussians, m, v)


def learning_rates(config: Config, step: int) -> dict[str, float]:
    """The rate of each group for the step after `step` steps; that of means decays exponentially (3DGS)."""
    progress = min(step / config.horizon, 1.0)
    first, last = config.lr_means, config.lr_means_end
    means = first * (last / first) ** progress if first > 0 else 0.0
    rates = {name: getattr(config, f"lr_{name}") for name in ("scales", "quats", "opacities", "sh0", "shN")}
    return {
        "means": EXTENT * means,
        "quats": rates["quats"],
        "log_scales": rates["scales"],
        "logit_opacities": rates["opacities"],
        "sh0": rates["sh0"],
        "shN": rates["shN"],
    }


def sh_degree_at(config: Config, step: int) -> int:
    """The degree in use in the step after `step` steps: it rises by one each `sh_interval` (3DGS)."""
    return min(config.sh_degree, step // config.sh_interval) if config.sh_interval else config.sh_degree


def rows(gaussians: Gaussians) -> dict[str, np.ndarray]:
    """Each leaf as a writable NumPy view of the evaluated array: what is written there is in the tree at
    once.
    """
    mx.eval(gaussians)
    return {name: np.asarray(leaf) for name, leaf in zip(GROUPS, gaussians, strict=True)}


def is_finite(state: TrainState) -> bool:
    """Whether every parameter and moment is."""
    trees = (state.gaussians, state.m, state.v)
    return all(np.isfinite(leaf).all() for tree in trees for leaf in rows(tree).values())


def copy_rows(state: TrainState, source: np.ndarray, target: np.ndarray) -> None:
    """Gives the rows `target` the parameters of the rows `source` (equally many); no moments move."""
    for leaf in rows(state.gaussians).values():
        leaf[target] = leaf[source]


def reset_moments(state: TrainState, index: np.ndarray | slice, groups: tuple[str, ...] = GROUPS) -> None:
    """Zeroes both moments of the rows `index` in these groups."""
    for tree in (rows(state.m), rows(state.v)):
        for name in groups:
            tree[name][index] = 0


def keep_rows(state: TrainState, keep: np.ndarray) -> None:
    """Keeps the rows where `keep` [N] bool holds, in order, with their moments."""
    index = mx.array(np.flatnonzero(keep).astype(np.uint32))
    for name in ("gaussians", "m", "v"):
        setattr(state, name, Gaussians(*(leaf[index] for leaf in getattr(state, name))))
    mx.eval(state.gaussians, state.m, state.v)


def append_rows(state: TrainState, new: Mapping[str, np.ndarray]) -> None:
    """Appends rows, one array [n, ...] a group, with zero moments. MemoryError, and nothing changed, where
    there is no room.
    """
    _make_sure_of(sum(leaf.nbytes for leaf in state.gaussians) + sum(rows.nbytes for rows in new.values()))
    parameters = Gaussians(*(mx.array(new[name]) for name in GROUPS))
    zeros = Gaussians(*map(mx.zeros_like, parameters))
    for name, tail in (("gaussians", parameters), ("m", zeros), ("v", zeros)):
        pairs = zip(getattr(state, name), tail, strict=True)
        setattr(state, name, Gaussians(*(mx.concatenate(list(pair)) for pair in pairs)))
    mx.eval(state.gaussians, state.m, state.v)


def _make_sure_of(tree_bytes: int) -> None:
    """MemoryError where there is no room for a tree and its moments. MLX on processors ends in a segmentation
    fault where memory runs out, so the room is asked for, and given back, first.
    """
    np.empty(3 * tree_bytes, np.uint8)
