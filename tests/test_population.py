# SPDX-License-Identifier: Apache-2.0
"""Density control where a GPU has its rows: the same rows as on the host, bit for bit, all or nothing."""

from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from metal.emulated import backend as emulated
from metal.fixtures import clang  # noqa: F401
from plans import plan
from test_rows import snapshot
from tiny import random_gaussians, random_state, scene, settings

from gsplat_train.backends import probe
from gsplat_train.backends.gpu import arrays
from gsplat_train.backends.gpu.engine import pack, unpack
from gsplat_train.backends.gpu.kernels import KERNELS
from gsplat_train.backends.gpu.limits import STEP
from gsplat_train.backends.gpu.population import GpuPopulation
from gsplat_train.evaluate.floaters import sightings
from gsplat_train.model.gaussians import Gaussians
from gsplat_train.renderer import render
from gsplat_train.training import draws, rows, strategies
from gsplat_train.training.draws import Key
from gsplat_train.training.rows import Edit, HostPopulation, TrainState
from gsplat_train.training.strategies import mcmc
from gsplat_train.training.strategies.copies import draw

pytestmark = pytest.mark.usefixtures("clang")


def packed(state: TrainState) -> GpuPopulation:
    trees: Any = tuple(pack(tree) for tree in (state.gaussians, state.m, state.v))
    sums = {name: mx.array(array) for name, array in state.sums.items()}
    return GpuPopulation(emulated().engine, trees, state.n_splats, state.gaussians.shN.shape[1], sums)


def unpacked(population: GpuPopulation) -> list[Gaussians]:
    return [unpack(*tree, population.n, population.rest) for tree in population.trees]


class Carrying:
    """A population whose rows carry what their numbers say, in every view."""

    view_count = 1

    def __init__(self, population: Any) -> None:
        self.population = population

    def __getattr__(self, name: str) -> Any:
        return getattr(self.population, name)

    def pixel_sums(self, step: int, count: int, maps: Any) -> Any:
        carried = np.random.default_rng(step).uniform(0, 9, self.population.n).astype(np.float32)
        yield self.population.xp.array(np.repeat(carried[:, None], 3, 1))

    def screen_sizes(self, step: int, count: int) -> list[Any]:
        return [self.population.xp.array(np.linspace(0, 1, self.population.n, dtype=np.float32))]


def some_state(n: int = 200) -> TrainState:
    state = random_state(n)
    rng = np.random.default_rng(0)
    rows.rows(state.gaussians)["logit_opacities"][::7] = -8  # dead
    rows.rows(state.gaussians)["log_scales"][::3] = np.log(0.001)
    state.sums = {name: rng.uniform(0, 1e-3, n).astype(np.float32) for name in rows.SUMS}
    state.sums["count"][:] = 1
    return state


@pytest.mark.parametrize(
    "changes",
    [
        {"least_share": 0.1},
        {"least_share": 0.0},
        {"least_share": 0.0, "split": 0.0},
        {"strategy": "igs", "grow_absgradient": 1e-5, "edge_views": 0},
        {"strategy": "adc"},
        {"strategy": "adc", "reset_every": 10},
    ],
)
def test_a_refinement_gives_the_same_rows_on_a_gpu_and_on_the_host(changes: dict[str, Any]) -> None:
    config = settings(max_splats=300, **changes)
    state = some_state()
    population = packed(state)
    for step in (10, 15):
        strategy = strategies.load(config)
        ours = strategy.refine(Carrying(population), step)
        theirs = strategy.refine(Carrying(HostPopulation(state)), step)
        assert ours == theirs and population.n == state.n_splats
        for found, expected in zip(unpacked(population), (state.gaussians, state.m, state.v), strict=True):
            for name in Gaussians._fields:
                a, b = np.asarray(getattr(found, name)), np.asarray(getattr(expected, name))
                # The same rows; what is computed for the new ones is rounded by another library.
                np.testing.assert_allclose(a, b, rtol=3e-6, atol=3e-6, err_msg=name)
        assert all(array.shape == (population.n,) for array in population.kept_sums.values())


@pytest.fixture
def no_indexing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where an array is indexed so that MLX on CUDA would compile a kernel, 3 s for each type, at its first use."""

    def watch(name: str) -> None:
        own = getattr(mx.array, name)

        def plain(array: mx.array, index: Any, *value: Any) -> Any:
            parts = index if isinstance(index, tuple) else (index,)
            assert not any(isinstance(part, mx.array) for part in parts), "rows_of and with_rows do that"
            assert not isinstance(index, int), "number does that"
            return own(array, index, *value)

        monkeypatch.setattr(mx.array, name, plain)

    watch("__getitem__")
    watch("__setitem__")


@pytest.mark.usefixtures("no_indexing")
def test_a_refinement_asks_mlx_for_no_kernel_of_indexing() -> None:
    changes: list[dict[str, Any]] = [
        {"least_share": 0.1, "screen_split": 0.5},
        {"split": 0.0, "error_views": 1, "least_share": 0.0},
        {"strategy": "igs", "grow_absgradient": 1e-5, "edge_views": 0, "igs.reset_every": 0.01, "recover": 5},
        {"strategy": "adc", "reset_every": 10},
    ]
    for settings_of in changes:
        strategy, population = strategies.load(settings(max_splats=300, **settings_of)), packed(some_state())
        did: dict[str, int] = {}
        for step in (10, 15, 20):
            did |= {name: n for name, n in strategy.refine(Carrying(population), step).items() if n}
        assert len(did) >= 2, did


@pytest.mark.usefixtures("no_indexing")
def test_the_stages_ask_mlx_for_no_kernel_of_indexing() -> None:
    """Forward and backward, loss, a step and an evaluation; what looks for floaters."""
    backend: Any = emulated()
    probe.numbers(backend)
    gaussians, views = random_gaussians(20), scene().views[:2]
    sightings(gaussians, [view.camera for view in views], backend)
    stepper = backend.stepper(rows.start(gaussians))
    for number in (1, 2, 3):
        stepper.take(views[number % 2], plan(number))
    stepper.take(views[0], plan(5, views=2), views[1])
    assert np.isfinite(stepper.result().loss)
    picture = render(stepper.look().gaussians, views[0].camera, backend).image
    backend.score(picture, views[0].pixels.image)
    seen = views[0].camera
    show = backend.show(stepper.look().gaussians, (0.0, 0.0, 0.0), False)
    show(seen.viewmat, seen.K, seen.width, seen.height, views[0].pixels.image)


@pytest.mark.parametrize(
    ("weights", "n"),
    [
        ([0, 0, 0], 2),
        ([0, 5, 0], 1),
        ([0, 5, 0], 9),
        ([3, 1, 0, 2], 3),
        (np.arange(10_000) % 7, 4_000),
        (np.arange(9_000) % 5 * 60_000 * 4_096, 200),  # sums beyond 32 bits
        (np.where(np.arange(5_000) % 50, 0, 9), 300),  # fewer than are drawn
    ],
)
def test_draws_and_places_are_the_hosts(weights: Any, n: int) -> None:
    weights, xp, key = np.array(weights, np.uint32), arrays.module(emulated().engine), Key(3, 700, 2)
    for theirs, ours in (
        (draws.distinct(np, weights, n, key), draws.distinct(xp, mx.array(weights), n, key)),
        (np.flatnonzero(weights), draws.positions(xp, mx.array(weights) > 0, int((weights > 0).sum()))),
    ):
        assert ours.dtype == mx.int32 and np.array(ours).tolist() == theirs.tolist()
    if weights.any():
        drawn = draws.multinomial(xp, mx.array(weights), n, key)
        assert np.array(drawn).tolist() == draws.multinomial(np, weights, n, key).tolist()


def test_kernels_get_and_give_the_types_of_their_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """For another type MLX would compile the kernel once more."""
    strategy, population, own = (
        strategies.load(settings(max_splats=300)),
        packed(some_state()),
        arrays._launch,
    )
    launched = set()

    def launch(engine: Any, name: str, inputs: list[mx.array], *rest: Any, **more: Any) -> list[mx.array]:
        spec, types = KERNELS[name], [*(array.dtype for array in (*inputs, rest[0])), *rest[3]]
        assert types == [getattr(mx, array.dtype) for array in (*spec.inputs, *spec.outputs)], name
        launched.add(name)
        return own(engine, name, inputs, *rest, **more)

    monkeypatch.setattr(arrays, "_launch", launch)
    strategy.refine(Carrying(population), 10)
    array = mx.arange(20)
    assert population.xp.rows_of(array, mx.argsort(-array)).dtype == array.dtype
    assert population.xp.with_rows(mx.zeros((4, 2)), mx.array([1, 3]), mx.ones((2, 2))).tolist()[3] == [1, 1]
    assert {"take", "put", "weigh", "block_sums", "prefix_sums", "mark", "positions", "halve"} <= launched


def test_nothing_is_drawn_of_the_dead_and_none_of_none() -> None:
    xp, key, dead = arrays.module(emulated().engine), Key(3, 700, 2), mx.zeros(20, mx.uint32)
    for split in (0.0, 0.5):
        assert draw(xp, dead, 5, key, split).tolist() == []
    assert draws.distinct(xp, dead + 1, 0, key).tolist() == draws.positions(xp, dead > 0, 0).tolist() == []
    assert draws.weights(xp, mx.zeros(0), 0.1).tolist() == []
    population = packed(some_state(20))
    population.apply(Edit(columns={"logit_opacities": mx.full((20,), -50.0)}))
    assert mcmc.grow(population, 0.5, 100, 0.005, key) == 0 == mcmc.relocate(population, 0.005, key)


def test_weights_are_the_hosts_of_every_number() -> None:
    logits = np.array(
        [np.nan, np.inf, -np.inf, 0, 20, -20, 16.5, 1e30, -1e30, -5.293305, 0.00024414], np.float32
    )
    xp = arrays.module(emulated().engine)
    for least in (0, 0.005, 1):
        theirs, ours = (draws.weights(m, m.array(logits), least) for m in (np, xp))
        assert np.array(ours).tolist() == theirs.tolist(), least


def test_memory_is_counted_of_the_kernels_that_a_step_has(monkeypatch: pytest.MonkeyPatch) -> None:
    backend, launched = emulated(), []
    own = backend.engine.kernel

    def kernel(name: str) -> Any:
        launched.append(name)
        return own(name)

    monkeypatch.setattr(backend.engine, "kernel", kernel)
    stepper = backend.stepper(rows.start(random_gaussians(20)))
    stepper.take(scene().views[0], plan(1))
    stepper.result()
    assert launched == list(STEP)


def test_without_room_nothing_has_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    state = some_state(20)
    before, population = snapshot(state), packed(state)

    def full(*_: Any) -> None:
        raise RuntimeError("[malloc] Unable to allocate 9 bytes.")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(mx, "eval", full)
        population.apply(Edit(mx.arange(21) % 20))
    assert population.n == 20 and population.kept_sums["count"].sum().item() == 20
    for name, leaf in unpacked(population)[0]._asdict().items():
        assert (np.asarray(leaf) == before[name]).all()


@pytest.mark.parametrize("sh_degree", [0, 3])
def test_any_edit_is_the_hosts(sh_degree: int) -> None:
    """Rows out of order and twice, fewer and more; new rows named twice; new values of every leaf, also of all rows."""
    rng = np.random.default_rng(0)
    n = 300  # more than two groups of threads
    state = rows.start(random_gaussians(n, sh_degree=sh_degree))
    for leaf in rows.rows(state.m).values():
        leaf[...] = rng.standard_normal(leaf.shape)
    population = packed(state)
    for count in (n, 280, 411):
        source = np.concatenate([rng.permutation(min(population.n, count)), rng.integers(0, 200, count)])
        source = source[:count].astype(np.int32)
        new = np.array([5, 9, 5, count - 1], np.int32)
        leaves = rows.rows(state.gaussians)
        columns = {name: np.stack([leaf[row] + 1 for row in (5, 9, 5, 7)]) for name, leaf in leaves.items()}
        whole = {"log_scales": 0.5 * leaves["log_scales"][source]}
        for edit in (
            Edit(source, new, columns),
            Edit(None, new, columns),
            Edit(columns=whole, forget=("quats",)),
        ):
            population.apply(
                Edit(
                    None if edit.source is None else mx.array(edit.source),
                    None if edit.new is None else mx.array(edit.new),
                    {name: mx.array(column) for name, column in edit.columns.items()},
                    edit.forget,
                )
            )
            HostPopulation(state).apply(edit)
            for found, expected in zip(
                unpacked(population), (state.gaussians, state.m, state.v), strict=True
            ):
                for name in Gaussians._fields:
                    np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), name)
