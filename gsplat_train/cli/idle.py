# SPDX-License-Identifier: Apache-2.0
"""Options that somebody gave a command and that cannot have any effect beside the others: they are refused, as
effects.py refuses settings. Each command declares its own where it declares its options.

Of a value that is the default nothing is said, nor of what is harmless by nature: --quiet, --progress.

Beside an option that prints something and ends the program nothing has an effect, no argument either. --help is none of
them: it may be asked of any line, half-written ones too.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from typer.core import TyperCommand
from typer.models import ArgumentInfo, OptionInfo

from ..errors import UserError

Command = Callable[..., None]
HARMLESS = ("quiet", "progress")


class Idle(NamedTuple):
    """Options of a command, and when they have no effect. `set_.images` is --set images=..., `*` is every option."""

    options: str  # the names of their parameters, with spaces between
    when: Callable[[Mapping[str, Any]], Any]  # of the values of all parameters, or of what `check` is told
    why: str  # what follows "--x has no effect"; {name} there is an option as it was given, or an argument
    do: str  # in a few words
    but: str = ""  # of `*`


def refusing(*table: Idle) -> Callable[[Command], Command]:
    """Decorates a command: before it begins, UserError for an option that has no effect."""

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def checked(*arguments: Any, **options: Any) -> None:
            bound = inspect.signature(command).bind(*arguments, **options)
            bound.apply_defaults()
            check(command, table, bound.arguments)
            command(*arguments, **options)

        return checked

    return decorate


def check(command: Command, table: Sequence[Idle], values: Mapping[str, Any]) -> None:
    """UserError for an option among `values` that has no effect by the table.

    values: what parameters of the command are, and what else the table asks for, as found while it works.
    """
    parameters = inspect.signature(command, eval_str=True).parameters
    values = dict(values) | {
        f"set_.{assignment.partition('=')[0].strip()}": assignment for assignment in values.get("set_") or []
    }
    requested = {
        name: value
        for name, value in values.items()
        if name.startswith("set_.") or (name in parameters and _is_asked(value, parameters[name].default))
    }
    for idle in table:
        named = _options(parameters) if idle.options == "*" else idle.options.split()
        found = [name for name in named if name in requested and name not in idle.but.split()]
        if found and idle.when(values):
            words = {name: _words(name, value, parameters) for name, value in requested.items()}
            raise UserError(f"{words[found[0]]} has no effect {idle.why.format(**words)}; {idle.do}")


def _is_asked(value: Any, default: Any) -> bool:
    return value != default and value is not None and value != []


def _options(parameters: Mapping[str, inspect.Parameter]) -> Iterator[str]:
    return (name for name, parameter in parameters.items() if not isinstance(_info(parameter), ArgumentInfo))


def _words(name: str, value: Any, parameters: Mapping[str, inspect.Parameter]) -> str:
    """An option as the command line has it, or an argument's value."""
    if name.startswith("set_."):
        return f"--set {value}"
    info = _info(parameters[name])
    if isinstance(info, ArgumentInfo):
        return str(value)
    spelled = (info.param_decls if info else ()) or (f"--{name.strip('_').replace('_', '-')}",)
    on, _, off = spelled[0].partition("/")
    if isinstance(value, bool):
        return on if value else off or on.replace("--", "--no-", 1)
    return " ".join(f"{on} {each}" for each in (value if isinstance(value, list) else [value]))


def _info(parameter: inspect.Parameter) -> ArgumentInfo | OptionInfo | None:
    """What the annotation of a parameter says of it."""
    about = getattr(parameter.annotation, "__metadata__", ())
    return next((each for each in about if isinstance(each, ArgumentInfo | OptionInfo)), None)


class Refusing(TyperCommand):
    """A command that is refused where something stands beside an option that ends the program."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        values, rest, order = self.make_parser(ctx).parse_args(args=list(args))
        asked = [
            each for each in dict.fromkeys(order) if _ends(each) or _holds(values[each.name], each.default)
        ]
        if any(set(ctx.help_option_names) & set(each.opts) for each in asked):
            return super().parse_args(ctx, ctx.help_option_names[:1])
        ending = [each for each in asked if _ends(each)]
        if ending and not ctx.resilient_parsing:  # as for a shell that completes a line
            others = [each for each in asked if each is not ending[0] and each.name not in HARMLESS]
            others.sort(key=_ends)
            idle = [*(_as_written(each, values[each.name]) for each in others), *rest]
            if idle:
                raise UserError(
                    f"{idle[0]} has no effect beside {ending[0].opts[0]}, which ends the program; leave one of them out"
                )
        return super().parse_args(ctx, args)


def _ends(parameter: Any) -> bool:
    """Whether an option prints something and ends the program: typer calls it eager, except its own two."""
    return bool(parameter.is_eager) or parameter.name in ("install_completion", "show_completion")


def _holds(value: Any, default: Any) -> bool:
    """Whether the parser found that on the command line, and it is not the default."""
    text = isinstance(value, str | list | tuple | bool)  # otherwise the parser's word for nothing
    return text and value not in ([], ()) and str(value) != str(default)


def _as_written(parameter: Any, value: Any) -> str:
    values = value if isinstance(value, list | tuple) else [value]
    if parameter.param_type_name == "argument":
        return " ".join(map(str, values))
    name = (parameter.secondary_opts or parameter.opts if value is False else parameter.opts)[0]
    return name if isinstance(value, bool) else " ".join(f"{name} {each}" for each in values)
