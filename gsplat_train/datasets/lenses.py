# SPDX-License-Identifier: Apache-2.0
"""Lens models: where a lens puts the ray (x, y, 1), in units of the focal length, and which ray it shows there.

One `Lens` covers COLMAP's models (https://colmap.github.io/cameras.html), OpenCV's and those built on them. With
r the radius on which the lens's polynomial works (`stretch` says which) and s = (1 + k1 r^2 + k2 r^4 ...) /
(1 + d1 r^2 + ...), a place p goes to s p, plus the tangential and the thin-prism terms.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ..errors import UserError

SAMPLES = 1 << 14  # of the radius, where it is searched for the place at which a lens folds over
WIDEST = np.tan(np.radians(85))  # of the pinhole's rays: beyond it a picture is stretched a hundredfold
NEWTON_STEPS = 60
SETTLED = 1e-12  # of the last step, in focal lengths

PARAMETERS = {  # COLMAP's models: number of parameters, in the order of their ids from 0
    "SIMPLE_PINHOLE": 3,
    "PINHOLE": 4,
    "SIMPLE_RADIAL": 4,
    "RADIAL": 5,
    "OPENCV": 8,
    "OPENCV_FISHEYE": 8,
    "FULL_OPENCV": 12,
    "FOV": 5,
    "SIMPLE_RADIAL_FISHEYE": 4,
    "RADIAL_FISHEYE": 5,
    "THIN_PRISM_FISHEYE": 12,
    "RAD_TAN_THIN_PRISM_FISHEYE": 16,
    "SIMPLE_DIVISION": 4,
    "DIVISION": 5,
    "SIMPLE_FISHEYE": 3,
    "FISHEYE": 4,
    "EUCM": 6,
    "EQUIRECTANGULAR": 2,
}
ONE_FOCAL = {name for name in PARAMETERS if name.startswith("SIMPLE_")} | {"RADIAL", "RADIAL_FISHEYE"}


@dataclass(frozen=True)
class Lens:
    """A lens. All numbers zero: none, a pinhole.

    stretch: "none": r is the ray's distance from the axis in the plane z = 1; "angle": its angle to the axis
    (fisheye); "fov", "division", "eucm": Devernay and Faugeras's, Fitzgibbon's and Khomutenko's models, with
    `shape` as their parameters. late: the tangential and prism terms work on s p instead of p.
    """

    stretch: str = "none"
    radial: tuple[float, ...] = ()  # k1, k2, ...
    divisor: tuple[float, ...] = ()  # d1, d2, ...
    tangential: tuple[float, float] = (0.0, 0.0)  # p1, p2 as OpenCV names them
    prism: tuple[float, float, float, float] = (
        0.0,
        0.0,
        0.0,
        0.0,
    )  # x += s1 r^2 + s2 r^4, y += s3 r^2 + s4 r^4
    shape: tuple[float, ...] = ()
    late: bool = False

    @property
    def is_pinhole(self) -> bool:
        """Whether the lens leaves every ray where a pinhole puts it."""
        numbers = (*self.radial, *self.divisor, *self.tangential, *self.prism)
        return self.stretch == "none" and not any(numbers)

    def distort(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where the lens puts the rays (x, y, 1)."""
        if self.stretch != "none":
            factor = self._ratio(np.sqrt(x * x + y * y))
            x, y = x * factor, y * factor
        return self._bend(x, y)

    def rays(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """The rays [3, n] that the lens shows at (a, b) [n], of length 1; NaN where it shows none.

        A fisheye's may lie beyond 90 degrees from the axis, where `distort` does not reach.
        """
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        x, y = _solve(self._bend, a, b)
        r = np.hypot(x, y)
        good = r <= self._fold() * (1 + 1e-9)
        angle = self._angle(r)
        with np.errstate(divide="ignore", invalid="ignore"):
            sideways = np.where(r > 0, np.sin(angle) / r, 1.0)
        found = np.stack([x * sideways, y * sideways, np.cos(angle)])
        return np.where(good, found, np.nan)

    def reach(self) -> float:
        """The largest distance from the axis, in the plane z = 1, at which the lens does not yet fold over:
        beyond it two rays would meet in one place of the photo. Infinite where it never does.
        """
        fold = self._fold()
        if self.stretch == "none":
            return fold
        angle = float(self._angle(np.array([fold]))[0]) if np.isfinite(fold) else np.inf
        return float(np.tan(angle)) if angle < np.pi / 2 else np.inf

    def is_sound(self, x: np.ndarray, y: np.ndarray) -> bool:
        """Whether the lens keeps the orientation of the picture all the way from the axis to the rays (x, y, 1):
        the determinant of its derivative is positive.
        """
        part = np.linspace(0, 1, 33)[1:, None]
        x, y = part * x.ravel(), part * y.ravel()
        with np.errstate(all="ignore"):
            step = 1e-6 * (1 + np.hypot(x, y))
            (ax, bx), (ay, by) = self.distort(x + step, y), self.distort(x, y + step)
            a, b = self.distort(x, y)
            return bool(((ax - a) * (by - b) - (ay - a) * (bx - b) > 0).all())

    def _bend(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What the polynomial and the terms beside it do to places on which they work."""
        r2 = x * x + y * y
        radial = self._scale(r2)
        if not any(self.tangential) and not any(self.prism):
            return x * radial, y * radial
        px, py = (x * radial, y * radial) if self.late else (x, y)
        q = px * px + py * py if self.late else r2
        (p1, p2), (s1, s2, s3, s4) = self.tangential, self.prism
        dx = 2 * p1 * px * py + p2 * (q + 2 * px * px)
        dy = 2 * p2 * px * py + p1 * (q + 2 * py * py)
        if any(self.prism):
            dx, dy = dx + q * (s1 + q * s2), dy + q * (s3 + q * s4)
        return x * radial + dx, y * radial + dy

    def _scale(self, r2: np.ndarray) -> np.ndarray:
        radial = _polynomial(self.radial, r2)
        return radial / _polynomial(self.divisor, r2) if self.divisor else radial

    def _ratio(self, r: np.ndarray) -> np.ndarray:
        """Radius on which the polynomial works / distance r from the axis in the plane z = 1."""
        if self.stretch == "eucm":
            alpha, beta = self.shape
            return 1 / (alpha * np.sqrt(beta * r * r + 1) + (1 - alpha))
        if self.stretch == "division":
            with np.errstate(invalid="ignore"):
                return 2 / (1 + np.sqrt(1 - 4 * self.shape[0] * r * r))
        with np.errstate(divide="ignore", invalid="ignore"):
            if self.stretch == "fov":
                (omega,) = self.shape
                wide = 2 * np.tan(omega / 2)
                return np.where(r > 1e-8, np.arctan(r * wide) / (r * omega), wide / omega)
            return np.where(r > 1e-8, np.arctan(r) / r, 1.0)

    def _angle(self, r: np.ndarray) -> np.ndarray:
        """The ray's angle to the axis, of the radius on which the polynomial works; NaN where there is none."""
        with np.errstate(all="ignore"):
            if self.stretch == "none":
                return np.arctan(r)
            if self.stretch == "angle":
                return np.asarray(r, np.float64)
            if self.stretch == "fov":
                (omega,) = self.shape
                turn = np.where(r * omega < np.pi / 2, r * omega, np.nan)
                return np.arctan(np.tan(turn) / (2 * np.tan(omega / 2)))
            if self.stretch == "division":
                return np.arctan2(r, 1 + self.shape[0] * r * r)
            alpha, beta = self.shape
            root = np.sqrt(1 - (2 * alpha - 1) * beta * r * r)
            return np.arctan2(r, (1 - alpha * alpha * beta * r * r) / (alpha * root + (1 - alpha)))

    def _fold(self) -> float:
        return _fold(self)


@lru_cache(maxsize=1024)
def _fold(lens: Lens) -> float:
    """The radius at which the polynomial stops growing; infinite where that is far outside any photo."""
    widest = WIDEST
    if lens.stretch == "angle":
        widest = np.pi
    elif lens.stretch != "none":
        far = lens._ratio(np.array([1e6]))[0] * 1e6
        if lens.stretch == "division" and lens.shape[0] > 0:
            far = 1 / np.sqrt(lens.shape[0])  # where the ray lies at tan = 1 / (2 sqrt(k))
        widest = far if np.isfinite(far) else WIDEST
    r = np.linspace(0, widest, SAMPLES)
    with np.errstate(all="ignore"):
        if lens.divisor and (pole := _polynomial(lens.divisor, r * r) <= 0).any():
            r = r[: int(np.argmax(pole))]
        grown = np.diff(r * lens._scale(r * r))
    bad = ~(grown > 0)
    if not bad.any():
        return float(r[-1]) if lens.stretch != "none" or len(r) < SAMPLES else np.inf
    return float(r[max(int(np.argmax(bad)) - 1, 0)])  # the top lies in this step or the next


def _polynomial(coefficients: tuple[float, ...], x: np.ndarray) -> np.ndarray:
    """1 + c1 x + c2 x^2 + ..."""
    if not coefficients:
        return np.ones_like(x)
    total = np.full_like(x, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        total = total * x + coefficient
    return 1 + x * total


def _solve(
    function: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]], a: np.ndarray, b: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(x, y) with function(x, y) = (a, b), by Newton's method from (a, b); NaN where it does not settle."""
    x, y = a.copy(), b.copy()
    with np.errstate(all="ignore"):
        for _ in range(NEWTON_STEPS):
            fa, fb = function(x, y)
            step = 1e-7 * (1 + np.hypot(x, y))
            (ax, bx), (ay, by) = function(x + step, y), function(x, y + step)
            ax, bx, ay, by = (ax - fa) / step, (bx - fb) / step, (ay - fa) / step, (by - fb) / step
            determinant = ax * by - ay * bx
            dx = ((a - fa) * by - ay * (b - fb)) / determinant
            dy = (ax * (b - fb) - (a - fa) * bx) / determinant
            limit = np.minimum(1, 0.3 * (1 + np.hypot(x, y)) / np.hypot(dx, dy))  # no leap over a fold
            x, y = x + limit * dx, y + limit * dy
            if not (np.hypot(dx, dy) > SETTLED).any():
                break
        fa, fb = function(x, y)
        good = np.hypot(fa - a, fb - b) < 1e-9 * (1 + np.hypot(a, b))
    return np.where(good, x, np.nan), np.where(good, y, np.nan)


def colmap_lens(model: str, params: tuple[float, ...], what: str) -> tuple[np.ndarray, Lens]:
    """K [3, 3] and the lens of one of COLMAP's models but EQUIRECTANGULAR.

    UserError, naming the camera as `what`, for numbers that are no lens.
    """
    params = tuple(params)
    if model in ONE_FOCAL:
        params = (params[0], *params)
    fx, fy, cx, cy, *k = params
    if not (fx > 0 and fy > 0):
        raise UserError(f"{what} must have a positive focal length, got {fx}, {fy}")
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]), _lens(model, k, what)


def _lens(model: str, k: list[float], what: str) -> Lens:
    if model in ("SIMPLE_RADIAL", "RADIAL"):
        return Lens(radial=tuple(k))
    if model == "OPENCV":
        return opencv(*k)
    if model == "FULL_OPENCV":
        k1, k2, p1, p2, k3, *divisor = k
        return Lens(radial=(k1, k2, k3), tangential=(p1, p2), divisor=tuple(divisor))
    if model in ("OPENCV_FISHEYE", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE", "SIMPLE_FISHEYE", "FISHEYE"):
        return Lens("angle", radial=tuple(k))
    if model == "THIN_PRISM_FISHEYE":
        k1, k2, p1, p2, k3, k4, sx, sy = k
        return Lens("angle", (k1, k2, k3, k4), tangential=(p1, p2), prism=(sx, 0, sy, 0))
    if model == "RAD_TAN_THIN_PRISM_FISHEYE":
        p0, p1 = k[6:8]  # p0 stands with the square of x, where OpenCV has p2
        return Lens("angle", tuple(k[:6]), tangential=(p1, p0), prism=(k[8], k[9], k[10], k[11]), late=True)
    if model == "FOV":
        if not abs(k[0]) < np.pi:
            raise UserError(f"{what} must have an angle omega below pi, got {k[0]}")
        return Lens("fov", shape=(abs(k[0]),)) if k[0] else Lens()
    if model in ("SIMPLE_DIVISION", "DIVISION"):
        return Lens("division", shape=(k[0],)) if k[0] else Lens()
    if model == "EUCM":
        if not (0 <= k[0] <= 1 and k[1] > 0):
            raise UserError(f"{what} must have alpha from 0 to 1 and beta above 0, got {k[0]}, {k[1]}")
        return Lens("eucm", shape=(k[0], k[1]))
    return Lens()


PANORAMA = Lens("equirectangular")  # stands for no lens: a whole sphere, which panorama.py cuts into views


def opencv(k1: float = 0.0, k2: float = 0.0, p1: float = 0.0, p2: float = 0.0, *more: float) -> Lens:
    """OpenCV's model: `more` are k3, k4, ... of the sixth, eighth, ... power."""
    return Lens(radial=(k1, k2, *more), tangential=(p1, p2))
