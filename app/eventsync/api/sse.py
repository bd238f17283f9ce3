"""`GET /v1/sync/sse`: the Server-Sent Events transport.

Each event's `id` is the whole state vector after it. A browser sends the last one as `Last-Event-ID` when it
reconnects, and thus resumes exactly. Raw ASGI: a streaming response with a queue costs three times as much.

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

from eventsync.access.access import Access
from eventsync.api.authentication import authenticate_stream
from eventsync.api.endpoint import AccessLevel, Endpoint
from eventsync.api.permissions import Permissions
from eventsync.api.state import Services, begin_access, services_of
from eventsync.domain import protocol
from eventsync.domain.positions import (
    LogId,
    Position,
    Seq,
    StateVector,
    scoped,
    vector_from_short,
    vector_from_text,
    vector_to_short,
    vector_to_text,
)
from eventsync.domain.protocol import MAX_NAMED, check_client_id
from eventsync.domain.shapes import Shape, asked_shape
from eventsync.errors import EventsyncError, Forbidden, Malformed, NotTracked, UnknownShape
from eventsync.logging import name_session
from eventsync.server.deadline import deadline_of
from eventsync.server.extensions import SocketWriter, socket_writer
from eventsync.server.response_stream import ClientDisconnected, ResponseStream
from eventsync.server.retry import RETRY, in_band, retry_line
from eventsync.settings import Settings
from eventsync.sync.live.fan_out import DirectWriter, Publication
from eventsync.sync.sessions.session import Connection, Session
from eventsync.sync.sessions.subscription import OutboundMessage

logger = logging.getLogger(__name__)

_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    # Turns off nginx's buffering of the response.
    (b"x-accel-buffering", b"no"),
]


_LONG_ID = 1024
"""Maximum length of an id that names the shapes, in bytes; a longer one has the short form."""

_LARGE = 1024 * 1024
"""Size in bytes above which a message is sent in pieces, without a copy."""

_LONGEST = Position(scoped(LogId("x" * 8), "0" * 8), Seq(10**12))
"""A position of maximum length."""


class EventStream:
    """The endpoint. A permanent error is a problem document; a temporary one is an `error` event in a 200 response.

    On any other status a browser closes an `EventSource` for good, so temporary errors must not have one.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        deadline_of(request).lift()
        services = services_of(request)
        query = _parse_query(request, services.settings)
        stream = ResponseStream(scope, receive, send, timeout=services.settings.send_timeout)
        try:
            access = await authenticate_stream(request, [str(shape) for shape in query[0]])
            begin_access(scope, access)
            with Permissions(request).connection():
                await _serve(scope, services, query, access, stream)
        except EventsyncError as error:
            if stream.started or not error.retryable:
                raise
            await _send_error(error, stream)
        except Exception:
            if stream.started:
                raise
            logger.exception("an event stream can't begin")
            await _send_error(EventsyncError(), stream)


async def _serve(scope: Scope, services: Services, query: _Query, access: Access, stream: ResponseStream) -> None:
    shapes, vector, client_id = query
    _require(services, shapes, access)
    # With several shapes the event ids, and thus the bytes, differ from client to client.
    direct = direct_writer(scope) if len(shapes) == 1 else None
    async with services.sync.sessions.open(
        shapes, vector, client_id, access=access, transport="sse", connection=Connection(direct, stream.until_writable)
    ) as session:
        name_session(session.id)
        # Tracking may have changed in the meantime, and a client can't add a shape to an open stream.
        _require(services, shapes, session.access)
        async with stream.watched(session.close):
            with suppress(ClientDisconnected):
                await _stream(session, shapes, stream, socket_writer(scope))
                await _end(stream, services.sync.sessions.leaving)


def _require(services: Services, shapes: Iterable[Shape], access: Access) -> None:
    """Raise `Unavailable` if a shape can be served soon, and the error of the first shape if none can be served.

    If only some can't be served, the session sends an `error` event for each of them.
    """
    refused: list[EventsyncError] = []
    served = 0
    for shape in shapes:
        try:
            services.sync.source.bind(shape, access)
            served += 1
        except (Forbidden, Malformed, NotTracked, UnknownShape) as error:
            refused.append(error)
    if refused and not served:
        raise refused[0]


async def _send_error(error: EventsyncError, stream: ResponseStream) -> None:
    """Send an `error` event and a retry delay, and end the stream."""
    with suppress(ClientDisconnected):
        await stream.start(_HEADERS)
        await stream.write(in_band(error))
        await stream.end()


def direct_writer(scope: Scope) -> DirectWriter | None:
    """Return a writer that bypasses ASGI, if the server has one. All clients of a shape are sent the same bytes."""
    write = socket_writer(scope)
    return None if write is None else DirectWriter(_encode, write)


def _encode(publication: Publication) -> bytes:
    shape = publication.shape
    return _chunk(_event("events", publication.data, id_encoder((shape,))({shape: publication.end})))


def _chunk(data: bytes) -> bytes:
    """Return a chunk of the chunked encoding (RFC 9112 section 7.1)."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def _parse_vector(text: str, shapes: list[Shape], limit: int) -> dict[Shape, Position]:
    """Parse a state vector in either of its text forms. Only the long form has an `=`."""
    if text and "=" not in text:
        return vector_from_short(text, shapes)
    return vector_from_text(text, limit=limit)


_Query = tuple[list[Shape], dict[Shape, Position] | None, str | None]
"""The shapes, the state vector and the id of a client."""


def _parse_query(request: Request, settings: Settings) -> _Query:
    query, limit = request.query_params, MAX_NAMED * settings.max_shapes
    shapes = list(dict.fromkeys(map(asked_shape, query.getlist("shape"))))
    if not 1 <= len(shapes) <= limit:
        raise Malformed(f"shape is given 1 to {limit} times")
    text = request.headers.get("last-event-id") or query.get("vector")
    vector = None if text is None else _parse_vector(text, shapes, limit)
    return shapes, vector, check_client_id(query.get("client_id"))


def id_encoder(shapes: Sequence[Shape]) -> Callable[[StateVector], str]:
    """Return the function that encodes ids of a stream of these shapes: in the long form, or if needed the short one.

    A browser sends its last id back as a header, and proxies accept headers of 4 to 8 KiB.
    """
    if sum(map(len, (vector_to_text({shape: _LONGEST}) for shape in shapes))) <= _LONG_ID:
        return vector_to_text
    return partial(vector_to_short, shapes=shapes)


async def _stream(
    session: Session, shapes: Sequence[Shape], stream: ResponseStream, write: SocketWriter | None
) -> None:
    encode_id = id_encoder(shapes)
    await stream.start(_HEADERS)
    await stream.write(retry_line())
    try:
        async with aclosing(session.messages()) as messages:
            async for message in messages:
                await _write_message(stream, write, message, encode_id(session.vector))
    except EventsyncError as error:
        # The status was sent already: send an `error` event, after which the client reconnects with its vector.
        if error.retryable:
            await stream.write(retry_line(error))
        await stream.write(_event("error", protocol.error(error), encode_id(session.vector)))


async def _write_message(
    stream: ResponseStream, write: SocketWriter | None, message: OutboundMessage, id_text: str
) -> None:
    size = sum(map(len, message.pieces))
    if size > _LARGE and write is not None:
        begin, end = _event(message.kind, b"", id_text)[:-2], b"\n\n"
        # One chunk of several pieces, without a copy: a document's JSON may have 90 MiB.
        length = len(begin) + size + len(end)
        if write(b"%x\r\n" % length, begin, *message.pieces, end, b"\r\n"):
            return
    await stream.write(_event(message.kind, message.data, id_text))


async def _end(stream: ResponseStream, leaving: int) -> None:
    """End the response. While the server drains, send a retry delay first."""
    if leaving:
        # No blank line: the field takes effect at the end of its line.
        await stream.write(b"retry: %d\n" % retry_after_drain(leaving))
    await stream.end()


def retry_after_drain(leaving: int) -> int:
    """Return a random delay in milliseconds, such that `leaving` clients reconnect at about a thousand a second."""
    low, high = RETRY
    return random.randint(low, max(high, low + leaving))


def _event(kind: str, data: bytes, id_text: str) -> bytes:
    return b"event: %b\nid: %b\ndata: %b\n\n" % (kind.encode(), id_text.encode(), data)


routes = [
    Endpoint(
        "/v1/sync/sse",
        EventStream(),
        methods=["GET"],
        access=AccessLevel.PRINCIPAL,
        name="sse",
        query=("vector", "client_id", "ticket"),
        authenticates=True,
        repeated=("shape",),
    ),
]
