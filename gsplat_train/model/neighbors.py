# SPDX-License-Identifier: Apache-2.0
"""Exact nearest neighbours of a point cloud in NumPy: a balanced kd-tree, walked by all points at once.

Enters: points [P, 3]. Leaves: squared distances [P, k] to the k nearest others. scipy would do, at 100 MB of
wheel.
"""

from __future__ import annotations

import numpy as np

LEAF = 16  # points in a leaf, at most; more: longer distance tables, fewer: more boxes to visit
BATCH = 8192  # points that walk together: bounds the memory at some 100 MB


def squared_distances_to_nearest(points: np.ndarray, k: int) -> np.ndarray:
    """[P, k] squared distances, ascending, from each of `points` [P, 3] to its k nearest others.

    Exact duplicates are others (distance 0). inf where there are fewer than k others.
    """
    points = np.asarray(points, np.float64)
    if len(points) == 0:
        return np.empty((0, k))
    leaves, boxes = _build(points)  # [L, B] indices, -1 = none; per level [nodes, 2, 3]
    padded = np.concatenate([points, [[np.inf] * 3]])
    own_leaf = np.empty(len(points), np.int64)
    own_leaf[leaves[leaves >= 0]] = np.nonzero(leaves >= 0)[0]
    result = np.empty((len(points), k))
    in_order = leaves[leaves >= 0]  # neighbours together, so that a batch visits few leaves
    for start in range(0, len(points), BATCH):
        batch = in_order[start : start + BATCH]
        best = _k_nearest(padded, leaves, batch, np.arange(len(batch)), own_leaf[batch], k)
        result[batch] = _walk(padded, leaves, boxes, batch, own_leaf[batch], best[:, -1], k)
    return result


def _build(points: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Halve the cloud along each node's longest side until leaves are small; all nodes of a level at once.

    Returns the leaves [L, B] (indices, -1 in unused places) and for each level from the root the nodes' boxes
    [n, 2, 3].
    """
    levels = max(0, int(np.ceil(np.log2(len(points) / LEAF))))
    size = -(-len(points) // 2**levels) * 2**levels
    index = np.full(size, -1)
    index[: len(points)] = np.arange(len(points))
    coordinates = np.full((size, 3), np.nan)
    coordinates[: len(points)] = points
    nodes, boxes = index[None], []
    for level in range(levels + 1):
        cloud = coordinates[nodes]  # [nodes, members, 3]
        cloud[nodes < 0] = np.nan
        box = np.stack([np.fmin.reduce(cloud, axis=1), np.fmax.reduce(cloud, axis=1)], axis=1)
        boxes.append(box)
        if level < levels:
            axis = np.argmax(np.nan_to_num(box[:, 1] - box[:, 0], nan=-1.0), axis=1)
            along = np.take_along_axis(cloud, axis[:, None, None], axis=2)[..., 0]
            nodes = np.take_along_axis(nodes, np.argsort(along, axis=1), axis=1)  # NaN sorts last
            nodes = nodes.reshape(2 * len(nodes), -1)
    return nodes, boxes


def _walk(
    padded: np.ndarray,
    leaves: np.ndarray,
    boxes: list[np.ndarray],
    batch: np.ndarray,
    own_leaf: np.ndarray,
    bound: np.ndarray,
    k: int,
) -> np.ndarray:
    """[len(batch), k]: go down the tree with each (point, node) whose box is nearer than `bound`."""
    query, node = np.arange(len(batch)), np.zeros(len(batch), np.int64)
    for level, box in enumerate(boxes):
        if level:
            query, node = np.repeat(query, 2), np.stack([2 * node, 2 * node + 1], axis=1).ravel()
        point = padded[batch[query]]
        outside = np.maximum(np.maximum(box[node, 0] - point, point - box[node, 1]), 0.0)
        near = (outside**2).sum(axis=1) < bound[query]  # an empty node's box is NaN: False
        depth_below = len(boxes) - 1 - level
        near |= node == own_leaf[query] >> depth_below  # the way home; with `<=` above, equal points all meet
        query, node = query[near], node[near]
    return _k_nearest(padded, leaves, batch, query, node, k)


def _k_nearest(
    padded: np.ndarray, leaves: np.ndarray, batch: np.ndarray, query: np.ndarray, leaf: np.ndarray, k: int
) -> np.ndarray:
    """[len(batch), k]: the k smallest squared distances over the pairs (query ascending, leaf)."""
    best = np.full((len(batch), k), np.inf)
    turn = np.arange(len(query)) - np.searchsorted(query, query)  # how many leaves of this point come before
    order = np.argsort(turn, kind="stable")
    for pairs in np.split(order, np.cumsum(np.bincount(turn))[:-1]):  # one leaf for each point at a time
        rows, members = query[pairs], leaves[leaf[pairs]]
        squares = ((padded[members] - padded[batch[rows]][:, None]) ** 2).sum(axis=2)
        squares[members == batch[rows][:, None]] = np.inf
        candidates = np.concatenate([best[rows], squares], axis=1)
        best[rows] = np.sort(np.partition(candidates, min(k, candidates.shape[1] - 1), axis=1)[:, :k], axis=1)
    return best
