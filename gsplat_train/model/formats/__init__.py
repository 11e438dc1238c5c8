# SPDX-License-Identifier: Apache-2.0
"""Files of splats, one module a format; `registry.FORMATS` lists them by the end of a file's name.

A format's module has `read(path) -> Splats` and `write(path, splats) -> None`. Both raise a UserError of one
line for what cannot be read or written; `write` leaves a whole file or none.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ... import registry
from ...errors import UserError


def ending_of(path: Path) -> str | None:
    """The longest of `registry.FORMATS` that the name of `path` ends in; None where there is none."""
    name = path.name.lower()
    return max((end for end in registry.FORMATS if name.endswith(end)), key=len, default=None)


def format_of(path: Path) -> Any:
    """The module that reads and writes files named as `path`; UserError that lists the formats."""
    ending = ending_of(path)
    if ending is None:
        allowed = ", ".join(registry.FORMATS)
        raise UserError(f"{path} is in no splat format known by its end; allowed are {allowed}")
    return registry.module(registry.FORMATS[ending])
