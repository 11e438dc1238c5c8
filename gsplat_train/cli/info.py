# SPDX-License-Identifier: Apache-2.0
"""What gs-train tells of itself: built-in scenes and configurations, settings, backends, how to begin."""

from __future__ import annotations

import ast
import inspect
import io
import json
import textwrap
import time
import tokenize
from dataclasses import fields
from pathlib import Path

from .. import config as config_module
from .. import registry
from ..config import Config
from ..machine import in_words
from ..settings import allowed

BEGIN = """gs-train SCENE turns photos with known cameras into a 3D scene of Gaussian splats.

  gs-train demo                  the built-in scene: needs no data, takes seconds
  gs-train my_scene              a folder with photos and their cameras (COLMAP, nerfstudio, LLFF ...)
  gs-train my_scene --check      says what is wrong with it, trains nothing
  gs-train --list                built-in scenes and configurations
  gs-train --settings            everything that --set KEY=VALUE can change
  gs-train --backends            where it can compute on this machine
  gs-train --help                all options

Then gs-render, gs-export and gs-view take the folder that it names at its end."""

TIME = "%Y-%m-%d %H:%M"


def scenes() -> str:
    """Built-in scenes and configurations, a line each: the first comment of their file."""
    lines = ["Scenes, for gs-train SCENE:"]
    builtin = config_module.builtin_scenes()
    paths = {path.stem: path for path in config_module.files()}
    lines += [_entry(name, _first_line(paths[name])) for name in builtin]
    lines += ["", "Configurations, for --config NAME:"]
    for name, path in paths.items():
        if name in builtin:
            continue
        scene, _, short = name.rpartition("_")
        lines.append(_entry(f"{short} ({scene})" if scene in builtin else name, _first_line(path)))
    return "\n".join(lines)


def settings() -> str:
    """Every setting with its default, what it takes, and what config.py says of it: unit, meaning, source."""
    lines = ["Settings, for --set KEY=VALUE and TOML files. [names] are sources: see gsplat_train/config.py."]
    lines += ["", *_of(Config, "")]
    owners = registry.STRATEGIES | registry.TERMS | registry.GROUPS
    for owner, entry in owners.items():
        module = registry.module(entry)
        if own := _of(module.Settings, f"{owner}."):
            title = " ".join((module.__doc__ or owner).split("\n\n")[0].split()).rstrip(":")
            lines += ["", f"{owner}: {title}", *own]
    return "\n".join(lines)


def backends() -> str:
    """Which backends run here, and why the others do not."""
    from .. import backends as module

    reasons = module.available()
    chosen = module.choose()
    width = max(map(len, reasons)) + 2
    return "\n".join(
        f"{name:{width}}{reason or 'available' + (' (auto takes it)' if name == chosen else '')}"
        for name, reason in reasons.items()
    )


def cached() -> str:
    """What the cache of photos and kernels holds, what goes first last, and how much it may take."""
    from ..datasets import cache

    found = cache.entries()[::-1]
    lines = [
        f"  {in_words(entry.bytes):>8}  {time.strftime(TIME, time.localtime(entry.used))}  {entry.path.name}"
        for entry in found
        if entry.path.suffix == ".photos"
    ]
    for ending, what in (
        (".png", "photos, undistorted or of the built-in scene"),
        (cache.CODE, "kernels' machine code"),
    ):
        if sizes := [entry.bytes for entry in found if entry.path.suffix == ending]:
            lines.append(f"  {in_words(sum(sizes)):>8}  {len(sizes)} {what}")
    total = in_words(sum(entry.bytes for entry in found))
    bound = f"{total} of {in_words(cache.limit())} (GS_CACHE_SIZE)"
    return "\n".join([f"{cache.cache_folder()}: {bound}; gs-train --clear-cache empties it", *lines])


def cleared() -> str:
    """Empties the cache of photos."""
    from ..datasets import cache

    count, size = cache.clear()
    return f"{cache.cache_folder()}: {count} files removed, {in_words(size)}"


def _of(owner: type, prefix: str) -> list[str]:
    comments = _comments(owner)
    lines = []
    for field in fields(owner):
        if field.name == "sections":
            continue
        default = json.dumps(field.default)
        what = comments.get(field.name, "")
        takes = allowed(owner, field.name)
        lines.append(f"  {prefix + field.name:26}{default:13}  {takes}" + (f"; {what}" if what else ""))
    return lines


def _comments(owner: type) -> dict[str, str]:
    """What stands beside each field of a dataclass; where nothing does, the comment above it, which fields that
    follow one another share.
    """
    try:
        source = textwrap.dedent(inspect.getsource(owner))
    except OSError:  # without its source
        return {}
    words = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    alone = {i for i, line in enumerate(source.splitlines(), 1) if line.lstrip().startswith("#")}
    found: dict[str, str] = {}
    block, ended = "", 0  # the comment above the last field, and that field's last line
    for node in ast.parse(source).body[0].body:  # type: ignore[attr-defined]
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        rows = [i for i in range(node.lineno, (node.end_lineno or node.lineno) + 1) if i in words]
        above = node.lineno - 1
        while above in alone:
            above -= 1
        if above + 1 < node.lineno or above != ended:
            block = " ".join(words[i] for i in range(above + 1, node.lineno))
        ended = node.end_lineno or node.lineno
        found[node.target.id] = " ".join(words[i] for i in rows) or block
    return found


def _first_line(path: Path) -> str:
    line = path.read_text("utf-8").splitlines()[0]
    return line.removeprefix("#").strip() if line.startswith("#") else ""


def _entry(name: str, line: str) -> str:
    return f"  {name:22}{line}"
