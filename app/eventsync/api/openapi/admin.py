"""OpenAPI of `/v1/admin/…`, for operators and observers."""

from __future__ import annotations

from typing import Final

from eventsync.api.openapi import admin_maintenance, admin_tasks
from eventsync.api.openapi.admin_parts import ID, LIMIT, SERVER, SESSION, operation, read
from eventsync.api.openapi.admin_schemas import COUNT, TEXT, object_of
from eventsync.api.openapi.parts import POSITION, Json, answer, content, parameters, query, schema

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
    "answered_by": SERVER,
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
            "name": SERVER,
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
    "workers": [
        {
            "name": "db-1:300:77aa01",
            "version": "0.1.0",
            "uptime": 3600.0,
            "heard": 2.0,
            "leads": True,
            "lag_seconds": 0.0,
        }
    ],
    "snapshots": [{"collection": "theaters", "seq": 0, "bytes": 40960, "age": 3500.0}],
}
_CLIENT_EXAMPLE: Json = {
    "id": SESSION,
    "server": SERVER,
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
    "id": SESSION,
    "server": SERVER,
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


PATHS: Final[Json] = {
    "/v1/admin/overview": {
        "get": read(
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
        "get": read(
            "listSessions",
            "The open sessions of all servers",
            "AdminClients",
            {
                "clients": [_CLIENT_EXAMPLE],
                "servers": [{"server": SERVER, "connections": 1, "listed": 1}],
                "complete": True,
            },
            description=(
                "A server lists at most 500 sessions, those that are furthest behind. Other servers than the one that "
                "answers list theirs only while somebody asks: a first answer may lack them, for 5 s. "
                "`GET /v1/state-vectors` has what stored clients have acknowledged, and `DELETE` there forgets one."
            ),
            parameters=[
                query("after", "The `next` of the page before.", TEXT, SESSION),
                LIMIT,
                query("sub", "Only of this principal.", TEXT, "ada"),
                query("transport", "Only by this transport.", TEXT, "websocket"),
                query("shape", "Only those that follow this shape.", TEXT, "theaters"),
                query("server", "Only of this server.", TEXT, SERVER),
            ],
        )
    },
    "/v1/admin/clients/{id}": {
        "get": read(
            "readClientSession",
            "One open session",
            "AdminClient",
            _CLIENT_EXAMPLE,
            "not_found",
            parameters=[ID],
        ),
        "delete": operation(
            "disconnectClient",
            "Close a session",
            {
                "202": answer("Another server closes it within seconds."),
                "204": answer("Closed."),
            },
            "not_found",
            description="Its client waits for some seconds, connects again and resumes. To keep it out, revoke it.",
            parameters=[ID],
        ),
    },
    "/v1/admin/clients/{id}/frames": {
        "get": read(
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
            parameters=[ID, query("after", "The `next` of the answer before; 0 at first.", COUNT, 12)],
        )
    },
    "/v1/admin/log": {
        "get": read(
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
                LIMIT,
            ],
        )
    },
    **admin_maintenance.PATHS,
    "/v1/admin/collections": {
        "get": read(
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
        "put": operation(
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
        "delete": operation(
            "untrackCollection",
            "Stop tracking a collection",
            {"204": answer("No longer tracked. Its events stay in the log.")},
            "not_found",
            parameters=parameters("collection"),
        ),
    },
    "/v1/admin/collections/{collection}/snapshots": {
        "post": operation(
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
        "get": read(
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
    **admin_tasks.PATHS,
    "/v1/admin/settings": {
        "get": read(
            "readSettings",
            "The settings in force, without secrets",
            "AdminSettings",
            {
                "answered_by": SERVER,
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
        "get": read(
            "readAccess",
            "The rules and shapes in force, and refusals",
            "AdminAccess",
            {
                "answered_by": SERVER,
                "rules": {"issuers": [], "roles": {"operator": {"ops": True}}, "collections": {}},
                "shapes": [],
                "refusals": {
                    "counts": {"token_missing": 2},
                    "recent": [
                        {
                            "at": 1764000000.0,
                            "subject": "",
                            "credential": "",
                            "reason": "token_missing",
                            "request": "GET /v1/collections",
                            "server": SERVER,
                        }
                    ],
                    "servers": [{"server": SERVER, "count": 2}],
                    "complete": True,
                },
            },
            description="Refusals are those of all running servers, each since its start. Of a subject, reason and "
            "request one is listed in a minute, and all are counted. Other servers publish theirs with their reports.",
        )
    },
    "/v1/admin/access/explain": {
        "post": operation(
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
