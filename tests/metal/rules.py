# SPDX-License-Identifier: Apache-2.0
"""Rules of Metal that clang does not know for C++, looked up in its syntax tree of the text.

Metal Shading Language Specification: every pointer and reference names its address space, variables outside
functions are `constant`, there are no lambda expressions, no static variables in functions and no double. Its own
words name nothing else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from . import compiler

SPACES = re.compile(r"\b(device|constant|threadgroup|thread)\b")
DECLARED = {"ParmVarDecl", "VarDecl", "FieldDecl"}
RESERVED = {"half", "bfloat", "kernel", "vertex", "fragment", "device", "constant", "threadgroup", "thread"}


def broken_rules(text: str) -> list[str]:
    """One line for each place in the text that breaks a rule, with its line number."""
    text = compiler.expanded(text)
    tree = json.loads(compiler.syntax_tree(text))
    source = compiler.as_cpp(text, run=False)
    found: dict[tuple[int, str], None] = {}
    for node, parents in _walk(tree, []):
        offset = _offset(node)
        if offset is not None:
            for complaint in _complaints(node, parents, source, offset):
                found[(_line(source, offset), complaint)] = None
    return [f"line {line}: {complaint}" for line, complaint in sorted(found)]


def _line(source: str, offset: int) -> int:
    """The line of the text before macros were expanded."""
    marker = list(re.finditer(r'^# (\d+) "kernel".*\n', source[:offset], re.MULTILINE))[-1]
    return int(marker.group(1)) + source.count("\n", marker.end(), offset)


def _complaints(node: dict[str, Any], parents: list[str], source: str, offset: int) -> Iterator[str]:
    kind, name = node["kind"], node.get("name", "")
    if kind == "LambdaExpr":
        yield "a lambda expression"
    if kind == "FloatingLiteral" and node["type"]["qualType"] == "double":
        yield "a number without f"
    if node.get("type", {}).get("qualType") in ("double", "long double") and kind in DECLARED:
        yield f"{name} is double"
    if kind not in DECLARED:
        return
    if name in RESERVED:
        yield f"{name} is a word of Metal's own"
    before, after = _declaration(source, offset, kind)
    points = "*" in before or "&" in before or (kind == "ParmVarDecl" and re.match(r"\w+\s*\[(?!\[)", after))
    if name and points and not SPACES.search(before):
        yield f"{name} points without an address space"
    if kind == "VarDecl" and "FunctionDecl" not in parents and "CXXMethodDecl" not in parents:
        if not re.search(r"\bconstant\b", before):
            yield f"{name} lies outside functions and is not constant"
    elif kind == "VarDecl" and node.get("storageClass") == "static":
        yield f"{name} is static"


def _declaration(source: str, offset: int, kind: str) -> tuple[str, str]:
    """The declaration up to the name, less what other names are set to, and what comes from the name on."""
    begin, depth = offset, 0
    ends = "(,;{}" if kind == "ParmVarDecl" else ";{}("
    while begin:
        last = source[begin - 1]
        value = last == "}" and source[begin:].lstrip().startswith(",")  # of an earlier name: {1, 2}, name
        if not depth and last in ends and not value:
            break
        begin -= 1
        depth += 1 if value or last in ">)" else -1 if last in "<(" or (depth and last == "{") else 0
    before = source[begin:offset]
    while (less := re.sub(r"\([^()]*\)|\{[^{}]*\}", "", before)) != before:
        before = less
    return re.sub(r"=[^,]*,", ",", before), source[offset:]


def _offset(node: dict[str, Any]) -> int | None:
    """Where the node's name is in the text; None where it comes from msl.h or from clang itself."""
    place = node.get("loc") or node.get("range", {}).get("begin", {})
    place = place.get("expansionLoc", place)
    if node.get("isImplicit") or "offset" not in place or place.get("includedFrom"):
        return None
    return int(place["offset"])


def _walk(node: Any, parents: list[str]) -> Iterator[tuple[dict[str, Any], list[str]]]:
    for child in node.get("inner", []):
        if child and "kind" in child:
            yield child, parents
            yield from _walk(child, [*parents, child["kind"]])
