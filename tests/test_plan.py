# SPDX-License-Identifier: Apache-2.0
"""What a step does: rates at the ends of their schedules, and what a strategy and the settings put into a plan."""

import pytest
from tiny import settings

from gsplat_train.training import plan, strategies
from gsplat_train.training.plan import Schedule, Statistics


def test_means_decay_exponentially_from_the_first_rate_to_the_last() -> None:
    config = settings(steps=1000, lr_means=1e-3, lr_means_end=1e-5)
    rates = [plan.learning_rates(config, step)["means"] for step in (0, 500, 1000, 2000)]
    assert rates == pytest.approx([1.1e-3, 1.1e-4, 1.1e-5, 1.1e-5])
    assert plan.learning_rates(settings(lr_means=0), 5)["means"] == 0


def test_other_rates_are_the_settings_and_every_group_has_one() -> None:
    config = settings(lr_scales=1.0, lr_quats=2.0, lr_opacities=3.0, lr_sh0=4.0, lr_shN=5.0)
    rates = plan.learning_rates(config, 17)
    assert set(rates) == set(plan.NAMES)
    assert [rates[name] for name in plan.NAMES[1:]] == [2.0, 1.0, 3.0, 4.0, 5.0]


def test_a_prolonged_run_keeps_its_horizon() -> None:
    short, prolonged = settings(steps=100), settings(steps=200, schedule_steps=100)
    for step in (0, 50, 99):
        assert plan.learning_rates(short, step) == plan.learning_rates(prolonged, step)


def test_sh_degree_rises_by_one_an_interval() -> None:
    config = settings(sh_interval=100, sh_degree=2)
    assert [plan.sh_degree_at(config, step) for step in (0, 99, 100, 250, 999)] == [0, 0, 1, 2, 2]
    assert plan.sh_degree_at(settings(sh_interval=0), 0) == 3


def test_a_plan_has_what_the_strategy_wants() -> None:
    config = settings(
        opacity_reg=0.5, scale_reg=0.25, noise_lr=100.0, lr_means=1e-3, lr_means_end=1e-3, seed=7
    )
    first = Schedule(config, strategies.load(config)).at(1)
    assert (first.opacity_weight, first.scale_weight, first.seed) == (0.5, 0.25, 7)
    assert first.noise == pytest.approx(100 * 1.1e-3) and first.statistics is Statistics.NONE
    adc = settings(strategy="adc", absgrad=True)
    wanted = Schedule(adc, strategies.load(adc)).at(1)
    assert wanted.statistics is Statistics.ABSGRADIENTS and wanted.noise == wanted.opacity_weight == 0


def test_the_strategy_none_adds_nothing() -> None:
    config = settings(strategy="none")
    wanted = Schedule(config, strategies.load(config)).at(5)
    assert (wanted.noise, wanted.opacity_weight, wanted.scale_weight) == (0, 0, 0)


def test_a_random_background_is_a_function_of_seed_and_step() -> None:
    config = settings(background="random")
    schedule = Schedule(config, strategies.load(config))
    assert schedule.at(3).background == schedule.at(3).background != schedule.at(4).background
    other = settings(background="random", seed=1)
    first = settings(background="random-first", steps=16)
    colours = [Schedule(first, strategies.load(first)).at(number).background for number in range(1, 17)]
    black = (0.0, 0.0, 0.0)
    assert len({*colours} - {black}) == 10 and black not in colours[:8], "the first half, and two more"
    assert [number for number, colour in enumerate(colours, 1) if colour != black][8:] == [12, 16]
    assert Schedule(other, strategies.load(other)).at(3).background != schedule.at(3).background


def test_terms_and_groups_are_in_a_plan_where_they_are_on() -> None:
    config = settings(**{"alpha.weight": 0.1, "exposure": "gain"})
    wanted = Schedule(config, strategies.load(config)).at(1)
    assert wanted.weights == {"alpha": 0.1} and wanted.group_rates == {"exposure": 1e-3}
    off = Schedule(settings(), strategies.load(settings())).at(1)
    assert not off.weights and not off.group_rates
