"""The schemas of bodies and messages (JSON Schema 2020-12)."""

from __future__ import annotations

from typing import Any, Final

from eventsync.api.openapi.parts import Json, schema
from eventsync.domain.ids import MAX_READ_BYTES
from eventsync.domain.names import MAX_COLLECTION_BYTES
from eventsync.domain.plan import ResetReason
from eventsync.domain.protocol import MAX_CLIENT_ID, PROTOCOL
from eventsync.errors import Unauthenticated
from eventsync.server import problems

TEXT: Final[Json] = {"type": "string"}
_COUNT: Final[Json] = {"type": "integer", "minimum": 0}


def _object(required: str, **properties: Json) -> Json:
    """Return an object schema; `required` are names separated by blanks. Later versions may add other members."""
    return {"type": "object", "required": required.split(), "properties": properties}


def _list(item: Json, **bounds: int) -> Json:
    return {"type": "array", "items": item, **bounds}


def _message(kind: str, required: str = "", **properties: Json) -> Json:
    return _object(f"type {required}", type={"const": kind}, **properties)


def _described(value: Json, description: str) -> Json:
    return {**value, "description": description}


_VALUES: Json = {
    "CollectionName": {"type": "string", "minLength": 1, "maxLength": MAX_COLLECTION_BYTES},
    "Id": {
        "type": "string",
        "minLength": 1,
        "maxLength": MAX_READ_BYTES,
        "description": "A document id: an ObjectId's 24 digits, `int:42`, `uuid:…`, `str:…`, `ejson:…`, or the string.",
    },
    "Version": {
        "type": "integer",
        "minimum": 0,
        "description": "Grows by 1 with each write through the API; 0 for a document that the API has not written.",
    },
    "EntityTag": {
        "type": "string",
        "pattern": r'^"(0|[1-9][0-9]{0,18})\.[0-9a-f]{16}"$',
        "description": "One state of a document: its version and a digest of its content.",
    },
    "EntityTags": {
        "type": "string",
        "description": (
            'One or more entity tags, separated by commas, or `*`. `"7"` is version 7, whatever the content. `W/` in '
            "front of a tag, as compressing proxies set it, makes no difference."
        ),
    },
    "Document": {"type": "object", "description": "MongoDB Relaxed Extended JSON v2, with `_id`, without `_sync`."},
    "Position": {
        "type": "string",
        "pattern": r"^[a-z0-9]{1,32}(\.[0-9a-f]{8})?:(0|[1-9][0-9]{0,18})$",
        "description": "A log and a seq. In positions of a declared shape the log has a scope behind a dot.",
    },
    "Shape": {
        "type": "string",
        "minLength": 1,
        "description": (
            "A collection (`orders`), one document (`orders/42`), or a declared shape with the values of its "
            "parameters (`my_orders?owner=7&state=open`; `my_orders?` without parameters)."
        ),
    },
    "StateVector": {
        "type": "object",
        "additionalProperties": schema("Position"),
        "description": "Shape → position up to which a client has applied all events.",
    },
    "PatchOperation": {
        "type": "object",
        "required": ["op", "path"],
        "properties": {
            "op": {"enum": ["add", "remove", "replace", "move", "copy", "test"]},
            "path": {"type": "string", "description": "JSON Pointer (RFC 6901)."},
            "from": TEXT,
            "value": {},
        },
    },
    "JsonPatch": _described(_list(schema("PatchOperation")), "RFC 6902"),
    "MergePatch": {"type": "object", "description": "RFC 7396: members are set, members that are null are removed."},
}

_EVENT = _object(
    "seq collection id op base version at",
    seq={"type": "integer", "minimum": 1, "description": "Number in the log: 1, 2, 3 … without a gap."},
    collection=schema("CollectionName"),
    id=schema("Id"),
    op={"enum": ["create", "update", "replace", "delete"]},
    base=_described(schema("Version"), "The previous version."),
    version=schema("Version"),
    doc=_described(schema("Document"), "Of `create` and `replace`."),
    patch=_described(schema("JsonPatch"), "Of `update`."),
    at={"type": "string", "format": "date-time", "description": "Commit time."},
    external={"const": True, "description": "The write did not come through the API."},
    enter=_described(
        {"const": True}, "With `create`, in a declared shape: the document existed, and belongs to the shape now."
    ),
    leave=_described(
        {"const": True}, "With `delete`, in a declared shape: the document exists, and no longer belongs to the shape."
    ),
    op_id=_described(TEXT, "Idempotency key of the write."),
    by=_described(TEXT, "Author of the write."),
    txn=_object("id n of", id=TEXT, n={"type": "integer", "minimum": 1}, of={"type": "integer", "minimum": 1}),
)

_SIDE = _object(
    "version position",
    version={"type": ["integer", "null"], "minimum": 0, "description": "Null if the document did not exist."},
    position=schema("Position"),
)
_PATCH = _described(
    schema("JsonPatch"),
    "From `from` to `to`. It adds or removes the root if the document did not exist at one.",
)

_OPERATION: dict[str, Json] = {
    "id": schema("Id"),
    "if_match": {"anyOf": [schema("EntityTags"), schema("Version")]},
    "if_none_match": schema("EntityTags"),
    "doc": _described(schema("Document"), "For `POST` and `PUT`."),
    "patch": {"anyOf": [schema("JsonPatch"), schema("MergePatch")], "description": "For `PATCH`."},
}

_WRITTEN: dict[str, Json] = {
    "id": schema("Id"),
    "version": schema("Version"),
    "doc": {
        "anyOf": [schema("Document"), {"type": "null"}],
        "description": "Null after a delete; absent if its author may not read the document after the write.",
    },
    "patch": _described(schema("JsonPatch"), "The change; empty after a create, a delete or a write without effect."),
    "repeated": _described(
        {"const": True}, "Response to a repeat with the same idempotency key; it has neither `doc` nor `patch`."
    ),
    "etag": _described(
        schema("EntityTag"), "In the results of transactions and batches, instead of the `ETag` header."
    ),
}

_PROBLEM: dict[str, Json] = {
    "type": {"type": "string", "format": "uri-reference"},
    "title": TEXT,
    "status": {"type": "integer", "minimum": 400, "maximum": 599},
    "code": _described(
        TEXT,
        "Stable. One of "
        + ", ".join(f"`{kind.code}`" for kind in problems.TABLE)
        + ", `internal`; or a name of the HTTP status.",
    ),
    "detail": TEXT,
    "current": {"type": ["integer", "null"], "description": "For `version_mismatch`: the current version."},
    "reason": {
        "enum": [*ResetReason, *Unauthenticated.REASONS],
        "description": "For `reset`, and for `unauthenticated`.",
    },
    "since": _described(schema("Position"), "For `gone`: history is retained from here on."),
    "oldest": _described(schema("Position"), "For `reset` of a page: the log can be continued from here on."),
    "head": _described(schema("Position"), "For `reset` of a page: the newest event."),
}

_BODIES: Json = {
    "Event": _EVENT,
    "Row": _object(
        "id version doc",
        id=schema("Id"),
        version=schema("Version"),
        doc=schema("Document"),
        position=_described(schema("Position"), "Only in a page of the past."),
        now={"enum": ["same", "changed", "deleted"], "description": "Only in a page of the past."},
    ),
    "PastRow": _object(
        "id version doc",
        id=schema("Id"),
        version=schema("Version"),
        doc=schema("Document"),
        position=_described(schema("Position"), "For a read of the past: a position with this state."),
    ),
    "Difference": _object("id from to patch", **{"id": schema("Id"), "from": _SIDE, "to": _SIDE, "patch": _PATCH}),
    "Collections": _object(
        "collections",
        collections=_list(_object("name", name=schema("CollectionName"))),
        refused=_described(
            _list(_object("name reason", name=schema("CollectionName"), reason=TEXT)),
            "Requested collections that cannot be tracked; absent without any.",
        ),
        shapes=_described(
            _list(
                _object(
                    "name collection parameters",
                    name=TEXT,
                    collection=schema("CollectionName"),
                    parameters={
                        "type": "object",
                        "additionalProperties": _list(TEXT, minItems=1),
                        "description": "Parameter → the types of its values.",
                    },
                    lists=_described(_list(TEXT), "Parameters that may be given several times; absent without any."),
                )
            ),
            "Declared shapes that can be followed; absent without any.",
        ),
    ),
    "DocumentPage": _object(
        "documents",
        documents=_list(schema("Row")),
        next=_described(schema("Id"), "The next page's `after`; absent on the last."),
        position=_described(schema("Position"), "Of a page of the past: where the documents were so."),
        compared_with=_described(schema("Position"), "The present position, for the `now` of each document."),
    ),
    "History": _object(
        "events",
        events=_list(schema("Event")),
        next=_described(schema("Position"), "The next page's `after`; absent on the last."),
        since=_described(schema("Position"), "Earlier events are not retained; absent if all are."),
    ),
    "Written": _object("id version", **_WRITTEN),
    "Transaction": _object("operations", operations=_list(schema("TransactionOperation"), minItems=1)),
    "TransactionOperation": _object(
        "method collection",
        method={"enum": ["POST", "PUT", "PATCH", "DELETE"]},
        collection=schema("CollectionName"),
        **_OPERATION,
    ),
    "Batch": _object(
        "operations",
        operations={
            "type": "array",
            "minItems": 1,
            "items": {
                "anyOf": [schema("BatchOperation"), {}],
                "description": "Any other value is answered as `malformed` in its place.",
            },
        },
    ),
    "BatchOperation": _object(
        "method",
        method={"enum": ["POST", "PUT", "PATCH", "DELETE"]},
        collection=_described(schema("CollectionName"), "That of the path; may be left out."),
        idempotency_key=_described(TEXT, "As the header `Idempotency-Key` of a single write."),
        **_OPERATION,
    ),
    "BatchAnswer": _object("results", results=_list({"anyOf": [schema("BatchResult"), schema("BatchProblem")]})),
    "BatchResult": _object(
        "status id version",
        status=_described({"enum": [200, 201]}, "201: the document was created."),
        **_WRITTEN,
    ),
    "BatchProblem": _object(
        "type title status code detail",
        **_PROBLEM,
        etag=_described(schema("EntityTag"), "For `version_mismatch`: the tag of the current state."),
        retry_after={"type": "integer", "minimum": 1, "description": "Seconds to wait before the same operation."},
    ),
    "TransactionAnswer": _object("results", results=_list(schema("Written"))),
    "LogPage": _object(
        "shape from to events live",
        **{
            "shape": schema("Shape"),
            "from": schema("Position"),
            "to": _described(schema("Position"), "Position of the next request."),
            "events": _list(schema("Event")),
            "live": {"type": "boolean", "description": "True if there were no further events."},
        },
    ),
    "Barrier": _object(
        "log seq",
        log=_described({"type": "string"}, "The current log. A position's log may have a scope behind a dot."),
        seq=_described(_COUNT, "A position of this log with at least this seq is past the barrier."),
    ),
    "Acknowledgement": _object("vector", vector=schema("StateVector")),
    "Client": _object(
        "client_id vector lag transport seen",
        client_id=TEXT,
        vector=schema("StateVector"),
        lag={
            "type": "object",
            "additionalProperties": {"anyOf": [schema("ShapeLag"), {"type": "null"}]},
            "description": "Shape → lag; null for a position of another log or scope, or a shape that isn't served.",
        },
        transport={"enum": ["websocket", "sse", "http"]},
        seen={"type": "string", "format": "date-time"},
    ),
    "ShapeLag": _object(
        "events seconds",
        events=_described(_COUNT, "Unacknowledged events of the shape; an estimate outside the server's window."),
        seconds={"type": ["number", "null"], "description": "Age of the oldest of them; null if it is not retained."},
    ),
    "Clients": _object(
        "clients",
        clients=_list(schema("Client")),
        next=_described(TEXT, "The next page's `after`; absent on the last."),
    ),
    "Segments": _object(
        "log horizon segments",
        log=_described({"type": "string"}, "The current log."),
        horizon=_described(_COUNT, "Events up to this seq are no longer retained."),
        segments=_list(schema("Segment")),
        next=_described(_COUNT, "The next page's `after`; absent on the last."),
    ),
    "Segment": _object(
        "position first last bytes raw_bytes earliest latest sha256",
        position=_described(schema("Position"), "Name of the segment: log and seq of its first event."),
        first=_COUNT,
        last=_COUNT,
        bytes=_COUNT,
        raw_bytes=_described(_COUNT, "Before compression."),
        earliest=_described({"type": "string", "format": "date-time"}, "Earliest commit time of its events."),
        latest=_described({"type": "string", "format": "date-time"}, "Latest commit time of its events."),
        sha256={"type": "string", "pattern": "^[0-9a-f]{64}$"},
    ),
    "SnapshotHead": _object("shape position", shape=schema("Shape"), position=schema("Position")),
    "Health": _object("status", status={"const": "ok"}),
    "Readiness": _object(
        "status",
        status={"enum": ["ready", "degraded", "not_ready"]},
        live={"type": "boolean", "description": "This server follows the log."},
        sequencer_live={"type": "boolean", "description": "A worker leads, and makes progress."},
        leader={"type": ["string", "null"]},
        position={"anyOf": [schema("Position"), {"type": "null"}]},
        lag_events={"type": ["integer", "null"], "description": "Events between this server and the head of the log."},
        lag_seconds={
            "type": ["number", "null"],
            "description": "Seconds since the worker has last recorded how far it has read; it may still be behind.",
        },
        archive={"type": ["string", "null"], "description": "Reason why the archive cannot be read; null if it can."},
        connections={"type": "integer", "minimum": 0},
        journal_delay={
            "type": ["number", "null"],
            "description": "Seconds that changes of writers with `w: 1` waited for MongoDB's journal, while the worker "
            "flushes it for them.",
        },
        detail=TEXT,
    ),
    "Problem": _object("type title status code detail", **_PROBLEM),
}

_PART: dict[str, Any] = {
    "part": {"type": "integer", "minimum": 0},
    "last": {"type": "boolean"},
}
_SPAN: dict[str, Any] = {"shape": schema("Shape"), "from": schema("Position"), "to": schema("Position")}
_CLIENT_ID: Json = {"type": "string", "minLength": 1, "maxLength": MAX_CLIENT_ID}
_TOKEN_EXPIRES_IN: Json = _described(_COUNT, "Seconds until the client's credential ends.")

_FROM_SERVER = [
    _message(
        "welcome",
        "session client_id protocol heartbeat vector",
        session=TEXT,
        client_id=TEXT,
        protocol={"const": PROTOCOL},
        heartbeat={"type": "number", "description": "Seconds."},
        vector=schema("StateVector"),
        remembered=_described({"const": False}, "Acknowledgements are not stored: there are too many clients."),
        token_expires_in=_TOKEN_EXPIRES_IN,
    ),
    _message(
        "snapshot",
        "shape position part last docs",
        shape=schema("Shape"),
        position=schema("Position"),
        docs=_list(schema("Row")),
        **_PART,
    ),
    _message("squashed", "shape from to part last docs", docs=_list({"type": "object"}), **_SPAN, **_PART),
    _message("events", "shape from to events", events=_list(schema("Event")), **_SPAN),
    _message("live", "shape position", shape=schema("Shape"), position=schema("Position")),
    _message(
        "progress",
        "vector",
        vector=schema("StateVector"),
        stale={"const": True},
        token_expires_in=_TOKEN_EXPIRES_IN,
    ),
    _message("authenticated", expires_in=_described(_COUNT, "Seconds until the credential ends.")),
    _message("reset", "shape reason", shape=schema("Shape"), reason={"enum": [*ResetReason]}),
    _message(
        "error",
        "code message",
        code=TEXT,
        message=TEXT,
        shape=schema("Shape"),
        retry_after={"type": "number"},
        reason=_described(TEXT, "For `unauthenticated`: the reason word."),
    ),
    _message("pong"),
]

_FROM_CLIENT = [
    _message(
        "hello",
        "shapes",
        client_id=_CLIENT_ID,
        token=TEXT,
        shapes=_list(schema("Shape")),
        vector=schema("StateVector"),
    ),
    _message("subscribe", "shape", shape=schema("Shape"), position=schema("Position")),
    _message("unsubscribe", "shape", shape=schema("Shape")),
    _message("ack", "vector", vector=schema("StateVector")),
    _message("ping"),
    _message("auth", "token", token=TEXT),
]

SCHEMAS: Final[Json] = {
    **_VALUES,
    **_BODIES,
    "ServerMessage": {"oneOf": _FROM_SERVER, "description": "Messages of the server on a sync connection."},
    "ClientMessage": {"oneOf": _FROM_CLIENT, "description": "Messages of a client over a WebSocket."},
}
