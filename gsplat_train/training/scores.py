# SPDX-License-Identifier: Apache-2.0
"""How much of a map of pixels each Gaussian carries: for density control that looks at pictures, not at gradients.

The sums are renderer.pixel_sums.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import mlx.core as mx
import numpy as np

from ..backends import Backend
from ..config import Config
from ..evaluate.floaters import sightings
from ..evaluate.perceptual import LUMA
from ..renderer import pixel_sums
from ..scene import Photo, View
from .plan import sh_degree_at
from .rows import Edit, Population

# (view, its photo [H, W, 3] uint8, the render [H, W, 3]) -> [H, W, 3], what each pixel weighs in three sums
Maps = Callable[[View, mx.array, mx.array], mx.array]


class ScoredPopulation(Population, Protocol):
    """A Population whose Gaussians can be held against the training photos."""

    @property
    def view_count(self) -> int:
        """How many training photos there are."""
        ...

    def pixel_sums(self, step: int, count: int, maps: Maps) -> Iterator[Any]:
        """See Scores.sums."""
        ...

    def screen_sizes(self, step: int, count: int) -> list[Any]:
        """See Scores.screen_sizes."""
        ...


GONE = -12.0  # the logit of an opacity below every strategy's least
SCORE_STREAM = 2  # tells the choice of views from what else is drawn by seed and step


class Scores:
    """Sums over the training views. views: in the frame and at the size that training sees."""

    def __init__(self, views: Sequence[View], backend: Backend, config: Config) -> None:
        self.views, self.backend, self.config = views, backend, config

    def chosen(self, step: int, count: int) -> list[View]:
        """`count` different views, by seed and step."""
        random = np.random.default_rng((self.config.seed, step, SCORE_STREAM))
        index = random.permutation(len(self.views))[:count]
        return [self.views[i] for i in sorted(index)]

    def sums(self, population: Population, step: int, count: int, maps: Maps) -> Iterator[Any]:
        """For each of `count` views, of all where there are fewer, [N, 3] float32, an array of the population's kind:
        sum_p w_i(p) maps(p). One after the other, so that no two are held.
        """
        gaussians, degree = population.gaussians(), sh_degree_at(self.config, step)
        for view in self.chosen(step, count):
            photo = view.pixels

            def weighed(image: mx.array, view: View = view, photo: Photo = photo) -> mx.array:
                weights = maps(view, mx.array(photo.image), image)
                return weights if photo.mask is None else weights * (mx.array(photo.mask) > 0)[:, :, None]

            sums = pixel_sums(gaussians, view.camera, self.backend, weighed, degree, self.config.antialiased)
            yield sums if population.xp is not np else np.array(sums)

    def screen_sizes(self, population: Population, step: int, count: int) -> list[Any]:
        """For each of `count` views [N] float32: how wide a Gaussian is drawn, of the photo's longer side; 0: not."""
        gaussians, degree, found = population.gaussians(), 0, []
        for view in self.chosen(step, count):
            camera = view.camera
            seen = self.backend.project(
                gaussians, camera.viewmat, camera.K, camera.width, camera.height,
                sh_degree=degree, antialiased=self.config.antialiased,
            )  # fmt: skip
            sizes = 2 * seen.radii.max(axis=1).astype(mx.float32) / max(camera.width, camera.height)
            mx.eval(sizes)
            found.append(sizes if population.xp is not np else np.array(sizes))
        return found

    def drop_floaters(self, population: Population) -> int:
        """Makes floaters and plates so faint that any strategy takes them; how many. Looks at all training views."""
        xp, gaussians = population.xp, population.gaussians()
        cameras = [view.camera for view in self.views]
        seen = sightings(gaussians, cameras, self.backend, self.config.antialiased)
        unwanted = seen.unwanted(gaussians.opacities)
        if found := int(unwanted.sum()):
            mask = unwanted if xp is not np else np.array(unwanted)
            logits = xp.where(mask, xp.array(GONE, dtype=xp.float32), population.column("logit_opacities"))
            population.apply(Edit(columns={"logit_opacities": logits}))
        return found


def errors(view: View, photo: mx.array, image: mx.array) -> mx.array:
    """Maps: |render - photo|, mean over the channels; 1; 0."""
    error = mx.abs(mx.clip(image, 0, 1) - photo.astype(mx.float32) / 255).mean(axis=2)
    return mx.stack([error, mx.ones_like(error), mx.zeros_like(error)], axis=2)


def ones(view: View, photo: mx.array, image: mx.array) -> mx.array:
    """Maps: 1; 1; 1. The render is not looked at, so it is not made."""
    return mx.ones(photo.shape)


def edges(view: View, photo: mx.array, image: mx.array) -> mx.array:
    """Maps: edges of the photo, 0 to 1; 1; 0. An edge is the absolute Laplacian (8 in the middle, -1 around) of the
    luminance, as Deng et al. 2025 ("Improving Densification in 3D Gaussian Splatting") weigh pixels.
    """
    grey = photo.astype(mx.float32) @ mx.array(LUMA)
    padded = mx.pad(grey, 1, mode="edge")
    height, width = grey.shape
    around = sum(
        padded[dy : dy + height, dx : dx + width] for dy in range(3) for dx in range(3) if (dy, dx) != (1, 1)
    )
    edge = mx.clip(8 * grey - around, 0, 1)
    edge = edge / mx.maximum(edge.max(), 1e-6)
    return mx.stack([edge, mx.ones_like(edge), mx.zeros_like(edge)], axis=2)
