# SPDX-License-Identifier: Apache-2.0
"""NVIDIA's own compiler takes every kernel, on a machine without a GPU: pip install nvidia-cuda-nvrtc-cu12."""

import os
from importlib.util import find_spec
from itertools import product
from pathlib import Path

import pytest

from gsplat_train.backends.gpu import nvrtc
from gsplat_train.backends.gpu.kernels import KERNELS


@pytest.fixture
def compiler(monkeypatch):
    """The library of the wheel; without it the test is skipped, or fails if GS_REQUIRE names nvrtc."""
    spec = find_spec("nvidia")
    folders = [Path(p) for p in spec.submodule_search_locations or ()] if spec else []
    found = [path for folder in folders for path in sorted(folder.glob("*/lib/libnvrtc.so*"))]
    if not found:
        if "nvrtc" in os.environ.get("GS_REQUIRE", "").replace(",", " ").split():
            pytest.fail("GS_REQUIRE asks for nvrtc: pip install nvidia-cuda-nvrtc-cu12")
        pytest.skip("NVRTC is not installed (pip install nvidia-cuda-nvrtc-cu12)")
    monkeypatch.setattr(nvrtc, "_library", lambda: str(found[0]))


@pytest.mark.parametrize("name", KERNELS)
def test_kernel_compiles(name, compiler):
    spec = KERNELS[name]
    for variant in product([False, True], repeat=len(spec.template)):
        assert nvrtc.compile_for(nvrtc.source(spec, variant), "sm_80", spec.registers)[:4] == b"\x7fELF"


def test_a_fault_is_told_in_the_compilers_words(compiler):
    with pytest.raises(RuntimeError, match=r"do not compile: .*undefined"):
        nvrtc.compile_for("__global__ void f(float* x) { x[0] = nothing; }", "sm_80")
