# SPDX-License-Identifier: Apache-2.0
"""Hostile files, many: python scripts/fuzz.py [--count 100000] [--first 0] [--target NAME ...] [--minutes M]

Alters small sound files of every reader (tests/hostile.py) and reads them; prints each kind of finding once, with the
target and the seed that make it again, and at the end the counts as JSON. Exit code 1 where there is any.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "tests")]

import hostile  # noqa: E402


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=100_000, help="executions in all")
    parser.add_argument("--first", type=int, default=0, help="seed of the first")
    parser.add_argument("--minutes", type=float, default=1e9)
    parser.add_argument("--target", nargs="*", help=", ".join(target.name for target in hostile.TARGETS))
    asked = parser.parse_args()
    watch = hostile.WATCH
    began, done, findings = time.monotonic(), Counter[str](), Counter[str]()
    with hostile.prepared(asked.target) as targets, suppress(KeyboardInterrupt):
        for seed in range(asked.first, asked.first + max(asked.count // len(targets), 1)):
            if time.monotonic() - began > 60 * asked.minutes:
                break
            for target in targets:
                finding = hostile.execute(target, seed, watch)
                done[target.name] += 1
                if finding is None:
                    continue
                place = f"{target.name}: {hostile.place_of(finding)}"
                findings[place] += 1
                if findings[place] == 1:
                    print(f"--- {target.name}, seed {seed}: {finding}", flush=True)
    told = {
        "executions": done.total(),
        "seconds": round(time.monotonic() - began),
        "targets": done,
        "findings": findings,
    }
    print(json.dumps(told, indent=1))
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
