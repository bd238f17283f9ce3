"""OpenAPI of the sync transports (WebSocket, SSE, log pages, snapshots, segments) and of the state vectors."""

from __future__ import annotations

from typing import Final

import orjson

from eventsync.api.openapi.documents import EVENT
from eventsync.api.openapi.parts import (
    POSITION,
    PROBLEM,
    THEATER,
    Json,
    answer,
    content,
    default,
    failures,
    headers,
    parameters,
    query,
    schema,
)
from eventsync.domain.protocol import MAX_CLIENT_ID, SUBPROTOCOL
from eventsync.server.problems import Close
from eventsync.stores.archive.objects import CONTENT_TYPE

_NAMES: Final = "A collection, `collection/id`, or a declared shape, `name?parameter=value`, percent-encoded"
_SHAPE: Final = query("shape", f"{_NAMES}.", schema("Shape"), "theaters", required=True)
_REFUSED: Final = ("malformed", "invalid_predicate", "not_tracked", "unknown_shape")
_CLOSE: Final = ", ".join(f"{code.value} `{code.name.lower()}`" for code in Close)

_WEBSOCKET: Json = {
    "operationId": "syncByWebSocket",
    "tags": ["Sync"],
    "summary": "Sync over a WebSocket",
    "description": (
        f"An upgrade to a WebSocket (RFC 6455), subprotocol `{SUBPROTOCOL}`, one JSON message a text frame. The first "
        f"is the client's `hello`, within {default('hello_timeout'):g} s by default; a client message has at most "
        f"{default('message_bytes')} bytes by default. Close codes: {_CLOSE}. After 44xx but 4408 do not reconnect "
        "unchanged; after all others reconnect, with jitter and the client's state vector. `x-websocket` names the "
        "schemas of the messages."
    ),
    "parameters": [
        {
            "name": "Sec-WebSocket-Protocol",
            "in": "header",
            "description": "The subprotocol.",
            "required": False,
            "schema": {"const": SUBPROTOCOL},
            "example": SUBPROTOCOL,
        }
    ],
    "x-websocket": {"receive": schema("ServerMessage"), "send": schema("ClientMessage")},
    "responses": {
        "101": answer("Switching protocols: the connection becomes a WebSocket."),
        "426": answer(
            "A plain HTTP request.",
            {PROBLEM: {"schema": schema("Problem")}},
        ),
        **failures(),
    },
}

_FRAMES: Final = (
    'event: live\nid: theaters=k3f9ab2c:128\ndata: {"type":"live","shape":"theaters","position":"k3f9ab2c:128"}\n\n'
)

_SSE: Json = {
    "operationId": "syncByServerSentEvents",
    "tags": ["Sync"],
    "summary": "Sync over Server-Sent Events",
    "description": (
        "`event:` is the message's type, `data:` the message, `id:` the whole state vector after it, which a browser "
        "sends back as `Last-Event-ID` when it reconnects. An id that would be longer than 1 KiB has a short form "
        "without the shapes."
    ),
    "parameters": [
        {
            **query("shape", f"{_NAMES}; may be repeated.", {}, ["theaters"], required=True),
            "schema": {"type": "array", "items": schema("Shape"), "minItems": 1, "maxItems": default("max_shapes")},
            "style": "form",
            "explode": True,
        },
        query(
            "vector",
            "The state vector as text, long or short. A shape without a position starts with a snapshot.",
            {"type": "string"},
            f"theaters={POSITION}",
        ),
        query(
            "client_id",
            "Id of the client, which it chooses.",
            {"type": "string", "minLength": 1, "maxLength": MAX_CLIENT_ID},
            "my-client",
        ),
        query("ticket", "A ticket of `POST /v1/tickets` for these shapes.", {"type": "string"}, "est_3q2-7wW1hYc0o5Kx"),
        {
            "name": "Last-Event-ID",
            "in": "header",
            "description": "Takes precedence over `vector`. Browsers send it.",
            "required": False,
            "schema": {"type": "string"},
            "example": f"theaters={POSITION}",
        },
    ],
    "responses": {
        "200": answer(
            "A stream without end. `data` is a `ServerMessage`. Temporary errors are in the stream: `retry`, an "
            "`error`, and the end.",
            content({"type": "string"}, _FRAMES, "text/event-stream"),
        ),
        **failures(*_REFUSED),
    },
}

_LOG: Json = {
    "operationId": "readLog",
    "tags": ["Sync"],
    "summary": "The events after a position",
    "description": (
        "A full page never changes: any cache may store it for ever. Without `position`, the events from now on: an "
        "empty page at the newest event, unless one comes within `wait`. "
        f"`limit` is at most {default('frame_events')} by default, and so is its default."
    ),
    "parameters": [
        _SHAPE,
        query("position", "Position of the client.", schema("Position"), POSITION),
        query("limit", "Maximum number of events.", {"type": "integer", "minimum": 1}, 1000),
        query(
            "wait",
            f"Seconds to wait for an event if there is none; {default('poll_wait'):g} at most by default.",
            {"type": "number", "minimum": 0, "default": 0},
            25,
        ),
        *parameters("if_changed", "if_still"),
    ],
    "responses": {
        "200": answer(
            "A page. `to` is the position of the next request.",
            content(
                schema("LogPage"),
                {"shape": "theaters", "from": POSITION, "to": "k3f9ab2c:129", "events": [EVENT], "live": True},
            ),
            sent=headers("PageETag", "CacheControl"),
        ),
        "304": answer("Not modified.", sent=headers("PageETag", "CacheControl")),
        **failures(*_REFUSED, "reset", "version_mismatch", "unavailable"),
    },
}

_LINES: Final = "".join(
    orjson.dumps(line).decode() + "\n"
    for line in (
        {"shape": "theaters", "position": POSITION},
        {"id": THEATER["_id"]["$oid"], "version": 6, "doc": THEATER},
    )
)

_SNAPSHOT: Json = {
    "operationId": "readSnapshot",
    "tags": ["Sync"],
    "summary": "A shape's exact state at one position",
    "description": (
        "NDJSON: first a `SnapshotHead`, then a `Row` a line. A snapshot that cannot be completed ends without the "
        "last chunk of its chunked encoding, so that clients detect it."
    ),
    "parameters": [_SHAPE],
    "responses": {
        "200": answer("The snapshot.", content({"type": "string"}, _LINES, "application/x-ndjson")),
        **failures(*_REFUSED, "unavailable"),
    },
}

_BARRIER: Final[Json] = {
    "operationId": "passBarrier",
    "tags": ["Sync"],
    "summary": "A position past every acknowledged write",
    "description": (
        "Every write that was acknowledged before the request, by whichever server, is an event at or before this "
        f"position. A client whose positions have reached it holds all of them. Takes {default('barrier_timeout'):g} s "
        "at most by default: 503 if the worker has not read all changes by then."
    ),
    "requestBody": {"required": True, "content": content({"type": "object", "additionalProperties": False}, {})},
    "responses": {
        "200": answer("The position.", content(schema("Barrier"), {"log": "k3f9ab2c", "seq": 129})),
        **failures("too_large", "unavailable"),
    },
}

_SHA: Final = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
_SEGMENTS_EXAMPLE: Final[Json] = {
    "log": "k3f9ab2c",
    "horizon": 0,
    "segments": [
        {
            "position": "k3f9ab2c:1",
            "first": 1,
            "last": 50000,
            "bytes": 2100000,
            "raw_bytes": 15400000,
            "earliest": "2026-11-23T05:22:46.405Z",
            "latest": "2026-11-23T06:01:02.003Z",
            "sha256": _SHA,
        }
    ],
}

_SEGMENT_LIST: Final[Json] = {
    "operationId": "listSegments",
    "tags": ["Sync"],
    "summary": "The archived segments of the log",
    "description": "Old events, in immutable files. Ordered by seq; `next` is the next page's `after`.",
    "parameters": [
        query("after", "Only segments with events after this seq.", {"type": "integer", "minimum": 0}, 0),
        query(
            "limit",
            f"Maximum number of segments; {default('page_documents')} at most by default.",
            {"type": "integer", "minimum": 1},
            100,
        ),
    ],
    "responses": {
        "200": answer("A page.", content(schema("Segments"), _SEGMENTS_EXAMPLE)),
        **failures("malformed", "unavailable"),
    },
}

_SEGMENT: Final[Json] = {
    "operationId": "readSegment",
    "tags": ["Sync"],
    "summary": "A segment's bytes",
    "description": "They never change: any cache may store them for ever. The entity tag is their SHA-256.",
    "parameters": [
        {
            "name": "position",
            "in": "path",
            "description": "Log and seq of the segment's first event, as in the list.",
            "required": True,
            "schema": schema("Position"),
            "example": POSITION,
        },
        *parameters("if_changed", "if_still"),
    ],
    "responses": {
        "200": answer("The segment.", {CONTENT_TYPE: {"schema": {}}}, sent=headers("FileETag", "CacheControl")),
        "304": answer("Not modified.", sent=headers("FileETag", "CacheControl")),
        **failures("malformed", "not_found", "version_mismatch", "unavailable"),
    },
}

_CLIENT: Final[Json] = {
    "client_id": "kitchen-screen",
    "vector": {"theaters": POSITION},
    "lag": {"theaters": {"events": 3, "seconds": 1.25}},
    "transport": "sse",
    "seen": "2026-11-23T05:22:46.405Z",
}

_CLIENT_ID: Final[Json] = {
    "name": "client_id",
    "in": "path",
    "description": "The client's id, percent-encoded.",
    "required": True,
    "schema": {"type": "string", "minLength": 1, "maxLength": MAX_CLIENT_ID},
    "example": "kitchen-screen",
}

_CLIENT_LIST: Final[Json] = {
    "operationId": "listStateVectors",
    "tags": ["Sync"],
    "summary": "The stored clients",
    "description": "By id; `next` is the next page's `after`.",
    "parameters": [
        query("after", "Only clients with an id after this one.", {"type": "string"}, "kitchen"),
        query(
            "limit",
            f"Maximum number of clients; {default('page_documents')} at most by default.",
            {"type": "integer", "minimum": 1},
            100,
        ),
    ],
    "responses": {
        "200": answer("A page.", content(schema("Clients"), {"clients": [_CLIENT]})),
        **failures("malformed", "unavailable"),
    },
}

_CLIENT_READ: Final[Json] = {
    "operationId": "readStateVector",
    "tags": ["Sync"],
    "summary": "One client",
    "parameters": [_CLIENT_ID],
    "responses": {
        "200": answer("The client.", content(schema("Client"), _CLIENT)),
        **failures("malformed", "not_found", "unavailable"),
    },
}

_ACKNOWLEDGE: Final[Json] = {
    "operationId": "putStateVector",
    "tags": ["Sync"],
    "summary": "Acknowledge",
    "description": (
        "For clients of SSE and HTTP; over a WebSocket send `ack`. A position never goes backwards; the response is "
        "the stored vector. The server uses it when the client connects with its id and without a vector."
    ),
    "parameters": [_CLIENT_ID],
    "requestBody": {
        "required": True,
        "content": content(schema("Acknowledgement"), {"vector": {"theaters": POSITION}}),
    },
    "responses": {
        "200": answer("The stored client.", content(schema("Client"), _CLIENT)),
        **failures(*_REFUSED, "reset", "too_large", "unsupported_media_type", "unavailable"),
    },
}

_CLIENT_DELETE: Final[Json] = {
    "operationId": "deleteStateVector",
    "tags": ["Sync"],
    "summary": "Remove a client",
    "parameters": [_CLIENT_ID],
    "responses": {"204": answer("Removed."), **failures("malformed", "not_found", "unavailable")},
}

PATHS: Final[Json] = {
    "/v1/sync": {"get": _WEBSOCKET},
    "/v1/sync/sse": {"get": _SSE},
    "/v1/sync/log": {"get": _LOG},
    "/v1/sync/snapshot": {"get": _SNAPSHOT},
    "/v1/barrier": {"post": _BARRIER},
    "/v1/sync/segments": {"get": _SEGMENT_LIST},
    "/v1/sync/segments/{position}": {"get": _SEGMENT},
    "/v1/state-vectors": {"get": _CLIENT_LIST},
    "/v1/state-vectors/{client_id}": {"get": _CLIENT_READ, "put": _ACKNOWLEDGE, "delete": _CLIENT_DELETE},
}
