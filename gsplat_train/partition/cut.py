# SPDX-License-Identifier: Apache-2.0
"""Cuts the views of a scene into parts that see different things.

Views are nodes of a graph; the weight between two is how much of what they see is the same: with a(i, p) the weight
of point p in view i (ownership.weights, of sum one over the view), w(i, j) = sum_p a(i, p) a(j, p). Each cut is a
normalised one (Shi and Malik 2000): views in the order of the second eigenvector of the normalised Laplacian, cut
where the weights across are least against those within, near the share that is wanted.
"""

from __future__ import annotations

import numpy as np

from ..errors import UserError
from ..scene import Scene
from .ownership import weights

MOST_POINTS = 4000  # of the scene, evenly chosen
SLACK = 0.2  # a cut may miss its share by this much of the views
LEAST_VIEWS = 3  # of a part


def cut_views(scene: Scene, parts: int) -> list[int]:
    """The part, from 0, of each view of the scene. UserError where there are too few views."""
    n = len(scene.views)
    if n < LEAST_VIEWS * parts:
        raise UserError(
            f"{n} views make at most {n // LEAST_VIEWS} parts of {LEAST_VIEWS} views, and {parts} were asked for; "
            "give a smaller --parts"
        )
    if not len(scene.points):
        raise UserError("a scene without points cannot be cut: what its views have in common is not known")
    points = scene.points[:: -(-len(scene.points) // MOST_POINTS)]
    rows = np.zeros((n, len(points)))
    for row, view in zip(rows, scene.views, strict=True):
        index, weight = weights(points, view.camera)
        row[index] = weight / weight.sum() if len(index) else 0.0
    likeness = rows @ rows.T
    likeness += 1e-4 * likeness.mean()  # where nothing connects two groups their cut would not be unique
    result = np.zeros(n, np.int64)
    _cut(likeness, np.arange(n), parts, 0, result)
    return [int(part) for part in result]


def _cut(likeness: np.ndarray, index: np.ndarray, parts: int, first: int, result: np.ndarray) -> None:
    """Gives the views `index` the parts first .. first + parts - 1."""
    if parts == 1:
        result[index] = first
        return
    left = parts // 2
    inner = likeness[np.ix_(index, index)]
    order = np.argsort(_second_eigenvector(inner), kind="stable")
    n = len(index)
    wanted = n * left / parts
    low = max(LEAST_VIEWS * left, int(np.ceil(wanted - SLACK * n)))
    high = min(n - LEAST_VIEWS * (parts - left), int(wanted + SLACK * n))
    ordered = inner[np.ix_(order, order)]
    total = ordered.sum()
    costs = {}
    for at in range(low, max(high, low) + 1):
        across = ordered[:at, at:].sum()
        within = ordered[:at].sum()
        costs[at] = across / max(within, 1e-30) + across / max(total - within, 1e-30)
    at = min(costs, key=lambda place: (costs[place], abs(place - wanted)))
    _cut(likeness, index[order[:at]], left, first, result)
    _cut(likeness, index[order[at:]], parts - left, first + left, result)


def _second_eigenvector(likeness: np.ndarray) -> np.ndarray:
    """Of the normalised Laplacian, divided by the root of the degrees; its sign is fixed."""
    root = 1 / np.sqrt(np.maximum(likeness.sum(axis=1), 1e-30))
    _, vectors = np.linalg.eigh(np.eye(len(likeness)) - root[:, None] * likeness * root)
    vector = vectors[:, 1] * root
    return vector * np.sign(vector[np.argmax(np.abs(vector))])
