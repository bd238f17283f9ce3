"""`GET /v1/sync/sse`: syncing over Server-Sent Events.

Each event's `id` is the whole state vector after it, so that a browser's own reconnect, which sends the last one back
as `Last-Event-ID`, resumes exactly. Raw ASGI, because a streaming response with a queue costs three times as much.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable, Sequence
from contextlib import aclosing, suppress
from functools import partial

from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from eventsync.api.endpoint import Endpoint
from eventsync.api.state import Services, services
from eventsync.domain import protocol
from eventsync.domain.positions import (
    LogId,
    Position,
    Seq,
    StateVector,
    vector_from_short,
    vector_from_text,
    vector_to_short,
    vector_to_text,
)
from eventsync.domain.protocol import check_client_id
from eventsync.domain.shapes import Shape
from eventsync.errors import EventsyncError, Malformed, NotTracked
from eventsync.server.deadline import deadline_of
from eventsync.server.protocols import SocketWriter, writer
from eventsync.server.response_stream import ClientDisconnected, ResponseStream
from eventsync.server.retry import RETRY, in_band, retry_line
from eventsync.settings import Settings
from eventsync.sync.live.fan_out import DirectWriter, Publication
from eventsync.sync.sessions.session import Session
from eventsync.sync.sessions.subscription import OutboundMessage

logger = logging.getLogger(__name__)

_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    # nginx buffers a response unless it is told not to.
    (b"x-accel-buffering", b"no"),
]


_LONG_ID = 1024
"""Longest id, in bytes, that names the shapes; a longer one has the short form."""

_LARGE = 1024 * 1024
"""Bytes of a message from which on it is not copied on its way."""

_LONGEST = Position(LogId("x" * 8), Seq(10**12))
"""The longest position that a log will ever have."""


class EventStream:
    """The endpoint. A request that is wrong for good gets a problem document; all else is told in band, with 200.

    A browser gives an `EventSource` up for ever on any other status, so what may go well later must not have one.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        deadline_of(request).lift()
        found = services(request)
        asked = _asked(request, found.settings)
        outlet = ResponseStream(scope, receive, send, timeout=found.settings.send_timeout)
        try:
            await _serve(scope, found, asked, outlet)
        except EventsyncError as error:
            if outlet.started or not error.retryable:
                raise
            await _later(error, outlet)
        except Exception:
            if outlet.started:
                raise
            logger.exception("an event stream can't begin")
            await _later(EventsyncError(), outlet)


async def _serve(scope: Scope, found: Services, asked: _Asked, outlet: ResponseStream) -> None:
    shapes, vector, client_id = asked
    _require(found, shapes)
    # With several shapes the event ids, and thus the bytes, differ from client to client.
    direct = direct_writer(scope) if len(shapes) == 1 else None
    async with found.sync.sessions.open(shapes, vector, client_id, transport="sse", direct_writer=direct) as session:
        # What is tracked may have changed meanwhile, and a shape that is left out could not be asked for again.
        _require(found, shapes)
        async with outlet.watched(session.close):
            with suppress(ClientDisconnected):
                await _stream(session, shapes, outlet, writer(scope))
                await _goodbye(outlet, found.sync.sessions.leaving)


def _require(found: Services, shapes: Iterable[Shape]) -> None:
    """Raise `Unavailable` where one of the shapes may be had soon, and `NotTracked` where none is tracked.

    One that is not tracked, beside others that are, is told in band by the session.
    """
    refused: list[NotTracked] = []
    served = 0
    for shape in shapes:
        try:
            found.sync.tracking.require(shape.collection)
            served += 1
        except NotTracked as error:
            refused.append(error)
    if refused and not served:
        raise refused[0]


async def _later(error: EventsyncError, outlet: ResponseStream) -> None:
    """Say in band that the stream can't begin yet, and when to ask again."""
    with suppress(ClientDisconnected):
        await outlet.start(_HEADERS)
        await outlet.write(in_band(error))
        await outlet.end()


def direct_writer(scope: Scope) -> DirectWriter | None:
    """Return a writer that bypasses ASGI, if the server has one. All clients of a shape are sent the same bytes."""
    write = writer(scope)
    return None if write is None else DirectWriter(_encode, write)


def _encode(publication: Publication) -> bytes:
    shape = publication.shape
    return _chunk(_event("events", publication.data, id_writer((shape,))({shape: publication.end})))


def _chunk(data: bytes) -> bytes:
    """Source: RFC 9112 section 7.1."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def _vector(text: str, shapes: list[Shape], settings: Settings) -> dict[Shape, Position]:
    """The state vector, in either of its text forms; only the long one has an `=`."""
    if text and "=" not in text:
        return vector_from_short(text, shapes)
    return vector_from_text(text, limit=settings.max_shapes)


_Asked = tuple[list[Shape], dict[Shape, Position] | None, str | None]
"""The shapes, the vector and the id of a client."""


def _asked(request: Request, settings: Settings) -> _Asked:
    query = request.query_params
    shapes = list(dict.fromkeys(Shape.parse(text) for text in query.getlist("shape")))
    if not 1 <= len(shapes) <= settings.max_shapes:
        raise Malformed(f"shape is given 1 to {settings.max_shapes} times")
    text = request.headers.get("last-event-id") or query.get("vector")
    vector = None if text is None else _vector(text, shapes, settings)
    return shapes, vector, check_client_id(query.get("client_id"))


def id_writer(shapes: Sequence[Shape]) -> Callable[[StateVector], str]:
    """Return what writes the ids of a stream of these shapes: the text form, or where that is long, the short form.

    A browser sends its last id back as a header, and proxies take headers of 4 to 8 KiB.
    """
    if sum(map(len, (vector_to_text({shape: _LONGEST}) for shape in shapes))) <= _LONG_ID:
        return vector_to_text
    return partial(vector_to_short, shapes=shapes)


async def _stream(
    session: Session, shapes: Sequence[Shape], outlet: ResponseStream, write: SocketWriter | None
) -> None:
    write_id = id_writer(shapes)
    await outlet.start(_HEADERS)
    await outlet.write(retry_line())
    try:
        async with aclosing(session.messages()) as messages:
            async for message in messages:
                await _put(outlet, write, message, write_id(session.vector))
    except EventsyncError as error:
        # The status is out already: the client is told in band, and reconnects with its vector.
        if error.retryable:
            await outlet.write(retry_line(error))
        await outlet.write(_event("error", protocol.error(error), write_id(session.vector)))


async def _put(outlet: ResponseStream, write: SocketWriter | None, message: OutboundMessage, id_text: str) -> None:
    size = sum(map(len, message.pieces))
    if size > _LARGE and write is not None:
        await outlet.write(b"")  # returns when the connection can take more
        begin, end = _event(message.kind, b"", id_text)[:-2], b"\n\n"
        # As one chunk, of pieces that are not copied: a document's JSON may have 90 MiB.
        length = len(begin) + size + len(end)
        if write(b"%x\r\n" % length, begin, *message.pieces, end, b"\r\n"):
            return
    await outlet.write(_event(message.kind, message.data, id_text))


async def _goodbye(outlet: ResponseStream, leaving: int) -> None:
    """End the response; where the server goes, say when to come back."""
    if leaving:
        # As above, no blank line: the field counts from the end of its line on.
        await outlet.write(b"retry: %d\n" % retry_after_goodbye(leaving))
    await outlet.end()


def retry_after_goodbye(leaving: int) -> int:
    """Milliseconds until one of `leaving` clients reconnects: of many, about a thousand a second."""
    low, high = RETRY
    return random.randint(low, max(high, low + leaving))


def _event(kind: str, data: bytes, id_text: str) -> bytes:
    return b"event: %b\nid: %b\ndata: %b\n\n" % (kind.encode(), id_text.encode(), data)


routes = [
    Endpoint(
        "/v1/sync/sse",
        EventStream(),
        methods=["GET"],
        name="sse",
        query=("vector", "client_id"),
        repeated=("shape",),
    ),
]
