# SPDX-License-Identifier: Apache-2.0
"""The whole examination, finding by finding, as it goes on."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from .. import backends
from ..backends import verdict
from . import Finding, golden, machine_facts, trials


def examine(names: Sequence[str] = ()) -> Iterator[tuple[str, Finding]]:
    """(what it is about, finding). names: the backends to examine; none: all that are available, and why the others
    are not. What is found is kept for `auto` (backends.verdict).
    """
    for part in (machine_facts.versions, machine_facts.resources, machine_facts.device):
        for finding in part():
            yield "machine", finding
    for name, reason in backends.available().items():
        if names and name not in names:
            continue
        if reason is not None:
            yield name, Finding("available", f"no: {reason}", False if name in names else None)
            continue
        yield from ((name, finding) for finding in of_backend(name))


def of_backend(name: str) -> Iterator[Finding]:
    """Everything about one backend that is available."""
    began, bad = time.monotonic(), ""
    backend = backends.load(name)
    for finding in _all(name):
        bad = bad or ("" if finding.good is not False else f"{finding.name}: {finding.text}")
        yield finding
    verdict.keep(name, bad or None, by="gs-doctor")
    seconds = time.monotonic() - began
    promise = "deterministic" if backend.deterministic else "not deterministic here"
    yield Finding(
        "verdict", f"{'wrong' if bad else 'right'}, {promise}, examined in {seconds:.0f} s", not bad
    )


def _all(name: str) -> Iterator[Finding]:
    backend = backends.load(name)
    for case in golden.CASES:
        yield golden.compare(backend, case)
    for examination in (
        lambda: iter([trials.step(backend)]),
        lambda: trials.training(name, backend),
        lambda: iter([trials.speed(backend)]),
    ):
        try:
            yield from examination()
        except Exception as error:  # whatever a driver or a compiler raises
            yield Finding("failure", f"{type(error).__name__}: {' '.join(str(error).split())[:200]}", False)
