"""The sync protocol's messages as bytes: what the server sends, and what a client may send.

An events message is assembled from bodies that are encoded already; nothing is encoded twice.
Source: `docs/reference/protocol.md`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final

import orjson

from eventsync.domain.positions import LogId, Position, Seq, StateVector, vector_from_json, vector_to_json
from eventsync.domain.shapes import InvalidShape, Shape, asked_shape
from eventsync.domain.values.extended_json import to_json
from eventsync.errors import EventsyncError, Malformed, Unauthenticated, public_error

PROTOCOL = 1

SUBPROTOCOL = "eventsync.v1"
"""The WebSocket subprotocol (RFC 6455 section 1.9) that names these messages."""

_FEW = 4
"""Up to this number, rows are not joined. Cached rows (`sync/catch_up/chunk_cache.py`) arrive in runs as long as a
frame.
"""

_LARGE: Final = 64 * 1024
"""A row of more bytes is not joined with others."""

RETRY_WHEN_FULL: Final = (1.0, 4.0)
"""Range of the retry delay, in seconds, of a client that a full server refuses."""

MAX_CLIENT_ID = 128
"""Longest client id, in characters."""

MAX_NAMED: Final = 10
"""Shapes that a request may name, in multiples of those that are served. Each one too many is refused by its name."""


# --- server → client --------------------------------------------------------------------------------------------


def welcome(
    session: str,
    client_id: str,
    heartbeat: float,
    vector: StateVector,
    *,
    remembered: bool = True,
    token_expires_in: float | None = None,
) -> bytes:
    message: dict[str, Any] = {
        "type": "welcome",
        "session": session,
        "client_id": client_id,
        "protocol": PROTOCOL,
        "heartbeat": heartbeat,
        "vector": vector_to_json(vector),
    } | _expiry(token_expires_in)
    return _encoded(message if remembered else message | {"remembered": False})


def snapshot(position: Position, shape: Shape, part: int, rows: Sequence[bytes], *, last: bool) -> Sequence[bytes]:
    """Return one part of a snapshot in pieces. A row is `{"id", "version", "doc"}` in JSON, or several joined by
    commas.
    """
    head = b'{"type":"snapshot","shape":%b,"position":"%b","part":%d,"last":%b,"docs":['
    return head % (to_json(str(shape)), str(position).encode(), part, _bool(last)), *_listed(rows), b"]}"


def squashed(
    start: Position, end: Position, shape: Shape, part: int, rows: Sequence[bytes], *, last: bool
) -> Sequence[bytes]:
    """Return one part of the squashed documents that have events with `start < seq <= end`, in pieces.

    Each row is `{"id", "version", "doc"}` or `{"id", "deleted": true}` in JSON.
    """
    head = b'{"type":"squashed","shape":%b,"from":"%b","to":"%b","part":%d,"last":%b,"docs":['
    span = to_json(str(shape)), str(start).encode(), str(end).encode()
    return head % (*span, part, _bool(last)), *_listed(rows), b"]}"


def _listed(rows: Sequence[bytes]) -> Sequence[bytes]:
    """Put commas between rows. Large rows, and a few rows, are not joined: all clients share them as they are."""
    if len(rows) > _FEW:
        if max(map(len, rows)) <= _LARGE:
            return (b",".join(rows),)
        runs = ((large, list(run)) for large, run in groupby(rows, key=lambda row: len(row) > _LARGE))
        rows = [row for large, run in runs for row in (run if large else [b",".join(run)])]
    return [piece for row in rows for piece in (b",", row)][1:]


def events(shape: Shape, log: LogId, start: Seq, end: Seq, bodies: Iterable[bytes]) -> bytes:
    """Return an events message for a shape, with the events of `start < seq <= end`."""
    return b"".join((b'{"type":"events",', _span(shape, log, start, end), *_listed([*bodies]), b"]}"))


def events_page(
    shape: Shape, log: LogId, start: Seq, end: Seq, bodies: Sequence[bytes], *, live: bool
) -> Sequence[bytes]:
    """Return a page of the HTTP log in pieces: the members of an events message, and whether no event follows."""
    return b"{", _span(shape, log, start, end), *_listed(bodies), b'],"live":%b}' % _bool(live)


def _span(shape: Shape, log: LogId, start: Seq, end: Seq) -> bytes:
    name = log.encode()
    return b'"shape":%b,"from":"%b:%d","to":"%b:%d","events":[' % (to_json(str(shape)), name, start, name, end)


def live(shape: Shape, position: Position) -> bytes:
    return _encoded({"type": "live", "shape": str(shape), "position": str(position)})


def progress(vector: StateVector, *, stale: bool = False, token_expires_in: float | None = None) -> bytes:
    """Return a progress message. `stale` says that committed changes may not be in the log yet.

    `token_expires_in` are the seconds until the client's credential ends; None if it has no end.
    """
    message: dict[str, Any] = {"type": "progress", "vector": vector_to_json(vector)}
    if stale:
        message["stale"] = True
    return _encoded(message | _expiry(token_expires_in))


def _expiry(seconds: float | None) -> dict[str, int]:
    return {} if seconds is None else {"token_expires_in": max(0, int(seconds))}


def authenticated(expires_in: float | None) -> bytes:
    """Return the answer to an `auth` message. `expires_in` is left out for a credential without an end."""
    message: dict[str, Any] = {"type": "authenticated"}
    return _encoded(message if expires_in is None else message | {"expires_in": max(0, int(expires_in))})


def reset(shape: Shape, reason: str) -> bytes:
    return _encoded({"type": "reset", "shape": str(shape), "reason": reason})


def error(failure: EventsyncError, shape: str | None = None) -> bytes:
    failure = public_error(failure)
    message: dict[str, Any] = {"type": "error", "code": failure.code, "message": failure.message}
    if shape is not None:
        message["shape"] = shape
    if isinstance(failure, Unauthenticated):
        message["reason"] = failure.reason
    if (retry_after := getattr(failure, "retry_after", None)) is not None:
        message["retry_after"] = retry_after
    return _encoded(message)


PONG = b'{"type":"pong"}'


def _encoded(message: dict[str, Any]) -> bytes:
    """Encode into an exact-size copy: orjson allocates 4 KiB, and an idle connection keeps its last message."""
    return bytes(memoryview(orjson.dumps(message)))


def _bool(value: bool) -> bytes:
    return b"true" if value else b"false"


# --- client → server --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Hello:
    """The first message: the client's identity, its shapes and its state vector."""

    client_id: str | None
    token: str | None
    shapes: tuple[Shape, ...]
    vector: Mapping[Shape, Position] | None
    """None if it sent none; then the stored vector of its id applies."""


@dataclass(frozen=True, slots=True)
class Subscribe:
    shape: Shape
    position: Position | None


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    shape: Shape


@dataclass(frozen=True, slots=True)
class Ack:
    vector: Mapping[Shape, Position]


@dataclass(frozen=True, slots=True)
class Ping:
    pass


@dataclass(frozen=True, slots=True)
class Auth:
    """Another credential of the same subject, for a live connection."""

    token: str


Request = Hello | Subscribe | Unsubscribe | Ack | Ping | Auth


class UnreadableMessage(Malformed):
    """The input is not a message, so the connection is closed. Other errors are answered without closing it."""


def parse(text: str | bytes, *, max_shapes: int) -> Request:
    """Read a client's message. Unknown fields are ignored, unknown types refused.

    Its shapes may be `InvalidShape`. Raises `Malformed`, or its subclass `UnreadableMessage` if the text is not a JSON
    object with a `type`.
    """
    try:
        message = orjson.loads(text)
    except orjson.JSONDecodeError as failure:
        raise UnreadableMessage(f"the message is not JSON: {failure}") from failure
    if not isinstance(message, dict) or not isinstance(kind := message.get("type"), str):
        raise UnreadableMessage("a message is an object with a string `type`")
    if kind == "hello":
        return _hello(message, max_shapes)
    if kind == "subscribe":
        return _subscribe(asked_shape(message.get("shape")), message.get("position"))
    if kind == "unsubscribe":
        return Unsubscribe(asked_shape(message.get("shape")))
    if kind == "ack":
        return Ack(vector_from_json(message.get("vector"), limit=max_shapes))
    if kind == "ping":
        return Ping()
    if kind == "auth":
        if not isinstance(token := message.get("token"), str):
            raise Malformed("token is a string")
        return Auth(token)
    raise Malformed(f"{kind[:64]!r} is no message that a client sends; writes go through the HTTP API")


def check_client_id(value: object) -> str | None:
    """Return a client's id, 1 to 128 printable ASCII characters, or None if it sent none. Raises `Malformed`."""
    if value is None:
        return None
    if (
        not isinstance(value, str)
        or not 1 <= len(value) <= MAX_CLIENT_ID
        or not value.isascii()
        or not value.isprintable()
    ):
        raise Malformed(f"client_id takes 1 to {MAX_CLIENT_ID} printable ASCII characters")
    return value


def _subscribe(shape: Shape, position: object) -> Subscribe:
    try:
        return Subscribe(shape, None if position is None else Position.parse(position))
    except Malformed as error:
        return Subscribe(InvalidShape(str(shape), error=error), None)


def _hello(message: dict[str, Any], max_shapes: int) -> Hello:
    max_named = MAX_NAMED * max_shapes
    shapes, token, vector = message.get("shapes", []), message.get("token"), message.get("vector")
    if not isinstance(shapes, list) or len(shapes) > max_named:
        raise Malformed(f"shapes is a list of at most {max_named}")
    if token is not None and not isinstance(token, str):
        raise Malformed("token is a string")
    return Hello(
        client_id=check_client_id(message.get("client_id")),
        token=token,
        shapes=tuple(dict.fromkeys(map(asked_shape, shapes))),
        vector=None if vector is None else vector_from_json(vector, limit=max_named),
    )
