"""`/v1/admin/log`: the events of the whole log, searched from the newest backwards."""

from __future__ import annotations

from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from eventsync.api import conditions
from eventsync.api.endpoint import AccessLevel, Endpoint
from eventsync.api.responses import JSON, NO_STORE
from eventsync.api.state import access_of, services_of
from eventsync.concurrency.held_bytes import need
from eventsync.domain.event_body import without_content
from eventsync.domain.ids import format_id, parse_id
from eventsync.domain.points import parse_instant
from eventsync.domain.positions import LogId, Position, Seq
from eventsync.domain.shapes import Shape
from eventsync.domain.values.extended_json import to_json
from eventsync.errors import Malformed
from eventsync.server.sized_response import Parts
from eventsync.stores.history.log_search import LogSearch, Wanted

OPERATIONS: Final = ("create", "update", "replace", "delete")
_WEIGHT: Final = 3


async def search(request: Request) -> Response:
    """Respond with the newest events that match, the newest first, and where to continue.

    A search looks at a bounded part of the log: a page may be empty although there is a `next` one. Observers get no
    content of documents: of a patch, its paths.
    """
    services, query = services_of(request), request.query_params
    limit = conditions.page_size(request)
    wanted = Wanted(_shape(request), query.get("by"), _operation(request))
    source, stores = services.sync.source, services.stores
    log = source.log()
    async with source.continuity.reading(), source.admissions["read"].admitted():
        head = await stores.events.head(log)
        after, up_to = await _range(request, log, head)
        found = await LogSearch(stores.events).newest(
            log, wanted, after=after, up_to=up_to, limit=limit, max_bytes=services.settings.page_bytes
        )
    need(_WEIGHT * sum(len(event.body) for event in found.events))
    is_operator = access_of(request).is_operator
    body: dict[str, Any] = {"log": log, "head": f"{log}:{head}", "searched": {"after": found.reached, "up_to": up_to}}
    if found.reached > after:
        body["next"] = f"{log}:{found.reached}"
    # In pieces: copying events of 90 MiB would take 50 ms.
    pieces = [to_json(body)[:-1] + b',"events":[']
    for number, event in enumerate(found.events):
        pieces += [b"," if number else b"", event.body if is_operator else to_json(without_content(event.body))]
    return Parts([*pieces, b"]}"], NO_STORE, JSON)


def _shape(request: Request) -> Shape | None:
    """Return the collection or the document that is searched for. Raises `Malformed`."""
    collection, text = request.query_params.get("collection"), request.query_params.get("id")
    if collection is None:
        if text is not None:
            raise Malformed("id names a document of a collection: give that, too")
        return None
    shape = Shape.parse(collection)
    if shape.id is not None or shape.declared is not None:
        raise Malformed(f"collection is the name of one, and not {collection[:64]!r}")
    return shape if text is None else Shape(collection, format_id(parse_id(text)))


def _operation(request: Request) -> str | None:
    op = request.query_params.get("op")
    if op is not None and op not in OPERATIONS:
        raise Malformed(f"op is one of {', '.join(OPERATIONS)}")
    return op


async def _range(request: Request, log: LogId, head: Seq) -> tuple[Seq, Seq]:
    """Return the range that is searched: by positions, by instants, and not behind the horizon. Raises `Malformed`."""
    stores, query = services_of(request).stores, request.query_params
    after, up_to = (await stores.tiers.read(log)).horizon, head
    for name in ("after", "up_to"):
        if (text := query.get(name)) is None:
            continue
        position = Position.parse_in_log(text)
        if position.log != log:
            raise Malformed(f"{name} is a position of the log {log}, and not of {position.log}")
        after, up_to = (max(after, position.seq), up_to) if name == "after" else (after, min(up_to, position.seq))
    if "from" in query:
        after = max(after, await stores.history.instants.newest(log, parse_instant(query["from"]), head))
    if "to" in query:
        up_to = min(up_to, await stores.history.instants.newest(log, parse_instant(query["to"]), head))
    return after, max(after, up_to)


routes = [
    Endpoint(
        "/v1/admin/log",
        search,
        methods=["GET"],
        access=AccessLevel.OBSERVER,
        name="admin_log",
        query=("after", "up_to", "from", "to", "collection", "id", "by", "op", "limit"),
    ),
]
