# SPDX-License-Identifier: Apache-2.0
"""Density control: which Gaussians to duplicate, split, relocate, prune, and when. One file per strategy.

A strategy decides; `optimizer` moves the rows of parameters and moments. The trainer calls `refine` after
every step, `state.step` already counted, and gives it the random generator that it owns and saves.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Protocol

import numpy as np

from ...config import Config
from ..optimizer import TrainState


@dataclass
class GradStats:
    """Sums since the last refinement, for the Gaussians that a step's view showed; a train step adds to them
    in place.
    """

    means2d_norm: np.ndarray  # [N] float32, of |(gx W/2, gy H/2)|, g = dL/dmeans2d in pixels
    absgrad_norm: np.ndarray  # [N] float32, the same of absgrad_probe's gradient; only summed where asked for
    count: np.ndarray  # [N] float32, in how many steps the Gaussian was visible

    @classmethod
    def zeros(cls, n: int) -> GradStats:
        return cls(*(np.zeros(n, np.float32) for _ in fields(cls)))


class Strategy(Protocol):
    """What a strategy offers."""

    stats: (
        GradStats | None
    )  # what the train step sums for it; its only state, saved in checkpoints; None: nothing

    def refine(self, state: TrainState, rng: np.random.Generator) -> dict[str, int]:
        """Refines `state` in place if the step is due; how many rows were duplicated, split, ...

        for the log.
        """
        ...


class Fixed:
    """The strategy `none`: the Gaussians stay as many as they are."""

    stats: GradStats | None = None

    def refine(self, state: TrainState, rng: np.random.Generator) -> dict[str, int]:
        return {}


def load(config: Config, n_splats: int) -> Strategy:
    """The strategy that `config` names, for a state of `n_splats` Gaussians."""
    from . import adc, mcmc

    if config.strategy == "mcmc":
        return mcmc.MCMC(config)
    if config.strategy == "adc":
        return adc.ADC(config, n_splats)
    return Fixed()


def due(config: Config, step: int) -> bool:
    """Whether a refinement follows this step: every `refine_every`, after `refine_start`, before
    `refine_stop`.
    """
    inside = config.refine_start < step < config.refine_stop * config.horizon
    return inside and step % config.refine_every == 0


def opacities(logits: np.ndarray) -> np.ndarray:
    """[N] float64 sigmoid of the stored logits."""
    return 0.5 + 0.5 * np.tanh(0.5 * logits.astype(np.float64))


def logits(opacities: np.ndarray) -> np.ndarray:
    """What is stored for opacities in (0, 1); the inverse of `opacities`."""
    return np.log(opacities) - np.log1p(-opacities)


def rotate(quats: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """[n, 3] `vectors` turned by `quats` [n, 4] wxyz of any length: v + 2 w (q x v) + 2 q x (q x v)."""
    unit = quats / np.maximum(np.linalg.norm(quats, axis=1, keepdims=True), 1e-12)
    w, axis = unit[:, :1], unit[:, 1:]
    across = np.cross(axis, vectors)
    return vectors + 2 * (w * across + np.cross(axis, across))
