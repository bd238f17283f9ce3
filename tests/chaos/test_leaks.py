"""The short form of `scripts/chaos --leaks`: principals while rules, tokens, clocks and processes change."""

from __future__ import annotations

from pathlib import Path

import pytest

from eventsync.dev import mongod
from eventsync.errors import ConfigurationError
from support.chaos.cluster import clocks_missing
from support.chaos.leaks.campaign import LEAK_FAULTS, run_leaks

pytestmark = [
    pytest.mark.filterwarnings(
        # The libraries of clients leave the socket of a connect that is cancelled to the garbage collector.
        "ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning",
    ),
]


@pytest.fixture(autouse=True)
def embedded() -> None:
    """A cluster of our own."""
    try:
        mongod.check_runs(mongod.find_mongod())
    except ConfigurationError as error:
        pytest.skip(error.message)


@pytest.mark.slow
async def test_principals_under_faults(tmp_path: Path) -> None:
    report = await run_leaks(3, 5.0, tmp_path, pause=0.5)
    assert not report.violations, str(report)
    # Else nothing was proved.
    assert report.figures["canaries"] >= 50, str(report)
    assert report.figures["archived events"] >= 100, str(report)
    absent = {"jump_clock"} if clocks_missing() else set()
    assert report.faults.keys() == LEAK_FAULTS.keys() - absent, str(report)
