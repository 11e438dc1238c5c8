# SPDX-License-Identifier: Apache-2.0
"""What is installed and what the machine has: facts for the report, none of which names the user or their files."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from importlib import metadata
from typing import Any

import mlx.core as mx
import numpy as np
import PIL

from .. import backends
from ..machine import in_words, memory
from ..storage import cache_folder
from ..training.run_folder import origin
from . import Finding


def versions() -> Iterator[Finding]:
    """The program, Python, its packages and MLX's build."""
    own = origin()
    commit = f", commit {own['commit']}" if own["commit"] else ""
    yield Finding("gsplat_train", f"{own['version']}{commit}")
    yield Finding("system", f"{platform.system()} {platform.release()} {platform.machine()}{_macos()}")
    yield Finding("python", f"{platform.python_version()}, numpy {np.__version__}, pillow {PIL.__version__}")
    builds = [name for name in backends.MLX_BUILDS if _version(name)] or ["no separate build"]
    yield Finding("mlx", f"{_version('mlx')} ({', '.join(builds)}), default device {mx.default_device()}")


def device() -> Iterator[Finding]:
    """What MLX says of its device, and on a Mac what a kernel finds."""
    try:
        info = mx.device_info()
    except Exception as error:  # no device of that kind
        yield Finding("device", f"MLX does not say ({error})")
        return
    yield Finding("device", ", ".join(f"{key} {value}" for key, value in sorted(info.items())))
    if mx.metal.is_available():
        yield thread_groups()


def thread_groups() -> Finding:
    """On Metal: how wide a SIMD group is, and that thread groups of every size that the kernels use run whole."""
    source = "uint i = thread_position_in_threadgroup.x; out[i] = threads_per_simdgroup;"
    kernel: Any = mx.fast.metal_kernel("gs_doctor", [], ["out"], source)
    widths, whole = set(), []
    for size in (32, 64, 128, 256, 512, 1024):
        (out,) = kernel(
            inputs=[], grid=(size, 1, 1), threadgroup=(size, 1, 1), output_shapes=[(size,)],
            output_dtypes=[mx.uint32], init_value=0,
        )  # fmt: skip
        numbers = np.asarray(out)
        widths |= set(numbers.tolist()) - {0}
        if (numbers > 0).all():
            whole.append(size)
    good = widths == {32} and 256 in whole
    text = f"SIMD width {sorted(widths)}, whole thread groups up to {max(whole, default=0)}"
    return Finding(
        "thread groups", text + ("" if good else "; the kernels need SIMD width 32 and groups of 256"), good
    )


def resources() -> Iterator[Finding]:
    """Processors, memory and disk."""
    try:
        usable = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        usable = os.cpu_count() or 1
    threads = f", GS_THREADS={os.environ['GS_THREADS']}" if os.environ.get("GS_THREADS") else ""
    yield Finding("processors", f"{usable} of {os.cpu_count()}{threads}{_simd()}")
    found = memory()
    good = None if found.free > 1 << 30 else False
    yield Finding(
        "memory",
        f"{in_words(found.free)} free of {in_words(found.limit)} {found.why}"
        + ("" if good is None else "; less than 1 GB is free: close other programs"),
        good,
    )
    for words, folder in (("here", "."), ("in the cache's folder", str(_existing(cache_folder())))):
        yield Finding("disk", f"{in_words(shutil.disk_usage(folder).free)} free {words}")


def _existing(folder: os.PathLike[str]) -> str:
    path = os.fspath(folder)
    while not os.path.exists(path) and os.path.dirname(path) != path:
        path = os.path.dirname(path)
    return path


def _simd() -> str:
    try:
        from .. import _csrc
    except ImportError:
        return ""
    return f", {_csrc.simd()} of {', '.join(_csrc.instruction_sets())}"


def _macos() -> str:
    return f", macOS {platform.mac_ver()[0]}" if platform.system() == "Darwin" else ""


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
