# SPDX-License-Identifier: Apache-2.0
"""Which splats are left in an export, and what of their colours. NumPy only.

Each filter takes Splats and gives Splats; lengths are in their own unit.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import UserError
from ..scene import Camera
from .frame import basis
from .neighbors import squared_distances_to_nearest
from .splats import C0, Splats, sigmoid

NEIGHBOURS = 8  # whose distance tells how lonely a splat is
LONELY = 4.0  # robust standard deviations of the logarithm of that distance
APART = 3.0  # and times the splat's own size


def more_opaque(splats: Splats, opacity: float) -> Splats:
    """Those of at least `opacity` (0 to 1)."""
    return splats.take(sigmoid(splats.arrays["logit_opacities"]) >= opacity)


def smaller(splats: Splats, scale: float) -> Splats:
    """Those whose largest standard deviation is at most `scale`."""
    return splats.take(splats.arrays["log_scales"].max(axis=1) <= np.log(scale))


def cropped(splats: Splats, numbers: Sequence[float]) -> Splats:
    """Those whose centre lies in a box (x0 y0 z0 x1 y1 z1) or a sphere (x y z radius)."""
    bounds = np.array(numbers, np.float64)
    means = splats.arrays["means"]
    if len(bounds) == 4:
        return splats.take(np.asarray(np.linalg.norm(means - bounds[:3], axis=1) <= bounds[3]))
    if len(bounds) != 6:
        raise UserError(f"a crop is 6 numbers (a box's two corners) or 4 (a sphere), got {len(bounds)}")
    low, high = np.minimum(bounds[:3], bounds[3:]), np.maximum(bounds[:3], bounds[3:])
    return splats.take(np.all((means >= low) & (means <= high), axis=1))


def without_floaters(splats: Splats) -> Splats:
    """Without splats far from all others, for their surroundings and their own size: statistical outlier removal
    (Rusu et al. 2008) on the logarithm of the distance to the 8th neighbour.
    """
    if splats.n <= 2 * NEIGHBOURS:
        return splats
    squares = squared_distances_to_nearest(splats.arrays["means"], NEIGHBOURS)[:, -1]
    logs = 0.5 * np.log(np.maximum(squares, 1e-30))
    middle = np.median(logs)
    deviation = max(1.4826 * float(np.median(np.abs(logs - middle))), 1e-6)
    lonely = (logs > middle + LONELY * deviation) & (
        logs > splats.arrays["log_scales"].max(axis=1) + np.log(APART)
    )
    return splats.take(~lonely)


def most_important(splats: Splats, count: int, importance: np.ndarray | None = None) -> Splats:
    """The `count` most important, in their order; importance [N], else opacity times area."""
    if count < 1:
        raise UserError(f"at least 1 splat must be left, got {count}")
    if splats.n <= count:
        return splats
    if importance is None:
        two_largest = np.sort(splats.arrays["log_scales"], axis=1)[:, 1:].sum(axis=1)
        importance = two_largest + np.log(np.maximum(sigmoid(splats.arrays["logit_opacities"]), 1e-30))
    return splats.take(np.sort(np.argpartition(-importance, count - 1)[:count]))


def of_one_colour(splats: Splats, cameras: Sequence[Camera] = ()) -> Splats:
    """Splats without harmonics, of the mean colour that they show to the cameras that see them; without cameras
    the constant coefficient, which is the mean over the sphere.
    """
    arrays = dict(splats.arrays)
    degree, means = splats.sh_degree, arrays["means"].astype(np.float64)
    coefficients = np.concatenate([arrays["sh0"], arrays["shN"]], axis=1)
    total, seen = np.zeros((splats.n, 3)), np.zeros((splats.n, 1))
    for camera in cameras if degree else ():
        arms = means - camera.position
        local = arms @ camera.viewmat[:3, :3].T
        depth = np.maximum(local[:, 2], 1e-9)
        u = camera.K[0, 0] * local[:, 0] / depth + camera.K[0, 2]
        v = camera.K[1, 1] * local[:, 1] / depth + camera.K[1, 2]
        inside = (
            (local[:, 2] > 0) & (abs(u * 2 / camera.width - 1) < 1.2) & (abs(v * 2 / camera.height - 1) < 1.2)
        )
        directions = arms[inside] / np.maximum(np.linalg.norm(arms[inside], axis=1, keepdims=True), 1e-30)
        colours = np.einsum("nk,nkc->nc", basis(directions, degree), coefficients[inside]) + 0.5
        total[inside] += np.clip(colours, 0, 1)
        seen[inside] += 1
    mean = (total / np.maximum(seen, 1) - 0.5) / C0
    arrays["sh0"] = np.where(seen > 0, mean, arrays["sh0"][:, 0])[:, None].astype(np.float32)
    return splats._replace(arrays=arrays).cut(0)
