# SPDX-License-Identifier: Apache-2.0
"""Kill -9 at random moments: python scripts/kills.py [--backend cuda] [--kills 10] [--jobs 3] [--steps 1000] [--seed 0]

Trains a small scene once undisturbed, then again and again: each of these runs is killed at a moment between its start
and its end (every second one at a step, the others by time), resumed by the same command with --resume, and must end
with the same bytes of model and state, no line of its log doubled and nothing left over. Prints a line for each and the
counts as JSON; exit code 1 where one differs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOG_EVERY = 10
AT_MOST = 3  # runs for each kill: some have ended before


def gs_train(*words: object) -> subprocess.Popen[str]:
    """The command, begun."""
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-P", "-m", "gsplat_train.cli.train", *map(str, words)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=os.environ | {"PYTHONPATH": paths}, **quiet)  # type: ignore[call-overload, no-any-return]


def wait_for(work: subprocess.Popen[str], log: Path, lines: int) -> None:
    """Until the log has so many lines, or the run has ended."""
    while work.poll() is None and not (log.is_file() and log.read_bytes().count(b"\n") >= lines):
        time.sleep(0.002)


def finished(*words: object) -> None:
    """The command, to its end, which must be good."""
    work = gs_train(*words)
    said = work.communicate()[1]
    if work.returncode:
        sys.exit(f"gs-train ended with {work.returncode}: {said.strip().splitlines()[-1:]}")


def outcome(root: Path, steps: int) -> dict[str, bytes]:
    """What must be the same."""
    names = ["point_cloud.ply", f"checkpoints/step_{steps:07d}.safetensors"]
    return {name: (root / name).read_bytes() for name in names}


def wrong(root: Path, wanted: dict[str, bytes], steps: int) -> list[str]:
    """What is not as it should be in a run that was killed and resumed."""
    found = [name for name, data in outcome(root, steps).items() if data != wanted[name]]
    lines = [json.loads(line)["step"] for line in (root / "log.jsonl").read_text().splitlines()]
    if lines != sorted(set(lines)) or lines[-1] != steps:
        found.append("log.jsonl")
    left = [path.name for path in root.rglob("*") if path.name.endswith(".tmp") or path.name == "run.lock"]
    return found + left


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    began, home = time.monotonic(), Path(tempfile.mkdtemp(prefix="kills-"))
    settings: dict[str, object] = {"log_every": LOG_EVERY, "checkpoint_every": 50, "eval_every": 200}
    settings |= {"refine_start": 20, "refine_every": 40}
    settings |= {"gpu_memory": 0.5 / asked.jobs}
    words = [
        home / "scene",
        "--backend",
        asked.backend,
        "--steps",
        asked.steps,
        "--max-splats",
        5000,
        "--quiet",
    ]
    words += [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    try:
        finished("demo", "--write", home / "scene", "--size", "160x120")
        finished(*words, "--out", home / "warm")  # kernels are compiled, verdicts kept
        start = time.monotonic()
        finished(*words, "--out", home / "calm")
        seconds, wanted = time.monotonic() - start, outcome(home / "calm", asked.steps)
        same = outcome(home / "warm", asked.steps) == wanted
        print(f"undisturbed: {seconds:.1f} s, {'the same bytes twice' if same else 'OTHER BYTES each time'}")

        def one(number: int) -> tuple[bool, list[str]]:
            root, moment = home / f"run{number}", random.Random(f"{asked.seed} {number}").uniform(0.05, 1)
            work = gs_train(*words, "--out", root)
            if number % 2:
                wait_for(work, root / "log.jsonl", int(moment * asked.steps / LOG_EVERY))
            else:
                time.sleep(moment * seconds)
            work.send_signal(signal.SIGKILL)
            work.communicate()
            killed, kept = work.returncode == -signal.SIGKILL, sorted(root.glob("checkpoints/*.json"))
            finished(*words, "--out", root, *(["--resume"] if root.exists() else []))
            bad = wrong(root, wanted, asked.steps)
            where = kept[-1].stem if kept else "loading" if not (root / "config.toml").is_file() else "start"
            print(
                f"{number}: {f'killed behind {where}' if killed else 'had ended'}, {bad or 'the same'}",
                flush=True,
            )
            shutil.rmtree(root)
            return killed, bad

        ended: list[tuple[bool, list[str]]] = []
        with ThreadPoolExecutor(asked.jobs) as pool:
            while sum(killed for killed, _ in ended) < asked.kills and len(ended) < AT_MOST * asked.kills:
                missing = asked.kills - sum(killed for killed, _ in ended)
                ended += pool.map(one, range(len(ended), len(ended) + missing))
    finally:
        shutil.rmtree(home, ignore_errors=True)
    output = {
        "runs": len(ended),
        "kills": sum(killed for killed, _ in ended),
        "different": sum(bool(bad) for _, bad in ended),
        "seconds": round(time.monotonic() - began),
    }
    print(json.dumps(output))
    return 1 if output["different"] or not same else 0


if __name__ == "__main__":
    sys.exit(main())
