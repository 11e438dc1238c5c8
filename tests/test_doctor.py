# SPDX-License-Identifier: Apache-2.0
"""gs-doctor: it passes what is right, and finds what is not."""

import json
import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
import tiny
from conftest import load_backend
from test_cli import call, environment

from gsplat_train import backends
from gsplat_train.backends import probe, verdict
from gsplat_train.doctor import examine, golden, trials


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def bad(name: str) -> dict[str, str]:
    return {finding.name: finding.text for finding in examine.of_backend(name) if finding.good is False}


@pytest.mark.parametrize("case", golden.CASES)
def test_every_backend_is_right_about_the_golden_scenes(backend: Any, case: str) -> None:
    found = golden.compare(backend, case)
    assert found.good, found.text


def test_the_command_says_all_is_well_writes_a_report_and_takes_less_than_a_minute(tmp_path: Path) -> None:
    began = time.monotonic()
    report = tmp_path / "report.txt"
    done = call("doctor", "--backend", tiny.BACKEND, "--report", report, GS_CACHE=str(tmp_path / "cache"))
    assert time.monotonic() - began < 60
    assert done.stdout == report.read_text() and done.stdout.splitlines()[-1].startswith("all is well")
    for words in (
        "mlx:",
        "memory:",
        "golden scene mixed",
        "training,",
        "same bytes twice: yes",
        "it/s at 10,091",
    ):
        assert words in done.stdout, words
    assert str(Path.home()) not in done.stdout or Path.home() == Path("/")  # nothing of the user's in it
    (kept,) = json.loads((tmp_path / "cache" / "verdicts.json").read_text()).values()
    assert kept == {"backend": tiny.BACKEND, "wrong": None, "by": "gs-doctor"}


def test_it_tells_programs_how_far_it_is(tmp_path: Path) -> None:
    """Findings on standard output, an object each; what is under way on standard error; the report is a text still."""
    report = tmp_path / "report.txt"
    done = call(
        "doctor", "--backend", tiny.BACKEND, "--progress", "jsonl", "--report", report, GS_CACHE=str(tmp_path)
    )
    *findings, last = [json.loads(line) for line in done.stdout.splitlines()]
    assert all(finding.keys() == {"about", "name", "text", "good"} for finding in findings)
    assert {finding["about"] for finding in findings} == {"machine", tiny.BACKEND}
    assert last["well"] is True and last["wrong"] == [] and last["seconds"] > 0
    *_, end = [json.loads(line) for line in done.stderr.splitlines()]
    assert end == {"action": "examining", "done": end["total"], "total": len(examine.PARTS) + 6}
    assert f"{tiny.BACKEND}:\n" in report.read_text() and "all is well" in report.read_text()


def test_a_backend_that_is_not_here_is_told_and_bad_where_it_was_asked_for() -> None:
    absent = "cuda" if sys.platform == "darwin" else "metal"
    done = subprocess.run(
        [sys.executable, "-P", "-m", "gsplat_train.cli.doctor", "--backend", absent],
        env=environment(), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1 and f"wrong: {absent}, available" in done.stdout.splitlines()[-1]


def darker(module: Any) -> Any:
    """A picture that is off by a thousandth."""
    real = module.rasterize

    def rasterize(*args: Any, **kwargs: Any) -> Any:
        image, alpha = real(*args, **kwargs)
        return 0.999 * image, alpha

    return {"rasterize": rasterize}


def crooked(module: Any) -> Any:
    """A picture that is right, with a gradient of the harmonics that is not."""
    real = module.project

    def project(gaussians: Any, *args: Any, **kwargs: Any) -> Any:
        half = gaussians.shN * 0.5
        return real(gaussians._replace(shN=half + mx.stop_gradient(gaussians.shN - half)), *args, **kwargs)

    return {"project": project}


def hasty(module: Any) -> Any:
    """Stages that are right and a fused step that moves too far."""
    real = module.stepper

    def stepper(state: Any, bounds: Any = None) -> Any:
        made = real(state)
        take = made.take
        made.take = lambda view, plan: take(view, plan.__class__(**{**vars(plan), "rates": (2e-3,) * 6}))
        return made

    return {"stepper": stepper}


def broken(module: Any) -> Any:
    def adam(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("a compiler's\nanger")

    def stepper(state: Any, bounds: Any = None) -> None:
        return None

    return {"adam": adam, "stepper": stepper}


@pytest.mark.parametrize(
    ("perturb", "found"),
    [
        (darker, "golden scene mixed"),
        (crooked, "golden scene mixed"),
        (hasty, "fused step"),
        (broken, "failure"),
    ],
)
def test_a_perturbed_backend_is_found(perturb: Any, found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = load_backend("cpp")
    for name, value in perturb(module).items():
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(trials, "speed", lambda backend: trials.Finding("speed", "not asked"))
    said = bad("cpp")
    assert found in said and "verdict" in said and not any("\n" in text for text in said.values())
    expected, wrong = verdict.recall("cpp")
    assert expected and wrong is not None and "gs-doctor" in wrong  # `auto` will not take it


def test_a_training_that_learns_nothing_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = load_backend("cpp")

    def other(name: str, steps: int) -> Any:
        return trials.load([], {
            "backend": name, "steps": steps, "log_every": 1, "eval": False, "lr_sh0": 0.0, "lr_means": 0.0,
            "lr_scales": 0.0, "lr_opacities": 0.0, "lr_shN": 0.0, "strategy": "none",
        })  # fmt: skip

    monkeypatch.setattr(trials, "small_config", other)
    (learning,) = trials.training("cpp", module)
    assert learning.good is False and "nothing was learnt" in learning.text


def test_too_little_learnt_and_bytes_that_differ_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = load_backend("cpp")
    calls: list[int] = []
    monkeypatch.setattr(trials, "LEARNT", dict.fromkeys(trials.LEARNT, 0.0))
    monkeypatch.setattr(trials, "_digest", lambda gaussians: str(calls.append(1) or len(calls)))
    learning, same = trials.training("cpp", module)
    assert learning.good is False and "must fall below" in learning.text and same.good is False


def test_autos_probe_asks_once_a_machine_and_version(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(probe, "wrong_with", lambda backend: asked.append(backend) or None)
    for _ in range(3):
        assert probe.verdict_on("python") is None
    assert len(asked) == 1
    monkeypatch.setattr(verdict, "__version__", "of tomorrow")
    assert probe.verdict_on("python") is None and len(asked) == 2
    monkeypatch.setattr(verdict, "__version__", "of the day after")
    monkeypatch.setattr(probe, "wrong_with", lambda backend: asked.append(backend) or "RuntimeError: busy")
    for _ in range(2):  # an error may be the moment's: it is not kept
        assert probe.verdict_on("python") == "RuntimeError: busy"
    assert len(asked) == 4
    (own_cache / "verdicts.json").write_text("[1")
    assert verdict.recall("python") == (False, None)


def test_a_wrong_verdict_is_kept_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        probe, "numbers", lambda backend: {"image": mx.array([1.0]) * (2 - (backend is python))}
    )
    python = backends.load("python")
    reason = probe.verdict_on("cpp")
    assert reason is not None and "off by" in reason
    again = probe.verdict_on("cpp")
    assert again is not None and "the quick probe" in again and "gs-doctor looks again" in again


def test_a_cache_that_cannot_be_written_costs_nothing(own_cache: Path) -> None:
    own_cache.write_text("a file in the place of the folder")
    verdict.keep("python", None, by="a test")
    assert verdict.recall("python") == (False, None)


def test_relative_of_nan_is_infinite() -> None:
    assert golden.relative(mx.array([math.nan]), mx.array([1.0])) == math.inf  # type: ignore[arg-type]
