# SPDX-License-Identifier: Apache-2.0
"""Which scene gs-train works on: SCENE, or else what a configuration names, or the run that goes on."""

from __future__ import annotations

import shlex
from pathlib import Path

from .. import config as config_module
from ..config import Config, builtin_scenes, is_builtin
from ..datasets import MADE_OF_PHOTOS
from ..errors import UserError
from ..storage import home_expanded
from . import find_config


def one_of(configurations: list[str] | None) -> str | None:
    """The one that --config may name; UserError for several: the last alone would have an effect."""
    if configurations and len(configurations) > 1:
        several = " ".join(f"--config {each}" for each in configurations)
        raise UserError(
            f"{several}: one file is taken; put their settings into one, or give the rest by --set"
        )
    return configurations[0] if configurations else None


def scene_of(scene: str | None, config: str | None, out: Path | None, resume: bool) -> str:
    """SCENE as it was given, or what stands for it: the scene of --config, or of the run in --out that is resumed.
    UserError where none names one, where that is not there, and where SCENE is no scene but a run or a configuration.
    """
    if scene is not None:
        _check_scene(scene)
        return scene
    named, unnamed = "", ""
    if config is not None:
        of_scenes = [each for each in builtin_scenes() if config_module.find(f"{each}_{config}")]
        if of_scenes and config_module.find(config) is None and not home_expanded(config).is_file():
            line = _line(of_scenes[0], "--config", config)
            raise UserError(
                f"which scene? {config} is a configuration of {', '.join(of_scenes)}; as in: {line}"
            )
        path = find_config("", config)
        named, unnamed = str(config_module.read(path).get("scene", "")), f"{config} names none"
        if named:
            return _present(named, path, ("--config", config))
    if resume and out is not None:
        run = home_expanded(out)
        named, file = _of_run(run)
        if named:
            return _present(named, file, ("--resume", "--out", str(out)))
        unnamed = f"{out} holds no run that names one" if not unnamed else f"{unnamed}, nor does {out}"
    elif resume:
        unnamed = "--resume goes on with its newest run, or with the one that --out names"
    example = _line("demo", *(("--config", config) if config is not None else ()))
    why = f"{unnamed}; " if unnamed else ""
    raise UserError(f"which scene? {why}give a folder or a built-in's name, as in: {example}")


def difference(scene: str, files: tuple[Path, ...]) -> str:
    """The line that says that a file of settings names another scene than `scene`, an absolute path or a built-in;
    empty where none does.
    """
    for path in files:
        all_of_it = config_module.read(path)
        if "scene" in all_of_it.keys() - config_module.settings_for(scene, all_of_it).keys():
            named = all_of_it["scene"]
            kept_out = [
                key
                for key in config_module.OF_SCENE
                if all_of_it.get(key, getattr(Config, key)) != getattr(Config, key)
            ]
            without = f", without the file's {' and '.join(kept_out)}" if kept_out else ""
            return f"{path} names the scene {named}; {scene} was given, and is taken{without}"
    return ""


def _check_scene(scene: str) -> None:
    path = home_expanded(scene)
    if is_builtin(scene):
        return
    if path.suffix == ".toml" and path.is_file():
        raise UserError(
            f"{scene} is a configuration, no scene; train on the one that it names: {_line('--config', scene)}"
        )
    run = path / "config.toml", path / "log.jsonl"
    if all(file.is_file() for file in run):
        raise UserError(
            f"{scene} is the folder of a run, no scene; go on with it: {_line('--resume', '--out', scene)}; or do it "
            f"again: {_line('--config', str(run[0]))}"
        )


def _of_run(run: Path) -> tuple[str, Path]:
    """The scene of a run, or of the seeds' runs below, and the file that names it."""
    made = run / MADE_OF_PHOTOS
    for file in (run / "config.toml", *sorted(run.glob("seed_*/config.toml"))):
        if file.is_file():
            named = str(config_module.read(file).get("scene", ""))
            moved = named and not Path(named).exists() and made.is_dir() and Path(named).name == made.name
            return (str(made) if moved else named), file
    from ..prepare.steps import read_json

    prepared = read_json(made / "prepare.json")  # of photos, before the first step
    source = prepared.get("made_from", {}).get("input") if isinstance(prepared, dict) else None
    return str(source or ""), made / "prepare.json"


def _present(scene: str, path: Path, words: tuple[str, ...]) -> str:
    """The scene that a file names; UserError where it is not there."""
    if is_builtin(scene) or home_expanded(scene).exists():
        return scene
    beside = path.parent / scene
    if beside.exists() and not Path(scene).is_absolute():
        why = "paths in it are from the working directory; give it"
        raise UserError(
            f"{path} names the scene {scene}, which is not there: {why}: {_line(str(beside), *words)}"
        )
    raise UserError(
        f"{path} names the scene {scene}, which is not there; say where it is now: gs-train SCENE {shlex.join(words)}"
    )


def _line(*words: str) -> str:
    return shlex.join(["gs-train", *words])
