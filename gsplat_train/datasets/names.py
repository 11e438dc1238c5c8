# SPDX-License-Identifier: Apache-2.0
"""Which file is the photo of which name, from the names alone.

Enters: the names that a reconstruction knows and the paths of the files, both relative, with "/". Bytes that
are no UTF-8 stand in them as Python's surrogates. Leaves: a file for each name, or the files it could be.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

# What zip programs, Windows and older cameras of a country write names in.
CODE_PAGES = ("gbk", "shift_jis", "big5", "euc_kr", "cp1252", "cp437", "cp850", "cp1251", "cp866")


class Match(NamedTuple):
    """The file of a name, and the way it was found."""

    file: str
    way: str


class Matches(NamedTuple):
    found: dict[str, Match]  # by name
    doubtful: dict[str, list[str]]  # names without a file, each with the several files it could be
    shared: dict[str, list[str]]  # files without a name, each with the several names it could be


def as_name(path: str) -> str:
    """A path that some program wrote as the name of a view: with "/", without drive, never leading out of a folder."""
    parts = PurePosixPath(re.sub(r"^[A-Za-z]:", "", path.strip().replace("\\", "/"))).parts
    return "/".join(part for part in parts if part not in ("/", "//", ".", ".."))


def match(names: Iterable[str], files: Iterable[str]) -> Matches:
    """The file of each name by the first way that finds one and only one; a name may be in none of the three.

    Each name goes its own way: a set whose names differ from the files' for some views only loses no view. Where
    folders in names are those on disk, though, a photo of another folder does not stand in for one that is missing.
    """
    waiting, free = sorted(set(names)), set(files)
    found: dict[str, Match] = {}
    doubtful: dict[str, list[str]] = {}
    shared: dict[str, list[str]] = {}
    for way, keys in WAYS:
        if way not in FOLDERS_KEPT and any("/" in name for name in found):
            waiting = [name for name in waiting if not ("/" in name and name.isascii())]
        if not waiting:
            break
        claims: dict[str, set[str]] = {}  # by name: files
        index: dict[str, set[str]] = {}
        for file in free:
            for key in keys(file):
                index.setdefault(key, set()).add(file)
        for name in waiting:
            if fits := {file for key in keys(name) for file in index.get(key, ())}:
                claims[name] = _nearest(name, fits)
        claimants: dict[str, list[str]] = {}
        for name, fits in claims.items():
            for file in fits:
                claimants.setdefault(file, []).append(name)
        for name, fits in claims.items():
            (file, *others) = sorted(fits)
            if others:
                doubtful[name] = sorted(fits)
            elif len(claimants[file]) > 1:
                shared[file] = sorted(claimants[file])
            else:
                found[name] = Match(file, way)
        waiting = [name for name in waiting if name not in claims]
        free -= {file for fits in claims.values() for file in fits}
    return Matches(found, doubtful, shared)


def guess(names: Sequence[str], files: Sequence[str]) -> dict[str, Match]:
    """The files of names that no file resembles: by the number in the name, else by sorted order.

    Empty where neither can be: a number must be there for every name, or the counts be equal.
    """
    numbered_names, numbered_files = _by_number(names), _by_number(files)
    if len(numbered_names) == len(names) and set(numbered_names) <= set(numbered_files):
        return {name: Match(numbered_files[number], "number") for number, name in numbered_names.items()}
    if len(names) != len(files):
        return {}
    pairs = zip(sorted(names, key=natural), sorted(files, key=natural), strict=True)
    return {name: Match(file, "sorted order") for name, file in pairs}


def natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts numbers in names by their value: 2.png before 10.png."""
    parts = re.split(r"(\d+)", PurePosixPath(name).with_suffix("").as_posix())
    return [(int(part), part) if part.isdecimal() else (-1, part) for part in parts]


def _by_number(names: Sequence[str]) -> dict[int, str]:
    """Names by the last number in them; empty where two have the same."""
    numbered: dict[int, str] = {}
    for name in names:
        digits = re.findall(r"\d+", PurePosixPath(name).stem)
        if digits and int(digits[-1]) in numbered:
            return {}
        if digits:
            numbered[int(digits[-1])] = name
    return numbered


def _nearest(name: str, files: set[str]) -> set[str]:
    """Those of `files` that share the most trailing folders with the name."""
    if len(files) == 1:
        return files
    folders = _folded(name).split("/")[-2::-1]

    def shared(file: str) -> int:
        count = 0
        for own, its in zip(folders, _folded(file).split("/")[-2::-1], strict=False):
            if own != its:
                break
            count += 1
        return count

    most = max(map(shared, files))
    return {file for file in files if shared(file) == most}


def _folded(name: str) -> str:
    """Without the differences that file systems make: slashes, case, Unicode's composed and split letters."""
    path = PurePosixPath(name.replace("\\", "/"))
    plain = "/".join(part for part in path.parts if part not in ("/", "."))
    return unicodedata.normalize("NFC", unicodedata.normalize("NFKC", plain).casefold())


def _stem(name: str) -> str:
    folded = _folded(name)
    return PurePosixPath(folded).with_suffix("").as_posix() if folded else folded


def _readings(name: str) -> set[str]:
    """The base names, without extension, that the bytes of a name spell in other code pages."""
    try:
        raw = os.fsencode(name)
    except UnicodeError:  # half of a pair of surrogates, as JSON can hold it: no file has such a name
        return {PurePosixPath(_stem(name)).name}
    try:
        raw.decode("utf-8")
        foreign = []  # UTF-8 that was read in another code page, perhaps
        for page in CODE_PAGES:
            try:
                foreign.append(name.encode(page).decode("utf-8"))
            except UnicodeError:
                continue
    except UnicodeError:
        foreign = [raw.decode(page, "replace") for page in CODE_PAGES]
    return {PurePosixPath(_stem(reading)).name for reading in (name, *foreign)}


def _ascii(name: str) -> set[str]:
    """What is left of the base name, without extension, when all that is not ASCII is left out."""
    rest = re.sub(r"[^a-z0-9]+", "", PurePosixPath(_stem(name)).name.encode("ascii", "ignore").decode())
    return {rest} if rest else set()


def _one(key: Callable[[str], str]) -> Callable[[str], set[str]]:
    return lambda name: {key(name)}


WAYS: tuple[tuple[str, Callable[[str], set[str]]], ...] = (
    ("name", _one(str)),
    ("name, ignoring case", _one(_folded)),
    ("stem, ignoring case and extension", _one(_stem)),
    ("base name, ignoring the folders", _one(lambda name: PurePosixPath(_folded(name)).name)),
    ("base name, ignoring folders and extension", _one(lambda name: PurePosixPath(_stem(name)).name)),
    ("base name in another code page", _readings),
    ("the ASCII letters of the name", _ascii),
)
FOLDERS_KEPT = frozenset(way for way, _ in WAYS[:3])  # ways that compare the folders in a name as well
