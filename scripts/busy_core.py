# SPDX-License-Identifier: Apache-2.0
"""How much another busy process slows a training step; one JSON object on standard output. Linux only.

    python scripts/busy_core.py --n 100000 --threads 2

The other process spins on one core. It is stopped and let run in turn, so that both times see the same
machine. It takes half of its core: of as many cores as threads, all but half a core are left, and a step that
loses no more than that takes `proportional` times as long. `ratio` is what it takes.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys

SPIN = "import os, sys\nos.sched_setaffinity(0, {int(sys.argv[1])})\nwhile True: pass"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, default=100_000, help="splats of the random scene")
    parser.add_argument("--width", type=int, default=504)
    parser.add_argument("--height", type=int, default=378)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each round, with and without")
    args = parser.parse_args()
    os.environ["GS_THREADS"] = str(args.threads)  # read when the backend is loaded
    from bench import commit, machine
    from bench_scenes import random_scene
    from bench_steps import Training, time_in_turn

    from gsplat_train.scene import View

    gaussians, camera, photo = random_scene(args.n, args.width, args.height, 0)
    run = Training("cpp", gaussians, [View("random", camera, photo)], 0, 5, restarts=False)
    core = max(os.sched_getaffinity(0))
    other = subprocess.Popen([sys.executable, "-c", SPIN, str(core)])
    alone: list[float] = []
    beside: list[float] = []
    try:
        for _ in range(args.rounds):
            for times, order in ((alone, signal.SIGSTOP), (beside, signal.SIGCONT)):
                other.send_signal(order)
                some: list[float] = []
                while sum(some) < 1e3 * args.seconds:
                    some += time_in_turn({"cpp": run.step}, 0, 1)["cpp"]
                # The mean: a slice of the scheduler may outlast a step.
                times.append(statistics.fmean(some))
    finally:
        other.kill()
        other.wait()
    ratios = [b / a for a, b in zip(alone, beside, strict=True)]
    line = {
        "what": "busy core", "n": args.n, "width": args.width, "height": args.height, "threads": args.threads,
        "ms_alone": round(statistics.median(alone), 3), "ms_beside": round(statistics.median(beside), 3),
        "ratio": round(statistics.median(ratios), 3), "ratios": [round(r, 3) for r in ratios],
        "proportional": round(args.threads / (args.threads - 0.5), 3),
        "machine": machine(), "commit": commit(),
    }  # fmt: skip
    print(json.dumps(line))


if __name__ == "__main__":
    main()
