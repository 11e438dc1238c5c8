# SPDX-License-Identifier: Apache-2.0
"""How long a refinement takes where the parameters are, and whether its rows are those of NumPy on the host.

    python scripts/bench_refine.py --backend cuda --splats 1000000

A state of random Gaussians at SH degree 3, 2 % of them dead. Cases: MCMC relocates and grows by 5 %; MCMC relocates
at the cap; ADC duplicates, splits and prunes; ADC does so and resets. Each state is refined twice, with as much to
do: on `cpp` the first growth makes spare room, the second uses it. Milliseconds with all waits, the medians over the
repeats; one JSON line a case. Exit 1 where rows differ.
"""

from __future__ import annotations

import argparse
import json
import sys
import time

import mlx.core as mx
import numpy as np

from gsplat_train import backends, config
from gsplat_train.backends import Backend
from gsplat_train.model.gaussians import Gaussians
from gsplat_train.training import rows, strategies
from gsplat_train.training.objective import Objective
from gsplat_train.training.protocol import Bounds
from gsplat_train.training.rows import HostPopulation, TrainState
from gsplat_train.training.stepper import make_stepper

DEAD = 0.02
CASES = {  # strategy, whether the cap leaves room, step
    "mcmc relocate and grow": ("mcmc", True, 700),
    "mcmc relocate": ("mcmc", False, 700),
    "adc grow and prune": ("adc", True, 700),
    "adc with reset": ("adc", True, 3000),
}


def random_state(n: int, seed: int, share: float = DEAD) -> TrainState:
    """Random Gaussians, a share of them dead, random moments, and the sums of a window of steps."""
    rng = np.random.default_rng(seed)
    shapes = {"means": (n, 3), "quats": (n, 4), "log_scales": (n, 3), "logit_opacities": (n,)}
    shapes |= {"sh0": (n, 1, 3), "shN": (n, 15, 3)}
    trees = []
    for _ in range(3):
        leaves = {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}
        leaves["log_scales"] = 0.5 * leaves["log_scales"] - 5
        leaves["logit_opacities"][rng.random(n) < share] = -8
        trees.append(Gaussians(**{name: mx.array(leaf) for name, leaf in leaves.items()}))
    mx.eval(trees)
    return TrainState(*trees, sums=window(rng, n))


def prepare(state: TrainState, seed: int) -> None:
    """As much to do for the next refinement as there was for the first: dead Gaussians, full sums."""
    rng, n = np.random.default_rng(seed), state.n_splats
    logits = np.array(state.gaussians.logit_opacities)
    logits[rng.random(n) < DEAD] = -8
    state.gaussians = state.gaussians._replace(logit_opacities=mx.array(logits))
    state.sums = window(rng, n)


def window(rng: np.random.Generator, n: int) -> dict[str, np.ndarray]:
    """Sums of a window of steps: one Gaussian in eleven is pulled at."""
    sums = {name: 2.2e-4 * rng.random(n, np.float32) for name in rows.SUMS}
    sums["count"][:] = 1
    return sums


def compare(own: TrainState, hosts: TrainState) -> str:
    """What differs beyond rounding; empty where nothing does."""
    if own.n_splats != hosts.n_splats:
        return f"{own.n_splats} rows, on the host {hosts.n_splats}"
    for tree in ("gaussians", "m", "v"):
        theirs = rows.rows(getattr(hosts, tree))
        for name, leaf in rows.rows(getattr(own, tree)).items():
            if not np.allclose(leaf, theirs[name], rtol=1e-4, atol=1e-4):
                wrong = (
                    (~np.isclose(leaf, theirs[name], rtol=1e-4, atol=1e-4)).reshape(len(leaf), -1).any(axis=1)
                )
                return f"{tree}.{name} in {wrong.sum()} rows, the first {np.flatnonzero(wrong)[0]}"
    return ""


def run_case(case: str, name: str, backend: Backend, n: int, repeats: int) -> bool:
    """Prints the case's line; whether its rows are the host's."""
    strategy_name, roomy, step = CASES[case]
    settings = {
        "strategy": strategy_name,
        "max_splats": 2 * n if roomy else n,
        "steps": 30_000,
        "mcmc.least_share": 0.0,
    }
    strategy = strategies.load(config.load([], settings))
    bounds = Bounds(most_splats=settings["max_splats"])
    times: list[list[float]] = []
    for repeat in range(repeats):
        stepper = make_stepper(backend, random_state(n, repeat), Objective(), bounds)
        stepper.refine(lambda population: None)  # packed, where the backend packs
        times.append([])
        for number in (step, step + 100):
            began = time.perf_counter()
            counts = stepper.refine(lambda population, at=number: strategy.refine(population, at))
            mx.synchronize()
            times[-1].append(1000 * (time.perf_counter() - began))
            if number == step:
                prepare(stepper.look(), repeat)
                stepper.refine(lambda population: None)
    # A logit that MCMC has just made may round otherwise here, and would move all draws of a growth after it.
    share = 0.0 if strategy_name == "mcmc" and roomy else DEAD
    stepper = make_stepper(backend, random_state(n, 0, share), Objective(), bounds)
    stepper.refine(lambda population: strategy.refine(population, step))
    hosts = random_state(n, 0, share)
    strategy.refine(HostPopulation(hosts), step)
    wrong = compare(stepper.look(), hosts)
    first, second = (round(float(np.median(column)), 2) for column in zip(*times, strict=True))
    line = {"case": case, "backend": name, "splats": n, "first_ms": first, "second_ms": second} | counts
    print(json.dumps(line | {"rows": wrong or "the host's"}), flush=True)
    return not wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--splats", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=4, help="states of each case")
    args = parser.parse_args()
    name = backends.choose(args.backend)
    backend = backends.load(name)
    right = [run_case(case, name, backend, args.splats, args.repeats) for case in CASES]
    if name in ("cuda", "metal"):
        print(json.dumps({"peak_bytes_a_splat": round(mx.get_peak_memory() / args.splats)}))
    return 0 if all(right) else 1


if __name__ == "__main__":
    sys.exit(main())
