"""How long things last: seconds in the default run, longer where the matrix is written."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def long_run(pytestconfig: pytest.Config) -> bool:
    return pytestconfig.getoption("--faults-report") is not None


@pytest.fixture(scope="session")
def rage_seconds(long_run: bool) -> float:
    """How long a fault lasts."""
    return 2.0 if long_run else 0.6
