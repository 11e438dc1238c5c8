# SPDX-License-Identifier: Apache-2.0
"""The loop: it learns, it resumes to the same bytes, it keeps what is good when something goes wrong."""

import json
import math
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from gsplat_train.training.train_step import StepResult

from gsplat_train import evaluate
from gsplat_train.cli.progress import Progress
from gsplat_train.config import Config
from gsplat_train.datasets.demo import make_demo
from gsplat_train.errors import Interrupted, TrainingDiverged, UserError
from gsplat_train.scene import Scene
from gsplat_train.training import checkpoint, optimizer, trainer
from gsplat_train.training.photos import ViewSampler, reduce
from gsplat_train.training.run_folder import RunFolder
from gsplat_train.training.trainer import Trainer


def make(config: Config, root: Path, resume: bool = False, scene: Scene | None = None) -> Trainer:
    run = RunFolder(root)
    run.root.mkdir(exist_ok=True)
    run.write_config(config)
    found = checkpoint.newest(run.checkpoints, pytest.fail) if resume else None
    run.truncate_log(found.state.step if found else 0)
    return Trainer(config, scene or tiny.scene(), run, Progress(quiet=True), found)


def log_of(root: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (root / "log.jsonl").read_text().splitlines()]


def stop_after(monkeypatch: pytest.MonkeyPatch, steps: int, action: Any) -> None:
    """Calls `action` in the middle of the given step."""
    real, done = trainer.train_step, 0

    def counting(*args: Any, **kwargs: Any) -> StepResult:
        nonlocal done
        done += 1
        result = real(*args, **kwargs)
        return action(result) if done == steps else result

    monkeypatch.setattr(trainer, "train_step", counting)


def test_a_short_training_gains_decibels_on_held_out_views(tmp_path: Path) -> None:
    scene = make_demo(n_views=24, width=64, height=48, n_points=2000)
    config = tiny.settings(steps=400, sh_interval=100, refine_every=20, eval_every=200, max_splats=3000)
    work = make(config, tmp_path, scene=scene)
    start = evaluate.measure(
        checkpoint.scene_frame(work.state.gaussians, work.similarity), work.test_views, work.backend
    )
    metrics = work.train()
    assert metrics["test"]["psnr"] > start["psnr"] + 6
    assert metrics["n_splats"] == 3000 and metrics["steps"] == 400  # the cap is reached and held
    assert set(metrics["test"]["views"]) == {"view_00.png", "view_08.png", "view_16.png"}
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics
    assert sorted(path.name for path in (tmp_path / "previews").iterdir()) == [
        "test_view_00_0000200.png",
        "test_view_00_0000400.png",
    ]
    lines = log_of(tmp_path)
    assert [line["step"] for line in lines] == list(range(10, 401, 10))
    assert [line["step"] for line in lines if "test" in line] == [200, 400]
    assert lines[-1]["test"]["psnr"] == metrics["test"]["psnr"]


def test_the_ply_scores_what_the_metrics_say(tmp_path: Path) -> None:
    work = make(tiny.settings(), tmp_path)
    metrics = work.train()
    for model in (
        tmp_path,
        tmp_path / "point_cloud.ply",
        tmp_path / "checkpoints" / "step_0000040.safetensors",
    ):
        again = evaluate.measure(evaluate.load_model(model), work.test_views, work.backend)
        assert again == metrics["test"]


@pytest.mark.parametrize("strategy", ["mcmc", "adc"])
def test_resumed_is_uninterrupted_to_the_byte(
    strategy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Step 16 ends neither an epoch (7 views) nor a refinement; all that is random is in use.
    config = tiny.settings(
        strategy=strategy, background="random", grow_gradient=1e-5, checkpoint_every=16, downscales=1,
        downscale_every=20,
    )  # fmt: skip
    make(config, tmp_path / "a").train()
    with monkeypatch.context() as patch:
        stop_after(patch, 19, lambda result: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            make(config, tmp_path / "b").train()
    resumed = make(config, tmp_path / "b", resume=True)
    assert resumed.state.step == 16
    resumed.train()
    for name in ("point_cloud.ply", "checkpoints/step_0000040.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    assert resumed.state.n_splats > 300
    assert [line["step"] for line in log_of(tmp_path / "b")] == [10, 20, 30, 40]


def test_the_same_seed_gives_the_same_bytes_and_another_gives_others(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        make(tiny.settings(seed=seed), tmp_path / name).train()
    a, b, c = ((tmp_path / name / "point_cloud.ply").read_bytes() for name in "abc")
    assert a == b != c


@pytest.fixture
def hangups() -> Iterator[None]:
    """SIGHUP as a terminal's programs have it, whatever started the tests."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_saves_and_says_how_to_go_on(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hangups: None
) -> None:
    stop_after(monkeypatch, 13, lambda result: os.kill(os.getpid(), number) or result)
    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match=r"step 13.*--resume"):
        make(tiny.settings(), tmp_path).train()
    assert signal.getsignal(number) is before
    found = checkpoint.newest(tmp_path / "checkpoints", pytest.fail)
    assert found is not None and found.state.step == 13


def test_no_room_to_grow_saves_and_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = make(tiny.settings(), tmp_path)

    def grow(state: Any, rng: Any) -> None:
        def full(*_: Any) -> None:
            raise MemoryError

        before = optimizer.rows(state.gaussians)
        with monkeypatch.context() as patch, pytest.raises(MemoryError):
            patch.setattr(np, "empty", full)
            optimizer.append_rows(state, before)
        assert state.gaussians.means.shape[0] == len(before["means"])
        raise MemoryError

    monkeypatch.setattr(work.strategy, "refine", grow)
    with pytest.raises(MemoryError):
        work.train()
    assert checkpoint.newest(tmp_path / "checkpoints", pytest.fail) is not None


def test_a_loss_that_is_not_finite_stops_with_the_last_good_state_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = make(tiny.settings(), tmp_path)
    stop_after(monkeypatch, 8, lambda result: result._replace(loss=math.nan))
    with pytest.raises(TrainingDiverged, match="step 9"):  # this test's step 8 was taken all the same
        work.train()
    found = checkpoint.newest(tmp_path / "checkpoints", pytest.fail)
    assert found is not None and found.state.step == 8


def test_a_state_that_is_not_finite_is_never_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = make(tiny.settings(), tmp_path)

    def spoil(result: StepResult) -> StepResult:
        optimizer.rows(work.state.v)["quats"][5] = np.inf
        return result

    stop_after(monkeypatch, 30, spoil)
    with pytest.raises(TrainingDiverged):
        work.train()
    found = checkpoint.newest(tmp_path / "checkpoints", pytest.fail)
    assert found is not None and found.state.step == 20 and optimizer.is_finite(found.state)


def test_pruning_everything_leaves_a_state_to_resume(tmp_path: Path) -> None:
    config = tiny.settings(strategy="adc", min_opacity=0.5, init_opacity=0.1)
    with pytest.raises(TrainingDiverged, match="every splat"):
        make(config, tmp_path).train()
    found = checkpoint.newest(tmp_path / "checkpoints", pytest.fail)
    assert found is not None and found.stats is not None
    assert len(found.stats.count) == found.state.n_splats


def test_resuming_a_finished_run_writes_its_outputs_again(tmp_path: Path) -> None:
    metrics = make(tiny.settings(), tmp_path).train()
    before = (tmp_path / "point_cloud.ply").read_bytes()
    (tmp_path / "point_cloud.ply").unlink()
    again = make(tiny.settings(), tmp_path, resume=True).train()
    assert (tmp_path / "point_cloud.ply").read_bytes() == before
    assert again["test"] == metrics["test"] and again["seconds"] == pytest.approx(
        metrics["seconds"], abs=0.01
    )


def test_time_adds_up_over_resumes_and_leaves_evaluation_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = evaluate.measure

    def slow(*args: Any, **kwargs: Any) -> Any:
        trainer.time.sleep(0.3)
        return real(*args, **kwargs)

    monkeypatch.setattr(evaluate, "measure", slow)
    first = make(tiny.settings(steps=20, schedule_steps=40), tmp_path).train()
    assert first["wall_seconds"] > first["seconds"] + 0.55
    second = make(tiny.settings(schedule_steps=40), tmp_path, resume=True).train()
    assert first["seconds"] < second["seconds"] < second["wall_seconds"] - 1.1
    assert second["it_per_s"] == pytest.approx(40 / second["seconds"], rel=0.05)  # seconds is rounded


def test_other_photos_than_the_checkpoints_are_refused(tmp_path: Path) -> None:
    make(tiny.settings(), tmp_path).train()
    scene = tiny.scene()
    fewer = Scene(scene.name, scene.views[:-2], scene.points, scene.colors)
    with pytest.raises(UserError, match="other training views"):
        make(tiny.settings(), tmp_path, resume=True, scene=fewer)


def test_more_points_than_the_cap_are_thinned(tmp_path: Path) -> None:
    assert make(tiny.settings(max_splats=100), tmp_path).state.n_splats == 100


def test_without_evaluation_all_views_train(tmp_path: Path) -> None:
    work = make(tiny.settings(eval=False), tmp_path)
    assert len(work.train_views) == 9 and not work.test_views
    metrics = work.train()
    assert metrics["test"] is None and metrics["train"]["psnr"] > 5


def test_over_fitting_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    work = make(tiny.settings(), tmp_path)
    work.report.release()  # nothing waits for the loop to begin
    for test, train in ((20.0, 20.0), (19.9, 21.0), (19.5, 19.9), (19.5, 22.0), (19.0, 23.0)):
        work._watch(test, train)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and "from 20.00 to 19.50 dB" in said[0] and "to 22.00" in said[0]


def test_each_view_is_seen_once_an_epoch_in_an_order_of_its_own() -> None:
    views = tiny.scene().views
    sampler = ViewSampler(views, seed=3)
    epochs = [[sampler.at(9 * epoch + i).name for i in range(9)] for epoch in range(3)]
    assert all(sorted(epoch) == [view.name for view in views] for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert ViewSampler(views, seed=3).at(13).name == epochs[1][4]


def test_photos_grow_as_the_schedule_says() -> None:
    sampler = ViewSampler(tiny.scene().views, seed=0, downscales=2, downscale_every=10)
    assert [sampler.at(step).camera.width for step in (0, 9, 10, 19, 20, 500)] == [12, 12, 24, 24, 48, 48]


def test_a_reduced_photo_averages_and_its_camera_sees_the_same() -> None:
    view = tiny.scene().views[0]
    half = reduce(view, 2)
    assert view.image is not None and half.image is not None
    assert half.image.shape == (18, 24, 3)
    squares = view.image.reshape(18, 2, 24, 2, 3).mean(axis=(1, 3))
    assert np.abs(half.image - squares).max() <= 1
    assert half.camera.K[:2] == pytest.approx(view.camera.K[:2] / 2)
