# SPDX-License-Identifier: Apache-2.0
"""Camera paths through the region that the training cameras captured.

Cameras and points are in the scene's frame, OpenCV axes. A path takes its lens from the cameras: `lens` says
which. No path leaves the box that the cameras span: what they did not see no splat can show.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..errors import UserError
from ..model.frame import matrix, quaternion
from ..model.opening import upright
from ..scene import Camera

AROUND = 0.9  # the mean of unit directions is shorter than this where cameras look at something from around
INNER = (10, 90)  # percentiles of the cameras' positions between which a path stays
GAP = np.radians(75)  # an orbit swings to and fro where no camera stands on so much of the circle
TURNS = 2  # of the spiral
UNORDERED = 1.5  # photos whose way by name is longer than so many times the greedy one are no walk
SUBSTEPS = 32  # of a spline's segment, to measure its length


def make_path(kind: str, cameras: Sequence[Camera], points: np.ndarray, frames: int) -> list[Camera]:
    """`frames` cameras along a path of that kind (PATHS), looking as the training `cameras` do.

    points [P, 3]: of the scene or the splats; they tell how far the subject is. UserError without cameras.
    """
    if not cameras:
        raise UserError(f"a path {kind} needs the training cameras; name the scene with --scene")
    lens = typical(cameras)
    return [
        Camera(viewmat, lens.K, lens.width, lens.height) for viewmat in PATHS[kind](cameras, points, frames)
    ]


def typical(cameras: Sequence[Camera]) -> Camera:
    """The camera whose focal length is the median one."""
    focals = [camera.K[1, 1] / camera.height for camera in cameras]
    return cameras[int(np.argsort(focals)[len(focals) // 2])]


def with_lens(camera: Camera, width: int | None, height: int | None, fov: float | None) -> Camera:
    """The camera with pictures of another size and another vertical field of view in degrees, its principal
    point in the middle; of width and height alone the other follows.
    """
    if width is None and height is None and fov is None:
        return camera
    if width is None:
        width = camera.width if height is None else max(round(camera.width * height / camera.height), 1)
    if height is None:
        height = max(round(camera.height * width / camera.width), 1)
    if fov is None:
        focal = camera.K[1, 1] * height / camera.height
    else:
        focal = height / 2 / np.tan(np.radians(fov) / 2)
    K = np.array([[focal * camera.K[0, 0] / camera.K[1, 1], 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    return Camera(camera.viewmat, K, width, height)


def subject(cameras: Sequence[Camera], points: np.ndarray) -> np.ndarray:
    """[3] what the cameras look at: where their axes meet; where these are nearly parallel, the middle of the
    points before them.
    """
    positions, forwards = _rays(cameras)
    if np.linalg.norm(forwards.mean(axis=0)) < AROUND:
        across = np.eye(3) - forwards[:, :, None] * forwards[:, None, :]
        return np.linalg.lstsq(across.sum(axis=0), np.einsum("nij,nj->i", across, positions), rcond=None)[0]
    centre, forward = positions.mean(axis=0), _unit(forwards.mean(axis=0))
    depths = (np.asarray(points, np.float64) - centre) @ forward
    depths = depths[depths > 1e-6]
    # A nearer point moves faster in the picture: the middle is that of 1 / depth.
    depth = 1 / np.median(1 / depths) if len(depths) else 1.0
    return centre + forward * depth


def look_at(position: np.ndarray, target: np.ndarray, up: np.ndarray) -> np.ndarray:
    """[4, 4] viewmat of an upright camera at `position` that looks at `target`."""
    forward = _unit(target - position)
    right = np.cross(forward, up)
    if np.linalg.norm(right) < 1e-6:  # straight up or down
        right = np.cross(forward, np.eye(3)[np.argmin(np.abs(forward))])
    right = _unit(right)
    rotation = np.array([right, np.cross(forward, right), forward])
    viewmat = np.eye(4)
    viewmat[:3, :3], viewmat[:3, 3] = rotation, -rotation @ position
    return viewmat


def _spiral(cameras: Sequence[Camera], points: np.ndarray, frames: int) -> list[np.ndarray]:
    """Two turns about the mean camera, as wide as the cameras stand apart. Where they stand around something:
    about one of them, and as wide as its neighbours are near.
    """
    positions, forwards = _rays(cameras)
    target, up = subject(cameras, points), np.array(upright(cameras))
    if np.linalg.norm(forwards.mean(axis=0)) < AROUND:
        alignment = (forwards * _units(target - positions)).sum(axis=1)
        first = int(np.argmax(alignment))
        level = forwards[first] - (forwards[first] @ up) * up
        base = look_at(positions[first], positions[first] + level, up)
        near = np.sort(np.linalg.norm(positions - positions[first], axis=1))[1:5]
        reach = 0.5 * float(np.median(near)) if len(near) else 0.0
        heights = positions @ up
        half = np.array([reach, min(reach, float(np.ptp(heights)) / 2), reach / 4])
        middle = positions[first] + (np.mean(heights) - heights[first]) * up
    else:
        centre = positions.mean(axis=0)
        base = look_at(centre, centre + forwards.mean(axis=0), up)
        middle, half = _inner((positions - centre) @ base[:3, :3].T)
        middle = centre + middle @ base[:3, :3]
    angles = np.linspace(0, 2 * np.pi * TURNS, frames, endpoint=False)
    offsets = np.stack([np.cos(angles), np.sin(angles), np.sin(angles / TURNS)], axis=1) * half
    return _looking(cameras, middle + offsets @ base[:3, :3], target, up)


def _orbit(cameras: Sequence[Camera], points: np.ndarray, frames: int) -> list[np.ndarray]:
    """Around the subject at the distance and height that the cameras nearby have; to and fro where they stand
    on a part of the circle only.
    """
    ring = _Ring(cameras, points)
    times = np.linspace(0, 2 * np.pi, frames, endpoint=False)
    return ring.path(ring.swing(np.sin(times)) if ring.gap > GAP else ring.start + times)


def _ellipse(cameras: Sequence[Camera], points: np.ndarray, frames: int) -> list[np.ndarray]:
    """A level ellipse inside the cameras' positions; where they stand before something, one that stands up."""
    ring = _Ring(cameras, points)
    times = np.linspace(0, 2 * np.pi, frames, endpoint=False)
    if ring.gap > GAP:
        return ring.path(ring.swing(np.cos(times)), np.sin(times))
    positions, up = ring.positions, ring.axes[2]
    centre = positions.mean(axis=0)
    level = (positions - centre) - np.outer((positions - centre) @ up, up)
    _, _, axes = np.linalg.svd(np.vstack([level, 1e-9 * np.eye(3)]))
    first = _unit(axes[0] - (axes[0] @ up) * up)
    frame = np.array([first, np.cross(up, first), up])
    middle, half = _inner((positions - centre) @ frame.T)
    half[2] = 0
    offsets = middle + np.stack([np.cos(times), np.sin(times), 0 * times], axis=1) * half
    return _looking(cameras, centre + offsets @ frame, ring.target, up)


class _Ring:
    """The cameras by their direction from the subject: azimuths, distances from the axis, heights."""

    def __init__(self, cameras: Sequence[Camera], points: np.ndarray) -> None:
        self.cameras = cameras
        self.positions, _ = _rays(cameras)
        self.target, up = subject(cameras, points), np.array(upright(cameras))
        east = _unit(np.cross(up, np.eye(3)[np.argmin(np.abs(up))]))
        self.axes = np.array([east, np.cross(up, east), up])
        local = (self.positions - self.target) @ self.axes.T
        self.azimuths = np.arctan2(local[:, 1], local[:, 0])
        self.radii, self.heights = np.hypot(local[:, 0], local[:, 1]), local[:, 2]
        ordered = np.sort(self.azimuths)
        gaps = np.diff(ordered, append=ordered[0] + 2 * np.pi)
        widest = int(np.argmax(gaps))
        self.gap = float(gaps[widest])
        self.start = float(ordered[(widest + 1) % len(ordered)])
        arc = 2 * np.pi - self.gap
        self.width = max(arc / 6, 1e-3) if self.gap > GAP else max(2 * float(np.median(gaps)), np.radians(12))

    def swing(self, t: np.ndarray) -> np.ndarray:
        """Azimuths for -1 to 1: from one end of the arc that the cameras stand on to nearly the other."""
        arc = 2 * np.pi - self.gap
        return self.start + arc / 2 + 0.45 * arc * t

    def path(self, azimuths: np.ndarray, lift: np.ndarray | None = None) -> list[np.ndarray]:
        """Viewmats there, as far and as high as the cameras nearby; lift: -1 to 1, among their heights."""
        apart = np.abs((azimuths[:, None] - self.azimuths + np.pi) % (2 * np.pi) - np.pi)
        apart -= apart.min(axis=1, keepdims=True)  # the nearest always counts
        weights = np.exp(-0.5 * (apart / self.width) ** 2)
        weights /= weights.sum(axis=1, keepdims=True)
        radii, heights = weights @ self.radii, weights @ self.heights
        if lift is not None:
            spread = np.sqrt(np.maximum(weights @ self.heights**2 - heights**2, 0))
            heights = heights + lift * spread
        local = np.stack([radii * np.cos(azimuths), radii * np.sin(azimuths), heights], axis=1)
        return _looking(self.cameras, self.target + local @ self.axes, self.target, self.axes[2])


def _interpolate(cameras: Sequence[Camera], points: np.ndarray, frames: int) -> list[np.ndarray]:
    """From camera to camera, in the order of their names or, where that jumps about, each time to the nearest."""
    positions, _ = _rays(cameras)
    by_name, greedy = np.arange(len(cameras)), _greedy(positions)
    order = greedy if _length(positions[by_name]) > UNORDERED * _length(positions[greedy]) else by_name
    return along([cameras[int(i)].viewmat for i in order], frames)


PATHS: dict[str, Callable[[Sequence[Camera], np.ndarray, int], list[np.ndarray]]] = {
    "spiral": _spiral,
    "orbit": _orbit,
    "ellipse": _ellipse,
    "interpolate": _interpolate,
}


def along(viewmats: Sequence[np.ndarray], frames: int) -> list[np.ndarray]:
    """`frames` viewmats [4, 4] evenly along a smooth curve through those given."""
    if len(viewmats) == 1:
        return [viewmats[0]] * frames
    rotations = np.array([viewmat[:3, :3].T for viewmat in viewmats])
    positions = np.array([-viewmat[:3, :3].T @ viewmat[:3, 3] for viewmat in viewmats])
    quats = np.array([quaternion(rotation) for rotation in rotations])
    for i in range(1, len(quats)):
        if quats[i] @ quats[i - 1] < 0:
            quats[i] = -quats[i]
    # The way counts in the unit of the mean step, a turn by 20 degrees as much as one.
    steps = np.linalg.norm(np.diff(positions, axis=0), axis=1)
    knots = np.concatenate([positions / max(float(steps.mean()), 1e-9), quats * 2 / np.radians(20)], axis=1)
    fine = np.linspace(0, len(viewmats) - 1, SUBSTEPS * (len(viewmats) - 1) + 1)
    curve = _spline(knots, fine)
    passed = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(curve, axis=0), axis=1))])
    times = np.interp(np.linspace(0, passed[-1], frames), passed, fine)
    path, turned = _spline(positions, times), _units(_spline(quats, times))
    made = []
    for position, quat in zip(path, turned, strict=True):
        rotation = matrix(quat).T
        viewmat = np.eye(4)
        viewmat[:3, :3], viewmat[:3, 3] = rotation, -rotation @ position
        made.append(viewmat)
    return made


def _spline(knots: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Catmull and Rom's cubic through `knots` [n, d] at times 0 to n - 1."""
    padded = np.concatenate([2 * knots[:1] - knots[1:2], knots, 2 * knots[-1:] - knots[-2:-1]])
    i = np.clip(times.astype(int), 0, len(knots) - 2)
    t = (times - i)[:, None]
    a, b, c, d = (padded[i + j] for j in range(4))
    return 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)


def _looking(
    cameras: Sequence[Camera], path: np.ndarray, target: np.ndarray, up: np.ndarray
) -> list[np.ndarray]:
    """At the subject; where the cameras look away from it, as inside a room: as those near each place do."""
    positions, forwards = _rays(cameras)
    if np.median((forwards * _units(target - positions)).sum(axis=1)) > 0.5:
        return [look_at(position, target, up) for position in path]
    apart = np.linalg.norm(path[:, None] - positions, axis=2)
    weights = np.exp(-0.5 * (apart / (np.median(apart.min(axis=1)) * 2 + 1e-9)) ** 2) + 1e-12
    return [look_at(p, p + w @ forwards, up) for p, w in zip(path, weights, strict=True)]


def _greedy(positions: np.ndarray) -> np.ndarray:
    left = list(range(1, len(positions)))
    order = [0]
    while left:
        nearest = min(left, key=lambda i: float(np.linalg.norm(positions[i] - positions[order[-1]])))
        left.remove(nearest)
        order.append(nearest)
    return np.array(order)


def _length(positions: np.ndarray) -> float:
    return float(np.linalg.norm(np.diff(positions, axis=0), axis=1).sum())


def _inner(local: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Middle and half size [3] of the box of most positions."""
    low, high = np.percentile(local, INNER, axis=0)
    return (low + high) / 2, (high - low) / 2


def _rays(cameras: Sequence[Camera]) -> tuple[np.ndarray, np.ndarray]:
    positions = np.array([camera.position for camera in cameras])
    return positions, np.array([camera.viewmat[2, :3] for camera in cameras])


def _unit(x: np.ndarray) -> np.ndarray:
    return x / max(float(np.linalg.norm(x)), 1e-12)


def _units(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
