# SPDX-License-Identifier: Apache-2.0
"""The whole training state <-> step_0007000.safetensors, and step_0007000.json whose presence commits it.

Tensors, in training's frame: the leaves of `Gaussians` by name, those of Adam's moments as `m.*` and `v.*`, the
sums of density control as `sums.*`, parameter groups as `groups.*`, and of the scene what tells it from another
(`scene.*`). The rest is in the JSON, with the size and the checksum of the tensors' file.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from ..model.io import check_of, committed, read_checkpoint, similarity_of, tree_of
from ..model.tensors import write_tensors
from ..scene import Similarity
from ..storage import atomic_write, remove
from .rows import TrainState, rows

FORMAT = 2  # of the JSON; 1 is version 0.1's


@dataclass
class Checkpoint:
    """All that going on exactly needs, beside the scene and the run's config.toml."""

    state: TrainState
    similarity: Similarity  # how training's frame lies in the scene's
    antialiased: bool
    rng: dict[str, Any]  # state of the trainer's random generator
    extra: dict[str, np.ndarray] = field(default_factory=dict)  # tensors `groups.*` and `scene.*`
    names: list[str] = field(default_factory=list)  # of the training views, whose rows the extra tensors hold
    progress: dict[str, Any] = field(
        default_factory=dict
    )  # what the trainer counts: seconds, best score, ...


def save(folder: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Writes a checkpoint and removes all but the newest `keep`; the path of its JSON.

    StorageError: nothing changed.
    """
    return write(folder, *parts_of(checkpoint), keep)


def parts_of(checkpoint: Checkpoint) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(what goes into the JSON, the tensors)."""
    state = checkpoint.state
    tensors = dict(rows(state.gaussians))
    for prefix, tree in (("m", state.m), ("v", state.v)):
        tensors |= {f"{prefix}.{name}": leaf for name, leaf in rows(tree).items()}
    tensors |= {f"sums.{name}": array for name, array in state.sums.items()}
    tensors |= checkpoint.extra
    meta = {
        "format": FORMAT,
        "step": state.step,
        "antialiased": checkpoint.antialiased,
        "similarity": {"centre": list(checkpoint.similarity.centre), "scale": checkpoint.similarity.scale},
        "rng": checkpoint.rng,
        "names": checkpoint.names,
        "progress": dict(checkpoint.progress),
    }
    return meta, tensors


def write(folder: Path, meta: dict[str, Any], tensors: dict[str, np.ndarray], keep: int) -> Path:
    """Writes the parts of a checkpoint; see `save`."""
    return commit(folder, meta, write_state(folder, meta["step"], tensors), keep)


def write_state(folder: Path, step: int, tensors: dict[str, np.ndarray]) -> dict[str, int]:
    """Writes the tensors of a checkpoint that is not there before `commit`, which takes what is returned."""
    path = _path(folder, step)
    remove(path)
    return write_tensors(path.with_suffix(".safetensors"), tensors)


def commit(folder: Path, meta: dict[str, Any], written: dict[str, int], keep: int) -> Path:
    """Makes a checkpoint of the tensors that were written; see `save`."""
    path, meta = _path(folder, meta["step"]), meta | {"tensors": written}
    with atomic_write(path) as file:
        file.write(json.dumps(meta | {"check": check_of(meta)}, indent=1).encode())
    _prune(folder, path, keep)
    return path


def _path(folder: Path, step: int) -> Path:
    return folder / f"step_{step:07d}.json"


def load(path: Path) -> Checkpoint:
    """The checkpoint at `path` (either of its two files).

    UserError if it is absent, damaged or of another version.
    """
    meta, tensors = read_checkpoint(path)
    if meta["format"] != FORMAT:
        raise UserError(
            f"checkpoint {path} is of version 0.1: gs-render and gs-export take it, but it cannot be resumed; "
            "start a new run"
        )
    try:
        trees = [tree_of(tensors, prefix) for prefix in ("", "m.", "v.")]
        sums = {name[5:]: array.copy() for name, array in tensors.items() if name.startswith("sums.")}
        extra = {name: a.copy() for name, a in tensors.items() if name.startswith(("groups.", "scene."))}
        return Checkpoint(
            state=TrainState(trees[0], trees[1], trees[2], _count(meta["step"]), sums),
            similarity=similarity_of(meta),
            antialiased=bool(meta["antialiased"]),
            rng=_rng_state(meta["rng"]),
            extra=extra,
            names=[str(name) for name in meta["names"]],
            progress=dict(meta["progress"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError) as error:
        raise UserError(f"checkpoint {path} is damaged: {error}") from None


def newest(folder: Path, log: Callable[[str], None]) -> Checkpoint | None:
    """The newest checkpoint that can be read, said in `log` where one cannot; None without any, UserError if
    all fail.
    """
    failure: UserError | None = None
    for path in committed(folder):
        try:
            return load(path)
        except UserError as error:
            failure = error
            log(f"warning: {error}; taking the one before")
    if failure:
        raise failure
    return None


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"step must be a whole number from 0, got {value!r}")
    return value


def _rng_state(state: Any) -> dict[str, Any]:
    """The state as NumPy's generator takes it; ValueError or TypeError where it is none."""
    np.random.default_rng(0).bit_generator.state = state
    return dict(state)


def _prune(folder: Path, written: Path, keep: int) -> None:
    """Removes what is newer than the one just written (an abandoned or damaged future), what is older than the
    newest `keep`, the commit first, and what a killed writer left.
    """
    paths = committed(folder)
    now = paths[paths.index(written) :]
    kept = now[:keep]
    for path in paths:
        if path not in kept:
            remove(path)
    for path in (*sorted(folder.glob("step_*.safetensors")), *sorted(folder.glob(".step_*.tmp"))):
        if path.with_suffix(".json") not in kept:
            remove(path)
