# SPDX-License-Identifier: Apache-2.0
"""What was found out about a backend on this machine, kept in a file of the cache: the quick probe of `auto` and
gs-doctor's examination. A verdict counts for one machine, one version of the program, of its kernels and of MLX.
"""

from __future__ import annotations

import hashlib
import json
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import mlx.core as mx

from .. import __version__
from ..errors import UserError
from ..storage import atomic_write, cache_folder
from .gpu.text import source_folder


def recall(name: str) -> tuple[bool, str | None]:
    """(whether there is a verdict, what is wrong with the backend or None)."""
    kept = _read().get(_key(name))
    if not isinstance(kept, dict) or not isinstance(kept.get("wrong"), str | None):
        return False, None
    wrong = kept.get("wrong")
    return True, None if wrong is None else f"{wrong}; found by {kept.get('by')}, gs-doctor looks again"


def keep(name: str, wrong: str | None, by: str) -> None:
    """Keeps a verdict; where the cache cannot be written nothing is kept."""
    entries = _read() | {_key(name): {"backend": name, "wrong": wrong, "by": by}}
    try:
        with atomic_write(_path()) as file:
            file.write(json.dumps(entries, indent=1).encode())
    except UserError:
        return


def _path() -> Path:
    return cache_folder() / "verdicts.json"


def _read() -> dict[str, Any]:
    try:
        entries = json.loads(_path().read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return entries if isinstance(entries, dict) else {}


def _key(name: str) -> str:
    """A name for the machine and all versions that decide what a backend computes."""
    words = [name, __version__, metadata.version("mlx"), platform.platform(), platform.node()]
    try:
        info = mx.device_info()
        words += [f"{key}={info[key]}" for key in ("device_name", "architecture") if key in info]
    except Exception:  # a build of MLX without such a device
        words.append("no device")
    digest = hashlib.sha256(repr(words).encode())
    for path in sorted(source_folder().rglob("*")):
        if path.suffix in (".metal", ".h"):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:32]
