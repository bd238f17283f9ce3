"""`GET /v1/sync/log` and `GET /v1/sync/snapshot`: the plain, cacheable HTTP transport. `POST /v1/barrier`."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from eventsync.api import conditions
from eventsync.api.bodies import read_small
from eventsync.api.endpoint import AccessLevel, Endpoint
from eventsync.api.responses import IMMUTABLE, JSON, NDJSON, NO_STORE
from eventsync.api.state import access_of, services_of
from eventsync.concurrency.held_bytes import need
from eventsync.domain.positions import Position
from eventsync.domain.replay import Damaged
from eventsync.domain.shapes import Shape
from eventsync.errors import Malformed
from eventsync.server.deadline import deadline_of
from eventsync.server.response_stream import ResponseStream, watched
from eventsync.server.sized_response import Parts
from eventsync.sync.catch_up.bootstrap import Bootstrap

logger = logging.getLogger(__name__)

_CHUNK = 64 * 1024
_SNAPSHOT_HEADERS = [
    (b"content-type", NDJSON.encode()),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]


async def log_page(request: Request) -> Response:
    """Respond with the events after a position, or from now on, at once or as soon as there are some."""
    services = services_of(request)
    shape = Shape.parse(request.query_params.get("shape"))
    given = request.query_params.get("position")
    position = None if given is None else Position.parse(given)
    max_events = services.settings.frame_events
    limit = conditions.number(request, "limit", default=max_events, low=1, high=max_events)
    wait = _wait(request, services.settings.poll_wait)
    deadline_of(request).extend(wait)
    page = await services.sync.pages.page(
        shape, position, access_of(request), limit=limit, wait=wait, watched=partial(watched, request.receive)
    )
    need(sum(map(len, page.parts)))
    # Without a position the next answer begins elsewhere.
    if not page.full or position is None:
        if conditions.unchanged(request, None):
            return Response(status_code=304, headers=NO_STORE)
        return Parts(page.parts, NO_STORE, JSON)
    # A full page ends at the same event on every server, for ever.
    headers = {"ETag": f'"{page.start}-{page.end.seq}"', "Cache-Control": IMMUTABLE}
    if conditions.unchanged(request, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    return Parts(page.parts, headers, JSON)


def _wait(request: Request, max_wait: float) -> float:
    text = request.query_params.get("wait", "0")
    try:
        seconds = float(text)
    except ValueError as error:
        raise Malformed(f"wait takes seconds, not {text[:32]!r}") from error
    if not 0 <= seconds < float("inf"):
        raise Malformed("wait takes seconds, 0 or more")
    return min(seconds, max_wait)


async def barrier(request: Request) -> Response:
    """Respond with a position at or past every write that was acknowledged before the request."""
    services = services_of(request)
    if await read_small(request, services.settings.message_bytes) != {}:
        raise Malformed("a barrier takes an empty object: {}")
    position = await services.sync.barriers.position()
    return Response(orjson.dumps({"log": position.log, "seq": position.seq}), 200, NO_STORE, JSON)


class SnapshotStream:
    """The endpoint of snapshots: NDJSON, first a line with the shape and its position, then one line a document.

    A snapshot that can't be completed ends without the last chunk of its encoding, so that clients detect it.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._serve(scope, receive, send, live=False)
        except Damaged as error:
            logger.log(
                logging.ERROR, "a stored snapshot is damaged; reading the collection instead: %s", error.diagnosis
            )
            await self._serve(scope, receive, send, live=True)

    async def _serve(self, scope: Scope, receive: Receive, send: Send, *, live: bool) -> None:
        """Serve the snapshot. Raises `Damaged` only before anything was sent."""
        request = Request(scope, receive)
        deadline_of(request).lift()  # waiting for admission has a bound of its own
        services = services_of(request)
        shape = Shape.parse(request.query_params.get("shape"))
        async with (
            services.sync.snapshot(shape, access_of(request), live=live) as snapshot,
            aclosing(_allowed(_lines(snapshot), snapshot.shape, request)) as lines,
        ):
            stream = ResponseStream(scope, receive, send, timeout=services.settings.send_timeout)
            await stream.send_all(_SNAPSHOT_HEADERS, lines, what="a snapshot")


async def _allowed(pieces: AsyncGenerator[bytes], shape: Shape, request: Request) -> AsyncGenerator[bytes]:
    """Yield the pieces of a snapshot for as long as its client may have them.

    Raises `Unavailable`, which cuts the answer off.
    """
    sync, access = services_of(request).sync, access_of(request)
    async for piece in pieces:
        access = sync.still_seen(shape, access)
        yield piece


async def _lines(snapshot: Bootstrap) -> AsyncGenerator[bytes]:
    """Yield the snapshot in chunks of `_CHUNK` bytes.

    A document of control characters has 96 MiB of JSON. Each copy of it would block the event loop for 20 ms.
    """
    chunk = bytearray(orjson.dumps({"shape": str(snapshot.shape), "position": str(snapshot.position)}) + b"\n")
    async for rows in snapshot.rows:
        for row in rows:
            rest = memoryview(row)
            while len(chunk) + len(rest) >= _CHUNK:
                part = _CHUNK - len(chunk)
                chunk += rest[:part]
                rest = rest[part:]
                yield bytes(chunk)
                chunk.clear()
            chunk += rest
            chunk += b"\n"
    yield bytes(chunk)


routes = [
    Endpoint(
        "/v1/sync/log",
        log_page,
        methods=["GET"],
        access=AccessLevel.PRINCIPAL,
        name="log",
        is_long=True,
        query=("shape", "position", "limit", "wait"),
        tagged=True,
    ),
    Endpoint(
        "/v1/sync/snapshot",
        SnapshotStream(),
        methods=["GET"],
        access=AccessLevel.PRINCIPAL,
        name="snapshot",
        is_long=True,
        query=("shape",),
    ),
    Endpoint("/v1/barrier", barrier, methods=["POST"], access=AccessLevel.PRINCIPAL, name="barrier"),
]
