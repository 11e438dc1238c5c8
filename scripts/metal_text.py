# SPDX-License-Identifier: Apache-2.0
"""Prints the Metal text of a kernel, as it reaches Apple's compiler, and compares it with MLX's own.

    python scripts/metal_text.py forward      the text
    python scripts/metal_text.py --compare    every kernel against MLX; exit 1 where they differ

MLX prints its text without Metal too, when it exports a function; a version that cannot is reported.
"""

import argparse
import sys
from difflib import unified_diff
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "tests"), str(Path(__file__).parents[1])]

from metal.mlx_text import printed_by_mlx, renamed  # noqa: E402
from metal.table import Launch, launches  # noqa: E402

from gsplat_train.backends.gpu.kernels import KERNELS  # noqa: E402


def difference(launch: Launch) -> list[str] | None:
    """The lines in which MLX's text and ours differ; None where this MLX does not give its own."""
    theirs = printed_by_mlx(*launch)
    if theirs is None:
        return None
    a, b = (renamed(text).splitlines() for text in (theirs, launch.text.text))
    return list(unified_diff(a, b, "MLX", "ours", lineterm=""))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kernel", nargs="?", choices=sorted(KERNELS))
    parser.add_argument("--compare", action="store_true", help="with the text that MLX makes")
    arguments = parser.parse_args()
    names = [arguments.kernel] if arguments.kernel else sorted(KERNELS)
    if not arguments.compare:
        for name in names:
            print(list(launches(name))[-1].text.text)
        return 0
    different = False
    for name in names:
        for launch in launches(name):
            lines = difference(launch)
            values = ", ".join(f"{k}={v}" for k, v in launch.template)
            verdict = "MLX does not print its text here" if lines is None else "differs" if lines else "equal"
            print(f"{name}({values}): {verdict}")
            print("\n".join(lines or []), end="\n" if lines else "")
            different |= bool(lines)
    return int(different)


if __name__ == "__main__":
    sys.exit(main())
