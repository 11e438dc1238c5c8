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
from gsplat_train.datasets.colmap_binary import read_images
from gsplat_train.datasets.colmap_records import rotation_matrix
from gsplat_train.datasets.demo import make_demo
from gsplat_train.scene import Scene

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


def write_video(path: Path) -> Path:
    """The demo scene as a film: a still or blurred frame beside each sharp one, and a halt of four frames."""
    av: Any = pytest.importorskip("av", reason="the extra [video] is not installed")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        stream.options = {"crf": "14"}
        for i, view in enumerate(world().views):
            picture = Image.fromarray(view.pixels.image)
            shaken = picture.filter(ImageFilter.BoxBlur(3))
            for frame in [picture, shaken] if i != 9 else [picture] * 10:
                for packet in stream.encode(av.VideoFrame.from_image(frame)):
                    container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def poses(scene: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Rotation [3, 3] (world to camera) and position [3] by name, of a COLMAP folder."""
    found = {}
    for image in read_images(scene / "sparse" / "0" / "images.bin"):
        R = rotation_matrix(image.quat)
        found[image.name] = R, -R.T @ np.array(image.translation)
    return found


def true_poses(scene: Scene) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    return {view.name: (view.camera.viewmat[:3, :3], view.camera.position) for view in scene.views}


def aligned(found: dict[str, Any], true: dict[str, Any]) -> tuple[float, np.ndarray, np.ndarray]:
    """The similarity from the true frame to the found one by their positions (Umeyama 1991)."""
    names = sorted(found)
    a, b = (np.stack([poses[name][1] for name in names]) for poses in (true, found))
    mean_a, mean_b = a.mean(axis=0), b.mean(axis=0)
    U, S, Vt = np.linalg.svd((b - mean_b).T @ (a - mean_a))
    D = np.diag([1, 1, np.sign(np.linalg.det(U @ Vt))])
    R = U @ D @ Vt
    scale = float((S * np.diag(D)).sum() / ((a - mean_a) ** 2).sum())
    return scale, R, mean_b - scale * R @ mean_a


def errors(found: dict[str, Any], true: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Of each camera found, after alignment: degrees, and distance as a share of the mean distance of the
    true cameras from their centre.
    """
    scale, R, shift = aligned(found, true)
    radius = np.linalg.norm(
        np.stack([p for _, p in true.values()]) - np.mean([p for _, p in true.values()], axis=0), axis=1
    ).mean()
    angles, distances = [], []
    for name, (rotation, position) in found.items():
        turned = true[name][0] @ R.T
        cosine = (np.trace(rotation @ turned.T) - 1) / 2
        angles.append(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
        distances.append(np.linalg.norm(position - (scale * R @ true[name][1] + shift)) / (scale * radius))
    return np.array(angles), np.array(distances)


def report(scene: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((scene / "prepare.json").read_text("utf-8"))
    return told
