# SPDX-License-Identifier: Apache-2.0
"""Scenes from disk: `open_scene` takes what the command line takes, `load_scene` a folder.

A reader is a module that `registry.READERS` lists. It has

    recognise(root: Path) -> bool                       whether the folder holds a scene of its format
    LOOKED_FOR: str                                     what `recognise` looks for, in words
    load(root: Path, options: LoadOptions) -> Scene     the scene; UserError where it is broken
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from .. import registry
from ..config import Config, configure, data_folder, is_builtin
from ..errors import UserError
from ..machine import budget
from ..scene import Scene
from ..storage import home_expanded
from .advice import PHOTOS_ONLY, advice, file_advice
from .check import Verdict, checked, judge
from .files import closed_folder
from .options import LoadOptions
from .point_ply import read_points

__all__ = [
    "LoadOptions",
    "examine_scene",
    "holds_photos_only",
    "load_scene",
    "open_scene",
    "read_scene",
    "scene_folder",
    "scene_name",
]

MADE_OF_PHOTOS = "scene"  # the folder in a run's where a scene made of photos lies


@np.errstate(all="ignore")  # hostile numbers overflow, and are found out by what comes of them
def load_scene(path: str | os.PathLike[str], *, reader: str = "auto", **options: Any) -> Scene:
    """The scene in a folder, by the first reader of `registry.READERS` that recognises it, or by the named.

    options: those of LoadOptions. UserError where nothing usable is there.
    """
    chosen = LoadOptions(**options)
    return checked(_load(home_expanded(path), reader, chosen), trust=chosen.trust, log=chosen.log)


def _load(root: Path, reader: str, options: LoadOptions) -> Scene:
    """The scene as it is, before the check. Of a folder that may not be read that is told, whatever comes of it."""
    try:
        scene = _recognised(root, reader, options)
    except UserError as error:
        if type(error) is UserError and (closed := closed_folder(root)):
            raise UserError(f"{closed} cannot be listed: permission denied; without it: {error}") from None
        raise
    if closed := closed_folder(root):
        options.log(f"warning: {closed} cannot be listed: permission denied; what it holds may be missed")
    return scene


def _recognised(root: Path, reader: str, options: LoadOptions) -> Scene:
    if reader != "auto" and reader not in registry.READERS:
        raise UserError(f"reader must be one of auto, {', '.join(registry.READERS)}, got {reader!r}")
    if not root.exists():
        raise UserError(f"scene {root} is not there")
    readers = {
        name: registry.module(path)
        for name, path in registry.READERS.items()
        if reader in ("auto", name) and name not in registry.MADE
    }

    def is_scene(folder: Path) -> bool:
        return any(module.recognise(folder) for module in readers.values())

    if not root.is_dir():
        raise UserError(f"scene {root} is not a folder; {file_advice(root, is_scene)}")
    found = [name for name, module in readers.items() if module.recognise(root)]
    if found:
        return _with_init(_first_sound(root, {name: readers[name] for name in found}, options), options)
    others = [
        (name, registry.module(path)) for name, path in registry.READERS.items() if name not in registry.MADE
    ]
    if there := [(name, module) for name, module in others if module.recognise(root)]:
        raise UserError(
            f"{root} is no scene for reader={reader}, which looks for {readers[reader].LOOKED_FOR}; it holds "
            f"{there[0][1].LOOKED_FOR}: leave out reader, or give reader={there[0][0]}"
        )
    remedy = f"; {hint}" if (hint := advice(root, is_scene)) else ""
    looked = " and ".join(module.LOOKED_FOR for module in readers.values())
    raise UserError(f"{root} is no scene this program knows; looked for {looked}{remedy}")


def _first_sound(root: Path, readers: dict[str, ModuleType], options: LoadOptions) -> Scene:
    """The scene by the first of the readers that finds no fault in it; a warning says which had one. UserError with
    the first fault where all have.
    """
    faults: list[UserError] = []
    for name, module in readers.items():
        try:
            scene: Scene = module.load(root, options)
        except UserError as error:
            if type(error) is not UserError:
                raise
            faults.append(error)
            continue
        if faults:
            options.log(f"warning: took {module.LOOKED_FOR} (reader={name}), as {faults[0]}")
        return scene
    others = [
        f"{module.LOOKED_FOR} (reader={name}) cannot be read either: {fault}"
        for (name, module), fault in zip(readers.items(), faults, strict=True)
    ]
    raise UserError("; ".join([str(faults[0]), *others[1:]])) from faults[0]


def holds_photos_only(root: Path) -> bool:
    """Whether a folder holds photos and no scene, nor is a scene's part: its cameras are to be found first."""
    modules = [registry.module(path) for name, path in registry.READERS.items() if name not in registry.MADE]

    def is_scene(folder: Path) -> bool:
        return any(module.recognise(folder) for module in modules)

    return not is_scene(root) and advice(root, is_scene).endswith(PHOTOS_ONLY)


def open_scene(scene: str | os.PathLike[str], **settings: Any) -> Scene:
    """The scene that `gs-train SCENE` would train on: a built-in's name, or a folder.

    settings: any of Config, as max_size=800. UserError where there is none.
    """
    return read_scene(configure(os.fspath(scene), settings))


@np.errstate(all="ignore")  # hostile numbers overflow, and are found out by what comes of them
def read_scene(
    config: Config,
    log: Callable[[str], None] = lambda line: None,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Scene:
    """Loads or makes the scene that `config` names; UserError where the check refuses it.

    log gets messages; progress what is under way, how much of it is done, and of how much.
    """
    return checked(_read(config, log, progress), trust=config.trust, log=log)


@np.errstate(all="ignore")  # hostile numbers overflow, and are found out by what comes of them
def examine_scene(config: Config, log: Callable[[str], None] = lambda line: None) -> Verdict:
    """The scene that `config` names with what the check says of it, refused or not."""
    silent = lambda what, done, total: None  # noqa: E731
    return judge(_read(config, log, silent, blank=False), trust=config.trust)


def _read(
    config: Config,
    log: Callable[[str], None],
    progress: Callable[[str, int, int], None],
    blank: bool = True,
) -> Scene:
    options = LoadOptions(
        images=config.images or None,
        max_size=config.max_size,
        undistort=config.undistort,
        fov=config.fov,
        mask_mode=config.mask_mode,
        invert_masks=config.invert_masks,
        alpha_mode=config.alpha_mode,
        trust=config.trust,
        init=config.init or None,
        memory=budget(config.memory_budget).bytes,
        blank=blank,
        log=log,
        progress=progress,
    )
    if config.reader in registry.MADE:
        return _with_init(registry.module(registry.READERS[config.reader]).load(Path(), options), options)
    return replace(_load(scene_folder(config), config.reader, options), name=scene_name(config))


def _with_init(scene: Scene, options: LoadOptions) -> Scene:
    """The scene with the points of the file that `init` names."""
    if options.init is None:
        return scene
    path = home_expanded(options.init)
    points, colors = read_points(path, options.log)
    options.log(f"points: {len(points):,} from {path} (--init)")
    return replace(scene, points=points, colors=colors)


def scene_name(config: Config) -> str:
    """What runs of the scene are filed under; of one made of photos in a run's folder the name of what they are."""
    folder = Path(config.scene)
    if folder.name == MADE_OF_PHOTOS:
        with suppress(OSError, ValueError, AttributeError):
            prepared_name = json.loads((folder / "prepare.json").read_text("utf-8")).get("name")
            if isinstance(prepared_name, str) and prepared_name:
                return prepared_name
    return folder.name or "scene"


def scene_folder(config: Config) -> Path:
    """Where the scene's data is; UserError, with where it can be had, if a built-in's is not there."""
    if not is_builtin(config.scene):
        return Path(config.scene)
    folder = data_folder(config.scene, config.data_root)
    if not folder.is_dir():
        own = (
            f"; for the folder {config.scene} here give ./{config.scene}"
            if Path(config.scene).is_dir()
            else ""
        )
        raise UserError(
            f"no folder {folder}; get the data set ({config.source}) and name the folder that {config.scene} "
            f"is in by --data-root or $GS_DATA{own}"
        )
    return folder
