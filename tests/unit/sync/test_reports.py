"""Totals of all servers, and the problems that are found in what is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from eventsync.mongodb.leases import Lease
from eventsync.stores.stats.overview import Overview
from eventsync.stores.stats.processes import Process, RunningProcess, RunningProcesses
from eventsync.stores.stores import ARCHIVING, SEQUENCING
from eventsync.sync.diagnosis import Facts, problems
from eventsync.sync.operations import Health
from eventsync.sync.reports import totals

NOW = datetime(2026, 11, 23, tzinfo=UTC)
HEALTH = Health("ready", True, True, "w1", "a:5", 0, 0.2, None, 3, None, "live")


def server(name: str, **state: Any) -> RunningProcess:
    known = {
        "live": True,
        "detail": "live",
        "head": 10,
        "events": 4.0,
        "writes": 1.0,
        "deliveries": 2.0,
        "connections": {"sse": 1},
        "delays": [],
    }
    return RunningProcess(Process(name, "server"), "1.0", 1.0, 60.0, known | state)


def worker(name: str, **fields: Any) -> RunningProcess:
    return replace(RunningProcess(Process(name, "worker"), "1.0", 1.0, 60.0, {}), **fields)


def behind(seconds: float) -> dict[str, Any]:
    """The state of a worker whose oldest change is as old."""
    return {"lag": {"events": 5, "seconds": seconds}}


def job(succeeded: float | None = None, failed: float | None = None) -> dict[str, Any]:
    """The state of a worker that has archived, with the times of its last runs."""
    runs = {"succeeded": succeeded and {"at": succeeded}, "failed": failed and {"at": failed, "reason": "full"}}
    return {"jobs": {ARCHIVING: runs}}


def facts(processes: Sequence[RunningProcess] = (), *, leader: str | None = "w1", **fields: Any) -> Facts:
    lease = Lease(SEQUENCING, leader, NOW, True) if leader else None
    known: dict[str, Any] = {
        "health": HEALTH,
        "overview": Overview(NOW, {SEQUENCING: lease, ARCHIVING: None}, None),
        "running": RunningProcesses(processes or (server("s1"), worker("w1"), worker("w2"))),
        "refused": {},
        "shapes": (),
        "is_open": False,
        "period": 5.0,
    }
    return Facts(**known | fields)


def codes(found: Facts) -> list[tuple[str, str]]:
    return [(problem.severity, problem.code) for problem in problems(found)]


def test_totals_sum_up_what_servers_did() -> None:
    servers = [
        server("s1", lag=1, events=4.0, delays=[0.001, 0.002, 0.003]),
        server("s2", lag=3, events=3.0, connections={"sse": 2, "websocket": 5}, delays=[0.9]),
    ]
    found = totals(1.0, servers)
    assert (found.events, found.writes, found.deliveries) == (4.0, 2.0, 4.0)
    assert found.connections == {"sse": 3, "websocket": 5}
    assert found.lag_events == 3
    assert (found.p50, found.p99) == (0.003, 0.9)


def test_totals_without_servers_or_deliveries_know_no_delay() -> None:
    assert totals(1.0, []).tree()["delivery_p50"] is None
    assert totals(1.0, [server("s1")]).tree()["delivery_p99"] is None


def test_healthy_deployment_has_no_problem() -> None:
    assert problems(facts()) == []


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (facts(health=None), [("error", "mongodb_silent")]),
        (facts(overview=None), [("error", "mongodb_silent")]),
        (facts(health=replace(HEALTH, live=False)), [("error", "feed_not_live")]),
        (facts(health=replace(HEALTH, leader=None), leader=None), [("error", "no_leader")]),
        (facts(health=replace(HEALTH, sequencer_live=False)), [("error", "worker_stalled")]),
        (facts(health=replace(HEALTH, archive="gone")), [("warning", "archive_silent")]),
        (facts(health=replace(HEALTH, journal_delay=0.1)), [("note", "journal_delay")]),
        (facts([server("s1"), worker("w1")]), [("note", "no_standby")]),
        (facts([server("s1", live=False), worker("w1"), worker("w2")]), [("error", "server_not_live")]),
        (facts([server("s1"), worker("w1"), worker("w2", age=13.0)]), [("warning", "process_silent")]),
        (facts([server("s1"), worker("w1"), worker("w2", version="1.1")]), [("note", "mixed_versions")]),
        (facts(refused={"views": "it is a view"}), [("warning", "collection_refused")]),
        (facts([server("s1"), worker("w1", state=behind(11.0)), worker("w2")]), [("warning", "log_behind")]),
        (facts([server("s1"), worker("w1", state=behind(9.0)), worker("w2")]), []),
        (facts([server("s1"), worker("w1"), worker("w2", state=behind(11.0))]), []),
        (facts([server("s1"), worker("w1", state=job(failed=9.0)), worker("w2")]), [("warning", "job_failed")]),
        (facts([server("s1"), worker("w1", state=job(8.0, 9.0)), worker("w2")]), [("warning", "job_failed")]),
        (facts([server("s1"), worker("w1", state=job(9.0, 8.0)), worker("w2")]), []),
        (facts(is_open=True), [("note", "no_rules")]),
    ],
)
def test_problem_is_found(found: Facts, expected: list[tuple[str, str]]) -> None:
    assert codes(found) == expected
    assert all(problem.what and problem.remedy for problem in problems(found))


def test_failure_of_a_job_that_another_worker_does_now_is_no_problem() -> None:
    done_by: dict[str, Lease | None] = {
        name: Lease(name, owner, NOW, True) for name, owner in ((SEQUENCING, "w1"), (ARCHIVING, "w2"))
    }
    found = facts([server("s1"), worker("w1", state=job(failed=9.0)), worker("w2")])
    assert codes(replace(found, overview=Overview(NOW, done_by, None))) == []


def test_worst_problems_come_first() -> None:
    found = facts([server("s1", live=False), worker("w1")], refused={"views": "a view"}, is_open=True)
    severities = [problem.severity for problem in problems(found)]
    assert severities == ["error", "warning", "note", "note"]


def test_state_as_it_is_now_replaces_that_of_the_record() -> None:
    """The record of a server that has just begun to serve says that it does not."""
    starting = {"live": False, "detail": "MongoDB was not reached yet"}
    running = RunningProcesses((server("s1", **starting), server("s2", **starting)))
    updated = running.updated(Process("s1", "server"), {"live": True, "detail": "live"})
    assert updated.of("server") == [server("s1"), server("s2", **starting)]
