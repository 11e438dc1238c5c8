# SPDX-License-Identifier: Apache-2.0
"""What the strategies promise: MCMC keeps what is seen, ADC grows where pulled, caps hold, rows align."""

import math
from decimal import Decimal
from fractions import Fraction

import mlx.core as mx
import numpy as np
import pytest
from test_rows import row_numbers, snapshot
from tiny import random_state, settings

from gsplat_train.errors import TrainingDiverged
from gsplat_train.model import quaternions
from gsplat_train.training import draws, rows, strategies
from gsplat_train.training.draws import Key
from gsplat_train.training.plan import EXTENT, Statistics
from gsplat_train.training.rows import HostPopulation, TrainState
from gsplat_train.training.strategies import adc, copies, mcmc

KEY = Key(seed=1, step=5, purpose=2)


def opacities(state: TrainState) -> np.ndarray:
    return quaternions.opacities(np.asarray(state.gaussians.logit_opacities))


def make_dead(state: TrainState, index: list[int]) -> None:
    rows.rows(state.gaussians)["logit_opacities"][index] = -8  # opacity 0.0003


def test_opacities_and_logits_are_inverse_and_never_overflow() -> None:
    values = np.array([1e-6, 0.005, 0.5, 1 - 1e-6])
    assert quaternions.opacities(quaternions.logits(values)) == pytest.approx(values, rel=1e-9)
    with np.errstate(all="raise"):
        assert quaternions.opacities(np.array([-1e4, 1e4], np.float32)).tolist() == [0.0, 1.0]


def test_rotate_turns_as_the_quaternion_says() -> None:
    half = np.sqrt(0.5)
    quats = np.array(
        [[2, 0, 0, 0], [half, 0, 0, half], [0, 3, 0, 0]]
    )  # none; 90 degrees about z; 180 about x
    turned = quaternions.rotate(quats, np.array([[1.0, 2, 3]] * 3))
    assert turned == pytest.approx(np.array([[1, 2, 3], [-2, 1, 3], [1, -2, -3]]))


# --- MCMC


def divided(opacity: float, n: int) -> tuple[float, float]:
    """(opacity, factor of the scales) of each of `n` in the place of one."""
    logit = np.array([quaternions.logits(np.array(opacity))], np.float32)
    new, shrink = (
        copies.fainter(np, logit, np.array([n]), (1e-6, 1 - 1e-6)),
        copies.shrinking(np, logit, np.array([n])),
    )
    assert new.dtype == shrink.dtype == np.float32
    return float(quaternions.opacities(new)[0]), float(np.exp(shrink[0]))


@pytest.mark.parametrize("opacity", [0.006, 0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("n", [1, 2, 3, 10, 51])
def test_copies_together_are_as_opaque_and_as_large_as_the_original(opacity: float, n: int) -> None:
    new, shrink = divided(opacity, n)
    assert 1 - (1 - new) ** n == pytest.approx(opacity, rel=1e-5)
    # On a line through the centre, scale 1: what n copies hide adds up to what the original hid.
    x = np.linspace(-40, 40, 400_001)
    together = 1 - (1 - new * np.exp(-0.5 * (x / shrink) ** 2)) ** n
    assert np.trapezoid(together, x) == pytest.approx(opacity * np.sqrt(2 * np.pi), rel=1e-5)


@pytest.mark.parametrize("opacity", [0.005, 0.02, 0.3, 0.7, 0.99, 0.999])
@pytest.mark.parametrize("n", [2, 5, 20, 51])
def test_the_factor_is_equation_nines(opacity: float, n: int) -> None:
    """The paper's sum in exact fractions but for its roots: in float64 its terms of n = 51 cancel."""
    new = -math.expm1(math.log1p(-opacity) / n)
    terms = [math.comb(n, k) * (-1) ** (k - 1) * Fraction(new) ** k for k in range(1, n + 1)]
    total = sum(t * Fraction(Decimal(1) / Decimal(k).sqrt()) for k, t in enumerate(terms, 1))
    assert divided(opacity, n)[1] == pytest.approx(opacity / float(total), rel=2e-6)


def test_many_copies_and_opacity_one_stay_finite() -> None:
    logits, n = np.array([1e4, 0, 30], np.float32), np.array([1000, 9999, 2])
    new, shrink = copies.fainter(np, logits, n, (0.005, 1 - 1e-6)), copies.shrinking(np, logits, n)
    opacity = quaternions.opacities(new)
    assert np.isfinite([new, shrink]).all() and (opacity >= 0.00499).all() and (opacity < 1).all()


def test_relocation_moves_the_dead_and_keeps_the_opacity_of_each_place() -> None:
    state, config = random_state(30), settings()
    make_dead(state, [3, 7, 8])
    before, shown = snapshot(state), opacities(state)
    assert mcmc.relocate(HostPopulation(state), config.own.min_opacity, KEY) == 3
    after, now = snapshot(state), opacities(state)
    assert state.n_splats == 30 and (now > config.own.min_opacity).all()
    sources = [int(np.flatnonzero((before["means"] == after["means"][i]).all(axis=1))[0]) for i in (3, 7, 8)]
    assert not set(sources) & {3, 7, 8}
    for source in set(sources):
        n = 1 + sources.count(source)
        assert 1 - (1 - now[source]) ** n == pytest.approx(shown[source], rel=1e-5)
    for dead, source in zip((3, 7, 8), sources, strict=True):
        assert all((leaf[dead] == leaf[source]).all() for leaf in after.values())
    touched = {3, 7, 8, *sources}
    assert row_numbers(state).tolist() == [0 if i in touched else i for i in range(30)]
    rest = [i for i in range(30) if i not in touched]
    assert all((after[name][rest] == before[name][rest]).all() for name in before)


@pytest.mark.parametrize("dead", [[], list(range(10))])
def test_relocation_without_any_dead_or_any_living_does_nothing(dead: list[int]) -> None:
    state = random_state(10)
    make_dead(state, dead)
    before = snapshot(state)
    assert mcmc.relocate(HostPopulation(state), 0.005, KEY) == 0
    assert all((leaf == before[name]).all() for name, leaf in snapshot(state).items())


def test_growth_adds_the_rate_up_to_the_cap() -> None:
    state = random_state(100)
    counts = [mcmc.grow(HostPopulation(state), 0.05, 112, 0.005, KEY) for _ in range(4)]
    assert counts == [5, 6, 1, 0] and state.n_splats == 112


def test_growth_shares_the_opacity_and_starts_without_moments() -> None:
    state = random_state(40)
    before, shown = snapshot(state), opacities(state)
    assert mcmc.grow(HostPopulation(state), 0.5, 1000, 0.005, KEY) == 20
    after, now, numbers = snapshot(state), opacities(state), row_numbers(state)
    for source in range(40):
        copies = np.flatnonzero((after["means"] == before["means"][source]).all(axis=1))
        assert 1 - (1 - now[source]) ** len(copies) == pytest.approx(shown[source], rel=1e-5)
        assert (numbers[copies] == (0 if len(copies) > 1 else source)).all()


def test_decay_makes_all_fainter_and_smaller_and_keeps_the_moments() -> None:
    state = random_state(20)
    make_dead(state, [3])
    before, moments = opacities(state), [np.array(leaf) for leaf in state.m]
    scales = np.asarray(state.gaussians.log_scales).copy()
    mcmc.decay(HostPopulation(state), 0.002, 0.001)
    expected = np.maximum(before - 0.002, mcmc.FAINTEST)
    assert opacities(state) == pytest.approx(expected, rel=1e-4)
    assert np.asarray(state.gaussians.log_scales) == pytest.approx(scales - 0.001, abs=1e-6)
    assert all(np.array_equal(a, b) for a, b in zip(moments, state.m, strict=True))


def test_the_cap_is_lower_while_photos_are_small() -> None:
    config = settings(max_splats=1000, downscales=2, downscale_every=100, **{"mcmc.stage_cap": 0.5})
    caps = [strategies.load(config).cap(step) for step in (0, 99, 100, 200, 1000)]
    assert caps == [250, 250, 500, 1000, 1000]


def test_nothing_grows_out_of_nothing() -> None:
    state = random_state(5)
    rows.rows(state.gaussians)["logit_opacities"][:] = -1e4
    assert mcmc.grow(HostPopulation(state), 0.5, 1000, 0.005, KEY) == 0 and state.n_splats == 5


def test_a_few_splats_grow_too() -> None:
    state = random_state(3)
    assert mcmc.grow(HostPopulation(state), 0.05, 1000, 0.005, KEY) == 1


def test_rows_are_drawn_in_proportion_and_the_dead_never() -> None:
    weights = np.array([1, 0, 2, 5, 0], np.uint32)
    for n, repeats in ((40_000, 1), (1, 4000)):
        drawn = np.concatenate([draws.multinomial(np, weights, n, Key(0, s, 2)) for s in range(repeats)])
        shares = np.bincount(drawn, minlength=5) / len(drawn)
        assert shares == pytest.approx(weights / 8, abs=4 * np.sqrt(0.25 / len(drawn)))  # 4 deviations
    assert (np.diff(draws.multinomial(np, weights, 1000, Key(3, 1, 2))) >= 0).all()


def test_weights_are_opacities_and_what_is_no_number_is_dead() -> None:
    logits = np.array([-20, -5.2, 0, 3, 40, np.nan, -np.inf], np.float32)
    assert draws.weights(np, logits, 0.005).tolist() == [0, 359, 32768, 62428, 65536, 0, 0]
    assert draws.weights(np, logits, 0.0).tolist() == [1, 359, 32768, 62428, 65536, 0, 0]


def test_mlx_draws_the_same_rows_as_numpy() -> None:
    logits = np.random.default_rng(3).normal(-2, 3, 5000).astype(np.float32)
    weights, theirs = (draws.weights(xp, xp.array(logits), 0.005) for xp in (np, mx))
    assert (weights == np.asarray(theirs)).all() and (weights == 0).any()
    for n in (1, 7, 5000, 70_000):
        ours = draws.multinomial(np, weights, n, Key(7, 100, 3))
        drawn = draws.multinomial(mx, theirs, n, Key(7, 100, 3))
        assert (ours == np.asarray(drawn)).all()
        assert (draws.mentions(np, ours) == np.asarray(draws.mentions(mx, drawn))).all()
    count = int((weights == 0).sum())
    places = draws.positions(mx, theirs == 0, count)
    assert (np.asarray(places) == np.flatnonzero(weights == 0)).all()
    normal = draws.normals(np, 5000, Key(7, 100, 4))
    assert np.asarray(draws.normals(mx, 5000, Key(7, 100, 4))) == pytest.approx(normal, abs=1e-5)
    assert normal.mean() == pytest.approx(0, abs=0.03) and normal.std() == pytest.approx(1, abs=0.03)


def test_strategies_act_only_when_due() -> None:
    config = settings(steps=100, least_share=0.0, refine_start=20, refine_every=10, refine_stop=0.8)
    strategy, state = strategies.load(config), random_state(50)
    assert [step for step in range(101) if strategy.due(step)] == [30, 40, 50, 60, 70]
    assert strategy.refine(HostPopulation(state), 30) == {"relocated": 0, "added": 5}


def test_the_strategy_none_changes_nothing() -> None:
    config, state = settings(strategy="none"), random_state(5)
    strategy = strategies.load(config)
    assert not any(strategy.due(step) for step in range(1, 4001))
    assert strategy.refine(HostPopulation(state), 10) == {} and strategy.statistics is Statistics.NONE
    assert state.n_splats == 5


# --- ADC


def adc_settings(**changes: object):
    return settings(strategy="adc", **changes)


def set_scales(state: TrainState, small: list[int], large: list[int]) -> None:
    scales = rows.rows(state.gaussians)["log_scales"]
    scales[small] = np.log(0.005 * EXTENT)
    scales[large] = np.log([0.02 * EXTENT, 0.001, 0.001])


def test_small_ones_duplicate_and_large_ones_split() -> None:
    state = random_state(10)
    set_scales(state, [1, 2], [4, 5, 6])
    pull = np.zeros(10, np.float32)
    pull[[1, 4, 6]] = 1.5
    pull[[2, 5]] = 0.99
    before = snapshot(state)
    assert adc.grow(HostPopulation(state), pull, adc_settings().own, 1000, KEY) == {
        "duplicated": 1,
        "split": 2,
    }
    after = snapshot(state)
    assert state.n_splats == 13
    assert row_numbers(state).tolist() == [0, 1, 2, 3, 0, 5, 0, 7, 8, 9, 0, 0, 0]
    assert all((after[name][10] == before[name][1]).all() for name in before)
    for parent, parts in ((4, [4, 11]), (6, [6, 12])):
        assert after["log_scales"][parts] == pytest.approx(
            np.tile(before["log_scales"][parent] - np.log(1.6), (2, 1)), rel=1e-5
        )
        assert (after["sh0"][parts] == before["sh0"][parent]).all()
        assert (after["means"][parts] != before["means"][parent]).all()


def test_parts_are_drawn_from_their_parent() -> None:
    state = random_state(4000)
    for leaf in rows.rows(state.gaussians).values():
        leaf[:] = leaf[0]
    parent = {name: leaf[0] for name, leaf in snapshot(state).items()}
    own = adc_settings(split_scale=0.0).own
    assert adc.grow(HostPopulation(state), np.full(4000, 2.0), own, 8000, KEY)["split"] == 4000
    offsets = snapshot(state)["means"] - parent["means"]
    R = np.stack([quaternions.rotate(parent["quats"][None], axis[None])[0] for axis in np.eye(3)], axis=1)
    expected = R @ np.diag(np.exp(2 * parent["log_scales"])) @ R.T
    assert np.cov(offsets.T) == pytest.approx(expected, abs=0.08 * expected.max())


def test_growth_at_the_cap_takes_the_strongest() -> None:
    state = random_state(6)
    set_scales(state, list(range(6)), [])
    before = snapshot(state)
    pull = np.array([2.0, 9, 3, 8, 1.5, 7])
    assert adc.grow(HostPopulation(state), pull, adc_settings().own, 8, KEY)["duplicated"] == 2
    assert (snapshot(state)["means"][6:] == before["means"][[1, 3]]).all()
    assert adc.grow(HostPopulation(state), np.full(8, 2.0), adc_settings().own, 8, KEY) == {
        "duplicated": 0,
        "split": 0,
    }


def test_pruning_takes_the_transparent_and_after_a_reset_the_huge() -> None:
    state, config = random_state(8), adc_settings(reset_every=100)
    set_scales(state, list(range(8)), [])
    make_dead(state, [2])
    rows.rows(state.gaussians)["log_scales"][5, 1] = np.log(0.11 * EXTENT)
    assert adc.prune(HostPopulation(state), config.own, 50) == {"pruned": 1}
    assert adc.prune(HostPopulation(state), config.own, 150) == {"pruned": 1}
    assert row_numbers(state).tolist() == [0, 1, 7, 3, 4, 6]  # the last rows take the places


def test_pruning_everything_is_divergence() -> None:
    state = random_state(3)
    make_dead(state, [0, 1, 2])
    with pytest.raises(TrainingDiverged, match="every splat"):
        adc.prune(HostPopulation(state), adc_settings().own, 10)


def test_a_reset_lowers_opacities_and_forgets_their_moments_only() -> None:
    state = random_state(5)
    make_dead(state, [1])
    adc.reset_opacities(HostPopulation(state), 0.01)
    assert opacities(state) == pytest.approx([0.01, 0.000335, 0.01, 0.01, 0.01], rel=1e-2)
    assert not np.asarray(state.v.logit_opacities).any() and np.asarray(state.v.means)[4, 0] == 8


@pytest.mark.parametrize("absgrad", [False, True])
def test_the_statistic_is_the_mean_over_the_steps_that_saw_it(absgrad: bool) -> None:
    config = adc_settings(absgrad=absgrad, grow_gradient=2.0, grow_absgradient=4.0)
    state = random_state(3)
    state.sums = rows.zero_sums(3)
    state.sums["means2d_norm"][:] = [6, 6, 0]
    state.sums["absgrad_norm"][:] = [24, 24, 0]
    state.sums["count"][:] = [1, 3, 0]
    pull = adc.Strategy(config).mean_gradients(HostPopulation(state))
    assert pull.tolist() == ([6, 2, 0] if absgrad else [3, 1, 0])


def test_a_refinement_starts_new_sums_of_the_new_length() -> None:
    state, strategy = random_state(20), adc.Strategy(adc_settings(reset_every=10))
    state.sums = rows.zero_sums(20)
    state.sums["means2d_norm"][:] = state.sums["count"][:] = 1
    counts = strategy.refine(HostPopulation(state), 10)
    assert counts["duplicated"] + counts["split"] == 20 and state.n_splats == 40
    assert len(state.sums["count"]) == 40 and not state.sums["means2d_norm"].any()
    assert opacities(state).max() == pytest.approx(0.01, rel=1e-5)  # step 10 resets as well
