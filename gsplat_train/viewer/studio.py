# SPDX-License-Identifier: Apache-2.0
"""Where the threads meet: those that answer browsers ask for frames, the one that owns the model renders them.

MLX's work stays in the thread that trains; a thread that asks waits, and turns the pixels into JPEG itself.
"""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from PIL import Image

from ..errors import UserError
from ..evaluate.depth import colored
from ..evaluate.frames import Look, shoot
from ..evaluate.metrics import to_uint8
from ..model.gaussians import Gaussians
from ..scene import Camera

if TYPE_CHECKING:
    from ..backends import Backend

Mode = Literal["color", "depth", "alpha"]
PATIENCE = 60.0  # seconds that a browser waits: evaluations take as long
PRESENT = 5.0  # seconds after its last request that a browser counts as connected
LARGEST = 4096  # pixels of a side


@dataclass(frozen=True)
class Wish:
    """What a browser wants to see."""

    camera: Camera  # in the model's frame
    mode: Mode = "color"
    size: float = 1.0  # times the splats' scales
    degree: int = 3  # colour bands at most
    quality: int = 80  # of JPEG


@dataclass(eq=False)
class _Order:
    wish: Wish
    done: threading.Event = field(default_factory=threading.Event)
    picture: np.ndarray | None = None


class Studio:
    """Orders of frames, and what the browsers want of the training."""

    def __init__(self) -> None:
        self._arrived = threading.Condition()
        self._orders: list[_Order] = []
        self.closed = False
        self.paused = False
        self.stop_asked = False
        self.seen = -PRESENT  # when a browser last asked for anything
        self.milliseconds = 0.0  # of the last frame

    @property
    def waiting(self) -> bool:
        """Whether somebody waits for a frame; cheap enough to ask at every step."""
        return bool(self._orders)

    @property
    def connected(self) -> bool:
        return time.monotonic() - self.seen < PRESENT

    def order(self, wish: Wish) -> bytes | None:
        """A JPEG of the wish, for the threads of the server; None where nobody rendered it in time."""
        order = _Order(wish)
        with self._arrived:
            self._orders.append(order)
            self._arrived.notify_all()
        if not order.done.wait(PATIENCE) or order.picture is None:
            with self._arrived:
                self._orders = [other for other in self._orders if other is not order]
            return None
        file = io.BytesIO()
        Image.fromarray(order.picture).save(file, "JPEG", quality=wish.quality)
        return file.getvalue()

    def fulfil(self, render: Callable[[Wish], np.ndarray]) -> None:
        """Renders all that is waited for, in the thread that owns the model."""
        with self._arrived:
            orders, self._orders = self._orders, []
        for order in orders:
            began = time.monotonic()
            try:
                order.picture = render(order.wish)
            finally:
                order.done.set()
            self.milliseconds = 1000 * (time.monotonic() - began)

    def wait(self, seconds: float) -> None:
        """Returns when somebody waits for a frame or wants something, at the latest after `seconds`."""
        with self._arrived:
            if not self._orders and not self.closed:
                self._arrived.wait(seconds)

    def control(self, action: str) -> None:
        """pause, resume or stop; UserError for anything else."""
        if action not in ("pause", "resume", "stop"):
            raise UserError(f"action must be pause, resume or stop, got {action!r}")
        with self._arrived:
            if action == "stop":
                self.stop_asked = True
            self.paused = action == "pause"
            self._arrived.notify_all()

    def close(self) -> None:
        """Sends away whoever waits."""
        with self._arrived:
            self.closed = True
            for order in self._orders:
                order.done.set()
            self._arrived.notify_all()


def picture_of(gaussians: Gaussians, camera: Camera, wish: Wish, backend: Backend, look: Look) -> np.ndarray:
    """[H, W, 3] uint8 of a wish; gaussians and camera in one frame, whichever."""
    if wish.size != 1.0:
        gaussians = gaussians._replace(log_scales=gaussians.log_scales + float(np.log(wish.size)))
    if wish.degree < gaussians.sh_degree:
        gaussians = gaussians._replace(shN=gaussians.shN[:, : (wish.degree + 1) ** 2 - 1])
    frame = shoot(gaussians, camera, backend, replace(look, depth=wish.mode == "depth"))
    if wish.mode == "alpha":
        return to_uint8(np.repeat(frame.alpha[:, :, None], 3, axis=2))
    if frame.depth is None:
        return to_uint8(frame.image)
    seen = frame.depth[frame.depth > 0]
    if len(seen) == 0:
        return np.zeros((*frame.depth.shape, 3), np.uint8)
    near, far = np.percentile(seen, (1, 99))
    return colored(frame.depth, float(near), float(max(far, 1.01 * near)))


def wish_of(query: dict[str, str]) -> Wish:
    """The wish in an address: `pose` (12 numbers, camera to world by row, OpenCV axes), `fov` (vertical, degrees),
    `width`, `height`, `mode`, `size`, `degree`, `quality`. UserError where it makes no sense.
    """
    try:
        pose = np.eye(4)
        pose[:3] = np.array([float(x) for x in query["pose"].split(",")]).reshape(3, 4)
        width, height = int(query["width"]), int(query["height"])
        fov, size = float(query.get("fov", 50)), float(query.get("size", 1))
        degree, quality = int(query.get("degree", 3)), int(query.get("quality", 80))
        mode: Any = query.get("mode", "color")
    except (KeyError, ValueError) as error:
        raise UserError(f"a frame needs pose, width and height as numbers: {error}") from None
    sane = 16 <= width <= LARGEST and 16 <= height <= LARGEST and 1 <= fov <= 170 and 0.01 <= size <= 4
    sane = sane and bool(np.isfinite(pose).all())
    if not sane or mode not in get_args(Mode) or not 0 <= degree <= 4 or not 1 <= quality <= 95:
        raise UserError("a frame's pose, width, height, fov, size, mode, degree or quality is out of range")
    focal = height / 2 / np.tan(np.radians(fov) / 2)
    K = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    # A rotation that was added up in the browser is one again.
    u, _, vt = np.linalg.svd(pose[:3, :3])
    pose[:3, :3] = u @ vt
    return Wish(Camera(np.linalg.inv(pose), K, width, height), mode, size, degree, quality)
