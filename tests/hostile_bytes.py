# SPDX-License-Identifier: Apache-2.0
"""What hostile files are made of: a sound file's bits, bytes, sizes, numbers and lines altered, also within its
container where it has one (JSON, ZIP, gzip, glTF, PNG), past checksums and compression.
"""

from __future__ import annotations

import gzip
import io
import json
import random
import re
import zipfile
import zlib
from typing import Any

from gsplat_train.model import io as model_io

NUMBERS = [
    "0", "-1", "1", "nan", "NaN", "inf", "-inf", "1e999", "-1e308", "1e-320", "4294967295", "4294967296", "-2147483649",
    "9223372036854775807", "18446744073709551616", "1" + "0" * 400, "0x10", "1_000", "", "99999999", "65535", "1e6",
]  # fmt: skip
VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, 10**400, -(10**30), 1e308, -1e308, 1e-320, float("nan"),
    float("inf"), "", "x", "../../etc/passwd", "/etc/passwd", "\x00", "\ud800", "a" * 5000, [], {}, [[]], [0] * 3000,
    {"a": {}}, "images", ".", 0.5, 99_999_999,
]  # fmt: skip
SIZES = [
    0,
    1,
    0x7F,
    0xFF,
    0x7FFF,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    2**63 - 1,
    2**64 - 1,
    10**9,
    10**6,
]


def altered(data: bytes, rng: random.Random, name: str) -> bytes:
    """A hostile version of a file."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        data = _once(data, rng, name)
    return data


def _once(data: bytes, rng: random.Random, name: str) -> bytes:
    inside = _inside(data, rng, name)
    if inside is not None:
        return inside
    place = rng.randrange(len(data) + 1)
    kind = rng.randrange(12)
    if kind == 0 and data:  # a bit
        place = rng.randrange(len(data))
        return data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]
    if kind == 1:  # a byte or a few
        return (
            data[:place] + rng.randbytes(rng.choice((1, 1, 2, 4, 8))) + data[place + rng.choice((0, 1, 4)) :]
        )
    if kind == 2:  # the end
        return data[:place]
    if kind in (3, 4, 5):  # a number of 1, 2, 4, 8 bytes, early in the file for preference
        width = rng.choice((1, 2, 4, 8))
        place = rng.randrange(min(len(data) + 1, rng.choice((16, 64, 256, 1 << 30))))
        number = (rng.choice(SIZES) & (1 << 8 * width) - 1).to_bytes(width, rng.choice(("little", "big")))
        return data[:place] + number + data[place + width :]
    if kind == 6:  # a part again, or gone, or elsewhere
        first, last = sorted((place, rng.randrange(len(data) + 1)))
        part = data[first : min(last, first + 4000)]
        other = rng.randrange(len(data) + 1)
        return rng.choice(
            (data[:first] + data[last:], data[:last] + part + data[last:], data[:other] + part + data[other:])
        )
    if kind in (7, 8, 9):  # a number in text
        found = list(re.finditer(rb"-?\d[\d.eE+-]*", data[:200_000]))
        if found:
            spot = rng.choice(found)
            return data[: spot.start()] + rng.choice(NUMBERS).encode() + data[spot.end() :]
    if kind == 10:  # a line
        lines = data.split(b"\n")
        i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
        lines[i] = rng.choice((lines[j], b"", b"\xff\xfe", lines[i] * 2, b" ".join(lines[i].split()[::-1])))
        return b"\n".join(lines)
    words = list(re.finditer(rb"[\w./-]{2,}", data[:200_000]))
    if words:
        spot = rng.choice(words)
        new = rng.choice(
            (rng.choice(words)[0], b"../" * 9 + b"etc/passwd", b"%s%n", b"\x00", b"'", b"a" * 999)
        )
        return data[: spot.start()] + new + data[spot.end() :]
    return data[:place] + bytes(rng.choice((1, 999)))


def _inside(data: bytes, rng: random.Random, name: str) -> bytes | None:
    """Altered within its container: past checksums, compression and syntax. None: not this time, or there is none."""
    if rng.random() < 0.4:
        return None
    try:
        if name.endswith((".json", ".jsonl")) or data[:1] == b"{":
            return _json(data, rng, name)
        if name.endswith(".sog"):
            return _zip(data, rng)
        if data[:2] == b"\x1f\x8b":
            return gzip.compress(_once(gzip.decompress(data), rng, "inner"), 1)
        if name.endswith(".glb") and len(data) > 20:
            size = int.from_bytes(data[12:16], "little")
            text = _json(data[20 : 20 + size], rng, "inner")
            text += b" " * (-len(text) % 4)
            body = data[:12] + len(text).to_bytes(4, "little") + data[16:20] + text + data[20 + size :]
            return body[:8] + len(body).to_bytes(4, "little") + body[12:]
        if name.endswith(".png") and data[:4] == b"\x89PNG":
            return _png(data, rng)
    except Exception:  # it was damaged before, and whoever opens it says so in a way of his own
        return None
    return None


def _json(data: bytes, rng: random.Random, name: str) -> bytes:
    if rng.random() < 0.02:
        return b'{"frames": ' + b"[" * 200_000
    value = json.loads(data)
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        for key in node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
            places.append((node, key))
            walk(node[key])

    walk(value)
    if not places:
        return data
    node, key = rng.choice(places)
    action = rng.randrange(6)
    if action == 0:
        del node[key]
    elif action == 1:
        other, its = rng.choice(places)
        node[key] = other[its] if its in (other if isinstance(other, dict) else range(len(other))) else None
        try:
            json.dumps(value)
        except ValueError:  # it holds itself now
            node[key] = None
    elif action == 2 and isinstance(node[key], int | float) and not isinstance(node[key], bool):
        node[key] = rng.choice(
            (-node[key], node[key] * 1000, node[key] + 1, node[key] * 1e30, str(node[key]))
        )
    elif action == 3 and isinstance(node, list):
        node.insert(rng.randrange(len(node) + 1), rng.choice(VALUES))
    else:
        node[key] = rng.choice(VALUES)
    if name.startswith("checkpoints/") and isinstance(value, dict) and value.get("format") == 2:
        value.pop("check", None)
        value["check"] = model_io.check_of(value)
    return json.dumps(value).encode("utf-8", "surrogatepass")


def _zip(data: bytes, rng: random.Random) -> bytes:
    """One member altered, or the table that says how large they are."""
    with zipfile.ZipFile(io.BytesIO(data)) as old:
        members = {info.filename: old.read(info) for info in old.infolist()}
    chosen = rng.choice(list(members))
    members[chosen] = altered(members[chosen], rng, chosen)
    if rng.random() < 0.05:
        members[chosen] = bytes(64 << 20)  # a bomb: 64 kB of zip
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        for key, content in members.items():
            new.writestr(key, content)
    return out.getvalue()


def _png(data: bytes, rng: random.Random) -> bytes:
    """A chunk altered, its checksum right; for one in four another size in the header."""
    chunks, place = [], 8
    while place + 8 <= len(data):
        size = int.from_bytes(data[place : place + 4], "big")
        chunks.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + size]))
        place += 12 + size
    i = 0 if rng.random() < 0.4 else rng.randrange(len(chunks))
    kind, body = chunks[i]
    if kind == b"IDAT" and rng.random() < 0.5:
        body = zlib.compress(_once(zlib.decompress(body), rng, "inner"), 1)
    else:
        body = _once(body, rng, "inner")
    chunks[i] = (kind, body)
    return data[:8] + b"".join(
        len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")
        for kind, body in chunks
    )
