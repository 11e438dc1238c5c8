# SPDX-License-Identifier: Apache-2.0
"""How long a run shall be: a time budget, the best model of a run, stopping when converged, several seeds."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny
from test_cli import SHORT, call
from test_trainer import Said, make

from gsplat_train import config
from gsplat_train.cli.seeds import in_words, summarised
from gsplat_train.config import Config
from gsplat_train.datasets.demo import write_demo
from gsplat_train.errors import UserError
from gsplat_train.model.formats import ply
from gsplat_train.settings import seconds_of
from gsplat_train.training import budget, trainer, trial
from gsplat_train.training.budget import settled
from gsplat_train.training.run_costs import Costs, steps_within, total
from gsplat_train.training.trainer import Trainer


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("5m", 300), ("1h30m", 5400), ("2 min 3 s", 123), ("0.5h", 1800)],
)
def test_times_are_read_as_people_write_them(text: str, seconds: float) -> None:
    assert seconds_of(text, "--time-budget") == seconds


@pytest.mark.parametrize("text", ["", "0", "-5m", "five", "5x", "1m1h", "nan", "1e3", "٣m", "m"])
def test_what_is_no_time_is_one_line(text: str) -> None:
    with pytest.raises(UserError, match="--time-budget takes a time as 90s, 5m or 1h30m, got"):
        seconds_of(text, "--time-budget")


# --- a machine whose time is made by rule


class Machine:
    """Time that passes only as steps, evaluations and loading make it; a splat grows dearer while it is trained."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, pixel: float, splat: float, view: float = 0.02
    ) -> None:
        self.now, self.pixel, self.splat, self.view = 1000.0, pixel, splat, view
        clock = SimpleNamespace(monotonic=lambda: self.now)
        for module in (budget, trainer, trial):
            monkeypatch.setattr(module, "time", clock)
        real_stepper = trainer.make_stepper

        def make_stepper(*args: Any) -> Any:
            stepper = real_stepper(*args)
            take, trained = stepper.take, [0]

            def slow(view: Any, plan: Any) -> Any:
                trained[0] += 1
                late = 0.6 + 0.4 * min(trained[0] / 100, 1) + 0.25 * min(max(trained[0] / 300 - 1, 0), 1)
                pixels = view.camera.width * view.camera.height
                self.now += 1e-3 * (self.pixel * pixels / 1728 + late * self.splat * stepper.n_splats / 300)
                return take(view, plan)

            stepper.take = slow
            return stepper

        monkeypatch.setattr(trainer, "make_stepper", make_stepper)
        run = trainer.Evaluation.run

        def slow_run(evaluation: Any) -> None:
            run(evaluation)
            self.now += self.view * evaluation.total

        monkeypatch.setattr(trainer.Evaluation, "run", slow_run)


@pytest.mark.parametrize(
    ("seconds", "machine", "changes"),
    [
        (20, {"pixel": 8, "splat": 4}, {}),
        (20, {"pixel": 1, "splat": 9}, {"max_splats": 1500}),  # grows to five times as many
        (40, {"pixel": 10, "splat": 10, "view": 0.1}, {"max_splats": 600, "eval_every": 100}),
        (20, {"pixel": 10, "splat": 4}, {"downscales": 1, "downscale_every": 300}),
        (20, {"pixel": 5, "splat": 9}, {"strategy": "none"}),
    ],
)
def test_a_run_takes_its_time_budget(
    seconds: float, machine: dict, changes: dict, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    clock = Machine(monkeypatch, **machine)
    few = {"eval_every": 500, "checkpoint_every": 10_000, "time_budget": float(seconds)}
    if changes.get("strategy") != "none":
        few |= {"refine_start": 100, "refine_every": 50}
    config = replace(tiny.settings(), schedule_steps=0)
    from gsplat_train import config as config_module

    config = config_module.changed(config, {"strategy": changes.get("strategy", "mcmc")})
    config = config_module.changed(config, few | changes)
    began, said = clock.now, Said()
    found, until = settled(config, tiny.scene(), None, began, said.message)
    assert found.steps == found.schedule_steps > 500
    assert clock.now - began < 0.3 * seconds
    assert Trainer(found, tiny.scene(), None, until=until).train()["steps"] == found.steps
    assert clock.now - began == pytest.approx(seconds, rel=0.1), said.lines
    assert f"{found.steps:,} steps" in said.lines[-1]


def test_settled_steps_are_settled_for_ever(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What is written is a run of so many steps: the same as one that was asked for with --steps, and on resuming."""
    Machine(monkeypatch, 5, 5)
    config = replace(tiny.settings(time_budget=3.0), schedule_steps=0)
    found = settled(config, tiny.scene(), None, 1000.0, lambda line: None)[0]
    assert settled(found, tiny.scene(), None, 0.0, pytest.fail) == (found, math.inf)
    make(found, tmp_path / "a").train()
    make(tiny.settings(steps=found.steps, schedule_steps=found.steps), tmp_path / "b").train()
    assert (tmp_path / "a/point_cloud.ply").read_bytes() == (tmp_path / "b/point_cloud.ply").read_bytes()
    assert settled(tiny.settings(), tiny.scene(), None, 0.0, pytest.fail) == (tiny.settings(), math.inf)


@pytest.mark.parametrize("slower", [1.05, 1.6, 5.0])
def test_a_machine_that_becomes_slower_ends_the_run_in_time_and_resuming_finishes_it(
    slower: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seconds, machine = 6.0, Machine(monkeypatch, 8, 4)
    config = replace(tiny.settings(time_budget=seconds, eval_every=500), schedule_steps=0)
    found, until = settled(config, tiny.scene(), None, 1000.0, lambda line: None)
    machine.pixel, machine.splat = slower * machine.pixel, slower * machine.splat
    work = make(found, tmp_path / "run", until=until)
    metrics = work.train()
    said = [line for line in work.callbacks[0].lines if "time budget" in line]  # type: ignore[attr-defined]
    if slower == 1.05:  # a run that misses it by less goes on
        assert metrics["steps"] == found.steps and not said and machine.now - 1000 < 1.1 * seconds
        return
    step = metrics["steps"]
    assert machine.now - 1000 == pytest.approx(1.1 * seconds, rel=0.02)
    assert 50 < step < found.steps and step == work.step
    ended = (
        f"ended at step {step:,} of {found.steps:,}, for the time budget of 6 s; --resume goes on to the last"
    )
    assert said == metrics["warnings"][-1:] == [f"warning: steps take longer than was measured: {ended}"]
    assert (tmp_path / f"run/checkpoints/step_{step:07d}.json").is_file()
    model = ply.read(tmp_path / "run/point_cloud.ply").arrays  # that of the step, as another run has it
    other = make(replace(found, steps=step), tmp_path / "short")
    other.train()
    then = ply.read(tmp_path / "short/point_cloud.ply").arrays
    assert all((model[name] == then[name]).all() for name in model)
    assert make(found, tmp_path / "run", resume=True).train()["steps"] == found.steps
    make(found, tmp_path / "whole").train()
    assert (tmp_path / "run/point_cloud.ply").read_bytes() == (
        tmp_path / "whole/point_cloud.ply"
    ).read_bytes()


def test_too_small_a_budget_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    Machine(monkeypatch, 500, 500)
    said = Said()
    config = replace(tiny.settings(time_budget=2.0), schedule_steps=0)
    found, until = settled(config, tiny.scene(), None, 990.0, said.message)
    assert found.steps == budget.LEAST_STEPS and until == math.inf
    assert "too short here" in said.lines[-1] and said.lines[-1].startswith("warning")


@pytest.mark.parametrize("left", [0.5, 3.0, 60.0, 3600.0])
@pytest.mark.parametrize("changes", [{}, {"strategy": "adc"}, {"strategy": "none"}, {"eval": False}])
def test_the_steps_fill_the_time(left: float, changes: dict) -> None:
    config = tiny.settings(**({"max_splats": 20_000} | changes))
    costs = Costs((300.0, 1e-3), (5000.0, 4e-3), touch=0.02, evaluation=0.1, byte=1e-9, start=0.05)
    steps = steps_within(config, costs, 300, 1728.0, 700, left)
    assert total(config, costs, steps, 300, 1728.0, 700) <= left * 1.01 or steps == 1
    assert total(config, costs, int(steps * 1.05) + 21, 300, 1728.0, 700) > left * 0.995


def test_the_command_takes_a_time_budget_and_resumes(tmp_path: Path) -> None:
    scene, run = tmp_path / "scene", tmp_path / "run"
    write_demo(scene, tiny.scene())
    words = [*SHORT[2:], "--out", run]
    done = call("train", scene, "--time-budget", "6s", *words)
    assert "time budget 6 s: " in done.stderr
    settings = (run / "config.toml").read_text()
    steps = config.load([run / "config.toml"]).steps
    assert f"\nschedule_steps = {steps}\n" in settings and 100 < json.loads(done.stdout)["steps"] <= steps
    done = call(
        "train", scene, "--resume", "--out", run
    )  # a machine that others use may have ended it before
    assert json.loads(done.stdout)["steps"] == steps
    model = (run / "point_cloud.ply").read_bytes()
    newest = sorted((run / "checkpoints").glob("*.json"))[-1]
    for path in (newest, newest.with_suffix(".safetensors"), run / "point_cloud.ply"):
        path.unlink()
    call("train", scene, "--resume", "--out", run)
    assert (run / "point_cloud.ply").read_bytes() == model
    assert "is 6.0 in" in call("train", scene, "--resume", "--out", run, "--time-budget", "9s", code=2).stderr
    call("train", scene, *words, "--time-budget", "6s", "--steps", 40, "--overwrite", code=2)


# --- the best model, and stopping


def scores(monkeypatch: pytest.MonkeyPatch, tests: list[float]) -> None:
    """Evaluations that find these held-out PSNRs, one after the other, and rising ones on training views."""
    found = iter(tests)
    from gsplat_train.training import evaluation

    real = evaluation.measure
    train = iter(np.arange(20, 50, 0.1))

    def measure(gaussians: Any, views: Any, *args: Any, **more: Any) -> dict[str, Any]:
        held = {view.name for view in views} in ({"view_00.png", "view_08.png"}, {"view_00.png"})
        return real(gaussians, views, *args, **more) | {"psnr": next(found) if held else float(next(train))}

    monkeypatch.setattr(evaluation, "measure", measure)


def test_the_best_model_is_kept_beside_the_last(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    scores(monkeypatch, [25.0, 24.0, 24.9, 24.5])
    work = make(tiny.settings(eval_every=10), tmp_path / "run")
    metrics = work.train()
    assert metrics["best"] == {"step": 10, "psnr": 25.0}
    assert any("over-fitting: the model of step 10 is better" in line for line in metrics["warnings"])
    monkeypatch.undo()
    short = make(tiny.settings(steps=10, schedule_steps=40, eval_every=10), tmp_path / "short")
    short.train()
    best, then = ply.read(tmp_path / "run/best.ply"), ply.read(tmp_path / "short/point_cloud.ply")
    assert all((best.arrays[name] == then.arrays[name]).all() for name in best.arrays)


@pytest.mark.parametrize("tests", [[20.0, 21.0, 22.0, 23.0], [20.0, 23.005, 22.0, 23.0]])
def test_no_best_model_where_the_last_is_as_good(
    tests: list[float], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    scores(monkeypatch, tests)
    metrics = make(tiny.settings(eval_every=10), tmp_path).train()
    assert metrics["best"] is None and not (tmp_path / "best.ply").exists()


def test_the_best_model_outlives_being_killed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    scores(monkeypatch, [25.0, 24.0, 24.5, 24.5, 24.0])
    config = tiny.settings(eval_every=10, checkpoint_every=10)
    work = make(config, tmp_path)
    work._rescue = lambda error: None  # type: ignore[method-assign]

    def die(line: str) -> None:
        if work.step == 30:
            raise ZeroDivisionError

    monkeypatch.setattr(work.evaluation, "_watch", lambda *scores: die("now"))
    with pytest.raises(ZeroDivisionError):
        work.train()
    metrics = make(config, tmp_path, resume=True).train()
    assert metrics["best"] == {"step": 10, "psnr": 25.0} and ply.read(tmp_path / "best.ply").n > 0


def stopping(**changes: Any) -> Config:
    return tiny.settings(**{"steps": 100, "eval_every": 10, "stop_when_converged": True} | changes)


def test_a_run_that_has_converged_ends(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    scores(monkeypatch, [20.0, 25.0, 26.0, 26.01, 26.02, 26.03, *[30.0] * 9])
    work = make(stopping(), tmp_path)
    metrics = work.train()
    assert metrics["steps"] == work.step == 60 and metrics["converged"]
    assert "converged at step 60: 3 evaluations brought 0.03 dB" in " ".join(work.callbacks[0].lines)  # type: ignore[attr-defined]
    assert (tmp_path / "checkpoints/step_0000060.json").is_file() and ply.read(tmp_path / "point_cloud.ply").n
    again = make(stopping(), tmp_path, resume=True)
    assert again.ended and again.train()["steps"] == 60
    onward = make(stopping(stop_when_converged=False), tmp_path, resume=True)
    assert onward.train()["steps"] == 100


@pytest.mark.parametrize(
    "changes",
    [
        {"stop_when_converged": False},
        {"max_splats": 100_000, "refine_stop": 1.0},  # it still grows
        {"downscales": 1, "downscale_every": 95},  # the photos will
    ],
)
def test_a_run_that_is_still_growing_goes_on(
    changes: dict, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    scores(monkeypatch, [25.0] * 10)
    assert make(stopping(**changes), tmp_path).train()["steps"] == 100


def test_stopping_needs_held_out_views(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="stop_when_converged needs held-out views"):
        make(stopping(eval=False), tmp_path)


# --- seeds


def test_seeds_are_trained_in_folders_of_their_own_and_resumed(tmp_path: Path) -> None:
    scene, top = tmp_path / "scene", tmp_path / "top"
    write_demo(scene, tiny.scene())
    words = ["train", scene, "--out", top, "--seeds", 3, "--seed", 5, *SHORT]
    done = call(*words)
    summary = json.loads((top / "seeds.json").read_text())
    assert summary["seeds"] == [5, 6, 7] and json.loads(done.stdout.splitlines()[-1]) == summary
    runs = {seed: json.loads((top / f"seed_{seed}/metrics.json").read_text()) for seed in (5, 6, 7)}
    found = [runs[seed]["test"]["psnr"] for seed in runs]
    assert len(set(found)) == 3 and [runs[seed]["seed"] for seed in runs] == [5, 6, 7]
    assert summary["test"]["psnr"]["mean"] == pytest.approx(np.mean(found))
    assert summary["test"]["psnr"]["sd"] == pytest.approx(np.std(found, ddof=1))
    assert "mean and standard deviation of 3 seeds" in done.stderr

    call("train", scene, "--out", tmp_path / "one", "--seed", 6, *SHORT)  # the same as alone
    model = (tmp_path / "one/point_cloud.ply").read_bytes()
    assert (top / "seed_6/point_cloud.ply").read_bytes() == model

    assert "holds a run of seed 5" in call(*words, code=2).stderr
    shutil.rmtree(top / "seed_6")
    (top / "seed_7/point_cloud.ply").unlink()
    again = call(*words, "--resume")
    assert "seed 5: done before" in again.stderr and json.loads(again.stdout.splitlines()[-1]) == summary | {
        "seconds": json.loads(again.stdout.splitlines()[-1])["seconds"]
    }
    assert (top / "seed_6/point_cloud.ply").read_bytes() == model


def test_seeds_are_checked(tmp_path: Path) -> None:
    assert "--seeds must be from 1 to 100" in call("train", "demo", "--seeds", 0, cwd=tmp_path, code=2).stderr
    said = call("train", "demo", "--seeds", 2, "--resume", cwd=tmp_path, code=2).stderr
    assert "name it with --out" in said and list(tmp_path.iterdir()) == []


def test_one_seed_has_no_spread() -> None:
    run = {"test": None, "train": {"psnr": 30.0, "ssim": 0.9}, "n_splats": 5, "seconds": 1.0}
    summary = summarised({3: run})
    assert summary["train"]["psnr"] == {"mean": 30.0, "sd": None, "min": 30.0, "max": 30.0}
    assert in_words(summary).startswith("training PSNR 30.00 dB (from 30.00 to 30.00)")
