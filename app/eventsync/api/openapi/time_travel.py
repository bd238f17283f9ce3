"""Reading a document, as it is and as it was, and what is different between the two."""

from __future__ import annotations

from typing import Final

from eventsync.api.openapi.parts import (
    POSITION,
    THEATER,
    Json,
    answer,
    content,
    failures,
    headers,
    parameters,
    query,
    schema,
)

_ID: Final = THEATER["_id"]["$oid"]
_ROW: Final = {"id": _ID, "version": 6, "doc": THEATER, "position": POSITION}
_AT: Final = "2026-11-23T05:22:46Z"
_READ: Final = ("malformed", "not_tracked", "not_found", "reset", "gone", "damaged", "version_mismatch", "unavailable")
_POINT: Json = {"type": "string"}

READ: Json = {
    "operationId": "readDocument",
    "tags": ["Documents"],
    "summary": "Read a document, as it is or as it was",
    "description": (
        "With one of `version`, `at` and `position`: as it was then; `position` says where in the log that is. What "
        "was at an instant or a position never changes, and may be cached for ever. 404 where there was no such "
        "document then, 410 where it is not known any more, 400 for what is in the future. 503 for an instant that may "
        "not be over, because the worker has not read the changes past it yet."
    ),
    "parameters": [
        *parameters("if_changed", "if_still"),
        query("version", "As it was at this version, the last time it had it.", schema("Version"), 6),
        query("at", "As it was at this instant (RFC 3339).", {"type": "string", "format": "date-time"}, _AT),
        query("position", "As it was at this position.", schema("Position"), POSITION),
    ],
    "responses": {
        "200": answer("The document.", content(schema("PastRow"), _ROW), sent=headers("ETag", "CacheControl")),
        "304": answer("You have it.", sent=headers("ETag", "CacheControl")),
        **failures(*_READ),
    },
}

DIFFERENCE: Json = {
    "operationId": "compareDocument",
    "tags": ["Documents"],
    "summary": "What is different between two points of a document's history",
    "description": "A point is a version (`6`), a position (`k3f9ab2c:128`) or an instant (`2026-11-23T05:22:46Z`).",
    "parameters": [
        *parameters("if_changed", "if_still"),
        query("from", "The point to begin with.", _POINT, "6", required=True),
        query("to", "The point to end with; without it the newest event.", _POINT, POSITION),
    ],
    "responses": {
        "200": answer(
            "The patch from the one to the other.",
            content(
                schema("Difference"),
                {
                    "id": _ID,
                    "from": {"version": 6, "position": "k3f9ab2c:120"},
                    "to": {"version": 7, "position": POSITION},
                    "patch": [{"op": "replace", "path": "/location/address/city", "value": "Edina"}],
                },
            ),
            sent=headers("FileETag", "CacheControl"),
        ),
        "304": answer("You have it.", sent=headers("FileETag", "CacheControl")),
        **failures(*_READ),
    },
}
