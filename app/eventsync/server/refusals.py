"""Answers to connections over the limit on sockets, in the protocol that the client asks for.

A browser gives up an `EventSource` for ever on any status but 200, and hides the reason of a refused WebSocket from the
page. Therefore a connection over the limit may send one head, limited in bytes and in time. The answer is fixed text:
the application does not see the request.

Sources: https://html.spec.whatwg.org/multipage/server-sent-events.html, RFC 6455 section 4.2.2, RFC 9112 section 6.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Final

import orjson
from websockets.utils import accept_key

from eventsync.domain import protocol
from eventsync.errors import Unavailable
from eventsync.server.problems import MEDIA_TYPE, Close, problem_document, respond
from eventsync.server.retry import in_band
from eventsync.server.websocket_frames import close_frame, text_frame

Headers = Iterable[tuple[bytes, bytes]]

MAX_HEAD: Final = 16 * 1024
"""Maximum bytes of that head. A longer head gets the answer for plain HTTP."""

MAX_WAITING: Final = 256
"""Connections over the limit that may send a head at a time. More get the answer for plain HTTP at once."""

_CODES: Final = {
    HTTPStatus.BAD_REQUEST: "malformed",
    HTTPStatus.REQUEST_TIMEOUT: "request_timeout",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "too_large",
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: "too_large",
}


def answer(head: bytes, origins: frozenset[str], defaults: Headers) -> bytes:
    """Return the whole answer to a request whose `head`, or a part of it, has arrived.

    `origins` may read answers across origins. `defaults` are the headers of every answer.
    """
    line, fields = _parsed(head)
    error = Unavailable.busy("this server has too many connections", *protocol.RETRY_WHEN_FULL)
    if "sec-websocket-key" in fields and fields.get("upgrade", "").lower() == "websocket":
        return _websocket(error, fields, defaults)
    shared = [*defaults, *_cors(fields.get("origin"), origins)]
    if _wants_events(line, fields):
        return _response(HTTPStatus.OK, "text/event-stream; charset=utf-8", in_band(error), shared)
    response = respond(error)
    shared.append((b"retry-after", response.headers["retry-after"].encode()))
    return _response(HTTPStatus.SERVICE_UNAVAILABLE, MEDIA_TYPE, bytes(response.body), shared)


def plain(status: HTTPStatus, reason: str, defaults: Headers) -> bytes:
    """Return the answer to input that is no request: too late, too large, or not HTTP."""
    problem = problem_document(status, _CODES[status], reason)
    return _response(status, MEDIA_TYPE, orjson.dumps(problem), defaults)


def is_whole(head: bytes | bytearray) -> bool:
    """Return True if the head is complete, or longer than the maximum."""
    return b"\r\n\r\n" in head or len(head) >= MAX_HEAD


def _parsed(head: bytes) -> tuple[str, Mapping[str, str]]:
    line, *rest = head.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
    pairs = (field.partition(":") for field in rest)
    return line, {name.strip().lower(): value.strip() for name, colon, value in pairs if colon}


def _wants_events(line: str, fields: Mapping[str, str]) -> bool:
    """Return True if the client asks for an event stream: by `Accept`, as browsers do, or by the path."""
    target = line.split(" ")[1] if line.count(" ") >= 1 else ""
    return "text/event-stream" in fields.get("accept", "") or target.partition("?")[0] == "/v1/sync/sse"


def _cors(origin: str | None, origins: frozenset[str]) -> Headers:
    # Without these headers a page of a listed origin sees a network failure instead of the answer.
    if origin is None or not ({origin, "*"} & origins):
        return []
    if origin not in origins:
        return [(b"access-control-allow-origin", b"*")]
    found = origin.encode("latin-1")
    return [
        (b"access-control-allow-origin", found),
        (b"access-control-allow-credentials", b"true"),
        (b"vary", b"Origin"),
    ]


def _response(status: HTTPStatus, kind: str, body: bytes, headers: Headers) -> bytes:
    fields = [
        (b"content-type", kind.encode()),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
        (b"connection", b"close"),
        *headers,
    ]
    return _head(status, fields) + body


def _head(status: HTTPStatus, fields: Headers) -> bytes:
    line = f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode()
    return line + b"".join(b"%b: %b\r\n" % field for field in fields) + b"\r\n"


def _websocket(error: Unavailable, fields: Mapping[str, str], defaults: Headers) -> bytes:
    """Return the handshake, the `error` and the close, as one piece."""
    handshake = [
        (b"upgrade", b"websocket"),
        (b"connection", b"Upgrade"),
        (b"sec-websocket-accept", accept_key(fields["sec-websocket-key"]).encode()),
        *defaults,
    ]
    offered = {name.strip() for name in fields.get("sec-websocket-protocol", "").split(",")}
    if protocol.SUBPROTOCOL in offered:
        handshake.append((b"sec-websocket-protocol", protocol.SUBPROTOCOL.encode()))
    frames = text_frame(protocol.error(error)) + close_frame(Close.TRY_LATER, error.message)
    return _head(HTTPStatus.SWITCHING_PROTOCOLS, handshake) + frames
