"""OpenAPI of collections, documents, their history, and transactions."""

from __future__ import annotations

from typing import Final

import orjson

from eventsync.api.bodies import JSON_PATCH, MERGE_PATCH
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
    problem_example,
    query,
    schema,
)
from eventsync.api.responses import NDJSON

_AT: Final = "2026-11-23T05:22:46Z"
_TIME: Final[Json] = {"type": "string", "format": "date-time"}
_ID: Final = THEATER["_id"]["$oid"]
_NEW: Final = {name: value for name, value in THEATER.items() if name != "_id"}
_ROW: Final = {"id": _ID, "version": 6, "doc": THEATER}
_CITY: Final = "/location/address/city"
_PATCH: Final = [{"op": "replace", "path": _CITY, "value": "Edina"}]
_MERGE: Final = {"location": {"address": {"city": "Edina"}}}
_EDINA: Final = THEATER | {"location": {"address": THEATER["location"]["address"] | {"city": "Edina"}}}

EVENT: Final[Json] = {
    "seq": 129,
    "collection": "theaters",
    "id": _ID,
    "op": "update",
    "base": 6,
    "version": 7,
    "patch": _PATCH,
    "at": "2026-11-23T05:22:46.405Z",
    "op_id": "0f8fad5b-d9cb-469f-a165-70867728950e",
    "by": "anonymous",
}
"""Event of the examples."""

_READ = ("malformed", "not_tracked", "unavailable")
_WRITE = (*_READ, "overloaded", "conflict", "too_large", "unsupported_media_type")
_WRITTEN = schema("Written")
_TEXT = {"type": "string"}
_LIMIT = {"type": "integer", "minimum": 1, "default": 100}


def _limit(what: str) -> Json:
    return query("limit", f"Maximum number of {what}; {default('page_documents')} at most by default.", _LIMIT, 100)


def _answered(version: int, doc: Json | None, patch: list[Json]) -> Json:
    return content(_WRITTEN, {"id": _ID, "version": version, "doc": doc, "patch": patch})


def _body(value: Json, example: object) -> Json:
    return {"required": True, "content": content(value, example)}


_COLLECTIONS: Json = {
    "operationId": "listCollections",
    "tags": ["Documents"],
    "summary": "The tracked collections, and the declared shapes",
    "responses": {
        "200": answer(
            "Their names.",
            content(
                schema("Collections"),
                {
                    "collections": [{"name": "orders"}],
                    "shapes": [{"name": "my_orders", "collection": "orders", "parameters": {"owner": ["text"]}}],
                },
            ),
        ),
        **failures(),
    },
}

_LIST: Json = {
    "operationId": "listDocuments",
    "tags": ["Documents"],
    "summary": "List documents by id, or those of a filter or a declared shape",
    "description": (
        "A filter needs an index of MongoDB, as does a sort without a filter, but not beside `shape`. A page has "
        f"{default('query_timeout')} s by default."
    ),
    "parameters": [
        _limit("documents"),
        query(
            "after", "Only what comes behind this: the last page's `next`; an id without filter and sort.", _TEXT, _ID
        ),
        query(
            "filter",
            "Only documents that this filter matches: MongoDB's query language, in Extended JSON.",
            _TEXT,
            '{"_id": {"$gte": {"$oid": "59a47286cfa9a3a73e51e72c"}}}',
        ),
        query(
            "shape",
            "Only documents of this declared shape. Its parameters are further query parameters, `&board=7`, or part "
            "of it, as where one is called `limit`: `my_cards%3Flimit%3D7`.",
            _TEXT,
            "my_cards",
        ),
        query("sort", "Up to 4 paths, separated by commas; `-` before a path: descending.", _TEXT, "-_id"),
        query(
            "at",
            "The collection as it was at this instant, in pages of at most 100.",
            _TIME,
            _AT,
        ),
        query("position", "The collection as it was at this position.", schema("Position"), POSITION),
    ],
    "responses": {
        "200": answer(
            "A page; with `at` or `position` one of the past, in which `now` compares each document with the present.",
            content(schema("DocumentPage"), {"documents": [_ROW], "next": _ID}),
        ),
        **failures(
            *_READ,
            "unknown_shape",
            "invalid_predicate",
            "index_needed",
            "too_large",
            "too_complex",
            "reset",
            "gone",
            "damaged",
        ),
    },
}

_CREATE: Json = {
    "operationId": "createDocument",
    "tags": ["Documents"],
    "summary": "Create a document",
    "description": "A document without `_id` gets a new ObjectId. 409 if there is a document with this `_id`.",
    "parameters": parameters("idempotency_key", "prefer"),
    "requestBody": _body(schema("Document"), _NEW),
    "responses": {
        "201": answer("Created.", _answered(1, THEATER, []), sent=headers("Location", "ETag")),
        **failures(*_WRITE),
    },
}

_REPLACE: Json = {
    "operationId": "replaceDocument",
    "tags": ["Documents"],
    "summary": "Replace a document, or create it",
    "description": "With `If-Match` the document must exist in that state; with `If-None-Match: *` it must not exist.",
    "parameters": parameters("if_match", "if_none_match", "idempotency_key", "prefer"),
    "requestBody": _body(schema("Document"), _EDINA),
    "responses": {
        "200": answer("Replaced.", _answered(7, _EDINA, _PATCH), sent=headers("ETag")),
        "201": answer("Created.", _answered(1, _EDINA, []), sent=headers("Location", "ETag")),
        **failures(*_WRITE, "version_mismatch"),
    },
}

_UPDATE: Json = {
    "operationId": "patchDocument",
    "tags": ["Documents"],
    "summary": "Change parts of a document",
    "description": (
        "A JSON Patch (RFC 6902) or a merge patch (RFC 7396). Without `If-Match` the server retries it after "
        "concurrent writes. A patch without effect writes nothing. "
        f"At most {default('patch_operations')} operations by default."
    ),
    "parameters": parameters("if_match", "if_none_match", "idempotency_key", "prefer"),
    "requestBody": {
        "required": True,
        "content": content(schema("JsonPatch"), _PATCH, JSON_PATCH)
        | content(schema("MergePatch"), _MERGE, MERGE_PATCH),
    },
    "responses": {
        "200": answer("Changed.", _answered(7, _EDINA, _PATCH), sent=headers("ETag")),
        **failures(*_WRITE, "not_found", "version_mismatch", "patch_failed", "too_complex"),
    },
}

_DELETE: Json = {
    "operationId": "deleteDocument",
    "tags": ["Documents"],
    "summary": "Delete a document",
    "parameters": parameters("if_match", "if_none_match", "idempotency_key", "prefer"),
    "responses": {
        "200": answer("Deleted.", _answered(7, None, [])),
        **failures(*_READ, "overloaded", "not_found", "conflict", "version_mismatch"),
    },
}

_HISTORY: Json = {
    "operationId": "readHistory",
    "tags": ["Documents"],
    "summary": "A document's events, in order",
    "parameters": [
        query(
            "after_version",
            "Only events with a version above this.",
            {"type": "integer", "minimum": 0, "default": 0},
            0,
        ),
        query(
            "after",
            "Only events after this position, the last page's `next`.",
            schema("Position"),
            "k3f9ab2c:1",
        ),
        _limit("events"),
    ],
    "responses": {
        "200": answer("A page; without `next` it is the last one.", content(schema("History"), {"events": [EVENT]})),
        **failures(*_READ, "reset", "gone", "damaged"),
    },
}

_ROW_AT: Final = {"id": _ID, "version": 6, "doc": THEATER, "position": POSITION}
_POINT_READ: Final = (
    "malformed",
    "not_tracked",
    "not_found",
    "reset",
    "gone",
    "damaged",
    "version_mismatch",
    "unavailable",
)
_POINT: Json = {"type": "string"}

_READ_DOCUMENT: Json = {
    "operationId": "readDocument",
    "tags": ["Documents"],
    "summary": "Read a document, now or at a point of its history",
    "description": (
        "With one of `version`, `at` and `position`, the state at that point; `position` in the response is its place "
        "in the log. The state at an instant or a position never changes, and may be cached for ever. 404 if the "
        "document did not exist then, 410 if that part of the history is not retained, 400 for the future, and 503 for "
        "an instant up to which the worker has not read all changes yet."
    ),
    "parameters": [
        *parameters("if_changed", "if_still"),
        query("version", "The state at this version, the last time that the document had it.", schema("Version"), 6),
        query("at", "The state at this instant (RFC 3339).", _TIME, _AT),
        query("position", "The state at this position.", schema("Position"), POSITION),
    ],
    "responses": {
        "200": answer("The document.", content(schema("PastRow"), _ROW_AT), sent=headers("ETag", "CacheControl")),
        "304": answer("Not modified.", sent=headers("ETag", "CacheControl")),
        **failures(*_POINT_READ),
    },
}

_DIFFERENCE: Json = {
    "operationId": "compareDocument",
    "tags": ["Documents"],
    "summary": "The difference between two points of a document's history",
    "description": "A point is a version (`6`), a position (`k3f9ab2c:128`) or an instant (`2026-11-23T05:22:46Z`).",
    "parameters": [
        *parameters("if_changed", "if_still"),
        query("from", "The first point.", _POINT, "6", required=True),
        query("to", "The second point; by default the newest event.", _POINT, POSITION),
    ],
    "responses": {
        "200": answer(
            "The patch from the first point to the second.",
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
        "304": answer("Not modified.", sent=headers("FileETag", "CacheControl")),
        **failures(*_POINT_READ),
    },
}

_OPERATIONS: Final = [
    {"method": "PATCH", "collection": "theaters", "id": _ID, "if_match": '"6.09d3e4175f2c81ab"', "patch": _PATCH},
    {"method": "POST", "collection": "theaters", "doc": {"_id": "annex", "theaterId": 1001}},
]
_RESULTS: Final = [
    {"id": _ID, "version": 7, "doc": _EDINA, "patch": _PATCH, "etag": '"7.5f2c81ab09d3e417"'},
    {
        "id": "annex",
        "version": 1,
        "doc": {"_id": "annex", "theaterId": 1001},
        "patch": [],
        "etag": '"1.c81ab09d3e4175f2"',
    },
]

_TRANSACT: Json = {
    "operationId": "transact",
    "tags": ["Transactions"],
    "summary": "Several writes, all or nothing",
    "description": (
        f"1 to {default('transaction_operations')} operations by default. Their events carry the same `txn` and reach "
        "every client in one frame."
    ),
    "parameters": parameters("idempotency_key", "prefer"),
    "requestBody": _body(schema("Transaction"), {"operations": _OPERATIONS}),
    "responses": {
        "200": answer(
            "All operations were executed; one result for each, in order.",
            content(schema("TransactionAnswer"), {"results": _RESULTS}),
        ),
        **failures(*_WRITE, "not_found", "version_mismatch", "patch_failed", "too_complex"),
    },
}

_ITEMS: Final = [
    {"method": "PATCH", "id": _ID, "if_match": '"6.09d3e4175f2c81ab"', "patch": _PATCH},
    {"method": "POST", "doc": {"_id": "annex", "theaterId": 1001}},
]
_ITEM_RESULTS: Final = [
    {"status": 200, "id": _ID, "version": 7, "etag": '"7.5f2c81ab09d3e417"'},
    problem_example("conflict"),
]


def _lines(items: list[Json]) -> str:
    return "".join(orjson.dumps(item).decode() + "\n" for item in items)


_BATCH: Json = {
    "operationId": "writeBatch",
    "tags": ["Documents"],
    "summary": "Many independent writes",
    "description": (
        f"1 to {default('batch_operations')} operations by default, on one collection: JSON, or a `BatchOperation` a "
        "line (NDJSON). One that fails stops no other. Operations on one document are applied in order. Without "
        "`return=representation`, results have neither `doc` nor `patch`. An operation that was not begun within "
        "`write_deadline` is answered `not_attempted`. The answer has the media type of the request, and is streamed."
    ),
    "parameters": parameters("prefer_representation"),
    "requestBody": {
        "required": True,
        "content": content(schema("Batch"), {"operations": _ITEMS})
        | content({"type": "string", "minLength": 1, "pattern": r"\S"}, _lines(_ITEMS), NDJSON),
    },
    "responses": {
        "200": answer(
            "A result for each operation, in order.",
            content(schema("BatchAnswer"), {"results": _ITEM_RESULTS})
            | content({"type": "string"}, _lines(_ITEM_RESULTS), NDJSON),
        ),
        **failures(*_READ, "overloaded", "too_large", "unsupported_media_type"),
    },
}

_DOCUMENTS: Final = "/v1/collections/{collection}/documents"

PATHS: Final[Json] = {
    "/v1/collections": {"get": _COLLECTIONS},
    _DOCUMENTS: {"parameters": parameters("collection"), "get": _LIST, "post": _CREATE},
    _DOCUMENTS + ":batch": {"parameters": parameters("collection"), "post": _BATCH},
    _DOCUMENTS + "/{id}": {
        "parameters": parameters("collection", "id"),
        "get": _READ_DOCUMENT,
        "put": _REPLACE,
        "patch": _UPDATE,
        "delete": _DELETE,
    },
    _DOCUMENTS + "/{id}/events": {"parameters": parameters("collection", "id"), "get": _HISTORY},
    _DOCUMENTS + "/{id}/diff": {"parameters": parameters("collection", "id"), "get": _DIFFERENCE},
    "/v1/transactions": {"post": _TRANSACT},
}
