# SPDX-License-Identifier: Apache-2.0
"""The examples run, as a reader would run them."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from test_cli import SHORT, call, environment, folder, trained  # noqa: F401  # fixtures

EXAMPLES = Path(__file__).parents[1] / "examples"


def example(name: str, *arguments: object, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py", *map(str, arguments)],
        capture_output=True, text=True, env=environment(), cwd=cwd, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_load(folder: Path, tmp_path: Path) -> None:  # noqa: F811
    assert "7 views to train on, 2 held out" in example("load", folder, cwd=tmp_path)


def test_train(folder: Path, tmp_path: Path) -> None:  # noqa: F811
    assert "held-out PSNR" in example("train", folder, 20, cwd=tmp_path)
    assert (tmp_path / "live.png").is_file()


@pytest.mark.parametrize("name", ["export", "render_path"])
def test_an_example_without_what_it_needs_says_its_use(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py"],
        capture_output=True,
        text=True,
        env=environment(),
        cwd=tmp_path,
    )
    assert done.returncode == 1 and f"python examples/{name}.py MODEL" in done.stderr
    assert "Traceback" not in done.stderr


def test_render_path_and_export(trained: Any, folder: Path, tmp_path: Path) -> None:  # noqa: F811
    assert "24 frames" in example("render_path", trained[0], folder, tmp_path / "frames", cwd=tmp_path)
    assert len(list((tmp_path / "frames").glob("*.png"))) == 24
    assert "splats in" in example("export", trained[0], tmp_path / "model.spz", cwd=tmp_path)
    assert (tmp_path / "model.spz").stat().st_size > 1000


@pytest.mark.parametrize("name", ["custom_term", "custom_strategy"])
def test_what_one_adds(name: str, folder: Path, tmp_path: Path) -> None:  # noqa: F811
    assert " dB" in example(name, folder, 60, cwd=tmp_path)


def test_all_examples_are_run_here() -> None:
    text = Path(__file__).read_text("utf-8")
    for path in EXAMPLES.glob("*.py"):
        assert f'"{path.stem}"' in text
