# SPDX-License-Identifier: Apache-2.0
"""Files of every reader, small and sound, and what may come of altered ones (hostile_bytes.py): for test_hostile.py and
scripts/fuzz.py.

A `Target` writes a sound folder once; an execution alters one of its files (or several) and lets the reader have it.
What may come of that: what the reader returns, or a UserError of one line. Everything else is a finding: another
exception, more than 10 s, more memory than MEMORY beyond a small multiple of the file, a file opened outside of the
folder, an object unpickled, a warning of NumPy's, anything that a library writes on standard error by itself.
"""

from __future__ import annotations

import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import colmap_files
import foreign_scenes
import numpy as np
import splats
import tiny
from hostile_bytes import altered
from PIL import Image

from gsplat_train import config as config_module
from gsplat_train.datasets import load_scene
from gsplat_train.datasets.point_ply import read_points
from gsplat_train.errors import UserError
from gsplat_train.evaluate.path_files import read_path, write_path
from gsplat_train.model import formats
from gsplat_train.model import io as model_io
from gsplat_train.model.frame import euler
from gsplat_train.model.placing import Placing, write_placing
from gsplat_train.model.sky import Sky, write_sky
from gsplat_train.prepare import photos as prepared_photos
from gsplat_train.scene import Scene
from gsplat_train.training import checkpoint
from gsplat_train.training.rows import start
from gsplat_train.training.run_folder import RunFolder

SECONDS = 10  # an execution may take
MEMORY = 256 << 20  # bytes that it may take: a file of a few kB allows no more
QUICK = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # a folder in memory
LINE = 1500  # characters of a message


@dataclass
class Target:
    """A reader: `write` makes its folder, `read` reads it, `altered` are the files that are altered."""

    name: str
    write: Callable[[Path], None]
    read: Callable[[Path], Any]
    altered: tuple[str, ...]  # patterns
    sound: dict[str, bytes] = field(default_factory=dict)  # by name in the folder
    home: Path | None = None
    victims: list[str] = field(default_factory=list)

    def prepare(self, home: Path) -> None:
        """Writes the sound folder; it must be readable."""
        self.home = home
        home.mkdir(parents=True)
        self.write(home)
        self.read(home)
        self.sound = {
            path.relative_to(home).as_posix(): path.read_bytes()
            for path in sorted(home.rglob("*"))
            if path.is_file()
        }
        self.victims = [
            name for name in self.sound if any(Path(name).match(pattern) for pattern in self.altered)
        ]
        assert self.victims, self.name

    def restore(self) -> None:
        """Makes the folder sound again."""
        assert self.home is not None
        for path in sorted(self.home.rglob("*"), reverse=True):
            name = path.relative_to(self.home).as_posix()
            if path.is_dir() and not path.is_symlink():
                if not any(expected.startswith(f"{name}/") for expected in self.sound):
                    path.rmdir()
            elif name not in self.sound:
                path.unlink()
        for name, content in self.sound.items():
            path = self.home / name
            if not path.is_file() or path.stat().st_size != len(content) or path.read_bytes() != content:
                path.write_bytes(content)


# --- what there is to read


SAID: list[str] = []  # messages of the execution under way


def quiet(line: str) -> None:
    """For messages."""
    SAID.append(line)


def scene(root: Path) -> Scene:
    """As the command reads it, with the pixels of every photo."""
    found = load_scene(root, cache=False, max_size=64, log=quiet)
    for view in found.views:
        _ = view.pixels
    return found


def demo() -> Scene:
    return foreign_scenes.small_demo(4, 60)


def colmap(make: Callable[..., dict[str, bytes]]) -> Callable[[Path], None]:
    return lambda root: void(
        colmap_files.write_scene(root, make(colmap_files.CAMERAS, colmap_files.IMAGES, colmap_files.POINTS))
    )


def void(value: Any) -> None:
    """For expressions."""


def write_llff(root: Path) -> None:
    rows = []
    for view in demo().views:
        m = foreign_scenes.opengl(view.camera)
        llff = np.stack([-m[:3, 1], m[:3, 0], m[:3, 2], m[:3, 3]], axis=1)  # down, right, back, centre
        hwf = np.array([[view.camera.height], [view.camera.width], [view.camera.K[0, 0]]])
        rows.append([*np.concatenate([llff, hwf], 1).ravel(), 0.5, 9.0])
    np.save(root / "poses_bounds.npy", np.array(rows))
    foreign_scenes.write_ascii_ply(root / "points.ply", demo().points, demo().colors)
    foreign_scenes.write_photos(root / "images", demo().views)


def write_transforms(root: Path) -> None:
    foreign_scenes.write_transforms(root, demo(), k1=0.01, camera_model="OPENCV", ply_file_path="points.ply")
    foreign_scenes.write_ascii_ply(root / "points.ply", demo().points, demo().colors)


def write_metashape(root: Path) -> None:
    foreign_scenes.write_metashape(root, demo(), chunk_transform=(np.eye(3), np.zeros(3), 1.0))
    foreign_scenes.write_photos(root / "images", demo().views)
    foreign_scenes.write_ascii_ply(root / "points.ply", demo().points, demo().colors)


def write_realitycapture(root: Path) -> None:
    foreign_scenes.write_realitycapture(root, demo())
    foreign_scenes.write_ascii_ply(root / "points.ply", demo().points, demo().colors)
    foreign_scenes.write_photos(root / "images", demo().views)


def write_pictures(root: Path) -> None:
    """Photos and masks of many kinds."""
    colmap(colmap_files.text_files)(root)
    picture = Image.new("RGBA", (40, 30), (200, 100, 50, 128))
    for name, made in (
        ("a.png", picture), ("b.png", picture.convert("P")), ("sub/c.png", picture.convert("I").convert("I;16")),
    ):  # fmt: skip
        made.save(root / "images" / name)
    (root / "masks").mkdir()
    Image.new("L", (40, 30), 255).save(root / "masks" / "a.png.png")


def write_splats(ending: str) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        path = root / f"model{ending}"
        made = splats.random_splats(40, degree=1)
        formats.format_of(path).write(path, made)

    return write


def read_splats(ending: str) -> Callable[[Path], Any]:
    return lambda root: model_io.open_model(root / f"model{ending}", quiet)


def write_beside(root: Path) -> None:
    """A model, the sky behind it, and where it lies."""
    write_splats(".ply")(root)
    write_sky(root / "model.ply", Sky(np.linspace(-1, 1, 27, dtype=np.float32).reshape(9, 3)))
    turn = euler((10.0, 40.0, 70.0))
    write_placing(root / "model.ply", Placing(turn, 2.0, np.array([4e5, 5e6, 100.0])))


def write_run(root: Path) -> None:
    config = tiny.settings()
    run = RunFolder(root)
    run.write_config(config)
    for step in (1, 2):
        state = start(tiny.random_gaussians(12, seed=step))
        state.step = step
        frame = tiny.scene().normalized()[1]
        rng = dict(np.random.default_rng(0).bit_generator.state)
        checkpoint.save(run.checkpoints, checkpoint.Checkpoint(state, frame, False, rng, names=["a"]), 2)
    run.append_log('{"step": 1, "loss": 0.5}')


def read_run(root: Path) -> Any:
    run = RunFolder(root)
    config_module.load([run.config])
    run.truncate_log(9)
    found = checkpoint.newest(run.checkpoints, quiet)
    return found, model_io.open_model(root, quiet)


def write_camera_path(root: Path) -> None:
    write_path(root / "path.json", [view.camera for view in demo().views], 30)
    frames = [
        {"camera_to_world": foreign_scenes.opengl(v.camera).ravel().tolist(), "fov": 50, "aspect": 1}
        for v in demo().views
    ]
    their = {"camera_path": frames, "render_width": 64, "render_height": 48, "fps": 24, "seconds": 2}
    (root / "camera_path.json").write_text(json.dumps(their))
    undo = {"transform": np.eye(4)[:3].tolist(), "scale": 0.5}
    (root / "dataparser_transforms.json").write_text(json.dumps(undo))


def read_camera_path(root: Path) -> Any:
    first = error = None
    for name in ("path.json", "camera_path.json"):
        try:
            first = read_path(root / name, 10)
        except UserError as caught:
            error = caught
    if error:
        raise error
    return first


KINDS = {  # of photos, by ending: how pillow writes them
    ".jpg": {"quality": 90}, ".tif": {"compression": "tiff_lzw"}, ".webp": {"quality": 90}, ".bmp": {}, ".gif": {},
    ".jp2": {}, ".avif": {}, ".tga": {}, ".ppm": {}, ".jpeg": {"progressive": True, "optimize": True},
    ".tiff": {"compression": "tiff_adobe_deflate"}, ".jfif": {"format": "JPEG", "quality": 50},
}  # fmt: skip


def write_kinds(folder: Path) -> list[str]:
    """Photos of every kind that pillow can write here, with EXIF; their names."""
    folder.mkdir(parents=True, exist_ok=True)
    y, x = np.indices((72, 96))
    picture = Image.fromarray(np.stack([2 * x, 3 * y, x + y], axis=2).astype(np.uint8))
    exif = picture.getexif()
    exif[0x0110], exif[0x0112] = "camera", 6
    exif.get_ifd(0x8769)[0xA405] = 28
    names = []
    for number, (ending, words) in enumerate(KINDS.items()):
        path = folder / f"{number}{ending}"
        try:
            picture.save(path, exif=exif, **words)
        except (OSError, ValueError, KeyError):  # a pillow without that codec
            path.unlink(missing_ok=True)
            continue
        names.append(path.name)
    return names


def write_photos(root: Path) -> None:
    """A scene with a photo of each kind."""
    names = write_kinds(root / "images")
    lines = []
    for number, name in enumerate(names, 1):
        lines += [f"{number} 1 0 0 0 0 0 {number / 9} 1 {name}", ""]
    (root / "sparse/0").mkdir(parents=True)
    (root / "sparse/0/cameras.txt").write_text("1 PINHOLE 96 72 90 90 48 36\n")
    (root / "sparse/0/images.txt").write_text("\n".join(lines) + "\n")
    points = [f"{i} {i % 7 - 3} {i % 5 - 2} {5 + i % 3} 9 99 199 0.5" for i in range(1, 40)]
    (root / "sparse/0/points3D.txt").write_text("\n".join(points) + "\n")


def read_prepared(root: Path) -> Any:
    """As gs-prepare reads a folder of photos."""
    folder, names, _ = prepared_photos.find_photos(root)
    with tempfile.TemporaryDirectory(dir=root) as work:
        return [
            prepared_photos._read(folder / name, name, Path(work) / f"{number}.jpg")
            for number, name in enumerate(names)
        ]


TARGETS = [
    Target("colmap binary", colmap(colmap_files.binary_files), scene, ("*.bin",)),
    Target("colmap text", colmap(colmap_files.text_files), scene, ("*.txt",)),
    Target("llff", write_llff, scene, ("*.npy",)),
    Target("transforms.json", write_transforms, scene, ("*.json", "*.ply")),
    Target("metashape", write_metashape, scene, ("*.xml",)),
    Target("realitycapture", write_realitycapture, scene, ("*.csv",)),
    Target("pictures", write_pictures, scene, ("*.png",)),
    Target("photos", write_photos, scene, tuple(f"*{ending}" for ending in KINDS)),
    Target("prepare", write_kinds, read_prepared, tuple(f"*{ending}" for ending in KINDS)),
    *(
        Target(f"model{ending}", write_splats(ending), read_splats(ending), (f"*{ending}",))
        for ending in (".ply", ".compressed.ply", ".splat", ".spz", ".sog", ".glb", ".html")
    ),
    Target(
        "points.ply",
        lambda root: foreign_scenes.write_ascii_ply(root / "p.ply", demo().points, demo().colors),
        lambda root: read_points(root / "p.ply", quiet),
        ("*.ply",),
    ),
    Target("beside a model", write_beside, read_splats(".ply"), ("*.json",)),
    Target("run", write_run, read_run, ("*.json", "*.safetensors", "*.toml", "*.jsonl")),
    Target("camera path", write_camera_path, read_camera_path, ("*.json",)),
]


# --- one execution


class Watch:
    """What happens outside: files opened, objects unpickled."""

    def __init__(self) -> None:
        self.home: Path | None = None
        self.seen: list[str] = []
        self.allowed = [
            os.path.realpath(p) for p in (sys.prefix, sys.base_prefix, *(p for p in sys.path if p))
        ]
        self.allowed += ["/usr", "/proc", "/sys", "/dev", "/lib", "/etc/localtime"]
        sys.addaudithook(self._hook)

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if self.home is None:
            return
        if event == "pickle.find_class":
            self.seen.append(f"unpickled {args}")
        elif event == "open" and isinstance(args[0], str | bytes | os.PathLike):
            path = os.path.realpath(os.fsdecode(args[0]))
            inside = path.startswith(str(self.home) + os.sep) or path == str(self.home)
            machine = os.path.basename(path).startswith(("memory.", "cgroup"))
            if not inside and not machine and not any(path.startswith(allowed) for allowed in self.allowed):
                self.seen.append(f"opened {path}")


WATCH = Watch()  # one for the process: an audit hook stays


class TooLong(BaseException):
    """An execution that does not end."""


@contextmanager
def limits(seconds: float = SECONDS, memory: int = MEMORY) -> Iterator[None]:
    """Time and memory of what is inside: TooLong, MemoryError beyond them."""

    def late(number: int, frame: Any) -> None:
        raise TooLong

    before = [signal.signal(number, late) for number in (signal.SIGALRM, signal.SIGPROF)]
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    if sys.platform == "linux":
        now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + memory, hard))
    signal.setitimer(signal.ITIMER_PROF, seconds)  # of processor time: a busy machine hangs nobody
    signal.setitimer(signal.ITIMER_REAL, 10 * seconds)
    try:
        yield
    finally:
        for timer in (signal.ITIMER_PROF, signal.ITIMER_REAL):
            signal.setitimer(timer, 0)
        for number, handler in zip((signal.SIGALRM, signal.SIGPROF), before, strict=True):
            signal.signal(number, handler)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@contextmanager
def stray() -> Iterator[list[str]]:
    """What goes to the descriptor of standard error while inside: of libraries below Python, and of their log."""
    lines: list[str] = []
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile(dir=QUICK) as file:
        os.dup2(file.fileno(), 2)
        try:
            yield lines
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            lines += file.read(4000).decode("utf-8", "replace").splitlines()


def execute(target: Target, seed: int, watch: Watch | None = None) -> str | None:
    """One altered file given to the reader; the finding, in words, or None. The folder is sound again afterwards."""
    assert target.home is not None
    rng = random.Random(f"{target.name} {seed}")
    names = [rng.choice(target.victims) for _ in range(rng.choice((1, 1, 1, 2)))]
    for name in dict.fromkeys(names):
        path = target.home / name
        relative = path.relative_to(target.home).as_posix()
        path.write_bytes(altered(target.sound[name], rng, relative))
    try:
        return _read(target, watch)
    finally:
        target.restore()


def _read(target: Target, watch: Watch | None) -> str | None:
    assert target.home is not None
    began = time.process_time()
    SAID.clear()
    if watch is not None:
        watch.home, watch.seen = target.home.resolve(), []
    try:
        with warnings.catch_warnings(record=True) as said, stray() as lines, limits():
            warnings.simplefilter("always")
            warnings.filterwarnings("ignore", module=r"PIL(\.|$)")  # as the package has it
            target.read(target.home)
    except UserError as error:
        if "\n" in str(error) or len(str(error)) > LINE:
            return f"message of {len(str(error))} characters: {str(error)[:200]!r}"
    except MemoryError:
        return f"more than {MEMORY >> 20} MB\n{traceback.format_exc()}"
    except TooLong:
        return f"more than {SECONDS} s\n{traceback.format_exc()}"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:200]}\n{traceback.format_exc()}"
    finally:
        if watch is not None:
            watch.home = None
    if said:
        return (
            f"warning: {said[0].category.__name__} {said[0].message} at {said[0].filename}:{said[0].lineno}"
        )
    if lines:
        return f"on standard error: {lines[0][:200]!r}"
    if watch is not None and watch.seen and not any("outside of" in line for line in SAID):
        return watch.seen[0]
    if time.process_time() - began > SECONDS:
        return f"{time.process_time() - began:.0f} s"
    return None


def place_of(finding: str) -> str:
    """What two findings of one fault have in common: the kind, and the last line of this program in the trace."""
    lines = re.findall(r'File "[^"]*/(gsplat_train/[^"]+)", line (\d+)', finding)
    return f"{finding.splitlines()[0].partition(':')[0]} {':'.join(lines[-1]) if lines else finding[:100]}"


@contextmanager
def prepared(names: list[str] | None = None) -> Iterator[list[Target]]:
    """The targets, their folders written."""
    home = Path(tempfile.mkdtemp(prefix="hostile-", dir=QUICK)).resolve()
    try:
        chosen = [target for target in TARGETS if names is None or target.name in names]
        for i, target in enumerate(chosen):
            target.prepare(home / str(i) / "scene")
        yield chosen
    finally:
        shutil.rmtree(home, ignore_errors=True)
