# SPDX-License-Identifier: Apache-2.0
"""How far the cameras that gs-prepare finds are from known ones, how long it takes, and what a training on them loses.

    python scripts/bench_prepare.py demo --size 640x480 --out work/demo
    python scripts/bench_prepare.py video --size 640x480 --out work/video
    python scripts/bench_prepare.py $GS_DATA/plush --out work/plush -- --steps 7000 --max-splats 100000

A scene is `demo` (the built-in one, 32 photos), `video` (the same world filmed on the way round, 20 s of H.264), or a
COLMAP folder whose cameras are taken for true. Only its photos are given to gs-prepare. The true cameras are brought
to the found ones by the similarity that fits their positions; then each differs by degrees and by a share of the
radius, which is the mean distance of the true cameras from their middle. Arguments after `--` are gs-train's: two
models are trained, on the true cameras and on those found, and measured on the same held-out photos. For a video the
true cameras stand beside the same decoded frames. One JSON line; what is there in --out is not made again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gsplat_train.cli.write_demo import parsed_size
from gsplat_train.datasets import demo
from gsplat_train.datasets.colmap_binary import read_cameras, read_images, write_pinholes
from gsplat_train.datasets.colmap_records import Points, rotation_matrix
from gsplat_train.datasets.files import list_pictures
from gsplat_train.errors import ending_in_one_line

RATE, FILM_SECONDS = 12, 20  # frames a second
Poses = dict[str, tuple[np.ndarray, np.ndarray]]  # by name: rotation, world to camera, and position


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("scene", help="demo, video, or a COLMAP folder with its photos")
    parser.add_argument("--size", default="640x480", help="of the built-in scene's photos")
    parser.add_argument("--crf", default="23", help="of the film: how coarsely it is packed")
    parser.add_argument("--out", type=Path, required=True, help="folder of all that is made")
    split = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    args, settings = parser.parse_args(sys.argv[1:split]), sys.argv[split + 1 :]
    true, photos, made = (args.out / name for name in ("true", "photos", "made"))
    if args.scene == "video":
        photos = args.out / "walk.mp4"
    if not photos.exists():
        write(args.scene, args.size, args.crf, true, photos)
    command("gs-prepare", "prepare", photos, made, "--progress", "plain")
    prepared = json.loads((made / "prepare.json").read_text("utf-8"))
    if args.scene == "video" and not true.exists():
        write_true_frames(true, made, prepared, args.size)
    if args.scene not in ("demo", "video"):
        true = Path(args.scene)
    line = {"scene": f"{args.scene} {args.size}" if true.is_relative_to(args.out) else args.scene}
    line |= compared(made, true) | {"of": prepared["used"], "seconds": prepared["seconds"]}
    if settings:
        for name, scene in (("true", true), ("found", made)):
            run = args.out / f"trained_on_{name}"
            if not (run / "metrics.json").exists():
                command("gs-train", "train", scene, "--out", run, "--overwrite", "--quiet", *settings)
            line[f"psnr_{name}"] = json.loads((run / "metrics.json").read_text("utf-8"))["test"]["psnr"]
    print(json.dumps(line), flush=True)


def command(name: str, what: str, *arguments: object) -> None:
    done = subprocess.run([sys.executable, "-m", "gsplat_train", what, *map(str, arguments)], check=False)
    if done.returncode:
        sys.exit(f"{name} ended with {done.returncode}")


def write(scene: str, size: str, crf: str, true: Path, photos: Path) -> None:
    """The photos or the film, and of the demo the true scene."""
    width, height = parsed_size(size)
    photos.parent.mkdir(parents=True, exist_ok=True)
    if scene == "video":
        film(photos, width, height, crf)
    elif scene == "demo":
        demo.write_demo(true, demo.make_demo(width=width, height=height))
        shutil.copytree(true / "images", photos)
    else:
        photos.mkdir()
        for name in list_pictures(Path(scene) / "images"):
            (photos / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(Path(scene) / "images" / name, photos / name)


def film(path: Path, width: int, height: int, crf: str) -> None:
    """The demo world, once round."""
    import av

    count = RATE * FILM_SECONDS
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt, stream.options = width, height, "yuv420p", {"crf": crf}
        for i in range(count):
            picture = Image.fromarray(demo.photograph(demo.orbit_camera(i / count, width, height)))
            for packet in stream.encode(av.VideoFrame.from_image(picture)):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def write_true_frames(true: Path, made: Path, prepared: dict[str, Any], size: str) -> None:
    """The frames that were taken, with their true cameras and points of the demo world."""
    width, height = parsed_size(size)
    names = [image.name for image in read_images(made / "sparse" / "0" / "images.bin")]
    times = {name: float(prepared["sources"][name].split()[-2]) for name in sorted(names)}
    turns = {name: round(time * RATE) / (RATE * FILM_SECONDS) for name, time in times.items()}
    cameras = [(name, demo.orbit_camera(turn, width, height)) for name, turn in turns.items()]
    points = Points(*demo.sample_points([camera for _, camera in cameras], 6000, 0))
    seen = [np.flatnonzero(demo.visible(points.positions, camera)) for _, camera in cameras]
    places = [
        demo.project(points.positions[index], camera)[0]
        for index, (_, camera) in zip(seen, cameras, strict=True)
    ]
    (true / "sparse" / "0").mkdir(parents=True)
    shutil.copytree(made / "images", true / "images")
    write_pinholes(true / "sparse" / "0", cameras, points, seen, places)


def poses(scene: Path) -> Poses:
    """Those of a COLMAP folder."""
    found = {}
    for image in read_images(scene / "sparse" / "0" / "images.bin"):
        R = rotation_matrix(image.quat)
        found[image.name] = R, -R.T @ np.array(image.translation)
    return found


def aligned(found: Poses, true: Poses) -> tuple[float, np.ndarray, np.ndarray]:
    """The similarity from the true frame to the found one by the positions of both (Umeyama 1991)."""
    names = sorted(found)
    a, b = (np.stack([poses[name][1] for name in names]) for poses in (true, found))
    mean_a, mean_b = a.mean(axis=0), b.mean(axis=0)
    U, S, Vt = np.linalg.svd((b - mean_b).T @ (a - mean_a))
    D = np.diag([1, 1, np.sign(np.linalg.det(U @ Vt))])
    R = U @ D @ Vt
    scale = float((S * np.diag(D)).sum() / ((a - mean_a) ** 2).sum())
    return scale, R, mean_b - scale * R @ mean_a


def errors(found: Poses, true: Poses) -> tuple[np.ndarray, np.ndarray]:
    """Of each camera found, after alignment: degrees, and distance as a share of the radius."""
    scale, R, shift = aligned(found, true)
    positions = np.stack([position for _, position in true.values()])
    radius = np.linalg.norm(positions - positions.mean(axis=0), axis=1).mean()
    angles, distances = [], []
    for name, (rotation, position) in found.items():
        turned = true[name][0] @ R.T
        cosine = (np.trace(rotation @ turned.T) - 1) / 2
        angles.append(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
        distances.append(np.linalg.norm(position - (scale * R @ true[name][1] + shift)) / (scale * radius))
    return np.array(angles), np.array(distances)


def compared(made: Path, true: Path) -> dict[str, Any]:
    """How far the cameras of `made` are from those of `true`: median and largest."""
    found = poses(made)
    degrees, shares = errors(found, poses(true))
    focals = [
        record.params[0] / record.width
        for folder in (made, true)
        for _, record in read_cameras(folder / "sparse" / "0" / "cameras.bin")[:1]
    ]
    return {
        "placed": len(found),
        "degrees": [round(float(v), 4) for v in (np.median(degrees), degrees.max())],
        "percent_of_radius": [round(100 * float(v), 3) for v in (np.median(shares), shares.max())],
        "focal_percent": round(100 * (focals[0] / focals[1] - 1), 3),
    }


if __name__ == "__main__":
    with ending_in_one_line("bench_prepare.py"):
        main()
