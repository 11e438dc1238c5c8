# SPDX-License-Identifier: Apache-2.0
"""The whole examination, finding by finding, as it goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

from .. import backends
from ..backends import verdict
from . import Finding, golden, machine_facts, trials

PARTS = (machine_facts.versions, machine_facts.resources, machine_facts.device)
TRIALS = 3  # of a backend, beside the golden scenes


def examine(
    names: Sequence[str] = (), at: Callable[[int, int], None] = lambda done, total: None
) -> Iterator[tuple[str, Finding]]:
    """(what it is about, finding). names: the backends to examine; none: all that are available, and why the others
    are not. What is found is kept for `auto` (backends.verdict). at: gets how much is done, of how much.
    """
    chosen = {name: why for name, why in backends.available().items() if not names or name in names}
    here = sum(why is None for why in chosen.values())
    done, total = 0, len(PARTS) + here * (len(golden.CASES) + TRIALS)

    def one_more() -> None:
        nonlocal done
        done += 1
        at(done, total)

    at(0, total)
    for part in PARTS:
        for finding in part():
            yield "machine", finding
        one_more()
    for name, reason in chosen.items():
        if reason is not None:
            yield name, Finding("available", f"no: {reason}", False if name in names else None)
            continue
        yield from ((name, finding) for finding in of_backend(name, one_more))


def of_backend(name: str, one_more: Callable[[], None] = lambda: None) -> Iterator[Finding]:
    """Everything about one backend that is available; one_more hears of each examination that is over."""
    began, bad = time.monotonic(), ""
    backend = backends.load(name)
    for finding in _all(name, one_more):
        bad = bad or ("" if finding.good is not False else f"{finding.name}: {finding.text}")
        yield finding
    verdict.keep(name, bad or None, by="gs-doctor")
    seconds = time.monotonic() - began
    promise = "deterministic" if backend.deterministic else "not deterministic here"
    yield Finding(
        "verdict", f"{'wrong' if bad else 'right'}, {promise}, examined in {seconds:.0f} s", not bad
    )


def _all(name: str, one_more: Callable[[], None]) -> Iterator[Finding]:
    backend = backends.load(name)
    for case in golden.CASES:
        yield golden.compare(backend, case)
        one_more()
    examinations = (
        lambda: iter([trials.step(backend)]),
        lambda: trials.training(name, backend),
        lambda: iter([trials.speed(backend)]),
    )
    assert len(examinations) == TRIALS
    for examination in examinations:
        try:
            yield from examination()
        except Exception as error:  # whatever a driver or a compiler raises
            yield Finding("failure", f"{type(error).__name__}: {' '.join(str(error).split())[:200]}", False)
        one_more()
