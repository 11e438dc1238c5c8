# SPDX-License-Identifier: Apache-2.0
"""Whether there is still something to train: a model whose splats are all culled has no gradient and no use."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..backends import Backend
from ..model.gaussians import Gaussians
from ..renderer import render
from ..scene import View
from .rows import TrainState, rows

LOOKED_AT = 8  # views


def is_seen(gaussians: Gaussians, views: Sequence[View], backend: Backend) -> bool:
    """Whether any of a few views, evenly chosen, shows any splat; gaussians and views are in one frame."""
    chosen = np.linspace(0, len(views) - 1, min(LOOKED_AT, len(views))).round().astype(int)
    return any(
        (np.asarray(render(gaussians, views[i].camera, backend).projected.radii) > 0).all(axis=1).any()
        for i in chosen
    )


def not_finite(state: TrainState) -> list[str]:
    """The leaves of the parameters and moments that hold a number that is not finite, in words."""
    trees = {"": state.gaussians, "first moment of ": state.m, "second moment of ": state.v}
    return [
        words + name
        for words, tree in trees.items()
        for name, leaf in rows(tree).items()
        if not np.isfinite(leaf).all()
    ]


def psnr_of_one_colour(views: Sequence[View], background: Sequence[float] = (0.0, 0.0, 0.0)) -> float:
    """The PSNR, in dB, of pictures that show each photo's mean colour everywhere: the mean over the views."""
    errors = [(view.pixels.shown(background) / 255.0).var(axis=(0, 1)).mean() for view in views]
    return float(np.mean([-10 * np.log10(max(error, 1e-10)) for error in errors]))
