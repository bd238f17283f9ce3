"""`GET /v1/sync/log` and `GET /v1/sync/snapshot`: syncing by plain, cacheable HTTP."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from eventsync.api import conditions
from eventsync.api.endpoint import Endpoint
from eventsync.api.state import services
from eventsync.concurrency.held_bytes import need
from eventsync.domain.positions import Position
from eventsync.domain.replay import Damaged
from eventsync.domain.shapes import Shape
from eventsync.errors import Malformed, Unavailable
from eventsync.server.deadline import deadline_of
from eventsync.server.response_stream import ClientDisconnected, ResponseStream
from eventsync.sync.catch_up.bootstrap import Bootstrap

logger = logging.getLogger(__name__)

_CHUNK = 64 * 1024
_IMMUTABLE = "public, max-age=31536000, immutable"
_JSON = "application/json"
_SNAPSHOT_HEADERS = [
    (b"content-type", b"application/x-ndjson"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]


async def log_page(request: Request) -> Response:
    """The events after a position, at once or as soon as there are some."""
    found = services(request)
    shape = Shape.parse(request.query_params.get("shape"))
    position = Position.parse(request.query_params.get("position"))
    most = found.settings.frame_events
    limit = conditions.number(request, "limit", default=most, low=1, high=most)
    wait = _wait(request, found.settings.poll_wait)
    deadline_of(request).extend(wait)
    page = await found.sync.pages.page(shape, position, limit=limit, wait=wait)
    need(len(page.body))
    if not page.full:
        if conditions.unchanged(request, None):
            return Response(status_code=304, headers={"Cache-Control": "no-store"})
        return Response(page.body, headers={"Cache-Control": "no-store"}, media_type=_JSON)
    # A full page ends where its size says, the same on every server and for ever.
    headers = {"ETag": f'"{page.start}-{page.end.seq}"', "Cache-Control": _IMMUTABLE}
    if conditions.unchanged(request, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    return Response(page.body, headers=headers, media_type=_JSON)


def _wait(request: Request, most: float) -> float:
    text = request.query_params.get("wait", "0")
    try:
        seconds = float(text)
    except ValueError as error:
        raise Malformed(f"wait takes seconds, not {text[:32]!r}") from error
    if not 0 <= seconds < float("inf"):
        raise Malformed("wait takes seconds, 0 or more")
    return min(seconds, most)


class SnapshotStream:
    """The endpoint of snapshots: NDJSON, first the shape and its position, then a document a line.

    A snapshot that can't be finished ends without the end of its chunked encoding, so no client takes it for whole.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._serve(scope, receive, send, live=False)
        except Damaged as error:
            logger.log(
                logging.ERROR, "a stored snapshot is damaged, the collection is read instead: %s", error.diagnosis
            )
            await self._serve(scope, receive, send, live=True)

    async def _serve(self, scope: Scope, receive: Receive, send: Send, *, live: bool) -> None:
        """Raises `Damaged` only as long as nothing has gone out."""
        request = Request(scope, receive)
        deadline_of(request).lift()  # a turn to begin may take longer, and has its own bounds
        found = services(request)
        shape = Shape.parse(request.query_params.get("shape"))
        async with found.sync.snapshot(shape, live=live) as snapshot, aclosing(_lines(snapshot)) as lines:
            # The first chunk is read before the status goes out: what fails at once gets a problem document.
            first = await anext(lines)
            outlet = ResponseStream(scope, receive, send, timeout=found.settings.send_timeout)
            async with outlet.watched(lambda: None):
                await _stream(outlet, first, lines)


async def _stream(outlet: ResponseStream, first: bytes, rest: AsyncIterator[bytes]) -> None:
    try:
        await outlet.start(_SNAPSHOT_HEADERS)
        await outlet.write(first)
        async for chunk in rest:
            await outlet.write(chunk)
        await outlet.end()
    except ClientDisconnected:
        return
    except (Unavailable, Damaged) as error:
        level = logging.ERROR if isinstance(error, Damaged) else logging.WARNING
        logger.log(level, "a snapshot breaks off: %s", error.diagnosis)
        outlet.cut()


async def _lines(snapshot: Bootstrap) -> AsyncGenerator[bytes]:
    """The snapshot in chunks of whole lines."""
    chunk = bytearray(orjson.dumps({"shape": str(snapshot.shape), "position": str(snapshot.position)}) + b"\n")
    async for rows in snapshot.rows:
        for row in rows:
            chunk += row + b"\n"
            if len(chunk) >= _CHUNK:
                yield bytes(chunk)
                chunk.clear()
    yield bytes(chunk)


routes = [
    Endpoint(
        "/v1/sync/log", log_page, methods=["GET"], name="log", query=("shape", "position", "limit", "wait"), tagged=True
    ),
    Endpoint("/v1/sync/snapshot", SnapshotStream(), methods=["GET"], name="snapshot", query=("shape",)),
]
