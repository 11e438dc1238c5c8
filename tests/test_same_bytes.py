# SPDX-License-Identifier: Apache-2.0
"""Short runs end in the bytes that they always ended in.

A change of these hashes is a change of what training computes: say so in the commit. Where a processor or a
version of MLX rounds otherwise the hash is not known, and the test is skipped: it prints what to add.
"""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import tiny
from conftest import load_backend

import gsplat_train

RUNS = {  # everything happens: refinement, noise, all bands, both sums
    "mcmc": {"strategy": "mcmc", "background": "white"},
    "adc": {"strategy": "adc", "grow_gradient": 1e-5, "antialiased": True},
    "absgrad": {"strategy": "adc", "grow_absgradient": 1e-5, "absgrad": True},
}
# By the backend, its instruction set or the version of MLX, and how NumPy (or MLX) rounds here.
KNOWN = {
    "cpp avx512 39b7978e": {
        "mcmc": "970445183b82597417a78f246354709fe3c773293793229e1c6d911db54fe898",
        "adc": "aec9d2a5f64fe750985e6afa176564705198e5b82a1aaa2f95fda91639f169a7",
        "absgrad": "7139ec3c86d5131c0ac3e55a638b23941cb008953444d3426d2f6b2cbc169182",
    },
    "cpp avx2 39b7978e": {
        "mcmc": "52c9ff6d00b753fc674d3beef616ae385a6c27172efd273697eae2a5de454391",
        "adc": "7b61fff40eb03aca924fc6463780b7ab984eac67116ee188f9607562c53ada06",
        "absgrad": "807b18499f31d29b63643c0b82c678a02bfa1b8d46c1ac7cb63de9ac75c8f01d",
    },
    "cpp scalar 39b7978e": {
        "mcmc": "e73f2e40bbe44835d3022882fa89a18720d11e0ed34b98fdc5e67e3827643ec9",
        "adc": "4f9b4bc17ab89eb1f45da43d5e6d55211cb1b14090d11ee2453f72b41d634c8b",
        "absgrad": "8abbfd243c2c951ea7ea824d4c9fa83caa95d3bbd5a08a73c1bf858ee00ad9b3",
    },
    "python 0.32.4 d5e212c6": {
        "mcmc": "bab780d92ad1af6d4bc4a23a7c2a1b50df81440aca5db1b2b63cc7a30bd259dc",
        "adc": "6e71e7b0951ee3cd290421bb83ef64de35d44c4ed8719fe738559ab857e5fc66",
        "absgrad": "62468d7c7319ca7f84fb6b30855e3106fbc867de1e009071f321d1b736bec8bc",
    },
}


def rounding(backend: str) -> str:
    """Names how the libraries' own functions round on this machine."""
    x = np.linspace(0.01, 9, 4001)
    words = hashlib.sha256()
    for values in (x, x.astype(np.float32)):
        for function in (np.exp, np.log, np.sin, np.cos, np.tanh, np.sqrt, np.arctan, np.log2):
            words.update(function(values).tobytes())
        words.update((values[:4000].reshape(40, 100) @ values[:4000].reshape(100, 40)).tobytes())
    if backend == "python":
        y = mx.array(x.astype(np.float32))
        for function in (mx.exp, mx.log, mx.sin, mx.sigmoid, mx.rsqrt, mx.logsumexp, mx.sum):
            words.update(np.asarray(function(y)).tobytes())
    return words.hexdigest()[:8]


def key(backend: str) -> str:
    if backend == "python":
        return f"python {mx.__version__} {rounding(backend)}"
    from gsplat_train import _csrc

    return f"{backend} {_csrc.simd()} {rounding(backend)}"


def print_hashes(backend: str) -> None:
    """In a process of its own: the key, and each run's hash of all parameters, as JSON."""
    found = {}
    for name, changes in RUNS.items():
        config = tiny.settings(backend=backend, steps=40 if backend == "cpp" else 12, **changes)
        gaussians = gsplat_train.train(tiny.scene(), config).gaussians
        assert gaussians.means.shape[0] > 300, "it grew"
        found[name] = hashlib.sha256(b"".join(np.asarray(leaf).tobytes() for leaf in gaussians)).hexdigest()
    print(json.dumps({"key": key(backend), "found": found}))


@pytest.mark.parametrize("of", ["cpp avx512", "cpp avx2", "cpp neon", "cpp scalar", "python"])
def test_a_short_run_ends_in_the_same_bytes(of: str) -> None:
    backend, simd = [*of.split(), ""][:2]
    load_backend(backend)
    if backend == "cpp":
        from gsplat_train import _csrc

        if simd not in _csrc.instruction_sets():
            pytest.skip(f"this processor has no {simd}")
    code = f"import test_same_bytes; test_same_bytes.print_hashes({backend!r})"
    root = Path(gsplat_train.__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": str(root)} | ({"GS_SIMD": simd} if backend == "cpp" else {})
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    if result["key"] not in KNOWN:
        pytest.skip(f"no hash is known where numbers are rounded so; to add: {json.dumps(result)}")
    assert result["found"] == KNOWN[result["key"]]
