# SPDX-License-Identifier: Apache-2.0
"""CUDA source -> machine code, by the NVRTC library that MLX's CUDA build has loaded.

mx.fast.cuda_kernel compiles a kernel behind headers of its own: 2 s each. Without those headers it takes a
fifth of that; mx.fast.precompiled_cuda_kernel runs the result. `compile_ahead` compiles all kernels at once, while
photos are read. Machine code is kept in the cache, by its text, the compiler and the GPU's architecture.

MLX hashes the code that it is given at each launch, to know the module: 30 KB a kernel, 0.36 MB a step, a sixth of the
host's time and more. Where a file in its own folder has the module it looks at no code, so each launch gives none.
"""

from __future__ import annotations

import ctypes
import functools
import os
import re
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from ...datasets import cache
from ...errors import StorageError
from ...storage import atomic_write
from .kernels import KERNELS, KernelSpec
from .limits import STEP
from .text import body, header

TYPES = {
    "float32": "float", "int32": "int32_t", "uint32": "uint32_t", "uint64": "uint64_t", "uint8": "uint8_t"
}  # fmt: skip
NONE = "553e93901e462a6e"  # std::hash of no code: MLX calls the file of a module by its name and this
CHECK = """
extern "C" __global__ void gs_check(const uint32_t* x, uint32_t* y) { y[threadIdx.x] = x[threadIdx.x] + 1; }
"""
INTEGERS = """
typedef int int32_t;
typedef unsigned char uint8_t;
typedef unsigned int uint32_t;
typedef unsigned long long uint64_t;
"""


def source(spec: KernelSpec, variant: tuple[bool, ...]) -> str:
    """A kernel with its template arguments, as a function named by `symbol`."""
    arguments = [f"const {TYPES[a.dtype]}* {a.name}" for a in spec.inputs]
    arguments += [f"{TYPES[a.dtype]}* {a.name}" for a in spec.outputs]
    lines = [
        f"constexpr bool {name} = {str(value).lower()};"
        for name, value in zip(spec.template, variant, strict=True)
    ]
    start = f'extern "C" __global__ void {symbol(spec, variant)}({", ".join(arguments)}) {{'
    return "\n".join([INTEGERS + header(cuda=True), start, *lines, body(spec.name), "}\n"])


def symbol(spec: KernelSpec, variant: tuple[bool, ...]) -> str:
    """The name of a kernel's variant."""
    return "_".join([f"gs_{spec.name}", *("ft"[value] for value in variant)])


def program(name: str, variant: tuple[bool, ...]) -> bytes:
    """The machine code of a kernel for the GPU in use; OSError or RuntimeError where that cannot be."""
    return _compiling(name, variant).result()


def compile_ahead() -> None:
    """Begins to compile, each kernel by a thread of its own, those of a step first; does not wait. The last is the one
    by which a run looks for floaters when it has ended.
    """
    for name in (*STEP, *KERNELS):
        _compiling(name, (False,) * len(KERNELS[name].template))
    _compiling("backward", (True, False))


@functools.cache
def _compiling(name: str, variant: tuple[bool, ...]) -> Future[bytes]:
    return _compilers().submit(_compile, KERNELS[name], variant)


def _compile(spec: KernelSpec, variant: tuple[bool, ...]) -> bytes:
    return _code(source(spec, variant), spec.registers)


def _code(text: str, registers: int = 0) -> bytes:
    """The machine code of a text for the GPU in use."""
    architecture = f"sm_{_capability()}"
    key = cache.key(text, architecture, str(registers), _version())
    code = cache.read_code(key)
    if code is None:
        code = compile_for(text, architecture, registers)
        cache.write_code(key, code)
    return code


def module(symbol: str, code: bytes) -> tuple[str, bytes]:
    """What to call a module at each launch and the code to give: none, if it is in a file of MLX's folder now."""
    name = f"{symbol}_{cache.key(code)[:16]}"  # a file of another version, or of another GPU, is another
    file = mlx_folder() / f"{name}_{NONE}"
    names = f"{name}\t{symbol}\n".encode()
    placed = _placed(file.with_suffix(".txt"), names) and _placed(file.with_suffix(".ptx"), code)
    return (name, b"") if placed else (symbol, code)


def mlx_folder() -> Path:
    """Where MLX keeps the modules that it has compiled, and looks for others."""
    if (wanted := os.environ.get("MLX_PTX_CACHE_DIR")) is not None:
        return Path(wanted)
    names = ("TMPDIR", "TMP", "TEMP", "TEMPDIR")  # std::filesystem::temp_directory_path
    place = next((os.environ[name] for name in names if name in os.environ), "/tmp")
    return Path(place) / "mlx" / str(mx.__version__) / "ptx"  # type: ignore[attr-defined]


def _placed(path: Path, data: bytes) -> bool:
    """Whether a file has this content, now if it had not; not in a folder of somebody else."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.parent.stat().st_uid != os.getuid():
            return False
        if not path.is_file() or path.read_bytes() != data:
            with atomic_write(path) as file:
                file.write(data)
    except (OSError, StorageError):
        return False
    return True


@functools.cache
def reads_files() -> bool:
    """Whether MLX finds modules in files that are put there. A version that does not gets the code with each launch."""
    try:
        name, code = module("gs_check", _code(INTEGERS + CHECK))
        if code:  # no file can be put there
            return False
        (found,) = mx.fast.precompiled_cuda_kernel(
            name=name, compiled_source=code, inputs=[mx.array(np.arange(8, dtype=np.uint32))], output_shapes=[(8,)],
            output_dtypes=[mx.uint32], scalars=[], grid=(8, 1, 1), threadgroup=(8, 1, 1), ensure_row_contiguous=True,
        )  # fmt: skip
        return bool(found.tolist() == list(range(1, 9)))
    except (AttributeError, OSError, RuntimeError, TypeError, ValueError):
        return False


@functools.cache
def _compilers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(min(len(KERNELS), os.cpu_count() or 1), "nvrtc")


def compile_for(text: str, architecture: str, registers: int = 0) -> bytes:
    """CUDA source -> cubin. RuntimeError with the compiler's words if it has errors."""
    nvrtc = ctypes.CDLL(_library())
    handle = ctypes.c_void_p()

    def call(function: str, *arguments: Any) -> int:
        return int(getattr(nvrtc, function)(*arguments))

    if call("nvrtcCreateProgram", ctypes.byref(handle), text.encode(), b"gsplat_train.cu", 0, None, None):
        raise RuntimeError("NVRTC makes no program")
    try:
        options = [f"--gpu-architecture={architecture}".encode(), b"--std=c++17"]
        if registers:
            options.append(f"--maxrregcount={registers}".encode())
        failed = call("nvrtcCompileProgram", handle, len(options), (ctypes.c_char_p * len(options))(*options))
        what = "ProgramLog" if failed else "CUBIN"
        size = ctypes.c_size_t()
        if call(f"nvrtcGet{what}Size", handle, ctypes.byref(size)):
            raise RuntimeError("NVRTC gives no result")
        result = ctypes.create_string_buffer(size.value)
        if call(f"nvrtcGet{what}", handle, result):
            raise RuntimeError("NVRTC gives no result")
        if failed:
            raise RuntimeError(f"the kernels do not compile: {result.value.decode()}")
        return result.raw
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(handle))


def launcher(spec: KernelSpec) -> Callable[..., list[mx.array]]:
    """What mx.fast.cuda_kernel would return for the kernel."""

    def launch(
        inputs: list[mx.array],
        output_shapes: list[tuple[int, ...]],
        output_dtypes: list[mx.Dtype],
        grid: tuple[int, int, int],
        threadgroup: tuple[int, int, int],
        template: list[tuple[str, bool]] | None = None,
        init_value: float | None = None,
    ) -> list[mx.array]:
        name, code = _launched(spec.name, tuple(value for _, value in template or ()))
        return mx.fast.precompiled_cuda_kernel(
            name=name, compiled_source=code, inputs=inputs,
            output_shapes=output_shapes, output_dtypes=output_dtypes, scalars=[], grid=grid,
            threadgroup=threadgroup, init_value=init_value, ensure_row_contiguous=True,
        )  # fmt: skip

    return launch


@functools.cache
def _launched(name: str, variant: tuple[bool, ...]) -> tuple[str, bytes]:
    called, code = symbol(KERNELS[name], variant), program(name, variant)
    return module(called, code) if reads_files() else (called, code)


@functools.cache
def _version() -> str:
    """Of the compiler."""
    major, minor = ctypes.c_int(), ctypes.c_int()
    if ctypes.CDLL(_library()).nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)):
        raise OSError("NVRTC tells no version")
    return f"NVRTC {major.value}.{minor.value}"


@functools.cache
def _library() -> str:
    """The path of the NVRTC that is in this process already."""
    maps = Path("/proc/self/maps")
    found = re.search(r"\S+/libnvrtc\.so\S*", maps.read_text()) if maps.exists() else None
    if not found:
        raise OSError("no NVRTC library is loaded")
    return found[0]


@functools.cache
def _capability() -> int:
    """Of the first GPU: 90 for 9.0."""
    driver = ctypes.CDLL("libcuda.so.1")
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    driver.cuInit(0)
    failed = driver.cuDeviceGet(ctypes.byref(device), 0)
    failed |= driver.cuDeviceGetAttribute(ctypes.byref(major), 75, device)  # compute capability, major
    failed |= driver.cuDeviceGetAttribute(ctypes.byref(minor), 76, device)
    if failed:
        raise OSError("the CUDA driver names no GPU")
    return 10 * major.value + minor.value
