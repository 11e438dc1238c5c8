# SPDX-License-Identifier: Apache-2.0
"""Settings as dataclasses: a field declares its default, range and choices; values are checked against these.

`Config` is one such dataclass; a strategy, a loss term or a parameter group may own another.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import field, fields
from typing import Any

from .errors import UserError
from .machine import bytes_of

LEAST_SIZE = 1_000_000  # bytes; less is a number without its unit
SIZES = "auto, or a size such as 2G or 500M"

_NUMBER = r"(\d+(?:\.\d+)?)"
_TIME = re.compile(f"(?:{_NUMBER}h)?(?:{_NUMBER}m(?:in)?)?(?:{_NUMBER}s?)?", re.ASCII)


def number(default: float, low: float, high: float = math.inf) -> Any:
    """A field for numbers from `low` to `high`; whole ones where the default is an int."""
    return field(default=default, metadata={"low": low, "high": high})


def choice(default: str, *others: str, table: Mapping[str, Any] | None = None) -> Any:
    """A field for one of a few words, and of those that `table` has when a value is checked."""
    return field(default=default, metadata={"choices": (default, *others), "table": table or {}})


def size(default: str) -> Any:
    """A field for an amount of memory: a size such as 2G, or auto."""
    return field(default=default, metadata={"size": True})


def choices(limits: Mapping[str, Any]) -> list[str]:
    """The words that a field made by `choice` allows; `limits` is its metadata."""
    return list(dict.fromkeys([*limits["choices"], *limits["table"]]))


def checked(owner: type, name: str, value: Any, what: str) -> Any:
    """`value` for the field `name` of the dataclass `owner`, of its type and in its range; text is parsed.

    `what` names the value in the UserError of one that is neither.
    """
    spec = {f.name: f for f in fields(owner)}[name]
    return _value(spec.default, spec.metadata, value, what)


def names(owner: type) -> list[str]:
    """The names of a dataclass's fields."""
    return [f.name for f in fields(owner)]


def allowed(owner: type, name: str) -> str:
    """What a field takes, in words."""
    spec = {f.name: f for f in fields(owner)}[name]
    limits = spec.metadata
    if "size" in limits:
        return SIZES
    if "choices" in limits:
        return ", ".join(choices(limits))
    if "low" in limits:
        return _range(limits)
    return {bool: "true or false", str: "text"}.get(type(spec.default), type(spec.default).__name__)


def seconds_of(text: str, what: str) -> float:
    """Seconds of a time as 90, 90s, 5m or 1h30m; UserError for other words, which calls it `what`."""
    found = _TIME.fullmatch(text.replace(" ", "").lower())
    total = sum(
        size * float(part or 0)
        for size, part in zip((3600, 60, 1), found.groups() if found else (), strict=False)
    )
    if not 0 < total < 1e9:
        raise UserError(f"{what} takes a time as 90s, 5m or 1h30m, got {text!r}")
    return total


def _value(default: Any, limits: Mapping[str, Any], value: Any, what: str) -> Any:
    kind = type(default)
    if kind is not str and isinstance(value, str):
        value = _parse(kind, value)
    if kind is float and type(value) is int:
        value = float(value) if abs(value) < 10**308 else (math.inf if value > 0 else -math.inf)
    if type(value) is not kind:
        words = {bool: "true or false", int: "a whole number", float: "a number", str: "a text in quotes"}
        raise UserError(f"{what} must be {words[kind]}, got {value!r}")
    if "choices" in limits and value not in choices(limits):
        raise UserError(f"{what} must be one of {', '.join(choices(limits))}, got {value!r}")
    if "size" in limits and value != "auto" and not _is_size(value):
        raise UserError(f"{what} must be {SIZES}, got {value!r}")
    high = min(limits.get("high", 0), 1e300)
    if "low" in limits and not limits["low"] <= value <= high:  # phrased so that NaN fails
        raise UserError(f"{what} must be {_range(limits)}, got {value!r}")
    return value


def _is_size(text: str) -> bool:
    try:
        return bytes_of(text) >= LEAST_SIZE
    except ValueError:
        return False


def _range(limits: Mapping[str, Any]) -> str:
    if limits["high"] < math.inf:
        return f"from {limits['low']:g} to {limits['high']:g}"
    return f"at least {limits['low']:g}"


def _parse(kind: type, text: str) -> Any:
    """`text` as a value of that type; the text itself where it is none."""
    if kind is bool:
        return {"true": True, "1": True, "false": False, "0": False}.get(text.lower(), text)
    try:
        return kind(text)
    except ValueError:
        return text
