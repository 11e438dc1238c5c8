# SPDX-License-Identifier: Apache-2.0
"""The live view of a training: a callback that renders the newest state for whoever looks, and hears pause and
stop.
"""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..evaluate.frames import Look
from ..evaluate.measure import BACKGROUNDS
from ..evaluate.paths import subject, typical
from ..evaluate.pictures import reduced
from ..model.gaussians import Gaussians
from ..model.opening import upright
from ..scene import Camera, View
from ..training.callbacks import Callback
from .server import Server
from .studio import Studio, Wish, picture_of

if TYPE_CHECKING:
    from ..training.protocol import StepResult
    from ..training.trainer import Trainer

SHARE = 0.25  # of the time, at most, goes to frames while training goes on
PHOTO_WIDTH = 960  # pixels
WAIT = 0.2  # seconds between two looks at what a paused training is told


class Live(Callback):
    """address: where to listen, 127.0.0.1 unless it says otherwise."""

    def __init__(self, address: str = "") -> None:
        self.address = address
        self.studio = Studio()
        self.server: Server | None = None
        self.trainer: Trainer | None = None
        self.newest: dict[str, Any] = {}
        self.scores: dict[str, float] = {}
        self.next_frame = 0.0  # not before this time

    def open(self, trainer: Trainer) -> None:
        """Begins to listen; says where."""
        self.trainer = trainer
        normalized = trainer.scene.normalized()[0]
        held_out = {view.name for view in trainer.test_views}
        scene = page_scene(normalized.views, normalized.points, held_out)
        title = {"title": trainer.scene.name, "training": True, "degree": trainer.config.sh_degree}
        self.server = Server(self.studio, self.address, lambda: scene | title, self.state, self.photo)
        trainer.message(str(self.server))

    def start(self, trainer: Trainer) -> None:
        """See Callback.start."""
        self.open(trainer)

    def step(self, trainer: Trainer, newest: StepResult) -> None:
        """Renders what is waited for, where the last frame is long enough ago."""
        studio = self.studio
        if studio.stop_asked:
            trainer.stop()
        if studio.paused:
            self._pause(trainer)
        elif studio.waiting and (now := time.monotonic()) >= self.next_frame:
            self._render(trainer)
            took = time.monotonic() - now
            self.next_frame = now + took / SHARE

    def record(self, trainer: Trainer, record: dict[str, Any]) -> None:
        """See Callback.record."""
        self.newest = record
        if record.get("test"):
            self.scores = record["test"]

    def end(self, trainer: Trainer) -> None:
        """Sends the browsers away."""
        if self.server is not None:
            self.server.close()

    def state(self) -> dict[str, Any]:
        """The statistics that the page shows; for the server's threads."""
        trainer, newest = self.trainer, self.newest
        assert trainer is not None
        return {
            "step": trainer.step,
            "steps": trainer.config.steps,
            "splats": trainer.n_splats,
            "loss": newest.get("loss"),
            "rate": newest.get("it_per_s"),
            "psnr": self.scores.get("psnr"),
            "paused": self.studio.paused,
            "stopping": trainer.stopping,
            "frame_ms": round(self.studio.milliseconds, 1),
        }

    def photo(self, index: int) -> bytes | None:
        """A JPEG of a view's photo; for the server's threads."""
        assert self.trainer is not None
        return photo_jpeg(self.trainer.scene.views, index, BACKGROUNDS[self.trainer.config.background])

    def _pause(self, trainer: Trainer) -> None:
        """Renders and waits until training is to go on; the time does not count as training's."""
        with trainer.clock.during("other"):
            while self.studio.paused and not trainer.stopping:
                self.studio.wait(WAIT)
                self._render(trainer)
                if self.studio.stop_asked:
                    trainer.stop()

    def _render(self, trainer: Trainer) -> None:
        gaussians = trainer.stepper.look().gaussians
        look = Look(trainer.ground, trainer.config.antialiased)

        def render(wish: Wish) -> np.ndarray:
            return picture_of(gaussians, wish.camera, wish, trainer.backend, look)

        self.studio.fulfil(render)


def photo_jpeg(views: Sequence[View], index: int, background: Sequence[float]) -> bytes | None:
    """A JPEG of the photo of view number `index`, over the background; None where there is none."""
    if not 0 <= index < len(views) or views[index].photo is None:
        return None
    file = io.BytesIO()
    Image.fromarray(reduced(views[index].pixels.shown(background), PHOTO_WIDTH)).save(
        file, "JPEG", quality=85
    )
    return file.getvalue()


def page_scene(views: Sequence[View], points: np.ndarray, held_out: set[str]) -> dict[str, Any]:
    """What the page gets of a scene, in the frame of the model: cameras, which way is up, what to turn about, where
    to begin.
    """
    cameras = [view.camera for view in views]
    target, up = subject(cameras, points), upright(cameras)
    first = typical(cameras)
    alignment = [_alignment(camera, target) for camera in cameras]
    return {
        "cameras": [
            {
                "name": view.name,
                "pose": view.camera.camtoworld[:3].ravel().tolist(),
                "fov": _fov(view.camera),
                "aspect": view.camera.width / view.camera.height,
                "held": view.name in held_out,
                "photo": view.photo is not None,
            }
            for view in views
        ],
        "up": list(up),
        "target": target.tolist(),
        "first": int(np.argmax(alignment)),
        "fov": _fov(first),
        "width": first.width,
        "height": first.height,
    }


def without_cameras(gaussians: Gaussians) -> dict[str, Any]:
    """The same for a model of which no camera is known: from before its middle, up is -y."""
    opaque = np.asarray(gaussians.opacities) > 0.3
    means = np.asarray(gaussians.means, np.float64)
    means = means[opaque] if opaque.any() else means
    middle = np.median(means, axis=0)
    distance = max(2.5 * float(np.percentile(np.linalg.norm(means - middle, axis=1), 75)), 1e-3)
    pose = np.eye(4)[:3]
    pose[:, 3] = middle - [0, 0, distance]
    camera = {
        "name": "",
        "pose": pose.ravel().tolist(),
        "fov": 50,
        "aspect": 4 / 3,
        "held": False,
        "photo": False,
    }
    return {
        "cameras": [camera], "up": [0, -1, 0], "target": middle.tolist(), "first": 0, "fov": 50,
        "width": 1024, "height": 768,
    }  # fmt: skip


def _alignment(camera: Camera, target: np.ndarray) -> float:
    arm = target - camera.position
    return float(arm @ camera.viewmat[2, :3] / max(float(np.linalg.norm(arm)), 1e-12))


def _fov(camera: Camera) -> float:
    return float(np.degrees(2 * np.arctan(camera.height / 2 / camera.K[1, 1])))
