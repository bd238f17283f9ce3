"""The sync transports: WebSocket, Server-Sent Events, log pages and snapshots."""

from __future__ import annotations

from typing import Final

import orjson

from eventsync.api.openapi.parts import (
    POSITION,
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
from eventsync.api.openapi.writing import EVENT
from eventsync.domain.protocol import MAX_CLIENT_ID, SUBPROTOCOL
from eventsync.server.problems import Close

_SHAPE: Final = query("shape", "A collection, or `collection/id`.", schema("Shape"), "theaters", required=True)
_CLOSE: Final = ", ".join(f"{code.value} `{code.name.lower()}`" for code in Close)

_WEBSOCKET: Json = {
    "operationId": "syncByWebSocket",
    "tags": ["Sync"],
    "summary": "Sync over a WebSocket",
    "description": (
        f"An upgrade to a WebSocket (RFC 6455), subprotocol `{SUBPROTOCOL}`, one JSON message a text frame. The first "
        f"is the client's `hello`, within {default('hello_timeout'):g} s by default; a client message has at most "
        f"{default('message_bytes')} bytes by default. Close codes: {_CLOSE}. 44xx: do not reconnect unchanged; all "
        "others: reconnect with jitter and the own state vector. `x-websocket` names the schemas of the messages."
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
        "101": answer("Switching protocols: the connection is a WebSocket from here on."),
        "426": answer("Asked for by plain HTTP.", {"application/problem+json": {"schema": schema("Problem")}}),
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
        "sends back as `Last-Event-ID` when it reconnects. Where it would be longer than 1 KiB, an id has a short form "
        "that names no shape."
    ),
    "parameters": [
        {
            **query("shape", "What to follow; may be repeated.", {}, ["theaters"], required=True),
            "schema": {"type": "array", "items": schema("Shape"), "minItems": 1, "maxItems": default("max_shapes")},
            "style": "form",
            "explode": True,
        },
        query(
            "vector",
            "The state vector as text, long or short. A shape without a position begins with a snapshot.",
            {"type": "string"},
            f"theaters={POSITION}",
        ),
        query(
            "client_id",
            "The client's own name.",
            {"type": "string", "minLength": 1, "maxLength": MAX_CLIENT_ID},
            "my-client",
        ),
        {
            "name": "Last-Event-ID",
            "in": "header",
            "description": "Outranks `vector`; a browser sends it.",
            "required": False,
            "schema": {"type": "string"},
            "example": f"theaters={POSITION}",
        },
    ],
    "responses": {
        "200": answer(
            "A stream that does not end by itself. `data` is a `ServerMessage`. What may pass is told in it, too: "
            "`retry`, an `error`, and the end.",
            content({"type": "string"}, _FRAMES, "text/event-stream"),
        ),
        **failures("malformed", "not_tracked"),
    },
}

_LOG: Json = {
    "operationId": "readLog",
    "tags": ["Sync"],
    "summary": "The events after a position",
    "description": (
        "A full page never changes and may be cached by anybody for ever. "
        f"`limit` is at most {default('frame_events')} by default, and so is its default."
    ),
    "parameters": [
        _SHAPE,
        query("position", "What you have.", schema("Position"), POSITION, required=True),
        query("limit", "Most events in the page.", {"type": "integer", "minimum": 1}, 1000),
        query(
            "wait",
            f"Seconds to wait for an event where there is none; {default('poll_wait'):g} at most by default.",
            {"type": "number", "minimum": 0, "default": 0},
            25,
        ),
        *parameters("if_changed", "if_still"),
    ],
    "responses": {
        "200": answer(
            "A page. `to` is the position to ask from next.",
            content(
                schema("LogPage"),
                {"shape": "theaters", "from": POSITION, "to": "k3f9ab2c:129", "events": [EVENT], "live": True},
            ),
            sent=headers("PageETag", "CacheControl"),
        ),
        "304": answer("You have this page.", sent=headers("PageETag", "CacheControl")),
        **failures("malformed", "not_tracked", "reset", "version_mismatch", "unavailable"),
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
        "NDJSON: first a `SnapshotHead`, then a `Row` a line. A snapshot that could not be finished ends without the "
        "end of its chunked encoding, so that nobody takes it for whole."
    ),
    "parameters": [_SHAPE],
    "responses": {
        "200": answer("The snapshot.", content({"type": "string"}, _LINES, "application/x-ndjson")),
        **failures("malformed", "not_tracked", "unavailable"),
    },
}

PATHS: Final[Json] = {
    "/v1/sync": {"get": _WEBSOCKET},
    "/v1/sync/sse": {"get": _SSE},
    "/v1/sync/log": {"get": _LOG},
    "/v1/sync/snapshot": {"get": _SNAPSHOT},
}
