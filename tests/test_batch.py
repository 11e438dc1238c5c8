# SPDX-License-Identifier: Apache-2.0
"""Steps over several views: they are what their parts say, on every backend, and a run of them can be resumed."""

import math
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from conftest import load_backend
from test_train_step import NAMES, fused, leaves, masked_view, start, view
from tiny import plan

from gsplat_train import backends
from gsplat_train.errors import UserError
from gsplat_train.scene import Photo, View
from gsplat_train.training import api, rows, strategies
from gsplat_train.training.objective import Objective
from gsplat_train.training.photos import ViewSampler
from gsplat_train.training.plan import Schedule, Statistics, StepPlan
from gsplat_train.training.run_folder import RunFolder
from gsplat_train.training.stepper import GenericStepper, make_stepper
from gsplat_train.training.trainer import Trainer, passed

EVERYTHING = {
    "opacity_weight": 0.05, "scale_weight": 0.07, "noise": 10.0, "seed": 7, "background": (0.2, 0.5, 0.9),
    "antialiased": True, "statistics": Statistics.ABSGRADIENTS,
}  # fmt: skip


def smaller(width: int = 24, height: int = 20, turn: float = 0.1) -> View:
    """Another photo, of another size, from somewhere else."""
    viewmat = np.eye(4)
    viewmat[:3, :3] = [[math.cos(turn), 0, math.sin(turn)], [0, 1, 0], [-math.sin(turn), 0, math.cos(turn)]]
    camera = replace(view().camera.resized(width, height), viewmat=viewmat)
    image = np.random.default_rng(5).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return replace(view(), index=3, camera=camera, photo=Photo(image))


def three() -> list[View]:
    """Of two sizes, one with a mask."""
    return [view(), smaller(), replace(masked_view(), index=4)]


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("changes", [{}, EVERYTHING, {"sh_degree": 0, "statistics": Statistics.GRADIENTS}])
def test_a_step_of_cpp_over_views_is_the_generic_one(count: int, changes: dict[str, Any]) -> None:
    a, b = start(), start()
    quick, slow = fused(a), GenericStepper(backends.load("python"), b)
    views = three()[:count]
    for step in range(1, 5):
        planned = plan(step * count, views=count, **changes)
        ours, theirs = (each.take(views[0], planned, *views[1:]) for each in (quick, slow))
        assert tuple(ours) == pytest.approx(tuple(theirs), rel=1e-4)
    assert quick.step == slow.step == 4 * count
    for name in NAMES:
        own, other = leaves(a.gaussians)[name], leaves(b.gaussians)[name]
        # Four steps of 1e-3. Adam divides by the gradient's size: where that is rounding error, signs differ.
        assert (np.abs(own - other) > 1e-4).mean() < 0.01, name
        assert leaves(a.m)[name] == pytest.approx(leaves(b.m)[name], rel=1e-3, abs=1e-7), name
    assert set(a.sums) == (set(rows.SUMS) if "statistics" in changes else set())
    for name, sums in a.sums.items():
        assert sums == pytest.approx(b.sums[name], rel=1e-3, abs=1e-6), name


@pytest.mark.parametrize("backend", ["cpp", "python"])
def test_its_gradient_is_the_mean_of_the_views_and_adams_betas_are_to_the_power_of_their_number(
    backend: str,
) -> None:
    """After one step m is (1 - beta^B) times the gradient."""
    views, wanted = three(), {"statistics": Statistics.ABSGRADIENTS}
    together, alone = start(), [start() for _ in views]
    fused(together, backend).take(views[0], plan(3, views=3, **wanted), *views[1:])
    for state, seen in zip(alone, views, strict=True):
        fused(state, backend).take(seen, plan(1, **wanted))
    for name in NAMES:
        mean = sum(leaves(state.m)[name] / (1 - 0.9) for state in alone) / 3
        assert leaves(together.m)[name] / (1 - 0.9**3) == pytest.approx(mean, rel=2e-3, abs=1e-7), name
        square = leaves(together.v)[name] / (1 - 0.999**3)
        assert square == pytest.approx(mean**2, rel=2e-2, abs=1e-10), name
    for name in rows.SUMS:
        sums = sum(state.sums[name] for state in alone)
        assert together.sums[name] == pytest.approx(sums, rel=1e-3, abs=1e-6), name


@pytest.mark.parametrize("backend", ["cpp", "python"])
def test_a_loss_that_is_not_finite_moves_nothing(backend: str) -> None:
    state = start()
    before = leaves(state.gaussians)
    stepper = fused(state, backend)
    result = stepper.take(view(), plan(2, views=2, background=(0.0, math.nan, 0.0)), smaller())
    assert not result.is_finite and result.whole and stepper.step == 0
    assert all((leaf == before[name]).all() for name, leaf in leaves(state.gaussians).items())


def test_rates_grow_by_the_root_and_schedules_count_views() -> None:
    config = tiny.settings(background="random")
    schedule = Schedule(config, strategies.load(config))
    one, four = schedule.at(21), schedule.at(24, 4)
    assert four.views == 4 and four.sh_degree == one.sh_degree == 2
    assert four.rates == pytest.approx([2 * rate for rate in one.rates])
    assert four.noise == pytest.approx(2 * one.noise)


def test_places_deal_the_views_and_each_comes_once_an_epoch() -> None:
    views = tiny.scene().views  # nine
    sampler = ViewSampler(views, 1, batch=2)
    seen = [[sampler.at(step + place).index for place in (0, 1)] for step in range(0, 40, 2)]
    assert all(a % 2 == 0 and b % 2 == 1 for a, b in seen)
    assert sorted(a for a, _ in seen[:5]) == [0, 2, 4, 6, 8] and sorted(b for _, b in seen[:4]) == [
        1,
        3,
        5,
        7,
    ]
    assert ViewSampler(views, 1, batch=2).at(26).index == seen[13][0]
    with pytest.raises(UserError, match="needs as many to train on, the scene has 9"):
        ViewSampler(views, 1, batch=10)


@pytest.mark.parametrize(("changes", "fits"), [({}, False), ({"late_from": 1.0}, True), ({"batch": 2}, True)])
def test_a_late_step_needs_as_many_views(changes: dict[str, Any], fits: bool) -> None:
    """Only where such a step comes."""
    train_views = len(tiny.scene().split(8)[0])
    settings = tiny.settings(late_batch=train_views + 1, **changes)
    with nullcontext() if fits else pytest.raises(UserError, match=r"over 8 views needs.*lower late_batch$"):
        Trainer(settings, tiny.scene())
    Trainer(replace(settings, late_batch=train_views), tiny.scene())


def test_what_is_rhythmic_counts_views() -> None:
    assert [passed(n, n + 3, 10) for n in range(0, 21, 3)] == [False, False, False, True, False, False, True]
    assert all(passed(n - 1, n, 5) == (n % 5 == 0) for n in range(1, 40))


def trained(folder: Path | None, resume: Any = None, **changes: Any) -> Trainer:
    config = replace(tiny.settings(**changes), schedule_steps=40)
    trainer = Trainer(config, tiny.scene(), RunFolder(folder) if folder else None, resume=resume)
    api.run_training(trainer, resume)
    return trainer


@pytest.mark.parametrize("strategy", ["mcmc", "adc"])
def test_a_run_over_three_views_a_step_refines_measures_and_resumes_to_the_same_bytes(
    strategy: str, tmp_path: Path
) -> None:
    from gsplat_train.training import checkpoint

    changes: dict[str, Any] = {"batch": 3, "strategy": strategy}
    if strategy == "adc":
        changes["grow_gradient"] = 1e-5
    whole = trained(tmp_path / "a", **changes)  # 40 views: thirteen steps and a view
    assert whole.step == 40 and whole.n_splats > 300 and whole.metrics["batch"] == 3
    saved = sorted(path.stem for path in (tmp_path / "a" / "checkpoints").glob("*.json"))
    assert saved == ["step_0000021", "step_0000040"]  # the first step at or after 20
    trained(tmp_path / "b", **changes | {"steps": 21})
    kept = checkpoint.newest(tmp_path / "b" / "checkpoints", print)
    assert kept is not None and kept.state.step == 21
    again = trained(tmp_path / "b", resume=kept, **changes)
    for name in NAMES:
        ours, theirs = (
            leaves(whole.stepper.look().gaussians)[name],
            leaves(again.stepper.look().gaussians)[name],
        )
        assert (ours == theirs).all(), name


@pytest.mark.parametrize("mode", ["gain", "affine"])
def test_exposures_learn_in_a_step_over_views_as_in_the_generic_one(mode: str) -> None:
    views = tuple(replace(v, name=f"{i}", index=i) for i, v in enumerate(three()))
    states, objectives = [start(), start()], [Objective.of(tiny.settings(exposure=mode), views) for _ in "12"]
    quick = make_stepper(load_backend("cpp"), states[0], objectives[0])
    slow = GenericStepper(backends.load("python"), states[1], objectives[1])
    assert not isinstance(quick, GenericStepper)
    for step in range(1, 4):
        planned: StepPlan = plan(3 * step, views=3, group_rates={"exposure": 0.01})
        for stepper in (quick, slow):
            assert stepper.take(views[0], planned, *views[1:]).is_finite
    ours, theirs = (np.array(objective.groups["exposure"].m) for objective in objectives)
    assert (theirs[:, :3] != 0).all()
    assert ours == pytest.approx(theirs, rel=2e-3, abs=1e-7)
