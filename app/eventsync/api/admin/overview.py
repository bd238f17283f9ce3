"""`/v1/admin/overview`: the state of the whole deployment, problems first, and the last hour."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from eventsync import __version__
from eventsync.api import conditions
from eventsync.api.endpoint import AccessLevel, Endpoint
from eventsync.api.responses import JSON, NO_STORE
from eventsync.api.state import access_of, services_of
from eventsync.domain.values.extended_json import to_json
from eventsync.stores.stats.overview import LogOverview, Overview
from eventsync.stores.stats.processes import RunningProcess
from eventsync.sync.diagnosis import Facts, problems
from eventsync.sync.reports import totals

_MAX_TIME: Final = 2**53


async def overview(request: Request) -> Response:
    """Respond with the state of the log, the processes, the totals and the problems.

    With `since`, in Unix seconds, also with the totals of each period after that, of the last hour at most.
    """
    services, access = services_of(request), access_of(request)
    facts, reports = await services.reports.facts(), services.reports
    found = facts.overview
    body: dict[str, Any] = {
        "answered_by": reports.process.name,
        "version": __version__,
        "sub": access.principal.sub,
        "may_change": access.is_operator,
        "problems": [asdict(problem) for problem in problems(facts)],
        "log": None if found is None or found.log is None else _log(found.log),
        "leader": facts.leader,
        "standbys": [each.process.name for each in facts.workers if each.process.name != facts.leader],
        "jobs": {} if found is None else {job: found.holder(job) for job in found.leases},
        "lag": _lag(facts),
        "totals": totals(time.time(), facts.servers).tree(),
        "servers": [_server(each) for each in facts.servers],
        "workers": [_worker(each, facts) for each in facts.workers],
        "snapshots": [] if found is None or found.log is None else _snapshots(found, found.log),
    }
    if "since" in request.query_params:
        since = conditions.number(request, "since", default=0, low=0, high=_MAX_TIME)
        body["history"] = [sample.tree() for sample in list(reports.history) if sample.at > since]
    return Response(to_json(body), headers=NO_STORE, media_type=JSON)


def _log(log: LogOverview) -> dict[str, Any]:
    return {
        "id": log.log.id,
        "number": log.log.number,
        "reason": log.log.reason,
        "head": f"{log.log.id}:{log.head}",
        "archived_up_to": log.tiers.archived_up_to,
        "horizon": log.tiers.horizon,
        "hot": {"events": log.hot.events, "bytes": log.hot.bytes},
        "cold": {"events": log.cold.events, "bytes": log.cold.bytes, "segments": log.cold.segments},
    }


def _lag(facts: Facts) -> dict[str, Any]:
    """Return what the leading worker has to append and this server to read, and the age of the oldest of it."""
    health, sequencing = facts.health, facts.sequencing_lag
    if health is None or health.lag_events is None or health.lag_seconds is None:
        return {"events": None, "seconds": None}
    return {
        "events": health.lag_events + sequencing["events"],
        "seconds": round(max(health.lag_seconds, sequencing["seconds"]), 3),
    }


def _snapshots(found: Overview, log: LogOverview) -> list[dict[str, Any]]:
    return [
        {"collection": item.collection, "seq": item.seq, "bytes": item.bytes, "age": round(found.age(item), 1)}
        for item in log.newest
    ]


def _process(each: RunningProcess) -> dict[str, Any]:
    return {
        "name": each.process.name,
        "version": each.version,
        "uptime": round(each.uptime, 1),
        "heard": round(each.age, 1),
    }


def _server(each: RunningProcess) -> dict[str, Any]:
    state = each.state
    return _process(each) | {
        "live": state["live"],
        "connections": state["connections"],
        "lag_events": state.get("lag"),
        "writes_per_second": round(state["writes"], 2),
        "deliveries_per_second": round(state["deliveries"], 2),
    }


def _worker(each: RunningProcess, facts: Facts) -> dict[str, Any]:
    leads = each.process.name == facts.leader
    seconds = round(facts.sequencing_lag["seconds"], 3) if leads else None
    return _process(each) | {"leads": leads, "lag_seconds": seconds}


routes = [
    Endpoint(
        "/v1/admin/overview",
        overview,
        methods=["GET"],
        access=AccessLevel.OBSERVER,
        name="admin_overview",
        query=("since",),
    ),
]
