# SPDX-License-Identifier: Apache-2.0
"""A scene, settings and a state small enough for a test of training."""

from functools import cache
from typing import Any

import mlx.core as mx
import numpy as np

from gsplat_train import backends, config
from gsplat_train.config import Config
from gsplat_train.datasets.demo import make_demo
from gsplat_train.model.gaussians import Gaussians
from gsplat_train.scene import Scene
from gsplat_train.training import rows
from gsplat_train.training.plan import NAMES, StepPlan
from gsplat_train.training.rows import TrainState

BACKEND = "cpp" if backends.available()["cpp"] is None else "python"


@cache
def scene() -> Scene:
    """The demo scene as 9 views of 48x36 with 300 points."""
    return make_demo(n_views=9, width=48, height=36, n_points=300)


def settings(**changes: object) -> Config:
    """A few steps in which everything happens: refinement, all SH degrees, saving, measuring."""
    few = {
        "backend": BACKEND, "steps": 40, "sh_interval": 10, "max_splats": 400, "refine_start": 4,
        "refine_every": 5, "grow_rate": 0.1, "eval_every": 20, "checkpoint_every": 20, "init_scale": 1.0,
    }  # fmt: skip
    return config.load([few | {"strategy": changes.get("strategy", "mcmc")}], changes)


def random_gaussians(n: int, seed: int = 0, sh_degree: int = 1) -> Gaussians:
    """Gaussians in front of a camera at the origin, opacities from 0.1 to 0.9."""
    rng = np.random.default_rng(seed)
    opacity = rng.uniform(0.1, 0.9, n)
    arrays = {
        "means": rng.uniform(-1, 1, (n, 3)) + np.array([0, 0, 4]),
        "quats": rng.standard_normal((n, 4)),
        "log_scales": rng.uniform(-3, -1, (n, 3)),
        "logit_opacities": np.log(opacity / (1 - opacity)),
        "sh0": rng.standard_normal((n, 1, 3)),
        "shN": 0.1 * rng.standard_normal((n, (sh_degree + 1) ** 2 - 1, 3)),
    }
    return Gaussians(**{name: mx.array(array.astype(np.float32)) for name, array in arrays.items()})


def random_state(n: int, seed: int = 0) -> TrainState:
    """Random Gaussians with moments that name their row: m is the row's number, v twice that."""
    state = rows.start(random_gaussians(n, seed))
    for factor, tree in ((1, state.m), (2, state.v)):
        for leaf in rows.rows(tree).values():
            leaf[...] = factor * np.arange(n, dtype=np.float32).reshape(n, *[1] * (leaf.ndim - 1))
    return state


def plan(
    number: int = 1, rate: float = 1e-3, rates: dict[str, float] | None = None, **changes: Any
) -> StepPlan:
    """A plan with one rate for all leaves but those in `rates`, SH degree 1, and nothing else going on."""
    each = dict.fromkeys(NAMES, rate) | (rates or {})
    return StepPlan(**({"number": number, "rates": tuple(each.values()), "sh_degree": 1} | changes))
