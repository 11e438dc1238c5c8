# SPDX-License-Identifier: Apache-2.0
"""report.html: what it says, its size, and that a browser shows it from disk without asking anybody."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from browser import Browser
from test_cli import SHORT, STEPS, call, folder, trained  # noqa: F401  # fixtures

from gsplat_train import config
from gsplat_train.datasets.demo import make_demo
from gsplat_train.training import report
from gsplat_train.training.api import train


def shown(run: Path) -> dict[str, Any]:
    page = (run / "report.html").read_text("utf-8")
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    assert found
    return json.loads(found[1])


def test_the_report_is_that_of_the_run(trained: Any, folder: Path) -> None:  # noqa: F811
    run, done = trained
    content, metrics = shown(run), json.loads((run / "metrics.json").read_text())
    assert str(run / "report.html") in done.stderr
    assert [view["name"] for view in content["views"]] == sorted(
        metrics["test"]["views"], key=lambda name: metrics["test"]["views"][name]["psnr"]
    )
    facts = dict(content["facts"])
    assert facts["PSNR, held out"] == f"{metrics['test']['psnr']:.2f} dB"
    assert facts["splats"] == f"{metrics['n_splats']:,}"
    curves = {chart["name"]: chart["lines"] for chart in content["charts"]}
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [x for x, _ in curves["loss"][0]["points"]] == [record["step"] for record in log]
    assert [x for x, _ in curves["PSNR, dB"][0]["points"]] == [20, 40]
    assert len(content["world"]["cameras"]) == len(tiny.scene().views)
    assert sum(camera["held"] for camera in content["world"]["cameras"]) == 2
    assert ["checkpoint_every", "20", "5000"] in content["settings"]
    assert content["machine"][1][1] == metrics["machine"]


def test_the_command_repeats_the_run(trained: Any, folder: Path) -> None:  # noqa: F811
    words = shown(trained[0])["command"]
    assert words.startswith("gs-train '") and str(folder.resolve()) in words
    assert (
        "--set max_splats=400" in words and "--set mcmc.refine_every=5" in words and "schedule" not in words
    )


def test_a_resumed_run_shows_all_of_it(trained: Any, folder: Path, tmp_path: Path) -> None:  # noqa: F811
    run = tmp_path / "run"
    call("train", folder, "--out", run, *SHORT)
    call("train", folder, "--out", run, "--resume", "--steps", "60")
    content = shown(run)
    assert content["charts"][0]["lines"][0]["points"][0][0] == 10
    assert content["charts"][0]["lines"][0]["points"][-1][0] == 60


def test_without_held_out_views_the_training_views_are_shown(tmp_path: Path) -> None:
    train(tiny.scene(), tiny.settings(eval=False), out=tmp_path / "run")
    content = shown(tmp_path / "run")
    assert content["views_title"].startswith("Training views") and len(content["views"]) == 8
    assert "in Python" in content["command"]


def test_a_large_scene_stays_below_three_megabytes(tmp_path: Path) -> None:
    """Noise, of which JPEG can make nothing small."""
    rng = np.random.default_rng(0)
    scene = make_demo(n_views=24, width=560, height=420, n_points=9000)
    views = tuple(
        replace(view, photo=rng.integers(0, 255, (420, 560, 3), dtype=np.uint8)) for view in scene.views
    )
    settings = config.load([{"backend": tiny.BACKEND, "steps": 2, "test_every": 2, "max_splats": 200}])
    train(replace(scene, views=views), settings, out=tmp_path / "run")
    assert 2_000_000 < (tmp_path / "run" / "report.html").stat().st_size < 3_000_000
    content = shown(tmp_path / "run")
    assert 2 < len(content["views"]) < 12 and "are not shown" in content["views_note"]


def test_names_cannot_end_the_script(tmp_path: Path) -> None:
    scene = tiny.scene()
    views = tuple(replace(view, name=f"</script><b>{view.name}") for view in scene.views)
    train(replace(scene, views=views, name="<i>"), tiny.settings(steps=2), out=tmp_path / "run")
    assert shown(tmp_path / "run")["views"][0]["name"].startswith("</script>")
    page = (tmp_path / "run" / "report.html").read_text("utf-8")
    assert page.count("</script>") == 2 and "<title>&lt;i&gt;" in page


def test_curves_of_long_runs_are_thinned() -> None:
    records = [
        {"step": i, "loss": 1.0, "n_splats": 5, "seconds": i / 100, "peak_memory_mb": 7.0}
        for i in range(1, 20_001)
    ]
    lines = {chart["name"]: chart["lines"][0]["points"] for chart in report.charts(records)}
    assert len(lines["loss"]) == report.POINTS_OF_A_CURVE and lines["loss"][-1] == [20_000, 1.0]
    assert lines["steps a second"][3][1] == pytest.approx(100)


def test_a_browser_shows_it(trained: Any, tmp_path: Path) -> None:  # noqa: F811
    with Browser(tmp_path / "profile", 1100, 1600) as browser:
        browser.open(trained[0] / "report.html")
        browser.wait_for(
            "document.images.length > 0 && [...document.images].every(i => i.complete && i.naturalWidth > 0)"
        )
        assert browser.evaluate("document.querySelectorAll('.chart svg polyline').length") >= 6
        assert browser.evaluate("document.querySelectorAll('.view').length") == 2
        steps = (
            "[...document.querySelectorAll('.chart svg text[text-anchor=middle]')].map(t => t.textContent)"
        )
        assert set(browser.evaluate(steps)) == {str(STEPS // 2)}  # a whole number, as 50 and not 50.00
        clip = "document.querySelector('.slide img + img').style.clipPath"
        before = browser.evaluate(clip)
        browser.evaluate(
            "(r => { r.value = 900; r.oninput(); })(document.querySelector('input[type=range]'))"
        )
        assert browser.evaluate(clip) != before and "10%" in browser.evaluate(clip)
        data = "getContext('2d').getImageData(0, 0, 640, 420).data"
        ink = f"document.getElementById('%s').{data}.some(v => v)"
        assert browser.evaluate(ink % "above") and browser.evaluate(ink % "side")
        asked = [url for url in browser.requests() if not url.startswith(("data:", "file:", "about:"))]
        assert not asked and not browser.complaints()
        assert browser.picture().std() > 10
