"""`/v1/admin/jobs`, `repairs`, `segments`, `snapshots`: what keeps the log in order, and what there is of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from eventsync.api import conditions
from eventsync.api.endpoint import AccessLevel, Endpoint
from eventsync.api.responses import JSON, NO_STORE
from eventsync.api.state import services_of
from eventsync.domain.names import check_collection
from eventsync.domain.positions import Position, Seq
from eventsync.domain.values.extended_json import to_json
from eventsync.stores.log.logs import LogBeginning
from eventsync.stores.log.repairs import RecordedRepair
from eventsync.stores.stores import ARCHIVING, COMPACTING, SNAPSHOTTING

_JOBS: Final = (SNAPSHOTTING, ARCHIVING, COMPACTING)

_REASON: Final = 500
"""Most characters of a reason."""

_MAX_SEQ: Final = 2**63 - 1


async def jobs(request: Request) -> Response:
    """List the periodic jobs of the workers: who does each, its last runs, and the next one."""
    stores = services_of(request).stores
    workers = (await stores.stats.processes.running()).of("worker")
    rows: list[dict[str, Any]] = []
    for name in _JOBS:
        lease = await stores.leases.read(name)
        holder = lease.owner if lease is not None and lease.live else None
        known = {each.process.name: each.state.get("jobs", {}).get(name) for each in workers}
        current = known.get(holder or "") or {}
        # A run of a worker that has lost the job since is one of the job all the same.
        runs = {kind: _newest(kind, known.values()) for kind in ("succeeded", "worked", "failed")}
        # But that worker may say for some seconds that it still runs it.
        now = {kind: current.get(kind) for kind in ("running_since", "next_at")}
        rows.append({"name": name, "worker": holder, **now, **runs})
    return Response(to_json({"jobs": rows}), headers=NO_STORE, media_type=JSON)


def _newest(kind: str, known: Iterable[Mapping[str, Any] | None]) -> Mapping[str, Any] | None:
    """Return the newest run of a kind. A job that another worker has taken over has runs of several workers."""
    runs = [run for job in known if job is not None and (run := job.get(kind)) is not None]
    return max(runs, key=lambda run: run["at"], default=None)


async def repairs(request: Request) -> Response:
    """List the newest repairs of the log, and the beginnings of logs, each of which but the first was a reset."""
    stores = services_of(request).stores
    body = {
        "repairs": [_repair(each) for each in await stores.repairs.newest()],
        "logs": [_beginning(each) for each in await stores.logs.beginnings()],
    }
    return Response(to_json(body), headers=NO_STORE, media_type=JSON)


def _repair(each: RecordedRepair) -> dict[str, Any]:
    return {
        "log": each.log,
        "kind": each.kind,
        "reason": each.reason,
        "after": each.after,
        "up_to": each.up_to,
        "began": each.began.timestamp(),
        "ended": None if each.ended is None else each.ended.timestamp(),
        "events": each.events,
        "collections": [{"name": name, "events": events} for name, events in each.collections.items()],
    }


def _beginning(each: LogBeginning) -> dict[str, Any]:
    return {
        "log": each.log.id,
        "number": each.log.number,
        "kind": each.kind,
        "reason": each.log.reason[:_REASON],
        "at": None if each.at is None else each.at.timestamp(),
        "previous": each.previous,
        "head": each.head,
    }


async def segments(request: Request) -> Response:
    """List the segments of the archive, the newest first, a page at a time."""
    stores, limit = services_of(request).stores, conditions.page_size(request)
    # No event has the number 0, so that it stands for none given.
    before = conditions.number(request, "before", default=0, low=1, high=_MAX_SEQ)
    log = await stores.logs.require()
    # One more than the page tells whether there is a next page.
    found = await stores.archive.segments.newest_before(log.id, Seq(before) if before else None, limit + 1)
    page = found[:limit]
    body = {
        "log": log.id,
        "segments": [
            {
                "first": each.span.first,
                "last": each.span.last,
                "earliest": each.span.earliest,
                "latest": each.span.latest,
                "bytes": each.size,
                "raw_bytes": each.raw,
            }
            for each in page
        ],
        "next": page[-1].span.first if len(found) > limit else None,
    }
    return Response(to_json(body), headers=NO_STORE, media_type=JSON)


async def snapshots(request: Request) -> Response:
    """List the stored snapshots of whole collections, or of one, the newest first."""
    stores, limit = services_of(request).stores, conditions.page_size(request)
    collection = request.query_params.get("collection")
    name = None if collection is None else check_collection(collection)
    log = await stores.logs.require()
    found = await stores.snapshots.stored.newest_of_collections(log.id, name, limit + 1)
    body = {
        "log": log.id,
        "snapshots": [
            {
                "id": each.id,
                "collection": each.collection,
                "position": str(Position(log.id, each.seq)),
                "seq": each.seq,
                "time": each.time.time,
                "at": each.at.timestamp(),
                "complete": complete,
                "documents": each.documents,
                "bytes": each.bytes,
                "raw_bytes": each.raw_bytes,
            }
            for each, complete in found[:limit]
        ],
        "more": len(found) > limit,
    }
    return Response(to_json(body), headers=NO_STORE, media_type=JSON)


routes = [
    Endpoint("/v1/admin/jobs", jobs, methods=["GET"], access=AccessLevel.OBSERVER, name="admin_jobs"),
    Endpoint("/v1/admin/repairs", repairs, methods=["GET"], access=AccessLevel.OBSERVER, name="admin_repairs"),
    Endpoint(
        "/v1/admin/segments",
        segments,
        methods=["GET"],
        access=AccessLevel.OBSERVER,
        name="admin_segments",
        query=("before", "limit"),
    ),
    Endpoint(
        "/v1/admin/snapshots",
        snapshots,
        methods=["GET"],
        access=AccessLevel.OBSERVER,
        name="admin_snapshots",
        query=("collection", "limit"),
    ),
]
