# SPDX-License-Identifier: Apache-2.0
"""clang for the text of a kernel: as a check with Metal's address spaces, or as a library that runs.

The text stays as it is but for two things that C++ cannot say, both done here with regular expressions: the
line that instantiates a template, and variables of a function in the threadgroup's address space.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from .mlx_text import Argument, Text

HERE = Path(__file__).parent
LANGUAGE = [
    "-x",
    "c++",
    "-std=c++14",
    "-nostdinc",
    f"-I{HERE}",
    "-Wno-c++17-extensions",
    "-Wno-unknown-attributes",
]
STRICT = ["-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter", "-Wno-unused-function"]
STRICT += ["-Wno-unused-const-variable", "-Wno-unused-command-line-argument"]
# Each access calls __tsan_read4 and its kin, which are the runtime's; so does what C++ leaves undefined.
WATCHED = ["-fsanitize=thread", "-mllvm", "-tsan-instrument-read-before-write"]
WATCHED += ["-mllvm", "-tsan-instrument-func-entry-exit=0"]
UNDEFINED = "bounds,integer-divide-by-zero,shift,float-cast-overflow,bool"
WATCHED += [f"-fsanitize={UNDEFINED}", f"-fsanitize-recover={UNDEFINED}"]
RUN = ["-O1", "-fPIC", "-fno-math-errno", "-ffp-contract=off", "-fno-vectorize", "-fno-slp-vectorize"]
RUN += ["-ftrivial-auto-var-init=pattern", "-w"]
WITHOUT = "no clang: neither clang++ (apt-get install clang) nor ziglang (pip install ziglang) is here"


class CompileError(Exception):
    """What clang says about a text."""


@cache
def clang() -> tuple[str, ...] | None:
    """The command that is clang; None if there is none. GS_CLANG names one, or is "ziglang"."""
    named = os.environ.get("GS_CLANG") or shutil.which("clang++")
    if named and named != "ziglang":
        return (named,)
    if importlib.util.find_spec("ziglang"):
        return (sys.executable, "-m", "ziglang", "clang")
    return None


def linker() -> tuple[str, ...]:
    """The command that compiles the runtime and links: any compiler of C++ with its headers."""
    found = shutil.which("c++") or shutil.which("g++")
    if found:
        return (found,)
    command = clang()
    assert command is not None, WITHOUT
    return (*command[:-1], "c++") if "ziglang" in command else command


def _zig(*options: str) -> list[str]:
    """The options if zig links: it would bring a runtime of its own for what C++ leaves undefined."""
    return list(options) if "ziglang" in linker() else []


@cache
def folder() -> Path:
    """Where compiled libraries are kept for other runs of the tests."""
    path = HERE.parent.parent / ".pytest_cache" / "metal"
    path.mkdir(parents=True, exist_ok=True)
    return path


def call(*arguments: str | Path, text: str = "", command: tuple[str, ...] | None = None) -> str:
    """What clang prints; CompileError with its complaints where it finds fault."""
    command = command or clang()
    assert command is not None, WITHOUT
    words = [*command, *map(str, arguments)]
    done = subprocess.run(words, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CompileError(done.stderr)
    return done.stdout


# ---- the text as C++ ----

DECLARATION = re.compile(
    r"(?<=[;{}\n])(\s*)threadgroup\s+((?:const\s+)?[\w:]+(?:<[^;{}]*?>)?)\s+(\w+\s*(?:\[[^;]*)?(?:,[^;*&=]*)?);"
)
INSTANTIATION = re.compile(r"^template \[\[host_name\(\"\w+\"\)\]\] \[\[kernel\]\] ", re.MULTILINE)


def as_cpp(text: str, run: bool) -> str:
    """The text for clang with msl.h in front; lines keep their numbers."""

    def declare(match: re.Match[str]) -> str:
        space, kind, names = match.groups()
        if not run:
            return f"{space}extern threadgroup {kind} {names};"
        out = []
        for name, sizes in re.findall(r"(\w+)\s*((?:\[[^\[\]]*\]\s*)*)(?:,|$)", names):
            array = f"gs_type_{name}"
            size = f"sizeof({array}), alignof({array}) < 4 ? alignof({array}) : 4"
            out.append(f"typedef {kind} {array}{sizes}; ")
            out.append(f'{array}& {name} = *({array}*)gs_threadgroup(__COUNTER__, {size}, "{name}"); ')
        return space + "".join(out)

    text = DECLARATION.sub(declare, INSTANTIATION.sub("template ", text))
    mode = "#define GS_EMULATE\n" if run else ""
    return f'{mode}#include "msl.h"\n#line 1 "kernel"\n{text}'


def check(text: str) -> None:
    """CompileError unless the text is right: words, types, address spaces, no warning."""
    with tempfile.TemporaryDirectory() as scratch:
        call(
            *LANGUAGE,
            *STRICT,
            "-O0",
            "-c",
            "-",
            "-o",
            Path(scratch) / "kernel.o",
            text=as_cpp(text, run=False),
        )


def expanded(text: str) -> str:
    """The text with its own macros expanded, Metal's words as they are; `# 12 "kernel"`: line 12 follows."""
    return call(*LANGUAGE, "-E", "-D__METAL_VERSION__=310", "-", text=f'#line 1 "kernel"\n{text}')


def syntax_tree(text: str) -> str:
    """clang's syntax tree of as_cpp(text) as JSON."""
    options = ["-w", "-fsyntax-only", "-Xclang", "-ast-dump=json"]
    return call(*LANGUAGE, *options, "-", text=as_cpp(text, run=False))


# ---- the text as a library ----


def entry(text: Text) -> str:
    """A C function `gs_entry(buffers, place)` that calls the kernel; buffers as in `buffers_of`."""
    values, buffer = [], 0
    for argument in text.arguments:
        if argument.source == "attribute":
            values.append(f"gs_place::{argument.name}(place)")
            continue
        const = "" if argument.source == "output" else "const "
        pointer = f"({const}{argument.type}*)buffers[{buffer}]"
        values.append(pointer if argument.sign == "*" else f"*{pointer}")
        buffer += 1
    arguments = ",\n    ".join(values)
    call_it = f"{text.function}(\n    {arguments});"
    return f'extern "C" GS_PLAIN void gs_entry(void** buffers, const void* place) {{\n  {call_it}\n}}\n'


def library(text: Text) -> ctypes.CDLL:
    """The kernel as a library with the function gs_entry; compiled once, then kept."""
    return _library(as_cpp(text.text, run=True) + '\n#include "place.h"\n' + entry(text))


@cache
def _library(source: str) -> ctypes.CDLL:
    runtime()
    return ctypes.CDLL(str(_built(source, [*LANGUAGE, *RUN, *WATCHED], "kernel", clang())))


@cache
def runtime() -> ctypes.CDLL:
    """The runtime; its functions are visible to the libraries loaded after it."""
    source = (HERE / "runtime.cpp").read_text()
    options = ["-x", "c++", "-std=c++17", f"-I{HERE}", "-O2", "-fPIC", "-U_FORTIFY_SOURCE"]
    options += _zig("-fno-sanitize=all")
    return ctypes.CDLL(str(_built(source, options, "runtime", linker())), mode=ctypes.RTLD_GLOBAL)


@cache
def _headers() -> str:
    return "".join(path.read_text() for path in sorted(HERE.glob("*.h")))


def _built(source: str, options: list[str], name: str, command: tuple[str, ...] | None) -> Path:
    """The shared library of a source; from the folder if it was built before."""
    key = hashlib.sha256("\0".join([str(command), _headers(), source, *options]).encode()).hexdigest()[:24]
    path = folder() / f"{name}-{key}.so"
    if not path.exists():
        with tempfile.TemporaryDirectory() as scratch:
            compiled, linked = Path(scratch) / "kernel.o", Path(scratch) / "kernel.so"
            call(*options, "-c", "-", "-o", compiled, text=source, command=command)
            undefined = ["-undefined", "dynamic_lookup"] if sys.platform == "darwin" else []
            call(
                "-shared",
                "-O2",
                *_zig("-fno-sanitize=all"),
                compiled,
                "-o",
                linked,
                *undefined,
                "-lm",
                command=linker(),
            )
            shutil.copy(linked, path.with_suffix(f".{os.getpid()}"))
        path.with_suffix(f".{os.getpid()}").replace(path)
    return path


def buffers_of(text: Text) -> list[Argument]:
    """The arguments that are buffers, in the order of gs_entry's."""
    return [argument for argument in text.arguments if argument.source != "attribute"]
