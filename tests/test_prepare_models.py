# SPDX-License-Identifier: Apache-2.0
"""Which photos of a model belong together by the points that they share."""

from gsplat_train.prepare.models import TIED, tied_groups


def chain(first, count, start, step=TIED):
    """Photos in a row, each with two steps of points, one of them the next one's, too."""
    return {first + i: set(range(start + i * step, start + (i + 2) * step)) for i in range(count)}


def test_a_chain_holds_together_and_a_gap_parts_it():
    assert tied_groups(chain(0, 6, 0)) == [set(range(6))]
    parted = chain(0, 4, 0) | chain(4, 6, 10_000)
    assert sorted(tied_groups(parted), key=len) == [set(range(4)), set(range(4, 10))]


def test_too_few_points_tie_nothing():
    strays = chain(0, 5, 0) | {5: {0, 1, 2, 10**6}, 6: set()}
    assert sorted(map(len, tied_groups(strays))) == [1, 1, 5]
    assert len(tied_groups(chain(0, 5, 0, step=TIED - 1))) == 5


def test_a_photo_may_be_tied_by_several_together():
    points = chain(0, 4, 0) | {4: set(range(0, 8)) | set(range(3 * TIED, 3 * TIED + 8))}
    assert {0, 1, 2, 3, 4} in tied_groups(points)
    assert tied_groups({}) == []
