"""`/v1/admin/collections`: the tracked collections and their sizes; tracking, untracking, and requests of snapshots."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from eventsync.access.audit import record_action
from eventsync.api.endpoint import AccessLevel, Endpoint
from eventsync.api.paths import segment
from eventsync.api.responses import JSON, NO_STORE
from eventsync.api.state import access_of, services_of
from eventsync.domain.shapes import Shape
from eventsync.domain.values.extended_json import to_json
from eventsync.errors import NotFound
from eventsync.mongodb.clocks import cluster_time
from eventsync.stores.stats.counters import EventCount
from eventsync.stores.stores import Stores


async def listing(request: Request) -> Response:
    """List the collections that are tracked or asked for, each with its state, events and newest snapshot."""
    stores = services_of(request).stores
    current = await stores.logs.current()
    overview = await services_of(request).overview.read()
    sizes = {} if current is None else await stores.stats.counters.sizes(current.id)
    log = None if overview is None else overview.log
    newest = {} if log is None else {item.collection: item for item in log.newest}
    rows: list[dict[str, Any]] = []
    for item in await stores.tracking.read():
        is_active = current is not None and item.log == current.id
        count, snapshot = sizes.get(item.name, EventCount()), newest.get(item.name)
        row: dict[str, Any] = {
            "name": item.name,
            "state": "tracked" if is_active else "refused" if item.refused else "asked",
            "events": count.events,
            "event_bytes": count.bytes,
            "last_seq": count.last,
            "tracked_from": item.tracked_from if is_active else None,
            "snapshot": None if snapshot is None else {"seq": snapshot.seq, "bytes": snapshot.bytes},
        }
        rows.append(row | ({"reason": item.refused} if item.refused else {}))
    return Response(to_json({"collections": rows}), headers=NO_STORE, media_type=JSON)


async def track(request: Request) -> Response:
    """Ask for a collection to be tracked. A worker begins within seconds; the listing says when."""
    name = segment(request, "collection")
    await services_of(request).stores.tracking.ask([name])
    record_action(access_of(request).principal, "track", name)
    return Response(to_json({"name": name, "state": "asked"}), 202, NO_STORE, JSON)


async def untrack(request: Request) -> Response:
    """Stop tracking a collection. Its events stay in the log."""
    name, stores = segment(request, "collection"), services_of(request).stores
    await _require(stores, name)
    await stores.tracking.forget([name])
    record_action(access_of(request).principal, "untrack", name)
    return Response(status_code=204, headers=NO_STORE)


async def snapshot(request: Request) -> Response:
    """Ask for a stored snapshot of a collection, as it is now. A worker makes it; the listing shows the newest one."""
    name, stores = segment(request, "collection"), services_of(request).stores
    await _require(stores, name)
    asked = await stores.snapshots.requests.ask(Shape(name), await cluster_time(stores.log))
    record_action(access_of(request).principal, "snapshot", name)
    return Response(to_json({"name": name, "request": asked}), 202, NO_STORE, JSON)


async def _require(stores: Stores, name: str) -> None:
    if all(item.name != name for item in await stores.tracking.read()):
        raise NotFound(f"the collection {name[:64]!r} is not tracked, and not asked for")


_PATH = "/v1/admin/collections/{collection}"

routes = [
    Endpoint("/v1/admin/collections", listing, methods=["GET"], access=AccessLevel.OBSERVER, name="admin_collections"),
    Endpoint(_PATH, track, methods=["PUT"], access=AccessLevel.OPERATOR, name="admin_collection"),
    Endpoint(_PATH, untrack, methods=["DELETE"], access=AccessLevel.OPERATOR),
    Endpoint(_PATH + "/snapshots", snapshot, methods=["POST"], access=AccessLevel.OPERATOR),
]
