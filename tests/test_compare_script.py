# SPDX-License-Identifier: Apache-2.0
"""The comparison of settings: what a variant has, what happens when time is up, and the table."""

import importlib.util
import json
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gsplat_train.config import check, configure

SCRIPTS = Path(__file__).parents[1] / "scripts"
spec: Any = importlib.util.spec_from_file_location("compare_script", SCRIPTS / "compare.py")
script: Any = importlib.util.module_from_spec(spec)  # tests/compare.py has its name
sys.modules["compare_script"] = script
spec.loader.exec_module(script)


def comparison(tmp_path: Path, variants: dict[str, Any], limit: float = 1e9) -> Any:
    args = SimpleNamespace(out=tmp_path, time_limit=limit, jobs=1, backend="python")
    return script.Comparison(args, variants)


def test_a_variant_has_the_settings_of_those_it_is_made_from(tmp_path: Path) -> None:
    variants = {
        "a": {"mcmc": {"least_share": 0.2, "noise_lr": "x0.5"}, "why": "because"},
        "b": {"from": "a", "mcmc": {"least_share": 0.3}, "downscale_every": "10%"},
    }
    found = comparison(tmp_path, variants)._settings("b", configure("demo", {}))
    assert found == {"mcmc.least_share": 0.3, "mcmc.noise_lr": 2.5e5, "downscale_every": 300}


def test_the_variants_that_come_with_the_program_are_settings(tmp_path: Path) -> None:
    variants = tomllib.loads((SCRIPTS / "variants.toml").read_text("utf-8"))
    assert variants["base"].keys() == {"why"}
    for name in variants:
        found = comparison(tmp_path, variants)._settings(name, configure("demo", {}))
        assert check(found, name).keys() == found.keys()


def test_runs_are_kept_and_none_begins_after_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(script.SCENES, "demo", ("demo", {"steps": 3, "max_size": 40, "max_splats": 500}))
    runs = [script.Run("demo", "base", 0), script.Run("demo", "none", 0)]
    variants = {"base": {}, "none": {"why": "for nothing", "strategy": "none"}}
    made = comparison(tmp_path, variants)
    assert "demo base 0: " in made.train(runs[0]) and made.train(runs[0]) == ""
    assert made.took["demo"] > 0
    made.args.time_limit = made.took["demo"]  # the next would end after it
    assert made.train(runs[1]) == ""
    made.args.time_limit = 1e9
    assert "unknown setting 'nonsense'" in comparison(tmp_path, {"none": {"nonsense": 1}}).train(runs[1])
    assert "dB" in made.train(runs[1])
    text = script.Table(runs, variants, tmp_path).write()
    rows = json.loads((tmp_path / "table.json").read_text())
    assert [row["variant"] for row in rows] == ["base", "none"] and rows[0]["psnr_more"] == 0
    assert (tmp_path / "table.md").read_text() == text and "* none: for nothing" in text
