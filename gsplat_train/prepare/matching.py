# SPDX-License-Identifier: Apache-2.0
"""Matching pairs of photos by their features with COLMAP, in parts, so that it can be told how far it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

CHUNK_SECONDS = 4.0  # between two events
FIRST_CHUNK = 10  # pairs; how long they take tells how long all will
LARGEST_CHUNK = 400  # pairs
FEATURE_SIZE = 1600  # pixels: larger photos are reduced to find features


class Matching(NamedTuple):
    """How pairs are matched."""

    database: str
    threads: int
    most_trials: int  # of RANSAC
    max_error: float = 4.0  # pixels from the epipolar line
    guided: bool = False  # once more, along the epipolar lines


def longest_side(job: dict[str, Any]) -> int:
    """Pixels of the longest side, as features were found in it."""
    return min(FEATURE_SIZE, max(max(p["width"], p["height"]) for p in job["photos"]))


def match_pairs(how: Matching, pairs: Sequence[tuple[str, str]], at: Callable[[int], None]) -> None:
    """Matches pairs of photos by their names, and verifies each by geometry; `at` is told how many are done.

    The first pairs are spread over all: pairs of neighbours take longer than those that share nothing.
    """
    import pycolmap

    matching = pycolmap.FeatureMatchingOptions()
    matching.use_gpu = False
    matching.num_threads = how.threads
    matching.guided_matching = how.guided
    geometry = pycolmap.TwoViewGeometryOptions()
    geometry.ransac.max_num_trials = how.most_trials
    geometry.ransac.max_error = how.max_error
    listed = pycolmap.ImportedPairingOptions()
    listed.match_list_path = Path(how.database).with_name("pairs.txt")
    apart = -(-len(pairs) // FIRST_CHUNK)
    pairs = [pair for i in (0, 1) for k, pair in enumerate(pairs) if (k % apart > 0) == i]
    size, start = FIRST_CHUNK, 0
    while start < len(pairs):
        part = pairs[start : start + size]
        listed.match_list_path.write_text("".join(f"{a} {b}\n" for a, b in part), "utf-8")
        began = time.monotonic()
        pycolmap.match_image_pairs(
            how.database,
            matching_options=matching,
            pairing_options=listed,
            verification_options=geometry,
            device=pycolmap.Device.cpu,
        )
        start += len(part)
        at(start)
        took = max(time.monotonic() - began, 1e-3)
        size = max(4, min(LARGEST_CHUNK, int(len(part) * CHUNK_SECONDS / took)))
