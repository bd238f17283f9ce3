"""`/v1/admin/collections`: the tracked collections, their sizes, and what operators do with them; also the tasks."""

from __future__ import annotations

from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from eventsync.access.audit import record_action
from eventsync.api.bodies import read_small
from eventsync.api.endpoint import AccessLevel, Endpoint
from eventsync.api.paths import segment
from eventsync.api.responses import JSON, NO_STORE
from eventsync.api.state import access_of, services_of
from eventsync.domain.points import parse_instant
from eventsync.domain.positions import Position
from eventsync.domain.shapes import Shape
from eventsync.domain.values.extended_json import to_json
from eventsync.errors import Conflict, Malformed, NotFound
from eventsync.mongodb.clocks import cluster_time
from eventsync.mongodb.privileges import require
from eventsync.stores.history.proof import collections_to_prove
from eventsync.stores.history.restore import check_target
from eventsync.stores.history.time_travel import TimeTravel
from eventsync.stores.stats.counters import EventCount
from eventsync.stores.stores import Stores
from eventsync.sync.tasks import Task, Work, restoring, verifying

_BODY: Final = 4096


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


async def history(request: Request) -> Response:
    """Respond with the positions and the time since when the states of a collection are known."""
    name, stores = segment(request, "collection"), services_of(request).stores
    travel = TimeTravel(stores)
    retained = await travel.retained(name)
    known_at = None if retained.snapshot is None else retained.snapshot[1].as_datetime()
    body = {
        "name": name,
        "since": str(Position(retained.log, retained.since)),
        "since_at": None if known_at is None else known_at.timestamp(),
        "head": str(Position(retained.log, await travel.head(retained.log))),
    }
    return Response(to_json(body), headers=NO_STORE, media_type=JSON)


async def restore(request: Request) -> Response:
    """Begin to restore a collection, as it was at a point, into a new one. The tasks show the progress."""
    services, name = services_of(request), segment(request, "collection")
    tree = await read_small(request, _BODY)
    if not isinstance(tree, dict) or tree.keys() not in ({"into", "at"}, {"into", "position"}):
        raise Malformed('the body is {"into": "orders_restored", "at": "2026-11-23T05:22:46Z"}, or with a position')
    if not all(isinstance(text, str) for text in tree.values()):
        raise Malformed("into, at and position are texts")
    into = check_target(tree["into"])
    point = parse_instant(tree["at"]) if "at" in tree else Position.parse_in_log(tree["position"])
    position = await TimeTravel(services.stores).position(name, point)
    if await services.stores.has_collection(into):
        raise Conflict(f"there is a collection {into} already: a restore makes a new one")
    await require(services.stores.data.client, services.settings, "restore")
    return _begun(request, "restore", f"{name} at {position} into {into}", restoring(name, position, into))


async def verify(request: Request) -> Response:
    """Begin to verify a collection and the log, or all collections. The tasks show the progress and the result."""
    stores = services_of(request).stores
    names = [segment(request, "collection")] if "collection" in request.path_params else []
    await collections_to_prove(stores, await stores.logs.require(), names)
    return _begun(request, "verify", names[0] if names else "all collections", verifying(names))


def _begun(request: Request, kind: str, target: str, work: Work) -> Response:
    """Begin a task of the principal. Raises `RateLimited`."""
    reports, principal = services_of(request).reports, access_of(request).principal
    task = Task(kind, target, principal.sub)
    reports.tasks.begin(task, work)
    record_action(principal, kind, target)
    return Response(to_json(task.tree() | {"server": reports.process.name}), 202, NO_STORE, JSON)


async def tasks(request: Request) -> Response:
    """List the tasks of all servers, the newest first."""
    return Response(to_json({"tasks": await services_of(request).reports.all_tasks()}), 200, NO_STORE, JSON)


async def cancel(request: Request) -> Response:
    """Cancel a task. Responds 202: it ends soon, and removes what it has begun."""
    services, task_id = services_of(request), segment(request, "id")
    if not services.reports.tasks.cancel(task_id) and not await services.reports.cancel_elsewhere(task_id):
        raise NotFound(f"no task {task_id[:64]!r} runs")
    record_action(access_of(request).principal, "cancel", task_id)
    return Response(status_code=202, headers=NO_STORE)


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
    Endpoint(_PATH + "/history", history, methods=["GET"], access=AccessLevel.OBSERVER),
    Endpoint(_PATH + "/restores", restore, methods=["POST"], access=AccessLevel.OPERATOR),
    Endpoint(_PATH + "/verifications", verify, methods=["POST"], access=AccessLevel.OPERATOR),
    Endpoint("/v1/admin/verifications", verify, methods=["POST"], access=AccessLevel.OPERATOR),
    Endpoint("/v1/admin/tasks", tasks, methods=["GET"], access=AccessLevel.OBSERVER),
    Endpoint("/v1/admin/tasks/{id}", cancel, methods=["DELETE"], access=AccessLevel.OPERATOR),
    Endpoint(_PATH + "/snapshots", snapshot, methods=["POST"], access=AccessLevel.OPERATOR),
]
