# SPDX-License-Identifier: Apache-2.0
"""What there is to choose from, by name, and the module that each lies in: the one place that a new reader,
splat format, backend, strategy, loss term or parameter group is entered. Nothing is imported until it is
asked for.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

# A script or a notebook may enter a module of its own: registry.TERMS["depth"] = module.
Entry = str | ModuleType

# In the order in which `auto` tries them. A module has what backends.Backend says; NEEDS is what a machine must have.
BACKENDS: dict[str, Entry] = {
    "metal": "backends.metal",
    "cuda": "backends.cuda",
    "cpp": "backends.cpp",
    "python": "backends.python",
}
NEEDS = {
    "metal": "Apple silicon and macOS 14",
    "cuda": "an NVIDIA GPU and MLX for CUDA (mlx[cuda12] or mlx[cuda13])",
    "cpp": "its compiled module gsplat_train._csrc",
    "python": "MLX",
}

# Scene formats, in the order in which a folder is tried. A module has `recognise` and `load`: see datasets.
READERS: dict[str, Entry] = {
    "colmap": "datasets.colmap",
    "transforms": "datasets.transforms",
    "metashape": "datasets.metashape",
    "realitycapture": "datasets.realitycapture",
    "llff": "datasets.llff",
    "demo": "datasets.demo",
}
MADE = frozenset({"demo"})  # readers that make their scene and take no folder

# Splat formats by the end of a file's name. A module has `read` and `write`: see model.formats.
FORMATS: dict[str, Entry] = {
    ".ply": "model.formats.ply",
    ".compressed.ply": "model.formats.compressed_ply",
    ".splat": "model.formats.splat",
    ".spz": "model.formats.spz",
    ".sog": "model.formats.sog",
    ".glb": "model.formats.glb",
    ".html": "model.formats.html",
}

# Density control. A module has `Settings` and `Strategy`: see training.strategies.
STRATEGIES: dict[str, Entry] = {
    "mcmc": "training.strategies.mcmc",
    "adc": "training.strategies.adc",
    "igs": "training.strategies.igs",
    "none": "training.strategies.none",
}

# Terms of the objective beside the photometric one. A module has `Settings` and `term`: see training.objective.
TERMS: dict[str, Entry] = {
    "alpha": "training.alpha",
}

# Parameters beyond the Gaussians. What a module has: see training.groups.
GROUPS: dict[str, Entry] = {
    "sky": "training.sky",  # before what happens to the whole picture
    "exposure": "training.exposure",
    "poses": "training.poses",
}


def module(entry: Entry) -> ModuleType:
    """The module of an entry of the tables above: a path below this package, or a module as it is."""
    return entry if isinstance(entry, ModuleType) else import_module(f"{__package__}.{entry}")
