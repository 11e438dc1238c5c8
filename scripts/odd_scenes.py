# SPDX-License-Identifier: Apache-2.0
"""Odd scenes, all: python scripts/odd_scenes.py [PART ...] [--jobs 2] [--seed 0] [--table FILE.md]

Writes each odd data set of tests/odd_*.py, trains it by the command for 300 steps, and
compares PSNR (by the true views of the built-in scene), exit code and messages with what is expected. PART: words
that a set's kind and name hold. Exit code 1 where any set does otherwise. Two seconds a set on two cores.
"""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "tests")]

import odd_folders  # noqa: E402, F401  # enter their sets
import odd_pictures  # noqa: E402, F401
import odd_programs  # noqa: E402, F401
import odd_records  # noqa: E402, F401
from odd_corpus import REFERENCES, SETS, Outcome, attempt  # noqa: E402


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", type=Path, help="write a line for each kind, as Markdown")
    parser.add_argument("--messages", action="store_true", help="print what the command said")
    asked = parser.parse_args()
    chosen = {key: odd for key, odd in SETS.items() if all(part in key for part in asked.parts)}
    kinds: dict[str, list[tuple[Outcome, float | None]]] = {}
    with ThreadPoolExecutor(asked.jobs) as pool:
        wanted = sorted({odd.like for odd in chosen.values() if odd.code == 0})
        tried = pool.map(lambda name: attempt(REFERENCES[name], None, asked.seed), wanted)
        sound = dict(zip(wanted, tried, strict=True))
        for name, outcome in sound.items():
            print(f"{name:70} {_result(outcome)}", flush=True)

        def one(key: str) -> Outcome:
            odd = chosen[key]
            reference = sound[odd.like].psnr if odd.code == 0 else None
            return attempt(odd, reference, asked.seed)

        for key, outcome in zip(chosen, pool.map(one, chosen), strict=True):
            odd = chosen[key]
            reference = sound[odd.like].psnr if odd.code == 0 else None
            off = None if outcome.psnr is None or reference is None else outcome.psnr - reference
            output = "" if off is None else f"{off:+.2f}"
            print(f"{key:70} {_result(outcome):10} {output:6} {outcome.fault}", flush=True)
            if asked.messages:
                print(outcome.messages)
            kinds.setdefault(odd.kind, []).append((outcome, off))
    faults = sum(bool(outcome.fault) for tried in kinds.values() for outcome, _ in tried)
    print(f"{len(chosen)} sets, {len(chosen) - faults} as expected, {faults} not")
    if asked.table:
        asked.table.write_text(_table(kinds), "utf-8")
    return 1 if faults else 0


def _table(kinds: dict[str, list[tuple[Outcome, float | None]]]) -> str:
    """A line of Markdown for each kind."""
    lines = [
        "| kind | sets | trained, dB from the sound scene | refused | not as expected |",
        "| --- " * 5 + "|",
    ]
    for kind, tried in kinds.items():
        offs = [off for _, off in tried if off is not None]
        span = f"{len(offs)}: {min(offs):+.2f} to {max(offs):+.2f}" if offs else "0"
        refused = sum(outcome.psnr is None for outcome, _ in tried)
        faults = sum(bool(outcome.fault) for outcome, _ in tried)
        lines.append(f"| {kind} | {len(tried)} | {span} | {refused} | {faults} |")
    return "\n".join(lines) + "\n"


def _result(outcome: Outcome) -> str:
    return f"exit {outcome.code}" if outcome.psnr is None else f"{outcome.psnr:.2f} dB"


if __name__ == "__main__":
    sys.exit(main())
