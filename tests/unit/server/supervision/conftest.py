from __future__ import annotations

import pytest

from support.screens import Screen


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Supervisors run on asyncio's own loop."""
    return "asyncio"


@pytest.fixture
def screen() -> Screen:
    return Screen()
