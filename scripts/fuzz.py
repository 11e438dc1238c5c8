# SPDX-License-Identifier: Apache-2.0
"""Hostile files, many: python scripts/fuzz.py [--count 100000] [--first 0] [--target NAME ...] [--processes N]

Alters small sound files of every reader (tests/hostile.py) and reads them; prints each kind of finding once, with the
target and the seed that make it again, and at the end the counts as JSON: `next` is the --first to go on with. Exit
code 1 where there is any finding.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "tests")]

import hostile  # noqa: E402


def fuzz(asked: argparse.Namespace) -> dict[str, Any]:
    """Every --every-th seed from --first on, each with every target; what was counted."""
    began, done, findings = time.monotonic(), Counter[str](), Counter[str]()
    seed = asked.first
    with hostile.prepared(asked.target) as targets, suppress(KeyboardInterrupt):
        last = asked.first + max(asked.count // len(targets), 1) * asked.every
        while seed < last and time.monotonic() - began < 60 * asked.minutes:
            for target in targets:
                finding = hostile.execute(target, seed, hostile.WATCH)
                done[target.name] += 1
                if finding is None:
                    continue
                place = f"{target.name}: {hostile.place_of(finding)}"
                findings[place] += 1
                if findings[place] == 1:
                    print(f"--- {target.name}, seed {seed}: {finding}", file=sys.stderr, flush=True)
            seed += asked.every
    return {"targets": done, "findings": findings, "next": seed}


def shared(asked: argparse.Namespace) -> dict[str, Any]:
    """The same by several processes, each with seeds of its own."""
    words = [sys.executable, __file__, "--minutes", str(asked.minutes), "--every", str(asked.processes)]
    words += [
        "--count",
        str(asked.count // asked.processes),
        *(["--target", *asked.target] if asked.target else []),
    ]
    firsts = [["--first", str(asked.first + i)] for i in range(asked.processes)]
    works = [subprocess.Popen(words + first, stdout=subprocess.PIPE, text=True) for first in firsts]
    parts = [json.loads(work.communicate()[0]) for work in works]
    sums = {name: sum((Counter(part[name]) for part in parts), Counter()) for name in ("targets", "findings")}
    return sums | {"next": max(part["next"] for part in parts)}


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=100_000, help="executions in all")
    parser.add_argument("--first", type=int, default=0, help="seed of the first")
    parser.add_argument("--minutes", type=float, default=1e9)
    parser.add_argument("--target", nargs="*", help=", ".join(target.name for target in hostile.TARGETS))
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--every", type=int, default=1, help="from one seed to the next")
    asked = parser.parse_args()
    began = time.monotonic()
    counts = fuzz(asked) if asked.processes == 1 else shared(asked)
    seconds = round(time.monotonic() - began)
    print(
        json.dumps({"executions": Counter(counts["targets"]).total(), "seconds": seconds} | counts, indent=1)
    )
    return 1 if counts["findings"] else 0


if __name__ == "__main__":
    sys.exit(main())
