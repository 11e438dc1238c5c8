# SPDX-License-Identifier: Apache-2.0
"""Habits of a shell: --version, --list, --settings, --backends, completion, NO_COLOR, odd paths, no arguments."""

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import tomllib
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_cli import SHORT, call, command, environment, folder, trained  # noqa: F401  # fixtures

from gsplat_train import __version__, config, registry
from gsplat_train.__main__ import commands
from gsplat_train.cli.progress import Progress

PROJECT = Path(__file__).parents[1] / "pyproject.toml"
PROGRAMS = [name.removeprefix("gs-") for name in tomllib.loads(PROJECT.read_text())["project"]["scripts"]]


def package(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "gsplat_train", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment(**env), timeout=60)


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_command_tells_its_version(program: str) -> None:
    assert call(program, "--version").stdout.strip() == f"gsplat_train {__version__}"
    assert "--version" in call(program, "--help").stdout


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_command_completes(program: str, shell: str) -> None:
    # Otherwise typer takes the shell from which this process was started, and nothing where there is none.
    named = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    script = call(program, "--show-completion", shell, **named).stdout
    assert f"gs-{program}" in script
    variable = f"_GS_{program.upper()}_COMPLETE"
    assert variable in script
    if shell == "bash":
        words = {"COMP_WORDS": f"gs-{program} --ver", "COMP_CWORD": "1", variable: "complete_bash"}
        assert "--version" in call(program, **words).stdout


@pytest.mark.parametrize(
    "program", ["train", "render", "export", "prepare", "partition", "merge", "doctor", "view"]
)
def test_every_long_command_tells_programs_how_far_it_is(program: str) -> None:
    error = call(program, "--progress", "loud", code=2).stderr
    assert "'--progress': 'loud' is not one of 'bar', 'plain', 'jsonl'" in error


def test_the_package_runs_the_commands() -> None:
    assert sorted(commands()) == sorted(PROGRAMS)
    alone = package()
    assert alone.returncode == 0 and all(f"gs-{name}" in alone.stdout for name in PROGRAMS)
    assert package("export", "--version").stdout.strip() == f"gsplat_train {__version__}"
    assert package("--version").stdout.strip() == f"gsplat_train {__version__}"
    beside = package("--version", "train")
    assert beside.returncode == 2 and "train has no effect beside --version" in beside.stderr
    wrong = package("paint")
    assert wrong.returncode == 2 and "'paint'" in wrong.stderr and "train" in wrong.stderr


def test_gs_train_alone_shows_how_to_begin() -> None:
    done = call("train")
    assert "gs-train demo" in done.stdout and not done.stderr
    assert "which scene?" in call("train", "--steps", "3", code=2).stderr


def test_lists() -> None:
    text = call("train", "--list").stdout
    assert all(re.search(rf"^  {scene} +\w", text, re.M) for scene in config.builtin_scenes())
    assert "fast (fern)" in text and len(text.splitlines()) >= 3 + len(config.files())
    text = call("train", "--backends").stdout
    assert [line.split()[0] for line in text.splitlines()] == list(registry.BACKENDS)
    assert text.count("auto takes it") == 1


def test_the_cache_is_listed_and_emptied(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(bytes(2_000_000))
    (tmp_path / "b.photos").write_bytes(bytes(7_000_000))
    (tmp_path / "verdicts.json").write_text("{}")
    place = {"GS_CACHE": str(tmp_path), "GS_CACHE_SIZE": "3G"}
    head, photos, pictures = call("train", "--cache", **place).stdout.splitlines()
    assert head.startswith(f"{tmp_path}: 9 MB of 3.0 GB")
    assert photos.split()[:2] == ["7", "MB"] and photos.endswith("b.photos")
    assert pictures.split()[:4] == ["2", "MB", "1", "photos,"]
    assert call("train", "--clear-cache", **place).stdout == f"{tmp_path}: 2 files removed, 9 MB\n"
    assert [path.name for path in tmp_path.iterdir()] == ["verdicts.json"]
    assert "got 'lots'" in call("train", "--cache", GS_CACHE_SIZE="lots", code=2).stderr


def test_settings_are_all_there_with_what_is_said_of_them() -> None:
    text = call("train", "--settings").stdout
    for name in config.GENERAL:
        assert re.search(rf"^  {name} ", text, re.M), name
    line = next(line for line in text.splitlines() if line.startswith("  max_size "))
    assert re.split(" {2,}", line.strip()) == [
        "max_size", "1600", "at least 0; pixels, longest side of a photo; 0 keeps its size [3DGS]"
    ]  # fmt: skip
    assert "mcmc.grow_rate" in text and "exposure.mode" in text
    output = [re.split(" {2,}", line.strip()) for line in text.splitlines() if re.match(r"^  [\w.]+  ", line)]
    assert len(output) > 80
    for name, _, what in output:
        assert re.search(r"; \S", what), f"{name}: {what} says what it takes, not what it is"
    titles = [line for line in text.splitlines() if re.match(r"^(mcmc|adc|igs|alpha|exposure|poses): ", line)]
    assert len(titles) == 6 and all(title.count("(") == title.count(")") for title in titles)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--steps", "few"], ["--steps", "'few'"]),
        (["--steps=few"], ["--steps", "'few'"]),
        (["--progress", "loud"], ["--progress", "'loud'", "'bar', 'plain', 'jsonl'"]),
        (["--backend", "gpu"], ["--backend", "'gpu'", "cpp"]),
        (["--set", "steps=few"], ["steps", "'few'", "whole number"]),
        (["--set", "strategy=best"], ["strategy", "'best'", "mcmc, adc, igs, none"]),
    ],
)
def test_a_wrong_value_is_named_with_its_option(arguments: list[str], parts: list[str]) -> None:
    error = call("train", "demo", *arguments, code=2).stderr
    assert all(part in error for part in parts), error


def test_no_color_is_obeyed() -> None:
    """Even where a terminal is forced."""
    forced = {"FORCE_COLOR": "1", "TERM": "xterm-256color"}
    colors = re.compile(r"\x1b\[[0-9;]*(3[0-7]|9[0-7]|38)[;m]")
    assert not colors.search(call("train", "--help", NO_COLOR="1", **forced).stdout)


def test_paths_may_hold_spaces_and_any_bytes(folder: Path, tmp_path: Path) -> None:  # noqa: F811
    run = os.path.join(os.fsencode(tmp_path), b"my run \xff \xc3\xa9")
    try:
        os.mkdir(run)
    except OSError:
        pytest.skip("this file system takes no such names")
    done: Any = call("train", folder, "--out", os.fsdecode(run), *SHORT)
    assert os.path.isfile(os.path.join(run, b"point_cloud.ply")) and done.stdout
    call("render", os.fsdecode(run))
    assert os.path.isfile(os.path.join(run, b"renders", b"view_00.png"))
    call("export", os.fsdecode(run), tmp_path / "a model.ply")


def on_terminal(rows: int, columns: int, program: str, *arguments: object, **env: str) -> str:
    """What a command writes on a terminal of that size, standard output and error together."""
    ours, its = pty.openpty()
    try:
        fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        process = subprocess.Popen(
            command(program, *arguments), stdin=its, stdout=its, stderr=its, env=environment(**env)
        )
        os.close(its)
        written = b""
        with suppress(OSError):  # so a terminal ends that nobody holds any more
            while part := os.read(ours, 4096):
                written += part
        assert process.wait(60) == 0, written
    finally:
        os.close(ours)
    return written.decode()


@pytest.mark.parametrize(
    ("rows", "columns", "term"), [(40, 120, "xterm"), (0, 0, "xterm"), (0, 80, "xterm"), (40, 80, "dumb")]
)
def test_a_terminal_gets_a_bar_or_lines_whatever_it_can_do(
    rows: int,
    columns: int,
    term: str,
    folder: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    """A terminal that does not say how large it is shows no bar: there its run was silent from start to end."""
    text = on_terminal(rows, columns, "train", folder, "--out", tmp_path / "run", *SHORT, TERM=term)
    is_bar = (rows, columns, term) == (40, 120, "xterm")
    assert ("%|" in text) == is_bar
    assert bool(re.search(r"^step \d+/\d+, .* it/s, ", text, re.MULTILINE)) != is_bar


def test_at_a_terminal_results_are_told_in_words(folder: Path, tmp_path: Path) -> None:  # noqa: F811
    """JSON on standard output is for programs; a quiet run tells nothing else."""
    run = tmp_path / "run"
    text = on_terminal(40, 120, "train", folder, "--out", run, *SHORT)
    assert "held-out PSNR" in text and '{"scene"' not in text
    assert "PSNR" in (text := on_terminal(40, 120, "render", run)) and '{"psnr"' not in text
    assert '{"psnr"' in on_terminal(40, 120, "render", run, "--quiet")
    done = call("render", run)
    assert json.loads(done.stdout)["psnr"] > 0 and "PSNR" in done.stderr


def test_a_run_of_several_tells_no_score_of_the_one_before(capsys: pytest.CaptureFixture[str]) -> None:
    """--seeds: the second seed's line began with the first's held-out PSNR, and came ten seconds late."""
    report = Progress("plain")
    record = {"step": 10, "n_splats": 5, "loss": 0.5, "it_per_s": 1.0}
    for _ in range(2):
        report.start(SimpleNamespace(config=SimpleNamespace(steps=20)))  # type: ignore[arg-type]
        report.record(None, record)  # type: ignore[arg-type]
        report.record(None, record | {"step": 20, "test": {"psnr": 30.0}})  # type: ignore[arg-type]
    lines = capsys.readouterr().err.splitlines()
    assert ["dB" in line for line in lines] == [False, True, False, True]
