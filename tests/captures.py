# SPDX-License-Identifier: Apache-2.0
"""Photos and videos to find cameras from, and how far the cameras found are from the true ones."""

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

import gsplat_train
from gsplat_train.datasets.demo import make_demo, orbit_camera, photograph
from gsplat_train.scene import Camera, Scene

sys.path.append(str(Path(__file__).parents[1] / "scripts"))
from bench_prepare import aligned, errors, poses  # noqa: F401

PACKAGE = Path(gsplat_train.__file__).parent


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-P", "-m", "gsplat_train.cli.prepare", *map(str, arguments)]


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(PACKAGE.parent), "COLUMNS": "100"}


def call(*arguments: object, code: int = 0, timeout: float = 300) -> Any:
    """Runs gs-prepare, which shall end with `code`; one that fails says so in its last line."""
    done = subprocess.run(
        command(*arguments), capture_output=True, text=True, env=environment(), timeout=timeout
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    if code:
        assert done.stderr.splitlines()[-1].startswith("gs-prepare: "), done.stderr
    return done


@cache
def world() -> Scene:
    """The demo scene, 32 views of 320x240."""
    return make_demo(n_points=100)


def write_photos(folder: Path, views: range = range(32)) -> Path:
    """Views of the demo scene as a folder of photos and nothing else."""
    folder.mkdir(parents=True)
    for i in views:
        view = world().views[i]
        Image.fromarray(view.pixels.image).save(folder / view.name)
    return folder


def write_turning(folder: Path) -> Path:
    """Photos of a camera that turns on the spot in the demo world."""
    folder.mkdir(parents=True)
    start = orbit_camera(0.0, 320, 240)
    for i in range(6):
        a = np.radians(5 * i - 12.5)
        turn = np.array([[np.cos(a), 0, -np.sin(a)], [0, 1, 0], [np.sin(a), 0, np.cos(a)]])
        viewmat = np.eye(4)
        viewmat[:3, :3] = turn @ start.viewmat[:3, :3]
        viewmat[:3, 3] = -viewmat[:3, :3] @ start.position
        picture = photograph(Camera(viewmat, start.K, 320, 240))
        Image.fromarray(picture).save(folder / f"{i}.png")
    return folder


# View of the demo scene and whether it is blurred, of each frame of the film; 10 frames a second.
FILM = [frame for i in range(32) for frame in ([(i, False), (i, True)] if i != 9 else [(i, False)] * 10)]


def true_poses_of_film(sources: dict[str, str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Those of frames by their names, from what prepare.json says of their times."""
    views = {
        name: world().views[FILM[round(10 * float(source.split()[-2]))][0]]
        for name, source in sources.items()
    }
    return {name: (view.camera.viewmat[:3, :3], view.camera.position) for name, view in views.items()}


def write_video(path: Path) -> Path:
    """The demo scene as a film: a still or blurred frame beside each sharp one, and a halt of four frames."""
    av: Any = pytest.importorskip("av", reason="the extra [video] is not installed")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        stream.options = {"crf": "14"}
        for i, shaken in FILM:
            picture = Image.fromarray(world().views[i].pixels.image)
            frame = picture.filter(ImageFilter.BoxBlur(3)) if shaken else picture
            for packet in stream.encode(av.VideoFrame.from_image(frame)):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def true_poses(scene: Scene) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    return {view.name: (view.camera.viewmat[:3, :3], view.camera.position) for view in scene.views}


def report(scene: Path) -> dict[str, Any]:
    reporter: dict[str, Any] = json.loads((scene / "prepare.json").read_text("utf-8"))
    return reporter
