# SPDX-License-Identifier: Apache-2.0
"""Where up is, where the middle is, which photos are matched, and the picture of a scene."""

import io
import itertools

import numpy as np
import pytest
from PIL import Image

from gsplat_train.datasets.demo import orbit_camera
from gsplat_train.prepare.orient import IDENTITY, UPS, Similarity, cameras_up, measured_up, upright
from gsplat_train.prepare.pairs import choose_pairs, similarity
from gsplat_train.prepare.picture import draw


def random_rotation(seed):
    q, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((3, 3)))
    return q * np.sign(np.linalg.det(q))


def looking(positions, targets, roll=0.0, seed=0):
    """World-to-camera rotations; z is up; cameras are rolled by `roll` degrees (standard deviation)."""
    rolls = np.radians(roll) * np.random.default_rng(seed).standard_normal(len(positions))
    found = []
    for position, target, angle in zip(positions, targets, rolls, strict=True):
        forward = (target - position) / np.linalg.norm(target - position)
        right = np.cross(forward, [0, 0, 1])
        right /= np.linalg.norm(right)
        R = np.stack([right, np.cross(forward, right), forward])
        c, s = np.cos(angle), np.sin(angle)
        found.append(np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]]) @ R)
    return np.stack(found)


def circle(n, radius, height, share=1.0):
    turn = 2 * np.pi * share * np.arange(n) / n
    return np.stack([radius * np.cos(turn), radius * np.sin(turn), np.full(n, height)], axis=1)


@pytest.mark.parametrize(("height", "share"), [(0.5, 1.0), (6.0, 1.0), (1.0, 0.4), (6.0, 0.4)])
def test_up_from_level_horizons(height, share):
    """From the side or from high above, all round or not: the mean of the cameras' up is off by 60
    degrees.
    """
    positions = circle(24, 3.0, height, share)
    R = looking(positions, np.zeros_like(positions), roll=2.0)
    assert cameras_up(R) @ [0, 0, 1] > np.cos(np.radians(3))


def test_up_of_cameras_that_look_one_way_is_theirs():
    positions = np.stack([np.linspace(-1, 1, 9), np.full(9, -4.0), np.linspace(0, 0.4, 9)], axis=1)
    R = looking(positions, positions + np.array([0, 1, 0]), roll=1.0)
    assert cameras_up(R) @ [0, 0, 1] > np.cos(np.radians(3))


@pytest.mark.parametrize("axis", UPS)
def test_upright_in_any_frame(axis):
    turn = random_rotation(3)
    positions = circle(20, 3.0, 2.0)
    R = looking(positions, np.zeros_like(positions)) @ turn.T
    moved = positions @ turn.T * 0.01 + [5, 6, 7]
    found, source = upright(R, moved, np.zeros((0, 3)), [None] * 20, axis)
    assert source == "cameras" and np.linalg.det(found.rotation) == pytest.approx(1)
    assert found.rotation @ turn @ [0, 0, 1] == pytest.approx(UPS[axis], abs=1e-9)
    assert found.apply(np.array([[5.0, 6, 7]]))[0] == pytest.approx([0, 0, 0], abs=1e-9)
    assert np.linalg.norm(found.apply(moved), axis=1) == pytest.approx(np.full(20, 4.0))


def test_the_middle_of_what_is_seen_where_cameras_look_one_way():
    positions = np.stack([np.linspace(-1, 1, 9), np.zeros(9), np.zeros(9)], axis=1)
    R = looking(positions, positions + np.array([0, 1, 0]))
    points = np.array([[0, 5.0, 1]] * 9 + [[0, 5e6, 0]])
    found, _ = upright(R, positions, points, [None] * 9)
    assert found.apply(points[:1])[0] == pytest.approx([0, 0, 0], abs=1e-9)


def test_measured_gravity_wins_where_it_agrees():
    positions = circle(12, 3.0, 2.0)
    R = looking(positions, np.zeros_like(positions), roll=25.0)  # carelessly held
    downs = [tuple(r @ [0, 0, -1]) for r in R]
    downs[3] = (1.0, 0.0, 0.0)
    found = measured_up(R, downs)
    assert found is not None and found == pytest.approx([0, 0, 1], abs=1e-9)
    random = np.random.default_rng(0)
    assert measured_up(R, [tuple(random.standard_normal(3)) for _ in R]) is None
    assert measured_up(R, [None] * 10 + downs[:2]) is None
    assert upright(R, positions, np.zeros((0, 3)), downs)[1] == "gravity"


def test_a_similarity_and_its_way_back():
    a = Similarity(2.5, random_rotation(1), np.array([1.0, 2, 3]))
    points = np.random.default_rng(0).standard_normal((5, 3))
    assert np.allclose(a.inverse().apply(a.apply(points)), points)
    assert np.allclose(a.after(a.inverse()).apply(points), IDENTITY.apply(points))
    stored = Similarity.from_json(a.to_json())
    assert np.array_equal(stored.apply(points), a.apply(points))
    with pytest.raises(ValueError, match="similarity"):
        Similarity.from_json(a.to_json() | {"scale": -1})


# --- pairs


def never(i):
    raise AssertionError("descriptors are not needed")


def test_all_pairs_up_to_sixty():
    assert choose_pairs(60, "photos", never) == list(itertools.combinations(range(60), 2))


def places(n, of_place, seed=0):
    """Descriptors of photos that see things of their own place, and of photo i's place `of_place(i)`."""
    random = np.random.default_rng(seed)
    things = random.integers(0, 255, (max(map(of_place, range(n))) + 1, 60, 128))
    return [
        np.clip(things[of_place(i)] + random.normal(0, 8, (60, 128)), 0, 255).astype(np.uint8)
        for i in range(n)
    ]


def test_photos_that_look_alike_are_matched():
    """100 photos of 10 places in mixed order."""
    n = 100
    order = np.random.default_rng(1).permutation(n)
    described = places(n, lambda i: i // 10)
    pairs = set(choose_pairs(n, "photos", lambda i: described[order[i]]))
    same = {(i, j) for i, j in itertools.combinations(range(n), 2) if order[i] // 10 == order[j] // 10}
    assert same <= pairs and len(pairs) < 0.5 * n * (n - 1) / 2


def test_frames_are_matched_in_sequence_and_where_the_film_comes_back():
    n = 120
    described = places(n, lambda i: min(i, n - 1 - i) // 4)  # there and back
    pairs = set(choose_pairs(n, "video", lambda i: described[i]))
    assert {(i, i + k) for k in range(1, 11) for i in range(n - k)} <= pairs
    assert sum((i, n - 1 - i) in pairs for i in range(40)) > 30
    assert all(i < j for i, j in pairs)


def test_a_photo_without_features_is_like_no_other():
    described = [*places(3, lambda i: i), np.zeros((0, 128), np.uint8)]
    alike = similarity(described)
    assert np.allclose(alike[3], 0) and np.allclose(np.diag(alike)[:3], 1)
    assert np.array_equal(similarity([np.zeros((0, 128), np.uint8)] * 2), np.zeros((2, 2)))


# --- the picture


def test_the_picture_shows_points_and_cameras_from_top_and_side():
    cameras = [orbit_camera(i / 8, 64, 48) for i in range(8)]
    R = np.stack([camera.viewmat[:3, :3] for camera in cameras])
    positions = np.stack([camera.position for camera in cameras])
    points = np.random.default_rng(0).uniform(-1, 1, (500, 3)) * [1, 1, 0.01]
    points[0] = [1e9, 0, 0]  # far points do not make all else tiny
    colors = np.full((500, 3), [0, 255, 0], np.uint8)
    pixels = np.asarray(Image.open(io.BytesIO(draw(R, positions, points, colors, np.array([0, 0, 1.0])))))
    green = (pixels[:, :, 1] == 255) & (pixels[:, :, 0] < 100)
    rows_top, rows_side = (np.flatnonzero(part.any(axis=1)) for part in (green[:, :640], green[:, 640:]))
    assert np.ptp(rows_top) > 120 and np.ptp(rows_side) < 20
    assert (pixels == [255, 84, 64]).all(axis=2).sum() > 200
    empty = draw(R, positions, np.zeros((0, 3)), np.zeros((0, 3), np.uint8), np.array([0, -1.0, 0]))
    assert Image.open(io.BytesIO(empty)).size == (1280, 640)
