# SPDX-License-Identifier: Apache-2.0
"""NVIDIA's own compiler takes every kernel, on a machine without a GPU: pip install nvidia-cuda-nvrtc."""

import os
from importlib.util import find_spec
from itertools import product
from pathlib import Path

import mlx.core as mx
import pytest

from gsplat_train.backends.gpu import nvrtc
from gsplat_train.backends.gpu.kernels import KERNELS
from gsplat_train.datasets import cache, photo_store


@pytest.fixture
def compiler(monkeypatch):
    """The library of the wheel; without it the test is skipped, or fails if GS_REQUIRE names nvrtc."""
    spec = find_spec("nvidia")
    folders = [Path(p) for p in spec.submodule_search_locations or ()] if spec else []
    found = [path for folder in folders for path in sorted(folder.glob("*/lib/libnvrtc.so*"))]
    if not found:
        if "nvrtc" in os.environ.get("GS_REQUIRE", "").replace(",", " ").split():
            pytest.fail("GS_REQUIRE asks for nvrtc: pip install nvidia-cuda-nvrtc")
        pytest.skip("NVRTC is not installed (pip install nvidia-cuda-nvrtc)")
    monkeypatch.setattr(nvrtc, "_library", lambda: str(found[0]))


@pytest.mark.parametrize("name", KERNELS)
def test_kernel_compiles(name, compiler):
    spec = KERNELS[name]
    for variant in product([False, True], repeat=len(spec.template)):
        assert nvrtc.compile_for(nvrtc.source(spec, variant), "sm_80", spec.registers)[:4] == b"\x7fELF"


def test_a_fault_is_told_in_the_compilers_words(compiler):
    with pytest.raises(RuntimeError, match=r"do not compile: .*undefined"):
        nvrtc.compile_for("__global__ void f(float* x) { x[0] = nothing; }", "sm_80")


def test_machine_code_is_kept(compiler, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GS_CACHE", str(tmp_path))
    monkeypatch.setattr(nvrtc, "_capability", lambda: 80)
    compiled: list[str] = []
    own = nvrtc.compile_for

    def compile_for(text: str, *args: object) -> bytes:
        compiled.append(text)
        return own(text, *args)

    monkeypatch.setattr(nvrtc, "compile_for", compile_for)
    spec = KERNELS["take"]
    first = nvrtc._compile(spec, ())
    assert first[:4] == b"\x7fELF" and nvrtc._compile(spec, ()) == first and len(compiled) == 1
    (kept,) = tmp_path.glob("*.code")
    for damage in (kept.read_bytes()[:-1], b"", b"x" * 40):
        kept.write_bytes(damage)
        compiled.clear()
        assert nvrtc._compile(spec, ()) == first and len(compiled) == 1, "what is damaged is made again"
    nvrtc._compile(KERNELS["put"], ())
    monkeypatch.setattr(nvrtc, "_capability", lambda: 90)
    nvrtc._compile(spec, ())
    assert len(list(tmp_path.glob("*.code"))) == 3, "a key names the text and the architecture"
    assert cache.clear()[0] == 3
    monkeypatch.setenv("GS_CACHE_SIZE", "0")
    assert nvrtc._compile(spec, ())[:4] == b"\x7fELF" and not list(tmp_path.glob("*.code"))


def test_modules_lie_where_mlx_looks_for_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By its name and the hash of no code; what is damaged is written again."""
    monkeypatch.delenv("MLX_PTX_CACHE_DIR", raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    name, code = nvrtc.module("gs_take", b"code")
    other = nvrtc.module("gs_take", b"other code")[0]
    assert name.startswith("gs_take_") and code == b"" and other != name
    file = tmp_path / "mlx" / mx.__version__ / "ptx" / f"{name}_553e93901e462a6e.ptx"
    assert file.read_bytes() == b"code" and file.with_suffix(".txt").read_text() == f"{name}\tgs_take\n"
    file.write_bytes(b"damaged")
    file.with_suffix(".txt").unlink()
    assert nvrtc.module("gs_take", b"code") == (name, b"") and file.read_bytes() == b"code"
    assert file.with_suffix(".txt").exists()
    monkeypatch.setenv("MLX_PTX_CACHE_DIR", str(tmp_path / "given"))
    assert nvrtc.module("gs_take", b"code") == (name, b"") and len(list((tmp_path / "given").iterdir())) == 2


def test_where_no_module_can_lie_the_code_goes_along(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLX_PTX_CACHE_DIR", "/dev/null/mlx")
    assert nvrtc.module("gs_take", b"code") == ("gs_take", b"code")
    monkeypatch.setenv("MLX_PTX_CACHE_DIR", str(tmp_path))
    own = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: own + 1)
    assert nvrtc.module("gs_take", b"code") == ("gs_take", b"code"), "a folder of somebody else"


@pytest.mark.parametrize("error", [AttributeError, RuntimeError, TypeError, ValueError])
def test_another_mlx_is_no_end(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One that does not look for files, or takes other arguments, gets the code with each launch."""

    def fails(**_: object) -> None:
        raise error("[precompiled] Failed")

    monkeypatch.setenv("MLX_PTX_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(nvrtc, "_code", lambda *_: b"code")
    monkeypatch.setattr(mx.fast, "precompiled_cuda_kernel", fails)
    assert nvrtc.reads_files.__wrapped__() is False


@pytest.mark.parametrize("size", ["", "much"])
def test_machine_code_needs_no_cache(size: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor a home, which the users of some containers do not have."""

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("GS_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.setenv("GS_CACHE_SIZE", size)
    monkeypatch.setattr(nvrtc, "_capability", lambda: 80)
    monkeypatch.setattr(nvrtc, "_version", lambda: "NVRTC 13.0")
    monkeypatch.setattr(nvrtc, "compile_for", lambda *_: b"code")
    assert nvrtc._compile(KERNELS["take"], ()) == b"code"
    assert cache.entries() == [] and photo_store._opened("photos", 1, pytest.fail) is None
