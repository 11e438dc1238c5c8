# SPDX-License-Identifier: Apache-2.0
"""The commands: parse, call, print. Here is what they share: the boundary where errors become exit codes, and
what the command line asks for. Nothing heavy is imported before a command runs, so that --help is
instant.
"""

from __future__ import annotations

import errno
import functools
import inspect
import logging
import os
import re
import resource
import signal
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple, NoReturn

import typer

from .. import __version__, registry
from .. import config as config_module
from ..config import Config
from ..errors import DevicesLost, OutOfMemory, UserError, is_out_of_memory
from ..machine import in_words
from ..storage import home_expanded

FOLDER = "GS_DEVICES_FOLDER"  # where processes that --devices started leave their last words for it to tell
AT_HELP = "HOST:PORT to listen on; 127.0.0.1 is this machine only. Opened to others, the address has a token."
ELSEWHERE = {  # what other trainers call it
    "--iterations": "--steps", "--iters": "--steps", "--max-steps": "--steps", "--num-steps": "--steps",
    "--output": "--out", "--output-dir": "--out", "--model-path": "--out", "--resolution": "--max-size",
    "--data": "SCENE, without an option", "--source-path": "SCENE, without an option", "-s": "SCENE, without an option",
    "--white-background": "--background white", "--cap-max": "--max-splats", "--max-num-splats": "--max-splats",
}  # fmt: skip
LEAST_ADDRESSES = 400_000_000  # bytes that Python, NumPy and MLX map before anything is done
SET_HELP = "Any setting of gsplat_train/config.py; may be given again."
LOADING_HELP = "A setting of how scenes are loaded, as max_size; may be given again."


def _print_version(asked: bool) -> None:
    if asked:
        print(f"gsplat_train {__version__}")
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
]


def backend_name(name: str | None) -> str | None:
    """The value of an option --backend, checked; for typer's `callback`."""
    if name is not None and name not in ("auto", *registry.BACKENDS):
        wrong = f"{name!r} is not one of auto, {', '.join(registry.BACKENDS)}."
        raise typer.BadParameter(wrong, param_hint="'--backend'")
    return name


BackendName = Annotated[
    str | None,
    typer.Option(
        help="Where to compute; auto takes the first that runs here.", callback=backend_name, metavar="NAME"
    ),
]


def shows(what: str) -> Callable[[bool], None]:
    """The callback of an option that prints one of cli.info's lists and ends the program."""

    def show(asked: bool) -> None:
        if asked:
            from . import info

            print(getattr(info, what)())
            raise typer.Exit

    return show


def make_app(command: Callable[..., None]) -> typer.Typer:
    """A program of one command, which also knows --version."""
    from .idle import Refusing

    @functools.wraps(command)
    def versioned(*arguments: Any, version: bool = False, **options: Any) -> None:
        _check_addresses()
        command(*arguments, **options)

    signature = inspect.signature(command, eval_str=True)
    last = inspect.Parameter("version", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Version)
    versioned.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*signature.parameters.values(), last]
    )
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command(cls=Refusing, context_settings={"help_option_names": ["-h", "--help"]})(versioned)
    return app


def run(app: typer.Typer, program: str) -> NoReturn:
    """Runs a program and exits: 0, a documented code with one line on standard error, or 1 with a bug's
    traceback.
    """
    _fill_streams()
    _own_lines_only()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    try:
        typer.main.get_command(app).main(prog_name=program, standalone_mode=False)
        sys.stdout.flush()
    except UserError as error:
        _exit(program, str(error), error.exit_code)
    except _Stopped:
        _exit(program, "interrupted", 130)
    except BrokenPipeError:
        _exit_unread()
    except SystemExit as error:
        if getattr(error.__context__, "errno", None) == errno.EPIPE:  # typer makes 1 of it
            _exit_unread()
        raise
    except OSError as error:
        storage = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
        _exit(
            program, f"{error.filename or 'standard output'}: {error.strerror or error}", 5 if storage else 2
        )
    except Exception as error:
        if is_out_of_memory(error):
            advice = "take fewer splats or smaller images (gs-train --max-splats, --max-size)"
            _exit(program, f"out of memory; {advice}", OutOfMemory.exit_code)
        if not hasattr(error, "format_message"):  # that of typer's own: bad usage
            raise
        _exit(program, f"{_with_value(error.format_message())} See {program} --help.", 2)
    sys.exit(0)


def _exit_unread() -> NoReturn:
    """The reader of standard output has gone, as that of `| head`."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(141)


def _with_value(message: str) -> str:
    """A message on a wrong value of an option, with that value in it."""
    for theirs, ours in ELSEWHERE.items():
        if message.startswith(f"No such option: {theirs} ") or message == f"No such option: {theirs}":
            return f"No such option: {theirs}. Did you mean {ours}?"
    message = message.replace(": Value error, ", ": ").replace("Input should be ", "it must be ")
    option = re.match(r"Invalid value for '(--[\w-]+)'[^:]*: ", message)
    arguments = sys.argv[1:]
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=False):
        name, equals, value = argument.partition("=")
        value = value if equals else following
        if option and name == option[1] and repr(value) not in message:
            return f"{message[: option.end()]}{value!r}: {message[option.end() :]}."
    return message


def _fill_streams() -> None:
    """Gives a program that was started with closed streams (`>&-`) empty ones: otherwise the first files it
    opens take their numbers, and what it prints goes there.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", closefd=False))
    sys.stderr = _Messages(sys.stderr)  # type: ignore[assignment]


def _check_addresses() -> None:
    """OutOfMemory where NumPy and MLX could not even be loaded: they would end in lines of their own."""
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY and soft < LEAST_ADDRESSES:
        raise OutOfMemory(
            f"this process may take {in_words(soft)} of addresses (ulimit -v), and the program alone takes "
            f"{in_words(LEAST_ADDRESSES)}; raise that limit"
        )


def _own_lines_only() -> None:
    """Warnings and log lines of other packages are none of the user's: what matters this program says itself. Those who
    look for a fault get them by python -W or PYTHONWARNINGS.
    """
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
        logging.getLogger().addHandler(logging.NullHandler())


class _Messages:
    """Standard error, which nobody may be reading, or which is a file on a full disk: what goes there is lost then, and
    nothing else.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            self._stream.write(text)
        except (OSError, ValueError):
            self._stream = open(os.devnull, "w")  # noqa: SIM115  # until the process ends
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError):
            self._stream = open(os.devnull, "w")  # noqa: SIM115

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Stopped(BaseException):
    """Ctrl-C or SIGTERM with nothing to save. Of KeyboardInterrupt typer would make a normal return."""


def _stop(number: int, frame: Any) -> NoReturn:
    raise _Stopped


def _exit(program: str, message: str, code: int) -> NoReturn:
    # All is done: a second Ctrl-C shall not change the exit code.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    line = f"{program}: {' '.join(message.split())}"
    if code == DevicesLost.exit_code and FOLDER in os.environ:  # who started this process tells it, once
        Path(os.environ[FOLDER], f"last-words.{os.environ.get('MLX_RANK', '0')}").write_text(line)
    else:
        print(line, file=sys.stderr)
    sys.exit(code)


def parse_settings(assignments: list[str]) -> dict[str, str]:
    """The KEY=VALUE of --set. UserError for what is none, and for the scene, which the command line names elsewhere."""
    settings = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals:
            raise UserError(f"--set takes KEY=VALUE, got {assignment!r}")
        settings[key.strip()] = value.strip()
    if "scene" in settings:
        raise UserError(
            f"--set scene={settings['scene']} has no effect: the scene is SCENE (of gs-render --scene); name it there"
        )
    return settings


class Requested(NamedTuple):
    """What the command line asks for, checked."""

    files: tuple[Path, ...]  # of --config
    options: dict[str, Any]  # named options and --set

    def all(self, scene: str, config: Config) -> dict[str, Any]:
        """The later winning, as far as `config` has them (a file may hold those of several strategies), but the
        scene, which is one of a command's arguments.
        """
        files = (config_module.settings_for(scene, config_module.read(path)) for path in self.files)
        in_use = {
            k: v for each in files for k, v in each.items() if config_module.value_of(config, k) is not None
        }
        return {key: value for key, value in (in_use | self.options).items() if key != "scene"}


def requested_settings(
    scene: str, name: str | None, options: Mapping[str, Any], assignments: list[str]
) -> Requested:
    """What the command line asks for: --config, then named options (None: not given), then --set. UserError where the
    last two give one setting two values.
    """
    files = () if name is None else (find_config(scene, name),)
    named = config_module.check({k: v for k, v in options.items() if v is not None}, config_module.OPTIONS)
    by_name = config_module.check(parse_settings(assignments), "--set")
    for key in named.keys() & by_name.keys():
        if named[key] != by_name[key]:
            raise UserError(
                f"{config_module.option_of(key)} says {named[key]} and --set {key}={by_name[key]}; give one of them"
            )
    return Requested(files, named | by_name)


def find_config(scene: str, name: str) -> Path:
    """The file that --config names; UserError where there is none."""
    path = home_expanded(name)
    for found in (config_module.find(f"{scene}_{name}"), config_module.find(name), path):
        if found is not None and found.is_file():
            return found
    if (path / "config.toml").is_file():
        raise UserError(f"--config takes a file, and {name} is a folder; give {Path(name) / 'config.toml'}")
    configurations = ", ".join(path.stem for path in config_module.files())
    raise UserError(f"no configuration {name}: neither a file nor one of {configurations}")
