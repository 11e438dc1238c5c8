# SPDX-License-Identifier: Apache-2.0
"""gs-doctor: whether this machine can do the work, and whether it does it right.

golden.py compares a backend with stored float64 results, trials.py takes steps and trains, machine_facts.py tells what
is installed; examine.py does it all. Nothing is asked of the network, and nothing is written but what is asked for.
"""

from __future__ import annotations

from typing import NamedTuple


class Finding(NamedTuple):
    """One line of the report."""

    name: str
    text: str
    good: bool | None = None  # None: a fact, neither good nor bad
