# SPDX-License-Identifier: Apache-2.0
"""What all tests share: the backends, and where data lies."""

import os
from pathlib import Path

import pytest

from gsplat_train import backends, registry
from gsplat_train.errors import BackendUnavailable


def load_backend(name):
    """The backend; where it is not available the test is skipped, or fails if GS_REQUIRE names it."""
    try:
        return backends.load(name)
    except BackendUnavailable as error:
        if name in os.environ.get("GS_REQUIRE", "").replace(",", " ").split():
            pytest.fail(f"GS_REQUIRE asks for {name}: {error}")
        pytest.skip(str(error))


@pytest.fixture(params=[name for name in registry.BACKENDS if name not in ("metal", "cuda")])
def backend(request):
    """Each backend in turn."""
    return load_backend(request.param)


def folder_from(variable):
    """The folder that the environment variable names; None where it is not set."""
    return Path(os.environ[variable]) if os.environ.get(variable) else None


@pytest.fixture
def golden_folder():
    """Golden vectors of gsplat."""
    return folder_from("GS_GOLDEN") or pytest.skip(
        "GS_GOLDEN is not set: the folder of gsplat's golden vectors"
    )


@pytest.fixture
def data_folder():
    """Real scenes."""
    return folder_from("GS_DATA") or pytest.skip("GS_DATA is not set: the folder of scenes such as fern/")
