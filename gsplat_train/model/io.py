# SPDX-License-Identifier: Apache-2.0
"""Models from disk: a run folder, a checkpoint or a file of splats -> Gaussians, and where they lie in the scene."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from .. import registry
from ..errors import UserError
from ..scene import Camera, Similarity
from ..storage import home_expanded, parsed
from . import formats
from .frame import moved
from .gaussians import Gaussians
from .placing import HERE, Placing, read_placing
from .sky import Sky, read_sky, sky_of
from .splats import Splats
from .tensors import read_tensors

FORMATS_READ = (1, 2)  # of a checkpoint's JSON: 1 is version 0.1's


class Model(NamedTuple):
    """A model in a frame of its own."""

    gaussians: Gaussians
    antialiased: bool  # the mode it was trained for
    run: Path | None  # the run folder that it lies in
    up: tuple[float, float, float] | None = None  # which way is up, where the file says it
    frame: Placing = HERE  # from its frame to the scene's
    normalized: bool = False  # whether its frame is training's
    sky: Sky | None = None  # behind its splats, in its axes

    @property
    def splats(self) -> Splats:
        """In the frame that it is in."""
        return to_splats(self.gaussians, self.antialiased, self.up)

    def at(self, frame: Placing) -> Model:
        """The same model in another frame, told by where that lies in the scene's."""
        step = self.frame.then(frame.back())
        if not step.moves:
            return self
        other = from_splats(moved(self.splats, *step), self.run)
        return other._replace(frame=frame, sky=self.sky and self.sky.turned(step.rotation))

    def camera(self, camera: Camera) -> Camera:
        """A camera of the scene in the model's frame."""
        return self.frame.back().camera(camera)

    def to_render(self, cameras: Sequence[Camera]) -> Model:
        """The same in training's frame, or one like it about the cameras, which are in the scene's; without any, about
        the splats themselves. All scenes are of one size there, which near planes are made for, and near the origin.
        """
        if self.normalized:
            return self
        means = np.asarray(self.gaussians.means, np.float64)
        if cameras:
            around = Similarity.around([self.camera(camera) for camera in cameras], means)
        else:
            centre = np.median(means, axis=0)
            around = Similarity(centre, float(np.median(np.linalg.norm(means - centre, axis=1))) or 1.0)
        return self.at(Placing.of(around).then(self.frame))._replace(normalized=True)


def load_model(path: str | os.PathLike[str]) -> Gaussians:
    """The Gaussians of a run folder, a checkpoint or a .ply, in the scene's own frame.

    UserError if it is none.
    """
    return open_model(Path(path)).at(HERE).gaussians


@np.errstate(all="ignore")  # hostile numbers overflow, and are found out by what comes of them
def open_model(path: Path, log: Callable[[str], None] = lambda line: None) -> Model:
    """As `load_model`, with what else is known.

    Of a run folder the newest checkpoint that can be read, otherwise point_cloud.ply.
    """
    path = home_expanded(path)
    if path.is_dir():
        return _of_run(path, log)
    if not path.exists():
        raise UserError(f"no model at {path}; give a run folder, a checkpoint or a file of splats")
    if formats.ending_of(path):
        splats = formats.format_of(path).read(path)
        for note in splats.notes:
            log(f"warning: {note}")
        return from_splats(splats, _run_of(path.parent))._replace(
            frame=read_placing(path), sky=read_sky(path)
        )
    if path.suffix in (".safetensors", ".json"):
        return _of_checkpoint(path, _run_of(path.parent.parent))
    allowed = ", ".join(registry.FORMATS)
    raise UserError(
        f"{path} is no model; allowed are a run folder, a checkpoint (.safetensors) and {allowed}"
    )


def from_splats(splats: Splats, run: Path | None = None) -> Model:
    """The model that a file of splats holds."""
    gaussians = Gaussians(**{name: mx.array(array) for name, array in splats.arrays.items()})
    return Model(gaussians, splats.antialiased, run, splats.up)


def to_splats(
    gaussians: Gaussians, antialiased: bool, up: tuple[float, float, float] | None = None
) -> Splats:
    """What a splat format writes of a model; waits for the arrays."""
    mx.eval(gaussians)
    return Splats({name: np.asarray(leaf) for name, leaf in gaussians._asdict().items()}, antialiased, up)


def check_of(meta: Mapping[str, Any]) -> int:
    """The checksum of what a checkpoint's JSON says."""
    return zlib.crc32(json.dumps(meta, sort_keys=True).encode())


def committed(folder: Path) -> list[Path]:
    """The JSONs of a folder of checkpoints, newest first; none where there is no folder. UserError where it cannot be
    read.
    """
    try:
        names = [name for name in os.listdir(folder) if name.startswith("step_") and name.endswith(".json")]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"cannot read the checkpoints in {folder}: {error.strerror}") from None
    return [folder / name for name in sorted(names, key=lambda name: (len(name), name), reverse=True)]


def read_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(what its JSON says, its tensors) of the checkpoint at `path` (either of its two files).

    UserError if it is absent, damaged or of another version.
    """
    path = path.with_suffix(".json")
    try:
        meta = parsed(path.read_bytes())
        if meta["format"] not in FORMATS_READ:
            raise UserError(
                f"checkpoint {path} has format {meta['format']}, this version reads {FORMATS_READ}"
            )
        if meta["format"] > 1 and meta.pop("check") != check_of(meta):
            raise ValueError("its checksum does not fit")
        return meta, read_tensors(path.with_suffix(".safetensors"), meta["tensors"])
    except OSError as error:
        raise UserError(f"cannot read checkpoint {path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError) as error:
        raise UserError(f"checkpoint {path} is damaged: {error}") from None


def tree_of(tensors: Mapping[str, np.ndarray], prefix: str = "") -> Gaussians:
    """The tree whose leaves are the tensors `prefix` + name; KeyError where one is missing, ValueError where their
    shapes do not go together.
    """
    leaves = {name: tensors[prefix + name] for name in Gaussians._fields}
    n, rest = len(leaves["means"]), leaves["shN"].shape[1:2]
    shapes = {
        "means": (3,),
        "quats": (4,),
        "log_scales": (3,),
        "logit_opacities": (),
        "sh0": (1, 3),
        "shN": (*rest, 3),
    }
    if wrong := [name for name, shape in shapes.items() if leaves[name].shape != (n, *shape)]:
        raise ValueError(f"{prefix}{wrong[0]} has the shape {leaves[wrong[0]].shape}")
    return Gaussians(**{name: mx.array(leaf) for name, leaf in leaves.items()})


def similarity_of(meta: Mapping[str, Any]) -> Similarity:
    """How training's frame lies in the scene's, as a checkpoint's JSON says it."""
    centre = np.array(meta["similarity"]["centre"], np.float64)
    scale = float(meta["similarity"]["scale"])
    if centre.shape != (3,) or not np.isfinite(centre).all() or not 0 < scale < np.inf:
        raise ValueError(f"its frame lies at {centre.tolist()} and has the scale {scale}")
    return Similarity(centre, scale)


def _of_run(path: Path, log: Callable[[str], None]) -> Model:
    failure: UserError | None = None
    for json_path in committed(path / "checkpoints"):
        try:
            return _of_checkpoint(json_path, path)
        except UserError as error:
            failure = error
            log(f"warning: {error}; taking the one before")
    if (path / "point_cloud.ply").is_file():
        return open_model(path / "point_cloud.ply")
    below = sorted(file.parent for file in path.glob("*/config.toml"))  # runs are named by the time
    newest = f"; it holds runs, the newest is {below[-1]}" if below else ""
    raise failure or UserError(f"{path} is no run: it holds neither checkpoints nor point_cloud.ply{newest}")


def _of_checkpoint(path: Path, run: Path | None) -> Model:
    meta, tensors = read_checkpoint(path)
    try:
        gaussians, similarity = tree_of(tensors), similarity_of(meta)
        sky = sky_of(tensors["groups.sky.values"]) if "groups.sky.values" in tensors else None
        antialiased = bool(meta["antialiased"])
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError) as error:
        raise UserError(f"checkpoint {path} is damaged: {error}") from None
    return Model(gaussians, antialiased, run, frame=Placing.of(similarity), normalized=True, sky=sky)


def _run_of(folder: Path) -> Path | None:
    return folder if (folder / "config.toml").is_file() else None
