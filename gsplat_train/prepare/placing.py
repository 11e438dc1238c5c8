# SPDX-License-Identifier: Apache-2.0
"""Photos that a model supports badly are placed anew: an adjustment alone does not leave a wrong minimum."""

from __future__ import annotations

from typing import Any

import numpy as np

# Of the median share of matched features that see a point. On films of 320x240 the least of sound photos was 0.75 of
# it, and those of photos gone astray 0.05 to 0.5.
SUSPICIOUS = 0.6
FEWEST_INLIERS = 20  # features that agree on a place; COLMAP wants 30
CLEARLY = 1.2  # times the points of the old place


def matched(database: Any) -> Any:
    """COLMAP's cache of the database, in which the pairs of matched features are."""
    import pycolmap

    stored = pycolmap.Database.open(database)
    try:
        return pycolmap.DatabaseCache.create(stored, pycolmap.DatabaseCacheOptions(load_all_images=True))
    finally:
        stored.close()


def suspicious(model: Any, graph: Any) -> list[int]:
    """Photos of which a far smaller share of the matched features sees a point than of others."""
    features = {i: graph.num_observations_for_image(i) for i, image in model.images.items() if image.has_pose}
    shares = {i: model.images[i].num_points3D / n for i, n in features.items() if n >= FEWEST_INLIERS}
    least = SUSPICIOUS * float(np.median(list(shares.values()) or [0.0]))
    return sorted(i for i, share in shares.items() if share < least)


def placed_anew(model: Any, cache: Any, options: Any) -> Any:
    """A copy of the model with suspicious photos at other places; None where these are not clearly better.

    All of them are taken out first, since those that went astray together support each other. COLMAP then registers
    them one by one, and what found no place before, as it does a new photo. Those that see fewer points than before
    get their old place back. The points are for judging only: triangulate and adjust all.
    """
    import pycolmap

    strays = suspicious(model, cache.correspondence_graph)
    if not strays or 2 * len(strays) > model.num_reg_images():
        return None
    other: Any = pycolmap.Reconstruction(model)
    old = {i: (model.images[i].num_points3D, model.images[i].frame.rig_from_world) for i in strays}
    for i in strays:
        other.deregister_frame(other.images[i].frame_id)
    mapper = pycolmap.IncrementalMapper(cache)
    mapper.begin_reconstruction(other)
    _register(mapper, options, set(other.images) - set(other.reg_image_ids()))
    placed = set(other.reg_image_ids())
    gained = False
    for i, (points, pose) in old.items():
        image = other.images[i]
        gained |= i in placed and image.num_points3D >= max(FEWEST_INLIERS, CLEARLY * points)
        if i not in placed or image.num_points3D < points:
            image.frame.rig_from_world = pose
        if i not in placed:
            other.register_frame(image.frame_id)
    mapper.end_reconstruction(False)  # which takes out photos without a place
    return other if gained else None


def adjusted(model: Any, cache: Any, options: Any) -> Any:
    """The model with what COLMAP triangulates more, all adjusted as its incremental mapper does at its end."""
    import pycolmap

    mapper = pycolmap.IncrementalMapper(cache)
    mapper.begin_reconstruction(model)
    for i in model.reg_image_ids():
        mapper.triangulate_image(options.get_triangulation(), i)
    mapper.iterative_global_refinement(
        options.ba_global_max_refinements,
        options.ba_global_max_refinement_change,
        options.get_mapper(),
        options.get_global_bundle_adjustment(),
        options.get_triangulation(),
    )
    mapper.end_reconstruction(False)
    return model


def _register(mapper: Any, options: Any, waiting: set[int]) -> None:
    """Lets COLMAP place the photos that wait, those first that see most of the model."""
    how, triangulation = options.get_mapper(), options.get_triangulation()
    while waiting:
        for i in mapper.find_next_images(how, False):
            if i in waiting and mapper.register_next_image(how, i):
                break
        else:
            break
        waiting.remove(i)
        mapper.triangulate_image(triangulation, i)
        mapper.iterative_local_refinement(
            options.ba_local_max_refinements,
            options.ba_local_max_refinement_change,
            how,
            options.get_local_bundle_adjustment(),
            triangulation,
            i,
        )
