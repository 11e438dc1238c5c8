# SPDX-License-Identifier: Apache-2.0
"""What is behind the splats while they are trained.

Over a background that is always black a dark thing may as well be a hole: nothing tells the two apart until a viewer
shows another colour there. Over one that changes with each step what lets it through costs |background - photo|, 0.25
of full scale at the least in the mean, wherever the photo is opaque. What has become solid is kept so by a step in
four, and scores, which are over black, are best where the end of a run is spent there: that is `random-first`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import UserError
from ..model.sky import BLACK, WHITE, Colour
from ..scene import Photo, View, evenly
from . import draws

FIRST, FIRST_SHARE = "random-first", 0.5  # the setting; of the schedule, over random colours
AFTER = 4  # then each so many steps one, and black between
SAMPLES = 8  # photos looked at
DARK, MOST = (
    3,
    0.5,
)  # of 255: black; the share of such pixels at the photos' borders that means a black background


def ground_at(background: str, seed: int, number: int, horizon: int) -> Colour:
    """The colour in step `number` of a schedule of `horizon` steps."""
    its_turn = number <= FIRST_SHARE * horizon or number % AFTER == 0
    drawn = background == "random" or (background == FIRST and its_turn)
    if not drawn:
        return WHITE if background == "white" else BLACK
    red, green, blue = draws.uniforms(3, draws.Key(seed, number, draws.BACKGROUND))
    return red, green, blue


def decided(background: str, views: Sequence[View]) -> str:
    """The setting for these views, where it is auto: random-first, but black where photos are see-through (their alpha
    then says what is empty) or where they end in black, as before a black cloth or at night, which nobody wants built
    of splats. UserError where sh and see-through photos meet.
    """
    if background not in ("auto", "sh"):
        return background
    borders = []
    for view in evenly(views, SAMPLES):
        photo = view.pixels  # one at a time: they may stay in their files for want of memory
        if background == "sh" and photo.matte is not None:
            raise UserError(
                "background=sh learns what is behind, and these photos are see-through there; take black, white or "
                "random, or --alpha-mode ignore"
            )
        if background == "auto" and photo.alpha is not None:
            return "black"
        borders.append(_border(photo).max(axis=1) <= DARK)
    if background == "sh":
        return background
    dark = np.concatenate(borders)
    return "black" if dark.sum() > MOST * len(dark) else FIRST


def _border(photo: Photo) -> np.ndarray:
    """[n, 3] the outermost pixels that count."""
    edge = np.zeros(photo.image.shape[:2], bool)
    edge[[0, -1]] = edge[:, [0, -1]] = True
    return photo.image[edge if photo.mask is None else edge & (photo.mask > 0)]
