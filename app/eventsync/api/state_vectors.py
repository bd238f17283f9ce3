"""`/v1/state-vectors`: the stored clients, and acknowledgements of clients without a WebSocket."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, Final

import orjson
from starlette.requests import Request
from starlette.responses import Response

from eventsync.access.audit import record_action
from eventsync.api import conditions
from eventsync.api.bodies import read_small
from eventsync.api.endpoint import AccessLevel, Endpoint
from eventsync.api.paths import segment
from eventsync.api.responses import JSON, NO_STORE
from eventsync.api.state import access_of, services_of
from eventsync.concurrency.held_bytes import need
from eventsync.domain.access.principal import name_within
from eventsync.domain.events import timestamp
from eventsync.domain.positions import vector_from_json, vector_to_json
from eventsync.domain.protocol import check_client_id
from eventsync.errors import Malformed
from eventsync.sync.clients.lag import ShapeLag
from eventsync.sync.clients.state_vectors import Client

_WEIGHT: Final = 3
"""Memory of a client in a page, as a multiple of its JSON: read, encoded and in the response."""


async def listing(request: Request) -> Response:
    """List the clients by id, a page at a time."""
    services = services_of(request)
    max_limit = services.settings.page_documents
    limit = conditions.number(request, "limit", default=min(100, max_limit), low=1, high=max_limit)
    after, access = request.query_params.get("after", ""), access_of(request)
    async with aclosing(services.sync.vectors.clients(after, limit, access)) as listed:
        rows, next_after = await _page(listed, limit, services.settings.page_bytes)
    body = b'{"clients":[%b]%b}' % (
        b",".join(rows),
        b"" if next_after is None else b',"next":' + orjson.dumps(next_after),
    )
    return Response(body, headers=NO_STORE, media_type=JSON)


async def _page(clients: AsyncIterator[Client], limit: int, max_bytes: int) -> tuple[list[bytes], str | None]:
    """Return the encoded clients, and the id of the last one if there may be more."""
    rows: list[bytes] = []
    size = 0
    async for client in clients:
        rows.append(orjson.dumps(described(client)))
        size += len(rows[-1])
        need(_WEIGHT * size)
        if len(rows) == limit or size >= max_bytes:
            return rows, client.client_id
    return rows, None


async def read(request: Request) -> Response:
    """Read one client: one of the principal's own, or for an operator any other by the id in the listing."""
    client = await services_of(request).sync.vectors.client(_client_id(request), access_of(request))
    return _answer(request, client)


async def put(request: Request) -> Response:
    """Acknowledge `{"vector": {…}}`. Responds with the stored vector, which may be later."""
    services = services_of(request)
    tree = await read_small(request, min(services.settings.body_bytes, services.settings.message_bytes))
    if not isinstance(tree, dict) or "vector" not in tree:
        raise Malformed('the body is {"vector": {shape: position}}')
    vector = vector_from_json(tree["vector"], limit=services.settings.max_shapes)
    client = await services.sync.vectors.put(_client_id(request), vector, access_of(request))
    return _answer(request, client)


def _answer(request: Request, client: Client) -> Response:
    body = described(client)
    # The client knows the name that it has chosen.
    body["client_id"] = segment(request, "client_id")
    return Response(orjson.dumps(body), headers=NO_STORE, media_type=JSON)


async def delete(request: Request) -> Response:
    """Remove a client. If it returns with its id alone, it gets snapshots."""
    client_id, access = _client_id(request), access_of(request)
    await services_of(request).sync.vectors.forget(client_id)
    if not access.is_open and not client_id.startswith(access.scope):
        record_action(access.principal, "forget", client_id)
    return Response(status_code=204, headers=NO_STORE)


def described(client: Client) -> dict[str, Any]:
    """Return the JSON form of a client."""
    return {
        "client_id": client.client_id,
        "vector": vector_to_json(client.vector),
        "lag": {str(shape): _lag(lag) for shape, lag in client.lag.items()},
        "transport": client.transport,
        "seen": timestamp(client.seen),
    }


def _lag(lag: ShapeLag | None) -> dict[str, float | None] | None:
    if lag is None:
        return None
    return {"events": lag.events, "seconds": None if lag.seconds is None else round(lag.seconds, 3)}


def _client_id(request: Request) -> str:
    """Return the stored id of the client in the path. Raises `Malformed`."""
    text, access = segment(request, "client_id"), access_of(request)
    if check_client_id(name_within(text)) is None:
        raise Malformed("a client has an id")
    return text if access.is_operator and text != name_within(text) else access.scope + text


routes = [
    Endpoint(
        "/v1/state-vectors",
        listing,
        methods=["GET"],
        access=AccessLevel.OBSERVER,
        name="state_vectors",
        query=("after", "limit"),
    ),
    Endpoint("/v1/state-vectors/{client_id}", read, methods=["GET"], access=AccessLevel.PRINCIPAL, name="state_vector"),
    Endpoint("/v1/state-vectors/{client_id}", put, methods=["PUT"], access=AccessLevel.PRINCIPAL),
    Endpoint("/v1/state-vectors/{client_id}", delete, methods=["DELETE"], access=AccessLevel.PRINCIPAL),
]
