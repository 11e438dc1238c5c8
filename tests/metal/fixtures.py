# SPDX-License-Identifier: Apache-2.0
"""The fixture of the tests that need clang."""

import os

import pytest

from . import compiler


@pytest.fixture
def clang() -> None:
    """Skips a test where there is no clang, or fails it if GS_REQUIRE names clang."""
    if compiler.clang() is None:
        if "clang" in os.environ.get("GS_REQUIRE", "").replace(",", " ").split():
            pytest.fail(f"GS_REQUIRE asks for clang: {compiler.WITHOUT}")
        pytest.skip(compiler.WITHOUT)
