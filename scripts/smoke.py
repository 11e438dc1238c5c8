# SPDX-License-Identifier: Apache-2.0
"""Whether an installed gsplat_train works: trains the built-in scene for a moment, renders and exports it.

python scripts/smoke.py
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

BIN = Path(sys.executable).parent


def command(program: str, *words: str) -> str:
    """Runs an installed command; its standard output."""
    done = subprocess.run([str(BIN / program), *words], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{program} {' '.join(words)} ended with {done.returncode}: {done.stderr}")
    return done.stdout


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = f"{folder}/run"
        metrics = json.loads(
            command("gs-train", "demo", "--steps", "300", "--set", "init_scale=1", "--out", run, "--quiet")
        )
        scores = json.loads(command("gs-render", run))
        command("gs-export", run, f"{folder}/model.ply")
        size = Path(folder, "model.ply").stat().st_size
    print(
        f"backend {metrics['backend']}, {metrics['it_per_s']:.0f} it/s, held-out {scores['psnr']:.2f} dB, {size} bytes"
    )
    if not (metrics["backend"] != "python" and scores["psnr"] > 15 and size > 100_000):
        sys.exit("that is not what a sound installation gives")


if __name__ == "__main__":
    main()
