# SPDX-License-Identifier: Apache-2.0
"""The text of the GPU kernels: Metal, in csrc/kernels, the body of a function whose signature MLX writes.

CUDA gets the same text behind cuda_shim.h.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path


@cache
def source_folder() -> Path:
    """csrc: inside the installed package, else beside it in a checkout."""
    package = Path(__file__).resolve().parents[2]
    for folder in (package / "csrc", package.parent / "csrc"):
        if (folder / "kernels").is_dir():
            return folder
    raise FileNotFoundError(f"the kernels' text is neither in {package / 'csrc'} nor beside {package}")


@cache
def body(name: str) -> str:
    """The body of kernel `name`, with the parts that it shares with others."""
    return _whole(source_folder() / "kernels" / f"{name}.metal")


def _whole(path: Path) -> str:
    lines = _lean(path.read_text()).splitlines()
    return "\n".join(
        _whole(path.parent / line.split('"')[1]) if line.startswith('#include "') else line for line in lines
    )


@cache
def header(*, cuda: bool) -> str:
    """What stands before every kernel: kernels/gpu.h with all that it includes; for CUDA behind the shim."""
    root, seen = source_folder(), set()

    def expand(path: Path) -> str:
        if path in seen:
            return ""
        seen.add(path)
        lines = []
        for line in _lean(path.read_text()).splitlines():
            if line.startswith('#include "'):
                lines.append(expand((path.parent / line.split('"')[1]).resolve()))
            elif line != "#pragma once":
                lines.append(line)
        return "\n".join(lines) + "\n"

    start = expand(root / "cuda_shim.h") if cuda else ""
    return start + expand((root / "kernels/gpu.h").resolve())


def _lean(text: str) -> str:
    """Without lines of comment and indentation: MLX copies and hashes the whole text at every call."""
    lines = (line.strip() for line in text.splitlines())
    return "\n".join(line for line in lines if line and not line.startswith("//"))


@cache
def fingerprint(name: str) -> str:
    """Eight hexadecimal digits of a kernel's whole text for CUDA."""
    return hashlib.sha256((header(cuda=True) + body(name)).encode()).hexdigest()[:8]
