# SPDX-License-Identifier: Apache-2.0
"""How differently photos are exposed, from a short training on small photos: what renders know better than points
is what stands in front of what.

The rehearsal has one colour a splat, so that it cannot learn a photo's brightness as a shine; what its renders lack
or have too much of is the photo's own. Its splats are thrown away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..backends import Backend
from ..model.initialize import gaussians_from_points
from ..renderer import render
from ..scene import View
from .objective import Objective
from .photos import ViewSampler, reduce
from .plan import NAMES, StepPlan
from .rows import start
from .stepper import make_stepper

STEPS, WIDTH, POINTS = 400, 160, 10_000
RATES = {"means": 2e-4, "quats": 1e-3, "log_scales": 5e-3, "logit_opacities": 0.05, "sh0": 0.01, "shN": 0.0}
LOW, HIGH = 10, 245  # of 255: darker is noise, brighter may be saturated
FEWEST = 100  # pixels


def gains(views: Sequence[View], points: np.ndarray, colors: np.ndarray, backend: Backend) -> np.ndarray:
    """[V, 3] log gain of each view's photo, of zero mean; views and points in training's frame."""
    random = np.random.default_rng(0)
    chosen = np.sort(random.permutation(len(points))[:POINTS])
    small = [replace(_small(view), index=i) for i, view in enumerate(views)]
    state = start(
        gaussians_from_points(points[chosen], colors[chosen], sh_degree=0, init_opacity=0.3, init_scale=0.5)
    )
    stepper, sampler = make_stepper(backend, state, Objective()), ViewSampler(small, seed=0)
    rates = tuple(RATES[name] for name in NAMES)
    for number in range(STEPS):
        stepper.take(sampler.at(number), StepPlan(number + 1, rates, sh_degree=0))
    gaussians = stepper.look().gaussians
    found = np.array([_gain(np.asarray(render(gaussians, v.camera, backend).image), v) for v in small])
    return found - found.mean(axis=0)


def _small(view: View) -> View:
    """The view with its photo halved until it is about WIDTH pixels wide."""
    return reduce(view, max(round(np.log2(view.camera.width / WIDTH)), 0))


def _gain(image: np.ndarray, view: View) -> np.ndarray:
    """[3] median of log (photo / render) over the pixels that count and are neither dark nor saturated."""
    photo = view.pixels
    shown, rendered = photo.image.astype(np.float64), 255 * image.astype(np.float64)
    counts: np.ndarray = np.ones(shown.shape[:2], bool) if photo.mask is None else np.asarray(photo.mask) > 0
    if photo.alpha is not None:
        counts = counts & (photo.alpha == 255)
    fine = counts[..., None] & (np.minimum(shown, rendered) >= LOW) & (np.maximum(shown, rendered) <= HIGH)
    whole = fine.all(axis=2)
    if whole.sum() < FEWEST:
        return np.zeros(3)
    ratio: np.ndarray = np.median(np.log(shown[whole] / rendered[whole]), axis=0)
    return ratio
