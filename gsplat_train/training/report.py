# SPDX-License-Identifier: Apache-2.0
"""report.html: a run on one page that needs nothing else, written anew at each evaluation and at the end.

Curves, held-out views beside their photos (the worst first), cameras and points, settings, machine, warnings and
the command to repeat it. The page is report.html in this folder; here is what it shows, as JSON.
"""

from __future__ import annotations

import base64
import html
import io
import itertools
import json
import platform
import shlex
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from .. import config as config_module
from ..config import Config, configure
from ..errors import UserError
from ..evaluate.measure import BACKGROUNDS
from ..evaluate.pictures import reduced
from ..machine import processor
from ..model.opening import upright
from ..scene import Camera, Scene, View
from ..storage import atomic_write, parsed
from .callbacks import Callback
from .clock import stage_summary
from .run_folder import to_json

if TYPE_CHECKING:
    from .trainer import Trainer

PAGE = Path(__file__).with_suffix(".html")
POINTS_OF_A_CURVE = 500
POINTS = 6000  # of the scene, on the maps
WIDTH = 560  # pixels of a photo at most
QUALITY = 82
# Of all photos and renders: base64 makes them a third larger, and 3 MB are the limit.
PICTURE_BYTES = 1_900_000
SHOWN = (2, 98)  # percentiles of the points that the maps show, at the least


class Report(Callback):
    """Keeps what an evaluation shows, and writes the page."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []
        self.metrics: dict[str, Any] = {}
        # Photo and render by view, of the newest evaluation.
        self.pictures: dict[str, tuple[bytes, bytes]] = {}
        self.photos: dict[str, bytes] = {}
        self.written = -1  # records that the page on disk shows
        self.world: dict[str, Any] = {}  # the maps

    def start(self, trainer: Trainer) -> None:
        """Takes up the log of a run that goes on; makes the maps, for a scene stays as it is."""
        self.world = world(trainer.scene, {view.name for view in trainer.test_views})
        if trainer.run is not None and trainer.run.log.is_file():
            lines = trainer.run.log.read_text("utf-8", errors="replace").splitlines()
            self.records = [parsed(line) for line in lines]
            self.written = len(self.records)

    def pictured(self, trainer: Trainer, view: View, picture: np.ndarray) -> None:
        """Keeps the render of a held-out view, or where there are none of any."""
        held = {held.name for held in trainer.test_views}
        if view.photo is None or (held and view.name not in held):
            return
        trainer.beside.add(self._keep, trainer, view, picture)

    def _keep(self, trainer: Trainer, view: View, picture: np.ndarray) -> None:
        if view.name not in self.photos:
            self.photos[view.name] = _jpeg(view.pixels.shown(BACKGROUNDS[trainer.config.background]))
        self.pictures[view.name] = (self.photos[view.name], _jpeg(picture))

    def evaluated(self, trainer: Trainer, metrics: dict[str, Any]) -> None:
        """Keeps the scores."""
        self.metrics = metrics

    def record(self, trainer: Trainer, record: dict[str, Any]) -> None:
        """Keeps a record; writes the page where the step was measured."""
        self.records.append(record)
        if "train" in record:
            self.written = len(self.records)
            trainer.beside.add(self._write, trainer, self.content(trainer))

    def end(self, trainer: Trainer) -> None:
        """Writes what came after the last evaluation; a run that ended before its first has no page."""
        if len(self.records) > self.written and self.metrics:
            self._write(trainer, self.content(trainer))

    def _write(self, trainer: Trainer, content: dict[str, Any]) -> None:
        """The page; `content` without its views."""
        if trainer.run is None:
            return
        views, note = self._views(content.pop("scores"))
        text = to_json(content | {"views": views, "views_note": note})
        text = text.replace("<", "\\u003c")  # nothing in it ends the script
        page = PAGE.read_text("utf-8").replace("/*DATA*/", text)
        title = html.escape(f"{trainer.scene.name} - gsplat_train report")
        page = page.replace("<title>gsplat_train report</title>", f"<title>{title}</title>")
        with atomic_write(trainer.run.report) as file:
            file.write(page.encode("utf-8", "replace"))

    def content(self, trainer: Trainer) -> dict[str, Any]:
        """What the page shows now, but for the views: their scores."""
        metrics, config = self.metrics, trainer.config
        what = "Held-out views" if trainer.test_views else "Training views"
        return {
            "title": f"{trainer.scene.name}: {trainer.n_splats:,} splats",
            "subtitle": f"step {trainer.step:,} of {config.steps:,}, backend {config.backend}"
            + ("" if trainer.step >= config.steps else ", not yet at its end"),
            "facts": _facts(metrics, trainer),
            "warnings": list(trainer.warnings),
            "charts": charts(self.records),
            "scores": {
                **((metrics.get("train") or {}).get("views") or {}),
                **((metrics.get("test") or {}).get("views") or {}),
            },
            "views_title": f"{what}, the worst first",
            "world": self.world,
            "command": command(config),
            "settings": [[key, _text(value), _text(usual)] for key, value, usual in differences(config)],
            "machine": machine(metrics),
        }

    def _views(self, scores: dict[str, Any]) -> tuple[list[dict[str, Any]], str]:
        """The views that fit, the worst first, and a word on those that do not."""
        names = sorted((name for name in self.pictures if name in scores), key=lambda n: scores[n]["psnr"])
        shown: list[dict[str, Any]] = []
        room = PICTURE_BYTES
        for name in names:
            photo, render = self.pictures[name]
            room -= len(photo) + len(render)
            if room < 0 and shown:
                break
            score = f"{scores[name]['psnr']:.2f} dB, SSIM {scores[name]['ssim']:.4f}"
            shown.append({"name": name, "score": score, "photo": _url(photo), "render": _url(render)})
        left = len(names) - len(shown)
        return shown, f"{left} better ones are not shown; gs-render makes pictures of all" if left else ""


def charts(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The curves of a log: loss, scores, splats, speed, memory."""

    def line(name: str, points: list[tuple[int, Any]]) -> dict[str, Any]:
        return {"name": name, "points": _thinned(points)}

    def of(key: str) -> list[tuple[int, Any]]:
        return [(r["step"], r.get(key)) for r in records]

    def score(split: str, key: str) -> list[tuple[int, Any]]:
        return [(r["step"], r[split][key]) for r in records if r.get(split)]

    rates = []
    for before, after in itertools.pairwise(records):
        seconds, steps = after["seconds"] - before["seconds"], after["step"] - before["step"]
        if seconds > 0 and steps > 0:
            rates.append((after["step"], steps / seconds))
    scored = [
        {"name": name, "lines": [line("held out", score("test", key)), line("training", score("train", key))]}
        for key, name in (("psnr", "PSNR, dB"), ("ssim", "SSIM"))
    ]
    return [
        {"name": "loss", "clip": True, "lines": [line("loss", of("loss"))]},
        *scored,
        {"name": "splats", "zero": True, "lines": [line("splats", of("n_splats"))]},
        {"name": "steps a second", "zero": True, "clip": True, "lines": [line("it/s", rates)]},
        {"name": "peak memory, MB", "zero": True, "lines": [line("MB", of("peak_memory_mb"))]},
    ]


def _thinned(points: list[tuple[int, Any]]) -> list[list[Any]]:
    """At most POINTS_OF_A_CURVE points, each the mean of its neighbours where there were more."""
    finite = [(x, y) for x, y in points if y is not None and np.isfinite(y)]
    if len(finite) <= POINTS_OF_A_CURVE:
        return [[x, float(f"{y:.6g}")] for x, y in finite]
    groups = np.array_split(np.array(finite, np.float64), POINTS_OF_A_CURVE)
    return [[int(group[-1, 0]), float(f"{group[:, 1].mean():.6g}")] for group in groups]


def world(scene: Scene, held_out: set[str]) -> dict[str, Any]:
    """Cameras and points for the maps: east, north and up in thousandths of what is shown, which is -1000 to
    1000.
    """
    cameras = [view.camera for view in scene.views]
    positions = np.array([camera.position for camera in cameras])
    up = np.array(upright(cameras))
    spread = positions - positions.mean(axis=0)
    level = spread - np.outer(spread @ up, up)
    east = np.linalg.svd(np.vstack([level, 1e-9 * np.eye(3)]))[2][0]
    east = east - (east @ up) * up
    east /= max(float(np.linalg.norm(east)), 1e-12)
    axes = np.array([east, np.cross(up, east), up])
    order = np.random.default_rng(0).permutation(len(scene.points))[:POINTS]
    points = scene.points[order] @ axes.T
    local = positions @ axes.T
    ends = np.concatenate([np.percentile(points, SHOWN, axis=0), local]) if len(points) else local
    centre = (ends.min(axis=0) + ends.max(axis=0)) / 2
    half = max(float((ends.max(axis=0) - ends.min(axis=0)).max()) / 2 * 1.05, 1e-9)

    def placed(x: np.ndarray) -> list[list[int]]:
        return np.rint(1000 * (x - centre) / half).astype(int).tolist()

    inside = (np.abs(points - centre) <= half).all(axis=1)
    size = 0.06 * half
    shapes = [
        {"held": view.name in held_out, "shape": placed(_frustum(camera, size) @ axes.T)}
        for view, camera in zip(scene.views, cameras, strict=True)
    ]
    colors = ["#{:02x}{:02x}{:02x}".format(*color) for color in scene.colors[order][inside].tolist()]
    return {"points": placed(points[inside]), "colors": colors, "cameras": shapes}


def _frustum(camera: Camera, size: float) -> np.ndarray:
    """[5, 3]: the centre and the corners of the picture, `size` away."""
    corners = np.array([[0, 0], [camera.width, 0], [camera.width, camera.height], [0, camera.height]])
    rays = np.column_stack([corners, np.ones(4)]) @ np.linalg.inv(camera.K).T * size
    return np.vstack([camera.position, camera.position + rays @ camera.viewmat[:3, :3]])


def differences(config: Config) -> list[tuple[str, Any, Any]]:
    """(key, value, default) of the settings that are not the program's defaults."""
    usual = config_module.load([{"strategy": config.strategy}])
    keys = [key for key in config_module.GENERAL if key not in ("scene", "data_root")]
    keys += [f"{owner}.{key}" for owner, section in config.sections.items() for key in vars(section)]
    pairs = ((key, config_module.value_of(config, key), config_module.value_of(usual, key)) for key in keys)
    return [(key, value, default) for key, value, default in pairs if value != default]


def command(config: Config) -> str:
    """What repeats the run; settings that the scene's own configuration brings are left out."""
    if not config.scene:
        return "the scene was given in Python; its settings are below"
    try:
        usual = configure(config.scene, {"steps": config.horizon})
        usual = replace(usual, steps=configure(config.scene, {}).steps)
    except UserError:  # it has gone
        usual = Config()
    words = ["gs-train", config.scene]
    for key, value, _ in differences(config):
        if value != config_module.value_of(usual, key) and key not in ("schedule_steps", "time_budget"):
            words += ["--set", f"{key}={_text(value)}"]
    return shlex.join(words)


def machine(metrics: dict[str, Any]) -> list[tuple[str, str]]:
    """What the run was made on and with."""
    commit = f", commit {metrics['commit']}" if metrics.get("commit") else ""
    return [
        ("program", f"gsplat_train {metrics.get('version')}{commit}"),
        ("machine", processor()),
        ("system", f"{platform.system()} {platform.release()} {platform.machine()}"),
        ("Python", f"{platform.python_version()}, MLX {version('mlx')}, NumPy {np.__version__}"),
        ("time to the last evaluation", stage_summary(metrics.get("stage_seconds") or {})),
    ]


def _facts(metrics: dict[str, Any], trainer: Trainer) -> list[tuple[str, str]]:
    facts = []
    for split, name in (("test", "held out"), ("train", "training")):
        if scores := metrics.get(split):
            facts.append((f"PSNR, {name}", f"{scores['psnr']:.2f} dB"))
            facts.append((f"SSIM, {name}", f"{scores['ssim']:.4f}"))
    facts += [("splats", f"{trainer.n_splats:,}"), ("training", _duration(metrics["seconds"]))]
    facts += [
        ("steps a second", f"{metrics['it_per_s']:.1f}"),
        ("peak memory", f"{metrics['peak_memory_mb']:.0f} MB"),
    ]
    views = f"{len(trainer.train_views)} + {len(trainer.test_views)} held out"
    return [*facts, ("views", views), ("size", f"{metrics['width']} x {metrics['height']}")]


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _jpeg(picture: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(reduced(picture, WIDTH)).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def _url(jpeg: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
