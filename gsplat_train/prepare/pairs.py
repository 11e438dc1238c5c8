# SPDX-License-Identifier: Apache-2.0
"""Which photos to match with which: all with all up to 60, otherwise those that look alike and those in
sequence.

Photos are compared by a vector of locally aggregated descriptors (VLAD: Jégou et al. 2010) over words found
in their own descriptors, so nothing is downloaded.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np

EXHAUSTIVE = 60  # photos
ALIKE = 20  # neighbours by looks of a photo
LOOPS = 5  # neighbours by looks of a frame of a video: places it comes back to
IN_SEQUENCE = {"photos": 4, "video": 10}  # following ones
FARTHEST_POWER = 6  # and those 16, 32 and 64 frames later
WORDS = 64
SAMPLES = 20_000  # descriptors that the words are found in
PER_PHOTO = 1500  # descriptors of a photo that take part
ROUNDS = 8  # of k-means

Pair = tuple[int, int]


def choose_pairs(n: int, kind: str, descriptors: Callable[[int], np.ndarray]) -> list[Pair]:
    """Sorted pairs (i, j), i < j, of n photos in their order.

    kind: "photos" or "video"; descriptors: those of photo i, [K, 128] uint8, asked for above 60 photos only.
    """
    if n <= EXHAUSTIVE:
        return list(itertools.combinations(range(n), 2))
    pairs = _sequence(n, IN_SEQUENCE[kind])
    if kind == "video":
        pairs |= {(i, i + 2**k) for k in range(4, FARTHEST_POWER + 1) for i in range(n - 2**k)}
    alike = similarity([descriptors(i) for i in range(n)])
    pairs |= _nearest(alike, ALIKE if kind == "photos" else LOOPS, apart=0 if kind == "photos" else 20)
    return sorted(pairs)


def _sequence(n: int, following: int) -> set[Pair]:
    return {(i, j) for i in range(n) for j in range(i + 1, min(n, i + 1 + following))}


def _nearest(alike: np.ndarray, count: int, apart: int) -> set[Pair]:
    """The `count` most alike of each, more than `apart` places away in the order."""
    n = len(alike)
    places = np.abs(np.arange(n)[:, None] - np.arange(n))
    open_to = np.where(places > apart, alike, -np.inf)
    pairs = set()
    for i in range(n):
        for j in np.argsort(-open_to[i], kind="stable")[:count]:
            if np.isfinite(open_to[i, j]):
                pairs.add((min(i, int(j)), max(i, int(j))))
    return pairs


def similarity(descriptors: list[np.ndarray]) -> np.ndarray:
    """[n, n] cosines of the photos' VLAD vectors; a photo without descriptors is like none."""
    random = np.random.default_rng(0)
    picked = []
    for of_photo in descriptors:
        some = of_photo
        if len(some) > PER_PHOTO:
            some = some[np.sort(random.choice(len(some), PER_PHOTO, replace=False))]
        floats = some.astype(np.float32)
        picked.append(floats / np.maximum(np.linalg.norm(floats, axis=1, keepdims=True), 1e-9))
    every = np.concatenate(picked)
    if len(every) < WORDS:
        return np.zeros((len(descriptors), len(descriptors)))
    if len(every) > SAMPLES:
        every = every[random.choice(len(every), SAMPLES, replace=False)]
    words = _words(every, random)
    vectors = np.stack([_vlad(of_photo, words) for of_photo in picked])
    return vectors @ vectors.T


def _nearest_word(descriptors: np.ndarray, words: np.ndarray) -> np.ndarray:
    return np.argmax(descriptors @ words.T - 0.5 * (words**2).sum(axis=1), axis=1)


def _words(descriptors: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """[64, 128] centres by k-means; one that nothing is nearest to keeps its place."""
    words = descriptors[random.choice(len(descriptors), WORDS, replace=False)].copy()
    for _ in range(ROUNDS):
        nearest = _nearest_word(descriptors, words)
        sums = np.zeros_like(words)
        np.add.at(sums, nearest, descriptors)
        counts = np.bincount(nearest, minlength=WORDS)
        words[counts > 0] = sums[counts > 0] / counts[counts > 0, None]
    return words


def _vlad(descriptors: np.ndarray, words: np.ndarray) -> np.ndarray:
    """The residuals to the nearest words, summed by word, each word's and then all normalised, as a
    vector.
    """
    sums = np.zeros_like(words)
    if len(descriptors):
        nearest = _nearest_word(descriptors, words)
        np.add.at(sums, nearest, descriptors - words[nearest])
    sums /= np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-9)
    vector = sums.ravel()
    return vector / max(float(np.linalg.norm(vector)), 1e-9)
