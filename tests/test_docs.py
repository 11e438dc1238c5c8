# SPDX-License-Identifier: Apache-2.0
"""What README, CONTRIBUTING and docs say of commands, options, settings, files and variables is there."""

import re
from importlib import import_module
from pathlib import Path

import pytest
import typer

from gsplat_train import config
from gsplat_train.cli import make_app
from gsplat_train.config import GENERAL
from gsplat_train.settings import names

ROOT = Path(__file__).parents[1]
TEXTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PROGRAMS = ("train", "render", "view", "prepare", "export", "partition", "merge", "doctor")
PLACES = ("", "gsplat_train", "gsplat_train/backends", "gsplat_train/training", "csrc", "tests")
BEFORE = {"density/__init__.py"}  # CONTRIBUTING tells what it was


def options_of(program: str) -> set[str]:
    command = typer.main.get_command(make_app(getattr(import_module(f"gsplat_train.cli.{program}"), program)))
    spelled = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    return spelled | {"--help", "--install-completion", "--show-completion"}


OPTIONS = {program: options_of(program) for program in PROGRAMS}
SETTINGS = {*GENERAL, *config.registry.GROUPS}
for owner in (*config.registry.STRATEGIES, *config.registry.TERMS, *config.registry.GROUPS):
    own = names(config.registry.module(config._all_owners()[owner]).Settings)
    SETTINGS |= {*own, *(f"{owner}.{name}" for name in own)}


def wrong_commands(text: str) -> list[str]:
    """Options after gs-PROGRAM, in code, that it does not have."""
    found = []
    for code in re.findall(r"^[^`\n]*$", text, re.M) + re.findall(r"`([^`\n]+)`", text):
        for command in re.findall(r"\bgs-(?:\w+)\b[^;|&#`()]*", code):
            program, *words = command.split()
            if (have := OPTIONS.get(program.removeprefix("gs-"))) is not None:
                spelled = [word.rstrip(".,:").partition("=")[0] for word in words if word.startswith("--")]
                found += [f"{program} {option}" for option in spelled if option not in have]
    return found


def wrong_settings(text: str) -> list[str]:
    """Settings in code, as `name=value` or `owner.name`, that there are not."""
    dotted = "|".join(config._all_owners())
    found = re.findall(r"`([a-z][\w.]*)=[^`]*`", text) + re.findall(r"--set ([\w.]+)=", text)
    return [key for key in found + re.findall(rf"`((?:{dotted})\.\w+)`", text) if key not in SETTINGS]


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_commands_settings_files_and_links_are_there(path: Path) -> None:
    text = path.read_text("utf-8")
    assert wrong_commands(text) == [] and wrong_settings(text) == []
    files = re.findall(r"`([\w./-]+/[\w.-]+\.(?:py|md|toml|h|cpp|metal|json|mjs))`", text)
    assert [
        name for name in files if name not in BEFORE and not any((ROOT / p / name).exists() for p in PLACES)
    ] == []
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)#]+[^)]*)\)", text) if "://" not in link]
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_the_checks_above_see_what_they_must() -> None:
    assert wrong_commands(
        "gs-train demo --steps 5 --stepz 3\nsee `gs-view M --sheet`, `gs-doctor --report f`"
    ) == [
        "gs-train --stepz",
        "gs-view --sheet",
    ]
    assert wrong_settings("`strateg=adc`, `mcmc.split=0.5`, `adc.split`, `--set late=3`") == [
        "strateg",
        "late",
        "adc.split",
    ]


def test_the_readme_names_every_variable() -> None:
    """That a user or a tester may set."""
    read = {
        name
        for folder in ("gsplat_train", "tests", "scripts")
        for path in (ROOT / folder).rglob("*.py")
        for name in re.findall(r"environ(?:\.get)?[\[(]\s*\"(GS_\w+)\"", path.read_text("utf-8"))
    }
    assert len(read) > 8
    assert sorted(read - set(re.findall(r"`(GS_\w+)`", TEXTS[0].read_text("utf-8")))) == []
