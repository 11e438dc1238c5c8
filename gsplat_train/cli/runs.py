# SPDX-License-Identifier: Apache-2.0
"""Which folder a training command works in, and with which settings it goes on there."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from .. import config as config_module
from ..config import FREE_ON_RESUME, Config, is_builtin
from ..datasets import scene_folder, scene_name
from ..datasets.files import holds_pictures
from ..errors import UserError
from ..registry import MADE
from ..storage import home_expanded
from ..training.run_folder import RunFolder

ROOT = Path("runs")


def new_run(config: Config, out: Path | None, overwrite: bool) -> RunFolder:
    """The folder of a new run, `out` or runs/SCENE/<date-time>, which is made at once; UserError if it holds a
    run that may not be replaced.
    """
    if out is None:
        parent, name = ROOT / scene_name(config), time.strftime("%Y%m%d-%H%M%S")
        for ending in ("", *(f"-{i}" for i in range(2, 1000))):
            with suppress(FileExistsError):
                run = RunFolder(parent / f"{name}{ending}")
                run.make(exclusively=True)  # nobody else gets this one
                return run
        raise UserError(f"{parent} has a thousand runs of this second; name a folder with --out")
    if str(out) in ("", "."):
        raise UserError("--out is empty; give a folder for the run, or leave it out")
    run = RunFolder(home_expanded(out))
    if run.root.exists() and not run.root.is_dir():
        raise UserError(f"--out {out} is a file; give a folder")
    if run.holds_run() and not overwrite:
        raise UserError(
            f"{out} holds a run; go on with it by --resume, replace it by --overwrite, or give another --out"
        )
    if run.root.is_dir() and not run.holds_run():
        _keep_off_photos(run.root, config)
    return run


def _keep_off_photos(root: Path, config: Config) -> None:
    """UserError where a run would lie among photos, or where its scene does: the one would be taken for the other."""
    wrong = None
    if holds_pictures(root):
        wrong = "holds pictures"
    elif config.reader not in MADE:
        with suppress(UserError):  # of a scene that is not there; others tell that
            if scene_folder(config).resolve() == root.resolve():
                wrong = "is the scene's own folder"
    if wrong:
        raise UserError(f"--out {root} {wrong}; give a folder for the run alone, as {root / 'run'}")


def resumed_run(
    config: Config, out: Path | None, explicit: Mapping[str, Any], log: Callable[[str], None], moved: bool
) -> tuple[RunFolder, Config]:
    """The run in `out`, or the newest of the scene, and its settings; `explicit` may raise `steps` and change
    what is shown. moved: the run's scene is not where it was, and `config.scene` is where it is now.

    UserError if there is none, if it is of another scene, or if `given` would change what is trained.
    """
    run = RunFolder(home_expanded(out)) if out is not None else _newest(config, log)
    if not run.config.is_file() and run.lock.is_file():
        log(f"{run.root}: its process was ended before the first step; starting anew")
        return run, config.begun()
    if not run.config.is_file():
        raise UserError(
            f"{run.root} holds no run to resume: it has no config.toml; leave out --resume to start one"
        )
    stored = config_module.load([run.config])
    if moved and not is_builtin(stored.scene) and not Path(stored.scene).is_dir():
        log(f"the scene has moved from {stored.scene} to {config.scene}")
        stored = replace(stored, scene=config.scene)
    if stored.scene != config.scene:
        raise UserError(
            f"{run.root} is a run of {stored.scene}, not of {config.scene}; name that scene or another --out"
        )
    changes = {key: value for key, value in explicit.items() if value != config_module.value_of(stored, key)}
    if changes.get("steps", stored.steps) < stored.steps:
        raise UserError(
            f"a resumed run can only be prolonged: {changes['steps']} steps are less than its {stored.steps}"
        )
    if fixed := sorted(changes.keys() - FREE_ON_RESUME - {"steps"}):
        key = fixed[0]
        raise UserError(
            f"a resumed run keeps its settings: {key} is {config_module.value_of(stored, key)} in {run.config}, "
            f"{changes[key]} was given; leave it out, or start a new run"
        )
    return run, config_module.changed(stored, changes)


def _newest(config: Config, log: Callable[[str], None]) -> RunFolder:
    folders = sorted((ROOT / scene_name(config)).glob("*/config.toml"), reverse=True)
    unreadable = []
    for path in folders:
        try:
            stored = config_module.load([path])
        except UserError as error:
            unreadable.append(error)
            continue
        if stored.scene == config.scene:
            for why in unreadable:
                log(f"warning: a newer run is passed over: {why}")
            return RunFolder(path.parent)
    if unreadable:
        raise unreadable[0]
    raise UserError(
        f"no run of {config.scene} in {ROOT / scene_name(config)} to resume; name its folder with --out"
    )
