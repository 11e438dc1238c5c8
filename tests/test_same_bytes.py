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
    "mcmc": {"strategy": "mcmc", "background": "white", "weigh_cost": 2.0},
    "adc": {"strategy": "adc", "grow_gradient": 1e-5, "antialiased": True, "background": "black"},
    "absgrad": {"strategy": "adc", "grow_absgradient": 1e-5, "absgrad": True, "background": "black"},
}
# By the backend, its instruction set or the version of MLX, and how NumPy (or MLX) rounds here.
HASHES = {
    "cpp avx512 39b7978e": {
        "mcmc": "b0120cfdbff4a801ee45b18a935801e8afa69039a3028d87cec9497373c44c6f",
        "adc": "2530bd02dd76ce9086fc2ef7fec7a212bea754d50d418ea7de324807ee4e0d9b",
        "absgrad": "c82efb4a0fde12872c5cd100d10c65743cbbdab7734be71227bb0013fbc7bf2c",
    },
    "cpp avx2 39b7978e": {
        "mcmc": "71817e522d8673a14e90ba815dd84ec609d9ba7553cb125f99f078864fab5fe6",
        "adc": "150f0b8718eb2eb29ede2000b0e6af2e3e6f59febcec372630c571fcfb8c957b",
        "absgrad": "ec5dcc27ad8d0a00d750b0140bd744bd186e64d704854a29c857c9d352ad8725",
    },
    "cpp scalar 39b7978e": {
        "mcmc": "36dd6fea86aecc0a895110d9cebd434192f239268db7ed65dc50f498fa8ebaeb",
        "adc": "b63bf84561cb22bf0cd4dc7ad10e47d55d69f0f644c20c28e820b49964c42012",
        "absgrad": "8e591925f81142f56e294931caab17bc805f136371f19326cf22753e63cd1e2c",
    },
    "python 0.32.4 d5e212c6": {
        "mcmc": "4023b5a405c073c644ab13b95bac26b0b152714dcbbd1aa3619f5f72589dc3fe",
        "adc": "c366c4b48f3be50ff0240c3599ee8ac0bf5f440fb18ce499e00b4cc66f61ced9",
        "absgrad": "acc0b3dfabc5f79ea119e06b4c5153715f0b41394ded674a83da0a1c5af5a214",
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
    if result["key"] not in HASHES:
        pytest.skip(f"no hash is known where numbers are rounded so; to add: {json.dumps(result)}")
    assert result["found"] == HASHES[result["key"]]
