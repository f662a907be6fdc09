from __future__ import annotations

import pytest

from tests.fixture import Fixture


@pytest.fixture(scope="session")
def release() -> Fixture:
    """Figures from the released JAX code."""
    return Fixture()
