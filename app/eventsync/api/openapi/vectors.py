"""What is stored of each client."""

from __future__ import annotations

from typing import Final

from eventsync.api.openapi.parts import POSITION, Json, answer, content, default, failures, query, schema
from eventsync.domain.protocol import MAX_CLIENT_ID

_CLIENT: Final[Json] = {
    "client_id": "kitchen-screen",
    "vector": {"theaters": POSITION},
    "lag": {"theaters": {"events": 3, "seconds": 1.25}},
    "transport": "sse",
    "seen": "2026-11-23T05:22:46.405Z",
}

_ID: Final[Json] = {
    "name": "client_id",
    "in": "path",
    "description": "The client's own id, percent-encoded.",
    "required": True,
    "schema": {"type": "string", "minLength": 1, "maxLength": MAX_CLIENT_ID},
    "example": "kitchen-screen",
}

_LIST: Final[Json] = {
    "operationId": "listStateVectors",
    "tags": ["Sync"],
    "summary": "The clients that are known",
    "description": "By id; `next` is the next page's `after`.",
    "parameters": [
        query("after", "Only clients whose id comes behind this one.", {"type": "string"}, "kitchen"),
        query(
            "limit",
            f"Most clients in the page; {default('page_documents')} at most by default.",
            {"type": "integer", "minimum": 1},
            100,
        ),
    ],
    "responses": {
        "200": answer("A page.", content(schema("Clients"), {"clients": [_CLIENT]})),
        **failures("malformed", "unavailable"),
    },
}

_READ: Final[Json] = {
    "operationId": "readStateVector",
    "tags": ["Sync"],
    "summary": "One client",
    "parameters": [_ID],
    "responses": {
        "200": answer("The client.", content(schema("Client"), _CLIENT)),
        **failures("malformed", "not_found", "unavailable"),
    },
}

_PUT: Final[Json] = {
    "operationId": "putStateVector",
    "tags": ["Sync"],
    "summary": "Acknowledge",
    "description": (
        "For clients of SSE and HTTP; over a WebSocket send `ack`. A position never goes backwards: the answer is what "
        "is stored then. It is used when the client comes with its id and without a vector."
    ),
    "parameters": [_ID],
    "requestBody": {
        "required": True,
        "content": content(schema("Acknowledgement"), {"vector": {"theaters": POSITION}}),
    },
    "responses": {
        "200": answer("It is stored.", content(schema("Client"), _CLIENT)),
        **failures("malformed", "not_tracked", "reset", "too_large", "unsupported_media_type", "unavailable"),
    },
}

_DELETE: Final[Json] = {
    "operationId": "deleteStateVector",
    "tags": ["Sync"],
    "summary": "Forget a client",
    "parameters": [_ID],
    "responses": {"204": answer("It is forgotten."), **failures("malformed", "not_found", "unavailable")},
}

PATHS: Final[Json] = {
    "/v1/state-vectors": {"get": _LIST},
    "/v1/state-vectors/{client_id}": {"get": _READ, "put": _PUT, "delete": _DELETE},
}
