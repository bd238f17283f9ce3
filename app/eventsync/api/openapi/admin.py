"""OpenAPI of `/v1/admin/…`, for operators and observers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from eventsync.api.openapi.admin_schemas import COUNT, TEXT, object_of
from eventsync.api.openapi.parts import POSITION, Json, answer, content, failures, parameters, query, schema

_SERVER: Final = "db-1:311:0c9f2a"
_SESSION: Final = "4f0d7f7c2a8a4a1e9b0f3c5d6e7f8a9b"

_RATE_EXAMPLE: Json = {
    "at": 1795411366.4,
    "events_per_second": 42.0,
    "writes_per_second": 40.5,
    "deliveries_per_second": 840.0,
    "connections": {"websocket": 20},
    "lag_events": 0,
    "delivery_p50": 0.0061,
    "delivery_p99": 0.018,
}
_OVERVIEW_EXAMPLE: Json = {
    "answered_by": _SERVER,
    "version": "0.1.0",
    "sub": "paul",
    "may_change": True,
    "problems": [
        {
            "severity": "note",
            "code": "no_standby",
            "what": "one worker runs: if it is killed, nothing is delivered until it is back",
            "remedy": "Start a second worker. It stands by, and takes over within seconds.",
        }
    ],
    "log": {
        "id": "k3f9ab2c",
        "number": 1,
        "reason": "first",
        "head": POSITION,
        "archived_up_to": 0,
        "horizon": 0,
        "hot": {"events": 128, "bytes": 51200},
        "cold": {"events": 0, "bytes": 0, "segments": 0},
    },
    "leader": "db-1:300:77aa01",
    "standbys": [],
    "jobs": {"sequencing": "db-1:300:77aa01"},
    "lag": {"events": 0, "seconds": 0.4},
    "totals": _RATE_EXAMPLE,
    "servers": [
        {
            "name": _SERVER,
            "version": "0.1.0",
            "uptime": 3600.0,
            "heard": 1.2,
            "live": True,
            "connections": {"websocket": 20},
            "lag_events": 0,
            "writes_per_second": 40.5,
            "deliveries_per_second": 840.0,
        }
    ],
    "workers": [{"name": "db-1:300:77aa01", "version": "0.1.0", "uptime": 3600.0, "heard": 2.0, "leads": True}],
    "snapshots": [{"collection": "theaters", "seq": 0, "bytes": 40960, "age": 3500.0}],
}
_CLIENT_EXAMPLE: Json = {
    "id": _SESSION,
    "server": _SERVER,
    "client_id": "billing",
    "sub": "ada",
    "roles": ["user"],
    "transport": "websocket",
    "since": 1795411366.4,
    "lag_events": 0,
    "shapes": [{"shape": "theaters", "position": POSITION}],
    "more_shapes": 0,
}
_INSPECTION_EXAMPLE: Json = {
    "id": _SESSION,
    "server": _SERVER,
    "state": "running",
    "since": 1795411366.4,
    "next": 13,
    "missed": 0,
    "left_out": {"messages": 0, "events": 0, "bytes": 0},
    "shapes": [
        {
            "shape": "theaters",
            "position": POSITION,
            "hidden": ["margin"],
            "plans": [
                {
                    "answer": "squashed",
                    "reset": None,
                    "at": 1795411366.1,
                    "from": "k3f9ab2c:41",
                    "reason": "cheapest",
                    "source": None,
                    "avoided": [],
                    "behind": {"log_events": 8000, "events": 7000, "bytes": 3500000, "documents": 12},
                    "costs": {"events": 304600, "squashed": 20300, "snapshot": 57000},
                    "possible": ["events", "snapshot", "squashed"],
                    "collection": {"documents": 1564, "bytes": 280000},
                    "stored_snapshot": {"seq": 30, "documents": 1564},
                    "horizon": 0,
                    "archived_up_to": 0,
                }
            ],
        }
    ],
    "frames": [
        {
            "n": 13,
            "at": 1795411370.2,
            "kind": "events",
            "direction": "out",
            "bytes": 312,
            "shape": "theaters",
            "from": "k3f9ab2c:127",
            "to": POSITION,
            "events": 1,
            "direct": True,
            "removed": {"fields": {"margin": 1}, "searched": 1},
        }
    ],
}
_EVENT_EXAMPLE: Json = {
    "seq": 128,
    "collection": "theaters",
    "id": "59a47286cfa9a3a73e51e72c",
    "op": "update",
    "base": 1,
    "version": 2,
    "patch": [{"op": "replace", "path": "/location/address/city", "value": "Springfield"}],
    "at": "2026-11-23T05:22:46.405Z",
    "op_id": "0f8fad5b-d9cb-469f-a165-70867728950e",
    "by": "ada",
}
_TASK_EXAMPLE: Json = {
    "id": "5f2c81ab09d3e417",
    "kind": "restore",
    "target": "theaters at k3f9ab2c:128 into theaters_restored",
    "by": "paul",
    "server": _SERVER,
    "state": "running",
    "began": 1795411366.4,
    "ended": None,
    "step": None,
    "done": 500,
    "total": 1692,
    "result": None,
    "reason": None,
}
_VERIFY_EXAMPLE: Json = _TASK_EXAMPLE | {
    "id": "0b9e27f4c1d35a68",
    "kind": "verify",
    "target": "theaters",
    "step": "theaters: documents",
    "total": 3128,
}
_VERIFIED_EXAMPLE: Json = _VERIFY_EXAMPLE | {
    "state": "done",
    "ended": 1795411368.9,
    "done": 3128,
    "result": {
        "whole": False,
        "head": POSITION,
        "collections": 1,
        "findings": [
            {
                "collection": "theaters",
                "text": "theaters/59a47286cfa9a3a73e51e72c differs at /location/geo",
                "shape": "theaters/59a47286cfa9a3a73e51e72c",
            }
        ],
        "more": 0,
        "note": None,
    },
}
_ID: Json = {
    "name": "id",
    "in": "path",
    "description": "The id of a session, of the listing.",
    "required": True,
    "schema": TEXT,
    "example": _SESSION,
}


def _operation(name: str, summary: str, ok: Json, *codes: str, **more: Any) -> Json:
    return {
        "operationId": name,
        "tags": ["Administration"],
        "summary": summary,
        **more,
        "responses": {**failures("unavailable", *codes), **ok},
    }


def _read(name: str, summary: str, of: str, example: Any, *codes: str, **more: Any) -> Json:
    return _operation(name, summary, {"200": answer(f"{summary}.", content(schema(of), example))}, *codes, **more)


def _verify(name: str, summary: str, given: Sequence[Json]) -> Json:
    return _operation(
        name,
        summary,
        {
            "202": answer(
                "Begun; the tasks show its progress and result.", content(schema("AdminTask"), _VERIFY_EXAMPLE)
            )
        },
        "not_tracked",
        "rate_limited",
        description=(
            "As `eventsync verify` does, while everything runs: the log's numbers and segments, the versions of each "
            "document, snapshot and events against the documents, and the routes. The result names the first fault of "
            "the log and of each collection. The server that answers runs the task, and two at a time."
        ),
        parameters=given,
    )


_POSITIVE: Final[Json] = {"type": "integer", "minimum": 1}
_LIMIT = query("limit", "The most entries of a page.", _POSITIVE, 100)

PATHS: Final[Json] = {
    "/v1/admin/overview": {
        "get": _read(
            "readOverview",
            "The state of the deployment, problems first",
            "AdminOverview",
            _OVERVIEW_EXAMPLE,
            description=(
                "Each server and worker renews its record, every 5 s by default (`report_interval`); the totals are "
                "the sums of these."
            ),
            parameters=[
                query("since", "Also the totals after this time, of the last hour.", COUNT, 1795411366),
            ],
        )
    },
    "/v1/admin/clients": {
        "get": _read(
            "listSessions",
            "The open sessions of all servers",
            "AdminClients",
            {
                "clients": [_CLIENT_EXAMPLE],
                "servers": [{"server": _SERVER, "connections": 1, "listed": 1}],
                "complete": True,
            },
            description=(
                "A server lists at most 500 sessions, those that are furthest behind. Other servers than the one that "
                "answers list theirs only while somebody asks: a first answer may lack them, for 5 s. "
                "`GET /v1/state-vectors` has what stored clients have acknowledged, and `DELETE` there forgets one."
            ),
            parameters=[
                query("after", "The `next` of the page before.", TEXT, _SESSION),
                _LIMIT,
                query("sub", "Only of this principal.", TEXT, "ada"),
                query("transport", "Only by this transport.", TEXT, "websocket"),
                query("shape", "Only those that follow this shape.", TEXT, "theaters"),
                query("server", "Only of this server.", TEXT, _SERVER),
            ],
        )
    },
    "/v1/admin/clients/{id}": {
        "get": _read(
            "readClientSession",
            "One open session",
            "AdminClient",
            _CLIENT_EXAMPLE,
            "not_found",
            parameters=[_ID],
        ),
        "delete": _operation(
            "disconnectClient",
            "Close a session",
            {
                "202": answer("Another server closes it within seconds."),
                "204": answer("Closed."),
            },
            "not_found",
            description="Its client waits for some seconds, connects again and resumes. To keep it out, revoke it.",
            parameters=[_ID],
        ),
    },
    "/v1/admin/clients/{id}/frames": {
        "get": _read(
            "inspectClient",
            "Inspect one open session live: what passes, and why",
            "AdminInspection",
            _INSPECTION_EXAMPLE,
            "not_found",
            "rate_limited",
            description=(
                "The first request begins the inspection; 15 s after the last one it ends, and after 15 minutes in any "
                "case. Ask about once a second, with the last `next` as `after`. The notes have no content of "
                "documents. The last 300 are kept, and 50 a second are made: `missed` and `left_out` say what is not "
                "in them. A session of another server is inspected from its next report on (`report_interval`); until "
                "then `state` is `starting`. A server inspects 8 sessions at a time."
            ),
            parameters=[_ID, query("after", "The `next` of the answer before; 0 at first.", COUNT, 12)],
        )
    },
    "/v1/admin/log": {
        "get": _read(
            "searchLog",
            "Search the log, the newest events first",
            "AdminLog",
            {
                "log": "k3f9ab2c",
                "head": POSITION,
                "events": [_EVENT_EXAMPLE],
                "searched": {"after": 0, "up_to": 128},
            },
            "damaged",
            "gone",
            "reset",
            description=(
                "One request looks at 20,000 events, or for 2 s: a page may be empty although there is a `next` one. "
                "The events of one document are found by an index."
            ),
            parameters=[
                query("after", "Only events after this position.", schema("Position"), "k3f9ab2c:100"),
                query(
                    "up_to",
                    "Only events up to this position, such as the `next` of the page before.",
                    schema("Position"),
                    POSITION,
                ),
                query("from", "Only events committed after this instant.", TEXT, "2026-11-23T05:00:00Z"),
                query("to", "Only events committed up to this instant.", TEXT, "2026-11-23T06:00:00Z"),
                query("collection", "Only events of this collection.", schema("CollectionName"), "theaters"),
                query("id", "Only events of this document, of `collection`.", schema("Id"), "59a47286cfa9a3a73e51e72c"),
                query("by", "Only changes by this principal, through the API.", TEXT, "ada"),
                query("op", "Only events of this kind.", {"enum": ["create", "update", "replace", "delete"]}, "update"),
                _LIMIT,
            ],
        )
    },
    "/v1/admin/jobs": {
        "get": _read(
            "listJobs",
            "The periodic jobs of the workers, and their last runs",
            "AdminJobs",
            {
                "jobs": [
                    {
                        "name": "snapshotting",
                        "worker": "db-1:300:77aa01",
                        "running_since": None,
                        "next_at": 1795411372.1,
                        "succeeded": {"at": 1795411371.1, "seconds": 0.041, "done": {}},
                        "worked": {
                            "at": 1795407866.0,
                            "seconds": 0.62,
                            "done": {"snapshots": 1, "snapshot_documents": 1564, "snapshot_bytes": 40960},
                        },
                        "failed": None,
                    }
                ]
            },
            description=(
                "As of the workers' last reports (`report_interval`), by their clocks. Runs are remembered as long as "
                "their worker runs."
            ),
        )
    },
    "/v1/admin/repairs": {
        "get": _read(
            "listRepairs",
            "The newest repairs and resets of the log, with their reasons",
            "AdminRepairs",
            {
                "repairs": [
                    {
                        "log": "k3f9ab2c",
                        "kind": "history",
                        "reason": "the change stream can't be resumed: its history is lost",
                        "after": 120,
                        "up_to": 124,
                        "began": 1795411366.4,
                        "ended": 1795411367.0,
                        "events": 4,
                        "collections": [{"name": "theaters", "events": 4}],
                    }
                ],
                "logs": [
                    {
                        "log": "k3f9ab2c",
                        "number": 2,
                        "kind": "requested",
                        "reason": "an operator has asked for it",
                        "at": 1795407866.0,
                        "previous": "a81b02cd",
                        "head": 5120,
                    }
                ],
            },
            description="The newest 50 of each. With each log but the first, all clients were reset.",
        )
    },
    "/v1/admin/segments": {
        "get": _read(
            "listAdminSegments",
            "The segments of the archive, the newest first",
            "AdminSegments",
            {
                "log": "k3f9ab2c",
                "segments": [
                    {
                        "first": 1,
                        "last": 100,
                        "earliest": "2026-11-23T05:22:46.112Z",
                        "latest": "2026-11-23T06:02:11.845Z",
                        "bytes": 10240,
                        "raw_bytes": 81920,
                    }
                ],
                "next": None,
            },
            parameters=[
                query("before", "Only segments that begin before this event: the last `next`.", _POSITIVE, 5000),
                _LIMIT,
            ],
        )
    },
    "/v1/admin/snapshots": {
        "get": _read(
            "listSnapshots",
            "The stored snapshots of collections, the newest first",
            "AdminSnapshots",
            {
                "log": "k3f9ab2c",
                "snapshots": [
                    {
                        "id": "5f2c81ab09d3e417",
                        "collection": "theaters",
                        "position": POSITION,
                        "seq": 128,
                        "time": 1795411366,
                        "at": 1795411367.2,
                        "complete": True,
                        "documents": 1564,
                        "bytes": 40960,
                        "raw_bytes": 819200,
                    }
                ],
                "more": False,
            },
            parameters=[query("collection", "Only those of this collection.", TEXT, "theaters"), _LIMIT],
        )
    },
    "/v1/admin/collections": {
        "get": _read(
            "listAdminCollections",
            "The tracked collections, with their sizes and newest snapshots",
            "AdminCollections",
            {
                "collections": [
                    {
                        "name": "theaters",
                        "state": "tracked",
                        "events": 128,
                        "event_bytes": 51200,
                        "last_seq": 128,
                        "tracked_from": 0,
                        "snapshot": {"seq": 0, "bytes": 40960},
                    }
                ]
            },
        )
    },
    "/v1/admin/collections/{collection}": {
        "put": _operation(
            "trackCollection",
            "Track a collection",
            {
                "202": answer(
                    "Asked for; a worker begins within seconds.",
                    content(object_of("name state", name=TEXT, state=TEXT), {"name": "theaters", "state": "asked"}),
                )
            },
            parameters=parameters("collection"),
        ),
        "delete": _operation(
            "untrackCollection",
            "Stop tracking a collection",
            {"204": answer("No longer tracked. Its events stay in the log.")},
            "not_found",
            parameters=parameters("collection"),
        ),
    },
    "/v1/admin/collections/{collection}/snapshots": {
        "post": _operation(
            "requestSnapshot",
            "Ask for a stored snapshot of a collection",
            {
                "202": answer(
                    "Asked for; a worker makes it.",
                    content(
                        object_of("name request", name=TEXT, request=TEXT), {"name": "theaters", "request": "7f3a"}
                    ),
                )
            },
            "not_found",
            parameters=parameters("collection"),
        )
    },
    "/v1/admin/collections/{collection}/history": {
        "get": _read(
            "readCollectionHistory",
            "Since when the states of a collection are known",
            "AdminHistory",
            {"name": "theaters", "since": "k3f9ab2c:0", "since_at": 1795407866.0, "head": POSITION},
            "not_tracked",
            description=(
                "`GET /v1/collections/{collection}/documents?at=` lists the documents as they were, as far as the "
                "rules show them."
            ),
            parameters=parameters("collection"),
        )
    },
    "/v1/admin/collections/{collection}/restores": {
        "post": _operation(
            "restoreCollection",
            "Restore a collection, as it was, into a new one",
            {"202": answer("Begun; the tasks show its progress.", content(schema("AdminTask"), _TASK_EXAMPLE))},
            "not_tracked",
            "conflict",
            "gone",
            "reset",
            "damaged",
            "rate_limited",
            description=(
                "The new collection appears under its name once it is complete and checked; it is not tracked. 409 if "
                "there is one of this name. Documents keep their versions and all BSON types; indexes and validation "
                "are not restored. The server that answers runs the task, and two at a time."
            ),
            parameters=parameters("collection"),
            requestBody={
                "required": True,
                "content": content(
                    schema("RestoreRequest"), {"into": "theaters_restored", "at": "2026-11-23T05:22:46Z"}
                ),
            },
        )
    },
    "/v1/admin/collections/{collection}/verifications": {
        "post": _verify("verifyCollection", "Prove that the log gives exactly a collection", parameters("collection"))
    },
    "/v1/admin/verifications": {
        "post": _verify("verifyCollections", "Prove that the log gives exactly all collections", [])
    },
    "/v1/admin/tasks": {
        "get": _read(
            "listTasks",
            "The tasks of all servers, the newest first",
            "AdminTasks",
            {"tasks": [_VERIFIED_EXAMPLE, _TASK_EXAMPLE]},
            description=(
                "A server lists its last 20 tasks as long as it runs. Those of other servers than the one that answers "
                "are as of their last report (`report_interval`)."
            ),
        )
    },
    "/v1/admin/tasks/{id}": {
        "delete": _operation(
            "cancelTask",
            "Cancel a task",
            {"202": answer("It ends soon, and removes what it has made.")},
            "not_found",
            parameters=[_ID | {"description": "The id of a task.", "example": _TASK_EXAMPLE["id"]}],
        )
    },
    "/v1/admin/settings": {
        "get": _read(
            "readSettings",
            "The settings in force, without secrets",
            "AdminSettings",
            {
                "answered_by": _SERVER,
                "settings": [
                    {
                        "name": "port",
                        "env": "EVENTSYNC_PORT",
                        "value": 8000,
                        "default": 8000,
                        "description": "TCP port to listen on; 0 takes a free one.",
                        "source": "default",
                    }
                ],
            },
        )
    },
    "/v1/admin/access": {
        "get": _read(
            "readAccess",
            "The rules and shapes in force, and refusals",
            "AdminAccess",
            {
                "answered_by": _SERVER,
                "rules": {"issuers": [], "roles": {"operator": {"ops": True}}, "collections": {}},
                "shapes": [],
                "refusals": {"counts": {"token_missing": 2}, "recent": []},
            },
            description="Refusals are those of the server that answers, since its start.",
        )
    },
    "/v1/admin/access/explain": {
        "post": _operation(
            "explainAccess",
            "What a principal may do with a document, and why",
            {
                "200": answer(
                    "The explanation.",
                    content(
                        schema("Explanation"),
                        {
                            "sub": "ada",
                            "roles": ["user"],
                            "collection": "orders",
                            "may_read": True,
                            "because": [{"role": "user", "read": 'allows it by {"owner":"ada"}'}],
                            "seen": {"_id": 42, "owner": "ada"},
                        },
                    ),
                )
            },
            "not_found",
            "not_tracked",
            "conflict",
            "too_large",
            requestBody={
                "required": True,
                "content": content(
                    schema("ExplainRequest"), {"shape": "orders/int:42", "claims": {"sub": "ada"}, "roles": []}
                ),
            },
        )
    },
}
