# SPDX-License-Identifier: Apache-2.0
"""The whole training state <-> step_0007000.safetensors, and step_0007000.json whose presence commits it.

Tensors, in training's frame: the leaves of `Gaussians` by name, those of Adam's moments as `m.*` and `v.*`,
the sums of density control as `stats.*`. The rest is in the JSON, with the size and the checksum of the
tensors' file. Safetensors (github.com/huggingface/safetensors): a length (uint64), a JSON header of that
length, the arrays.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from ..errors import UserError
from ..model.gaussians import Gaussians
from ..model.io import committed
from ..model.tensors import read_tensors, write_tensors
from ..scene import Similarity
from ..storage import atomic_write, storage
from .optimizer import TrainState, rows
from .strategies import GradStats

FORMAT = 1  # of the JSON


@dataclass
class Checkpoint:
    """All that going on exactly needs, beside the scene and the run's config.toml."""

    state: TrainState
    similarity: Similarity  # how training's frame lies in the scene's
    antialiased: bool
    rng: dict[str, Any]  # state of the trainer's random generator
    stats: GradStats | None = None
    progress: dict[str, Any] = field(
        default_factory=dict
    )  # what the trainer counts: seconds, best score, ...


def save(folder: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Writes a checkpoint and removes all but the newest `keep`; the path of its JSON.

    StorageError: nothing changed.
    """
    state = checkpoint.state
    tensors = dict(rows(state.gaussians))
    for prefix, tree in (("m", state.m), ("v", state.v)):
        tensors |= {f"{prefix}.{name}": leaf for name, leaf in rows(tree).items()}
    if checkpoint.stats is not None:
        tensors |= {f"stats.{name}": leaf for name, leaf in vars(checkpoint.stats).items()}
    path = folder / f"step_{state.step:07d}.json"
    path.unlink(missing_ok=True)
    meta = {
        "format": FORMAT,
        "step": state.step,
        "antialiased": checkpoint.antialiased,
        "similarity": {"centre": list(checkpoint.similarity.centre), "scale": checkpoint.similarity.scale},
        "rng": checkpoint.rng,
        "progress": checkpoint.progress,
        "tensors": write_tensors(path.with_suffix(".safetensors"), tensors),
    }
    with atomic_write(path) as file:
        file.write(json.dumps(meta, indent=1).encode())
    _prune(folder, keep)
    return path


def load(path: Path) -> Checkpoint:
    """The checkpoint at `path` (either of its two files).

    UserError if it is absent, damaged or of another version.
    """
    path = path.with_suffix(".json")
    try:
        meta = json.loads(path.read_bytes())
        if meta["format"] != FORMAT:
            raise UserError(f"checkpoint {path} has format {meta['format']}, this version reads {FORMAT}")
        tensors = read_tensors(path.with_suffix(".safetensors"), meta["tensors"])
        trees = [
            Gaussians(**{name: mx.array(tensors[prefix + name]) for name in Gaussians._fields})
            for prefix in ("", "m.", "v.")
        ]
        sums = {name[6:]: array.copy() for name, array in tensors.items() if name.startswith("stats.")}
        centre, scale = np.array(meta["similarity"]["centre"], np.float64), float(meta["similarity"]["scale"])
        return Checkpoint(
            state=TrainState(trees[0], trees[1], trees[2], int(meta["step"])),
            similarity=Similarity(centre, scale),
            antialiased=bool(meta["antialiased"]),
            rng=meta["rng"],
            stats=GradStats(**sums) if sums else None,
            progress=meta["progress"],
        )
    except OSError as error:
        raise UserError(f"cannot read checkpoint {path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
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


def _prune(folder: Path, keep: int) -> None:
    """Removes what is older than the newest `keep`, the commit first, and what a killed writer left."""
    kept = committed(folder)[:keep]
    with storage(folder):
        for path in committed(folder)[keep:]:
            path.unlink(missing_ok=True)
        for path in (*folder.glob("step_*.safetensors"), *folder.glob(".step_*.tmp")):
            if path.with_suffix(".json") not in kept:
                path.unlink(missing_ok=True)
