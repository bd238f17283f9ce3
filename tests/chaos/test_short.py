"""The short form of `scripts/chaos`: every promise, checked under faults, in the default suite."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from eventsync.dev import mongod
from eventsync.errors import ConfigurationError
from support.chaos.nemeses import unavailable
from support.chaos.report import Report
from support.chaos.run import LEAST_WRITES, Plan, run

WORKERS = (
    "kill_leader", "freeze_leader", "kill_all_workers", "close_connections", "doubt_writes", "break_cursors",
    "change_rules",
)  # fmt: skip
MACHINES = ("jump_worker_clock", "jump_member_clock", "fill_disk")
SHAPES = ("many_in_one_transaction", "odd_document", "expire", "track")
DROPS = ("drop", "rename_away")
RENEWING = ("drop_log", "delete_events", "restore_backup", "abuse_server")
ELECTIONS = ("kill_primary", "step_down", "kill_leader")

pytestmark = pytest.mark.filterwarnings(
    # PyMongo leaves the socket of a connect that is cancelled to the garbage collector.
    "ignore:Exception ignored in. <socket.socket:pytest.PytestUnraisableExceptionWarning",
)


@pytest.fixture(autouse=True)
def embedded() -> Iterator[None]:
    """A cluster to be killed has to be our own."""
    try:
        mongod.check_runs(mongod.find_mongod())
    except ConfigurationError as error:
        pytest.skip(error.message)
    yield
    # Here, where it is expected, and not in the middle of another test.
    gc.collect()


def judge(report: Report, nemeses: tuple[str, ...]) -> None:
    assert not report.violations, str(report)
    assert report.evidence.history.count("ok") >= LEAST_WRITES, str(report)
    assert report.faults.keys() == set(nemeses), str(report)


@pytest.mark.slow
async def test_three_workers_compete_under_kills_and_freezes(tmp_path: Path) -> None:
    plan = Plan(seed=11, seconds=5.0, nodes=1, workers=3, servers=1, nemeses=WORKERS, pause=0.3)
    judge(await run(plan, tmp_path), WORKERS)


@pytest.mark.slow
async def test_elections_on_three_members(tmp_path: Path) -> None:
    plan = Plan(seed=5, seconds=5.0, nodes=3, workers=2, servers=1, nemeses=ELECTIONS, pause=0.3)
    judge(await run(plan, tmp_path), ELECTIONS)


@pytest.mark.slow
async def test_a_machine_that_fails(tmp_path: Path) -> None:
    absent = unavailable(MACHINES)
    present = tuple(name for name in MACHINES if name not in absent)
    if not present:
        pytest.skip(str(absent))
    plan = Plan(seed=3, seconds=2.0, nodes=1, workers=2, servers=1, nemeses=MACHINES, pause=0.5)
    report = await run(plan, tmp_path)
    judge(report, present)
    assert report.absent == absent
    if "fill_disk" in present:
        assert report.outcomes["a full disk ended a member"], str(report)


@pytest.mark.slow
@pytest.mark.parametrize("shapes", [SHAPES, DROPS], ids=["large", "drops"])
async def test_changes_of_every_shape_under_kills(tmp_path: Path, shapes: tuple[str, ...]) -> None:
    plan = Plan(seed=4, seconds=2.0, nodes=1, workers=2, servers=1, nemeses=("kill_leader",), pause=2.0, shapes=shapes)
    report = await run(plan, tmp_path)
    judge(report, ("kill_leader",))
    assert set(report.shapes) == set(shapes), str(report)


@pytest.mark.slow
async def test_a_log_that_is_destroyed_or_turned_back(tmp_path: Path) -> None:
    plan = Plan(seed=9, seconds=2.0, nodes=1, workers=2, servers=2, nemeses=RENEWING, pause=0.5)
    report = await run(plan, tmp_path)
    judge(report, RENEWING)
    assert report.outcomes["a new log began"] >= 3, str(report)
