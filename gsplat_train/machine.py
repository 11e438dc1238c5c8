# SPDX-License-Identifier: Apache-2.0
"""What processor and memory this machine and this process have, as far as the system says."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import re
import resource
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import IO, NamedTuple

UNLIMITED = 1 << 62  # what is above it is "no limit"
AUTO_SHARE = 0.85  # of what is free: the rest is for the system's own files, and for what others will ask for
_SIZE = re.compile(r"(\d+(?:\.\d*)?)\s*(?:([kmgt])(i?)b?)?", re.IGNORECASE)


class Memory(NamedTuple):
    """Bytes of memory for this process."""

    physical: int  # of the machine
    limit: int  # the least of that, of the control group's limit and of the process's own (ulimit -v)
    free: int  # what this process may still take of `limit` without pushing others out
    why: str  # what sets the limit, in words


def memory() -> Memory:
    """What there is now."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit, why = physical, "of this machine"
    free = min(_available(physical), physical)
    group, used = _control_group()
    if group < limit:
        limit, why = group, "of this control group"
    free = min(free, max(group - used, 0))
    own = min(_soft(resource.RLIMIT_AS), _soft(getattr(resource, "RLIMIT_DATA", resource.RLIMIT_AS)))
    if own < limit:
        limit, why = own, "of this process (ulimit -v)"
        free = min(free, max(own - _status("VmSize"), 0))
    return Memory(physical, limit, free, why)


@cache
def processor() -> str:
    """Its name, and how many this process may use."""
    name = platform.processor() or platform.machine()
    if sys.platform == "darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            name = subprocess.run(command, capture_output=True, text=True, timeout=5).stdout.strip() or name
        return f"{name}, {os.cpu_count()} processors"
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    except OSError:
        pass
    return f"{name}, {len(os.sched_getaffinity(0))} of {os.cpu_count()} processors"


def shows_bars(stream: IO[str] | None) -> bool:
    """Whether a stream is a terminal on which a bar can be drawn: that knows its size and overwrites a line. Those of
    containers and editors do not always.
    """
    try:
        if stream is None or not stream.isatty() or os.environ.get("TERM") == "dumb":
            return False
        return min(os.get_terminal_size(stream.fileno())) > 0
    except (OSError, ValueError):
        return False


def peak_bytes() -> int:
    """Peak resident memory of this process. On Linux ru_maxrss starts at what the parent held, VmHWM at 0."""
    if sys.platform == "linux":
        return _status("VmHWM")
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes there, else in kilobytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def resident_bytes() -> int:
    """Resident memory of this process now; its peak where the system does not say."""
    return _status("VmRSS") or peak_bytes()


class Budget(NamedTuple):
    """How much memory this process may take in all."""

    bytes: int
    why: str  # where the number is from, in words


def budget(text: str = "auto") -> Budget:
    """The budget that a setting asks for, a size or auto: what is resident now and a share of what is free."""
    if text != "auto":
        return Budget(bytes_of(text), "--memory-budget")
    found = memory()
    return Budget(resident_bytes() + int(AUTO_SHARE * found.free), f"auto, {in_words(found.free)} free")


def bytes_of(text: str) -> int:
    """Bytes of a size such as 2G, 1.5GB, 500M or 2GiB; ValueError where it is none."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no size such as 2G or 500M")
    power = " kmgt".index((match[2] or " ").lower())
    return int(float(match[1]) * (1024 if match[3] else 1000) ** power)


def give_back() -> None:
    """Gives the system what was freed and is kept for later, where the C library can (glibc)."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)


def in_words(count: float) -> str:
    """Bytes as MB or GB."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def _status(field: str) -> int:
    """A line of /proc/self/status in bytes; 0 where there is none."""
    try:
        text = Path("/proc/self/status").read_text()
        return 1024 * int(text.split(f"{field}:")[1].split()[0])
    except (OSError, IndexError, ValueError):
        return 0


def _soft(which: int) -> int:
    soft = resource.getrlimit(which)[0]
    return UNLIMITED if soft == resource.RLIM_INFINITY else soft


def _available(physical: int) -> int:
    """What Linux says can be had without swapping; elsewhere all of it."""
    try:
        text = Path("/proc/meminfo").read_text()
        return 1024 * int(text.split("MemAvailable:")[1].split()[0])
    except (OSError, IndexError, ValueError):
        return physical


def _control_group() -> tuple[int, int]:
    """(limit, used) of the tightest control group above this process, version 2 or 1; no limit without one.

    Pages of files that nobody has used of late are no use: the system takes them back where memory is asked for.
    """
    found = [(UNLIMITED, 0)]
    for folder, names, idle in (
        (_group_v2(), ("memory.max", "memory.current"), "inactive_file"),
        (
            Path("/sys/fs/cgroup/memory"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
            "total_inactive_file",
        ),
    ):
        for place in (folder, *folder.parents):
            try:
                limit, used = ((place / name).read_text().strip() for name in names)
                found.append((int(limit), max(int(used) - _statistic(place / "memory.stat", idle), 0)))
            except (OSError, ValueError):  # not there, or "max"
                continue
    return min(found, key=lambda pair: pair[0] - pair[1])


def _statistic(path: Path, name: str) -> int:
    """A line of a control group's memory.stat in bytes; 0 where there is none."""
    try:
        lines = path.read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.split()[:1] == [name])
    except (OSError, StopIteration, ValueError, IndexError):
        return 0


def _group_v2() -> Path:
    try:
        line = next(
            line for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::")
        )
    except (OSError, StopIteration):
        return Path("/sys/fs/cgroup")
    return Path("/sys/fs/cgroup") / line[3:].lstrip("/")
