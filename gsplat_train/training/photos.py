# SPDX-License-Identifier: Apache-2.0
"""Which view a step trains on, and at which resolution: functions of seed and step, so that resuming needs no
state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from PIL import Image

from ..scene import View


class ViewSampler:
    """Each view once an epoch, in an order that seed and epoch decide.

    The first `downscale_every` steps see photos halved `downscales` times, the next once less, and so on.
    """

    def __init__(
        self, views: Sequence[View], seed: int, downscales: int = 0, downscale_every: int = 1
    ) -> None:
        self.views, self.seed = views, seed
        self.downscales, self.downscale_every = downscales, downscale_every
        self.level, self.reduced = 0, views  # the photos of the level in use
        self.epoch, self.order = -1, np.empty(0, int)

    def at(self, step: int) -> View:
        """The view for the step after `step` steps."""
        epoch, position = divmod(step, len(self.views))
        if epoch != self.epoch:
            self.epoch, self.order = (
                epoch,
                np.random.default_rng((self.seed, epoch)).permutation(len(self.views)),
            )
        level = max(self.downscales - step // self.downscale_every, 0)
        if level != self.level:
            self.level, self.reduced = level, [reduce(view, 2**level) for view in self.views]
        return self.reduced[self.order[position]]


def reduce(view: View, factor: int) -> View:
    """The view with its photo averaged over squares of `factor` pixels; itself for 1."""
    if factor == 1 or view.image is None:
        return view
    size = (max(view.camera.width // factor, 1), max(view.camera.height // factor, 1))
    image = np.asarray(Image.fromarray(view.image).resize(size, Image.Resampling.BOX))
    mask = view.mask
    if mask is not None:
        mask = np.asarray(Image.fromarray(mask.astype(np.uint8)).resize(size, Image.Resampling.NEAREST))
    return replace(view, camera=view.camera.resized(*size), image=image, mask=mask)
