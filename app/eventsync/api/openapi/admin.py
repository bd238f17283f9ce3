"""OpenAPI of `/v1/admin/…`, for operators and observers."""

from __future__ import annotations

from typing import Any, Final

from eventsync.api.openapi.parts import POSITION, Json, answer, content, failures, parameters, query, schema

_TEXT: Final[Json] = {"type": "string"}
_COUNT: Final[Json] = {"type": "integer", "minimum": 0}
_NUMBER: Final[Json] = {"type": ["number", "null"]}
_SEQ: Final[Json] = {"type": "integer", "minimum": 0, "description": "A position's number."}
_SERVER: Final = "db-1:311:0c9f2a"
_SESSION: Final = "4f0d7f7c2a8a4a1e9b0f3c5d6e7f8a9b"


def _object(required: str, **properties: Json) -> Json:
    return {"type": "object", "required": required.split(), "properties": properties}


def _list(item: Json) -> Json:
    return {"type": "array", "items": item}


_CONNECTIONS: Json = {
    "type": "object",
    "description": "Open connections by transport.",
    "additionalProperties": _COUNT,
}

_PROBLEM = _object(
    "severity code what remedy",
    severity={"enum": ["error", "warning", "note"]},
    code={"type": "string", "description": "Stable."},
    what=_TEXT,
    remedy=_TEXT,
)
_PROCESS: Json = {
    "name": {"type": "string", "description": "`host:pid:random`."},
    "version": _TEXT,
    "uptime": {"type": "number", "description": "Seconds since its start."},
    "heard": {"type": "number", "description": "Seconds since it has renewed its record."},
}
_RATES = "events_per_second writes_per_second deliveries_per_second"
_TOTALS = _object(
    f"at {_RATES} connections lag_events delivery_p50 delivery_p99",
    at={"type": "number", "description": "Unix seconds."},
    events_per_second={"type": "number", "description": "New events of the log."},
    writes_per_second={"type": "number", "description": "Requests that write documents."},
    deliveries_per_second={"type": "number", "description": "`events` messages to connected clients."},
    connections=_CONNECTIONS,
    lag_events={"type": "integer", "description": "Events between the server that is furthest behind and the first."},
    delivery_p50=_NUMBER | {"description": "Seconds from a commit to the delivery of its event: the median."},
    delivery_p99=_NUMBER | {"description": "The same, that 1 % exceed; null without deliveries."},
)
_TIER = _object("events bytes", events=_COUNT, bytes=_COUNT)

_SCHEMAS: Json = {
    "AdminOverview": _object(
        "answered_by version sub may_change problems log leader standbys jobs lag totals servers workers snapshots",
        answered_by={"type": "string", "description": "The server process that has answered."},
        version=_TEXT,
        sub={"type": "string", "description": "The principal that asks."},
        may_change={"type": "boolean", "description": "False for an observer."},
        problems=_list(_PROBLEM) | {"description": "The worst first."},
        log={
            "oneOf": [
                {"type": "null"},
                _object(
                    "id number reason head archived_up_to horizon hot cold",
                    id=_TEXT,
                    number=_COUNT,
                    reason=_TEXT,
                    head=schema("Position"),
                    archived_up_to=_SEQ,
                    horizon=_SEQ,
                    hot=_TIER,
                    cold=_object("events bytes segments", events=_COUNT, bytes=_COUNT, segments=_COUNT),
                ),
            ]
        },
        leader={"type": ["string", "null"]},
        standbys=_list(_TEXT),
        jobs={"type": "object", "additionalProperties": {"type": ["string", "null"]}},
        lag=_object(
            "events seconds",
            events={"type": ["integer", "null"], "description": "Events that this server has not read yet."},
            seconds=_NUMBER | {"description": "Seconds since the log was known to hold every change."},
        ),
        totals=_TOTALS,
        servers=_list(
            _object(
                "name version uptime heard live connections lag_events",
                **_PROCESS,
                live={"type": "boolean"},
                connections=_CONNECTIONS,
                lag_events={"type": ["integer", "null"]},
                writes_per_second={"type": "number"},
                deliveries_per_second={"type": "number"},
            )
        ),
        workers=_list(_object("name version uptime heard leads", **_PROCESS, leads={"type": "boolean"})),
        snapshots=_list(
            _object("collection seq bytes age", collection=_TEXT, seq=_SEQ, bytes=_COUNT, age={"type": "number"})
        ),
        history=_list(_TOTALS) | {"description": "Only with `since`."},
    ),
    "AdminClient": _object(
        "id server client_id sub roles transport since lag_events shapes more_shapes",
        id={"type": "string", "description": "The session's."},
        server=_TEXT,
        client_id={"type": ["string", "null"], "description": "Null if the client has not named itself."},
        sub=_TEXT,
        roles=_list(_TEXT),
        transport=_TEXT,
        since={"type": "number", "description": "Unix seconds."},
        lag_events=_COUNT | {"description": "Events of the log between the session and the head."},
        shapes=_list(_object("shape position", shape=_TEXT, position={"type": ["string", "null"]})),
        more_shapes=_COUNT,
    ),
    "AdminClients": _object(
        "clients servers complete",
        clients=_list(schema("AdminClient")),
        servers=_list(_object("server connections listed", server=_TEXT, connections=_COUNT, listed=_COUNT)),
        complete={"type": "boolean", "description": "False while some open sessions are not known to this server."},
        next={"type": "string", "description": "For `after`; absent on the last page."},
    ),
    "AdminLog": _object(
        "log head events searched",
        log=_TEXT,
        head=schema("Position"),
        events=_list({"type": "object", "required": ["seq", "collection", "id", "op", "at"]})
        | {"description": "Events, the newest first. For observers without `doc` and `patch`, but with `paths`."},
        searched=_object("after up_to", after=_SEQ, up_to=_SEQ),
        next=schema("Position"),
    ),
    "AdminCollections": _object(
        "collections",
        collections=_list(
            _object(
                "name state events event_bytes last_seq tracked_from snapshot",
                name=_TEXT,
                state={"enum": ["tracked", "asked", "refused"]},
                reason=_TEXT,
                events=_COUNT,
                event_bytes=_COUNT,
                last_seq=_SEQ,
                tracked_from={"type": ["integer", "null"]},
                snapshot={"oneOf": [{"type": "null"}, _object("seq bytes", seq=_SEQ, bytes=_COUNT)]},
            )
        ),
    ),
    "AdminSettings": _object(
        "answered_by settings",
        answered_by=_TEXT,
        settings=_list(
            _object(
                "name env value default description source",
                name=_TEXT,
                env=_TEXT,
                value={},
                default={},
                description=_TEXT,
                source={"enum": ["environment", "file", "option", "default"]},
            )
        ),
    ),
    "AdminAccess": _object(
        "answered_by rules shapes refusals",
        answered_by=_TEXT,
        rules={"type": ["object", "null"], "description": "Null if no `[auth]` has been applied."},
        shapes=_list(
            _object(
                "name collection spec state",
                name=_TEXT,
                collection=_TEXT,
                spec={"type": "object"},
                state={"enum": ["active", "waiting", "refused"]},
                reason=_TEXT,
            )
        ),
        refusals=_object("counts recent", counts={"type": "object"}, recent=_list({"type": "object"})),
    ),
    "ExplainRequest": {
        "type": "object",
        "required": ["shape"],
        "additionalProperties": False,
        "properties": {
            "shape": {"type": "string", "description": "A collection or a document."},
            "token": {"type": "string", "description": "A token or a service key; in place of `claims` and `roles`."},
            "claims": {"type": "object"},
            "roles": _list(_TEXT),
        },
    },
    "Explanation": _object(
        "sub roles collection may_read because",
        sub=_TEXT,
        roles=_list(_TEXT),
        collection=_TEXT,
        may_read={"description": "True, false, or the filter of what may be read."},
        because=_list({"type": "object"}),
        reason=_TEXT,
        hidden=_list(_TEXT) | {"description": "Paths that are hidden from it."},
        hidden_here=_list(_TEXT) | {"description": "Those that the document has, as JSON Pointers."},
        scope=_TEXT,
        parts=_list(_TEXT),
        seen={"type": ["object", "null"], "description": "The document as the principal sees it; null if it does not."},
    ),
}
SCHEMAS: Final = _SCHEMAS

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
_ID: Json = {
    "name": "id",
    "in": "path",
    "description": "The id of a session, of the listing.",
    "required": True,
    "schema": _TEXT,
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


_LIMIT = query("limit", "The most entries of a page.", {"type": "integer", "minimum": 1}, 100)

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
                query("since", "Also the totals after this time, of the last hour.", _COUNT, 1795411366),
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
                query("after", "The `next` of the page before.", _TEXT, _SESSION),
                _LIMIT,
                query("sub", "Only of this principal.", _TEXT, "ada"),
                query("transport", "Only by this transport.", _TEXT, "websocket"),
                query("shape", "Only those that follow this shape.", _TEXT, "theaters"),
                query("server", "Only of this server.", _TEXT, _SERVER),
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
                query("from", "Only events committed after this instant.", _TEXT, "2026-11-23T05:00:00Z"),
                query("to", "Only events committed up to this instant.", _TEXT, "2026-11-23T06:00:00Z"),
                query("collection", "Only events of this collection.", schema("CollectionName"), "theaters"),
                query("id", "Only events of this document, of `collection`.", schema("Id"), "59a47286cfa9a3a73e51e72c"),
                query("by", "Only changes by this principal, through the API.", _TEXT, "ada"),
                query("op", "Only events of this kind.", {"enum": ["create", "update", "replace", "delete"]}, "update"),
                _LIMIT,
            ],
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
                    content(_object("name state", name=_TEXT, state=_TEXT), {"name": "theaters", "state": "asked"}),
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
                        _object("name request", name=_TEXT, request=_TEXT), {"name": "theaters", "request": "7f3a"}
                    ),
                )
            },
            "not_found",
            parameters=parameters("collection"),
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
