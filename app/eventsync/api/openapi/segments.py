"""The archived part of the log."""

from __future__ import annotations

from typing import Final

from eventsync.api.openapi.parts import (
    POSITION,
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
from eventsync.stores.archive.objects import CONTENT_TYPE

_SHA: Final = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
_LISTED: Final[Json] = {
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

_LIST: Final[Json] = {
    "operationId": "listSegments",
    "tags": ["Sync"],
    "summary": "The archived segments of the log",
    "description": "Old events, in immutable files. Ordered by seq; `next` is the next page's `after`.",
    "parameters": [
        query("after", "Only segments with events after this seq.", {"type": "integer", "minimum": 0}, 0),
        query(
            "limit",
            f"Most segments in the page; {default('page_documents')} at most by default.",
            {"type": "integer", "minimum": 1},
            100,
        ),
    ],
    "responses": {
        "200": answer("A page.", content(schema("Segments"), _LISTED)),
        **failures("malformed", "unavailable"),
    },
}

_ONE: Final[Json] = {
    "operationId": "readSegment",
    "tags": ["Sync"],
    "summary": "A segment's bytes",
    "description": "They never change: anybody may cache them for ever. The entity tag is their SHA-256.",
    "parameters": [
        {
            "name": "position",
            "in": "path",
            "description": "Log and seq of the segment's first event, as the list has it.",
            "required": True,
            "schema": schema("Position"),
            "example": POSITION,
        },
        *parameters("if_changed", "if_still"),
    ],
    "responses": {
        "200": answer("The segment.", {CONTENT_TYPE: {"schema": {}}}, sent=headers("FileETag", "CacheControl")),
        "304": answer("You have it.", sent=headers("FileETag", "CacheControl")),
        **failures("malformed", "not_found", "version_mismatch", "unavailable"),
    },
}

PATHS: Final[Json] = {
    "/v1/sync/segments": {"get": _LIST},
    "/v1/sync/segments/{position}": {"get": _ONE},
}
