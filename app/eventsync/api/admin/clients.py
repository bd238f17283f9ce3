"""`/v1/admin/clients`: the open sessions of all servers. Stored clients are at `/v1/state-vectors`."""

from __future__ import annotations

import re
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from eventsync.access.audit import record_action
from eventsync.api import conditions
from eventsync.api.endpoint import AccessLevel, Endpoint
from eventsync.api.paths import segment
from eventsync.api.responses import JSON, NO_STORE
from eventsync.api.state import access_of, services_of
from eventsync.concurrency.held_bytes import need
from eventsync.concurrency.slices import Slices
from eventsync.domain.values.extended_json import to_json
from eventsync.errors import NotFound
from eventsync.stores.stats.processes import Listing, SessionQuery

_SESSION_ID: Final = re.compile("[0-9a-f]{32}")
_MAX_NOTE: Final = 2**53

_WEIGHT: Final = 4
"""Memory of a session in a page, as a multiple of its JSON: read, encoded and in the response."""

_FILTERS = ("sub", "transport", "shape", "server")


async def listing(request: Request) -> Response:
    """List the open sessions by id, a page at a time.

    A server lists at most so many as `LISTED` says, and other servers than this one only while somebody asks: each has
    its numbers of `connections` and of those that are `listed`. A page ends at `page_bytes`, too.
    """
    services, query = services_of(request), request.query_params
    limit = conditions.page_size(request)
    equal = {name: text for name in _FILTERS if (text := query.get(name)) is not None}
    # One more than the page tells that there is another.
    listings = await services.reports.listings(SessionQuery(limit + 1, query.get("after", ""), equal))
    chosen = sorted((session for each in listings for session in _named(each)), key=lambda session: session["id"])
    slices, rows, size = Slices(), list[bytes](), 0
    for session in chosen[:limit]:
        rows.append(to_json(session))
        size += len(rows[-1])
        need(_WEIGHT * size)
        await slices.did(len(rows[-1]))
        if size >= services.settings.page_bytes:
            break
    others: dict[str, Any] = {
        "servers": [
            {"server": each.server, "connections": each.connections, "listed": each.listed} for each in listings
        ],
        "complete": all(each.listed >= each.connections for each in listings),
    }
    if len(chosen) > len(rows):
        others["next"] = chosen[len(rows) - 1]["id"]
    body = b'{"clients":[%b],%b' % (b",".join(rows), to_json(others)[1:])
    return Response(body, headers=NO_STORE, media_type=JSON)


def _named(listing: Listing) -> list[dict[str, Any]]:
    """Return the sessions of a server, each with its name."""
    return [{**session, "server": listing.server} for session in listing.sessions]


async def read(request: Request) -> Response:
    """Read one session, of any server."""
    session_id = segment(request, "id")
    listings = await services_of(request).reports.listings(SessionQuery(equal={"id": session_id}))
    session = next((session for each in listings for session in _named(each)), None)
    if session is None:
        raise _unknown(session_id)
    return Response(to_json(session), headers=NO_STORE, media_type=JSON)


async def frames(request: Request) -> Response:
    """Inspect one session, of any server: respond with what has passed since the last answer, and why.

    The first request begins the inspection, which ends some seconds after the last one.
    """
    services, session_id = services_of(request), segment(request, "id")
    after = conditions.number(request, "after", default=0, low=0, high=_MAX_NOTE)
    if not _SESSION_ID.fullmatch(session_id) or (found := await services.reports.inspect(session_id, after)) is None:
        raise _unknown(session_id)
    server, notes = found
    # Whatever `after` is: an inspection that somebody else has begun, or a number beyond its notes, shows all of them.
    services.access.looks.record(access_of(request).principal, "inspect", session_id)
    return Response(to_json({"id": session_id, "server": server} | notes), headers=NO_STORE, media_type=JSON)


async def disconnect(request: Request) -> Response:
    """Close a session. Its client waits for some seconds, connects again and resumes.

    Responds 204 if it was a session of this server, and 202 if another one closes it within seconds.
    """
    services, session_id = services_of(request), segment(request, "id")
    server = await services.reports.close(session_id)
    if server is None:
        raise _unknown(session_id)
    record_action(access_of(request).principal, "disconnect", session_id)
    return Response(status_code=204 if server == services.reports.process.name else 202, headers=NO_STORE)


def _unknown(session_id: str) -> NotFound:
    return NotFound(f"no server lists an open session {session_id[:64]!r}")


routes = [
    Endpoint(
        "/v1/admin/clients",
        listing,
        methods=["GET"],
        access=AccessLevel.OBSERVER,
        name="admin_clients",
        query=("after", "limit", *_FILTERS),
    ),
    Endpoint("/v1/admin/clients/{id}", read, methods=["GET"], access=AccessLevel.OBSERVER, name="admin_client"),
    Endpoint("/v1/admin/clients/{id}", disconnect, methods=["DELETE"], access=AccessLevel.OPERATOR),
    Endpoint("/v1/admin/clients/{id}/frames", frames, methods=["GET"], access=AccessLevel.OBSERVER, query=("after",)),
]
