# SPDX-License-Identifier: Apache-2.0
"""Which view a step trains on, and at which resolution: functions of seed and step, so that resuming needs no
state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from ..errors import UserError
from ..scene import Photo, PhotoSource, View
from .plan import halvings_at


class ViewSampler:
    """Each view once an epoch, in an order that seed and epoch decide.

    The first `downscale_every` steps see photos halved `downscales` times, the next once less, and so on. Where a
    step is over `batch` views, each is of its own part of them, every `batch`-th view: who takes it needs no others.
    late_batch: as many as the last step is over; UserError where there are fewer views than a step is over.
    """

    def __init__(
        self,
        views: Sequence[View],
        seed: int,
        downscales: int = 0,
        downscale_every: int = 1,
        batch: int = 1,
        late_batch: int = 1,
    ) -> None:
        if max(batch, late_batch) > len(views):
            remedy = "batch, or take fewer devices" if batch > len(views) else "late_batch"
            raise UserError(
                f"a step over {max(batch, late_batch)} views needs as many to train on, the scene has {len(views)}; "
                f"lower {remedy}"
            )
        self.views, self.seed, self.batch = views, seed, batch
        self.downscales, self.downscale_every = downscales, downscale_every
        self.level, self.reduced = 0, views  # the photos of the level in use
        self.orders: dict[int, tuple[int, list[int]]] = {}  # of each place: its epoch and the order in that

    def at(self, step: int) -> View:
        """The view for the step after `step` steps."""
        turn, place = divmod(step, self.batch)
        dealt = -((place - len(self.views)) // self.batch)  # of the views, to this place
        epoch, position = divmod(turn, dealt)
        of_epoch, order = self.orders.get(place, (-1, []))
        if of_epoch != epoch:
            seed = (self.seed, epoch) if self.batch == 1 else (self.seed, epoch, place)
            order = np.random.default_rng(seed).permutation(dealt).tolist()
            self.orders[place] = epoch, order
        level = halvings_at(step, self.downscales, self.downscale_every)
        if level != self.level:
            self.level, self.reduced = level, [reduce(view, level) for view in self.views]
        return self.reduced[place + self.batch * order[position]]


def reduce(view: View, halvings: int) -> View:
    """The view with its photo averaged over squares of 2**halvings pixels, when it is decoded; itself for 0."""
    if halvings == 0 or view.photo is None:
        return view
    factor = 2**halvings
    size = (max(view.camera.width // factor, 1), max(view.camera.height // factor, 1))
    return replace(view, camera=view.camera.resized(*size), photo=Reduced(view.photo, size), level=halvings)


@dataclass(frozen=True)
class Reduced:
    """A photo at a smaller size [width, height]."""

    source: PhotoSource
    size: tuple[int, int]

    def decode(self) -> Photo:
        """See PhotoSource.decode."""
        photo = self.source.decode()
        image = np.asarray(Image.fromarray(photo.image).resize(self.size, Image.Resampling.BOX))
        planes = [
            None
            if plane is None
            else np.asarray(Image.fromarray(plane.astype(np.uint8)).resize(self.size, how))
            for plane, how in ((photo.mask, Image.Resampling.NEAREST), (photo.alpha, Image.Resampling.BOX))
        ]
        return Photo(image, planes[0], planes[1])
