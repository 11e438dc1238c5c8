# SPDX-License-Identifier: Apache-2.0
"""`python -m gsplat_train NAME ...` is gs-NAME ...; alone it lists the commands."""

from __future__ import annotations

import ast
import re
import sys
from importlib import import_module
from pathlib import Path

from . import __version__


def commands() -> dict[str, str]:
    """The commands with a line each: the modules of cli whose text begins with `gs-NAME: ...`."""
    found = {}
    for path in sorted((Path(__file__).parent / "cli").glob("*.py")):
        text = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
        if match := re.match(rf"gs-{path.stem}: ([^\n]*?)\.?(\n|$)", text):
            found[path.stem] = match[1]
    return found


def main() -> None:
    available = commands()
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in available:
        del sys.argv[1]
        import_module(f".cli.{name}", __package__).main()
    if name in ("-h", "--help"):
        print(f"gsplat_train {__version__}: photographs in, a 3D scene of Gaussian splats out\n")
        print("usage: python -m gsplat_train COMMAND ...\n")
        print("\n".join(f"  {command:10}{line} (gs-{command})" for command, line in available.items()))
    elif name == "--version" and len(sys.argv) > 2:
        why = "has no effect beside --version, which ends the program; leave one of them out"
        print(f"gsplat_train: {sys.argv[2]} {why}", file=sys.stderr)
        sys.exit(2)
    elif name == "--version":
        print(f"gsplat_train {__version__}")
    else:
        print(f"gsplat_train: no command {name!r}; allowed are {', '.join(available)}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
