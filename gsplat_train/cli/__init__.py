# SPDX-License-Identifier: Apache-2.0
"""The commands: parse, call, print. Here is what they share: the boundary where errors become exit codes, and
how a scene's name becomes a scene. Nothing heavy is imported before a command runs, so that --help is
instant.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from .. import config as config_module
from ..config import Config
from ..errors import UserError

if TYPE_CHECKING:
    from ..scene import Scene

NO_MEMORY = "Unable to allocate|Attempting to allocate|Insufficient Memory|cuda.*out of memory"  # MLX's words
SET_HELP = "Any setting of gsplat_train/config.py; may be given again."


def make_app(command: Callable[..., None]) -> typer.Typer:
    """A program of one command."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(context_settings={"help_option_names": ["-h", "--help"]})(command)
    return app


def run(app: typer.Typer, program: str) -> NoReturn:
    """Runs a program and exits: 0, a documented code with one line on standard error, or 1 with a bug's
    traceback.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    try:
        typer.main.get_command(app).main(prog_name=program, standalone_mode=False)
        sys.stdout.flush()
    except UserError as error:
        _exit(program, str(error), error.exit_code)
    except _Stopped:
        _exit(program, "interrupted", 130)
    except BrokenPipeError:  # the reader of standard output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        storage = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
        _exit(program, f"{error.filename or 'a file'}: {error.strerror or error}", 5 if storage else 2)
    except Exception as error:
        if isinstance(error, MemoryError) or re.search(NO_MEMORY, str(error)):
            advice = "take fewer splats or smaller images (gs-train --max-splats, --max-size)"
            _exit(program, f"out of memory; {advice}", 2)
        if not hasattr(error, "format_message"):  # that of typer's own: bad usage
            raise
        _exit(program, f"{error.format_message()} See {program} --help.", 2)
    sys.exit(0)


class _Stopped(BaseException):
    """Ctrl-C or SIGTERM with nothing to save. Of KeyboardInterrupt typer would make a normal return."""


def _stop(number: int, frame: Any) -> NoReturn:
    raise _Stopped


def _exit(program: str, message: str, code: int) -> NoReturn:
    print(f"{program}: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)


def parse_settings(assignments: list[str]) -> dict[str, str]:
    """The KEY=VALUE of --set."""
    settings = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals:
            raise UserError(f"--set takes KEY=VALUE, got {assignment!r}")
        settings[key.strip()] = value.strip()
    return settings


def builtin_scenes() -> list[str]:
    """The names of the scenes that come with a configuration."""
    return [path.stem for path in config_module.files() if is_builtin(path.stem)]


def is_builtin(scene: str) -> bool:
    """Whether a bare word names a scene that comes with a configuration."""
    path = config_module.find(scene) if scene.isidentifier() else None
    return path is not None and config_module.read(path).get("scene") == scene


def given_settings(
    scene: str, name: str | None, options: Mapping[str, Any], assignments: list[str]
) -> dict[str, Any]:
    """What the command line asks for, checked: --config, then named options (None: not given), then --set."""
    given = {} if name is None else config_module.read(_find_config(scene, name))
    given |= config_module.check({k: v for k, v in options.items() if v is not None}, "command line")
    return given | config_module.check(parse_settings(assignments), "--set")


def configure(scene: str, given: Mapping[str, Any]) -> Config:
    """The settings for a scene, a built-in's name or a folder: defaults, then its own, then those given."""
    if is_builtin(scene):
        layer = config_module.find(scene)
        assert layer is not None
        return config_module.load([layer], given)
    folder = Path(scene).expanduser()
    if not folder.is_dir():
        wrong = "is not a folder" if folder.exists() else "is not there"
        raise UserError(f"scene {scene} {wrong}; give a folder or one of {', '.join(builtin_scenes())}")
    return config_module.load([{"scene": str(folder.resolve())}], given)


def _find_config(scene: str, name: str) -> Path:
    candidates = (config_module.find(f"{scene}_{name}"), config_module.find(name), Path(name).expanduser())
    for path in candidates:
        if path is not None and path.is_file():
            return path
    raise UserError(
        f"no configuration {name}: neither configs/{scene}_{name}.toml nor configs/{name}.toml nor a file"
    )


def scene_name(config: Config) -> str:
    """What runs of the scene are filed under."""
    return Path(config.scene).name or "scene"


def scene_folder(config: Config) -> Path:
    """Where the scene's data is; UserError, with where it can be had, if a built-in's is not there."""
    if not is_builtin(config.scene):
        return Path(config.scene)
    root = Path(config.data_root or os.environ.get("GS_DATA") or "data").expanduser()
    folder = root / config.scene
    if not folder.is_dir():
        raise UserError(
            f"no folder {folder}; get the data set ({config.source}) and name the folder that {config.scene} "
            "is in by --data-root or $GS_DATA"
        )
    return folder


def open_scene(config: Config, log: Callable[[str], None]) -> Scene:
    """Loads or makes the scene that `config` names."""
    if config.scene == "demo":
        from ..datasets.demo import make_demo

        return make_demo()
    from dataclasses import replace

    from ..datasets import load_scene

    scene = load_scene(
        scene_folder(config),
        reader=config.reader,
        images=config.images or None,
        max_size=config.max_size,
        undistort=config.undistort,
        log=log,
    )
    return replace(scene, name=scene_name(config))
