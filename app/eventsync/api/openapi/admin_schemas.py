"""Schemas of what `/v1/admin/…` answers."""

from __future__ import annotations

from typing import Final

from eventsync.api.openapi.parts import Json, schema

TEXT: Final[Json] = {"type": "string"}
COUNT: Final[Json] = {"type": "integer", "minimum": 0}
_NUMBER: Final[Json] = {"type": ["number", "null"]}
_SEQ: Final[Json] = {"type": "integer", "minimum": 0, "description": "A position's number."}


def object_of(required: str, **properties: Json) -> Json:
    """Return the schema of an object, with the names of the members that are always there."""
    return {"type": "object", "required": required.split(), "properties": properties}


def list_of(item: Json) -> Json:
    """Return the schema of a list."""
    return {"type": "array", "items": item}


def _run(description: str, **more: Json) -> Json:
    """Return the schema of a run of a job."""
    done = {"type": "object", "additionalProperties": COUNT, "description": "What it has made or removed, by kind."}
    names = " ".join(("at seconds done", *more))
    at: Json = {"type": "number", "description": "Unix seconds of its end."}
    run = object_of(names, at=at, seconds={"type": "number"}, done=done, **more)
    return {"oneOf": [{"type": "null"}, run], "description": description}


_CONNECTIONS: Json = {
    "type": "object",
    "description": "Open connections by transport.",
    "additionalProperties": COUNT,
}

_PROBLEM = object_of(
    "severity code what remedy",
    severity={"enum": ["error", "warning", "note"]},
    code={"type": "string", "description": "Stable."},
    what=TEXT,
    remedy=TEXT,
)
_PROCESS: Json = {
    "name": {"type": "string", "description": "`host:pid:random`."},
    "version": TEXT,
    "uptime": {"type": "number", "description": "Seconds since its start."},
    "heard": {"type": "number", "description": "Seconds since it has renewed its record."},
}
_RATES = "events_per_second writes_per_second deliveries_per_second"
_TOTALS = object_of(
    f"at {_RATES} connections lag_events delivery_p50 delivery_p99",
    at={"type": "number", "description": "Unix seconds."},
    events_per_second={"type": "number", "description": "New events of the log."},
    writes_per_second={"type": "number", "description": "Requests that write documents."},
    deliveries_per_second={"type": "number", "description": "Events times clients."},
    connections=_CONNECTIONS,
    lag_events={"type": "integer", "description": "Events that the server which is furthest behind has not read."},
    delivery_p50=_NUMBER | {"description": "Seconds from a commit to the delivery of its event: the median."},
    delivery_p99=_NUMBER | {"description": "The same, that 1 % exceed; null without deliveries."},
)
_OPTIONAL_TEXT: Json = {"type": ["string", "null"]}
_SIZE = object_of("documents bytes", documents=COUNT, bytes=COUNT)
_WHY = object_of(
    "answer reset at from reason source avoided",
    answer={"enum": ["events", "squashed", "snapshot"]},
    reset=_OPTIONAL_TEXT | {"description": "The reason of the `reset` that came first, if there was one."},
    at={"type": "number", "description": "Unix seconds."},
    **{"from": _OPTIONAL_TEXT},
    reason={
        "enum": ["no_position", "in_window", "cheapest", "only_exact", "others_failed", "reset"],
        "description": "`in_window`: the server had all events after the position in memory.",
    },
    source={"enum": ["window", "hot", "archive", None], "description": "Where events came from."},
    avoided=list_of(TEXT) | {"description": "Answers that had failed before."},
    behind=object_of("log_events events bytes documents", log_events=COUNT, events=COUNT, bytes=COUNT, documents=COUNT)
    | {"description": "Estimates; `log_events` are those of all collections."},
    costs={"type": "object", "additionalProperties": COUNT, "description": "Estimated µs of each answer."},
    possible=list_of(TEXT),
    collection=_SIZE,
    stored_snapshot={"type": ["object", "null"]},
    horizon=_SEQ,
    archived_up_to=_SEQ,
)
_FRAME = object_of(
    "n at kind",
    n=COUNT,
    at={"type": "number", "description": "Unix seconds."},
    kind={"type": "string", "description": "The type of the message or request; `plan` for a decision."},
    direction={"enum": ["out", "in"]},
    bytes={"type": ["integer", "null"], "description": "Of the message in JSON; null for requests."},
    shape=TEXT,
    to=_OPTIONAL_TEXT,
    events=COUNT,
    direct={"type": "boolean", "description": "Written to the connection at once, with those to all others."},
    part=COUNT,
    last={"type": "boolean"},
    removed=object_of(
        "fields searched",
        fields={"type": "object", "additionalProperties": COUNT},
        searched={"type": "integer", "description": "Events in which removed fields were looked for."},
    )
    | {"description": "Names of the fields that redaction removed, and how often."},
    why=_WHY,
    **{"from": _OPTIONAL_TEXT},
)
_TIER = object_of("events bytes", events=COUNT, bytes=COUNT)

SCHEMAS: Final[Json] = {
    "AdminOverview": object_of(
        "answered_by version sub may_change problems log leader standbys jobs lag totals servers workers snapshots",
        answered_by={"type": "string", "description": "The server process that has answered."},
        version=TEXT,
        sub={"type": "string", "description": "The principal that asks."},
        may_change={"type": "boolean", "description": "False for an observer."},
        problems=list_of(_PROBLEM) | {"description": "The worst first."},
        log={
            "oneOf": [
                {"type": "null"},
                object_of(
                    "id number reason head archived_up_to horizon hot cold",
                    id=TEXT,
                    number=COUNT,
                    reason=TEXT,
                    head=schema("Position"),
                    archived_up_to=_SEQ,
                    horizon=_SEQ,
                    hot=_TIER,
                    cold=object_of("events bytes segments", events=COUNT, bytes=COUNT, segments=COUNT),
                ),
            ]
        },
        leader={"type": ["string", "null"]},
        standbys=list_of(TEXT),
        jobs={"type": "object", "additionalProperties": {"type": ["string", "null"]}},
        lag=object_of(
            "events seconds",
            events={
                "type": ["integer", "null"],
                "description": "Known changes without an event, and events that this server has not read.",
            },
            seconds=_NUMBER | {"description": "Seconds for which the log has not been known to hold every change."},
        ),
        totals=_TOTALS,
        servers=list_of(
            object_of(
                "name version uptime heard live connections lag_events",
                **_PROCESS,
                live={"type": "boolean"},
                connections=_CONNECTIONS,
                lag_events={"type": ["integer", "null"]},
                writes_per_second={"type": "number"},
                deliveries_per_second={"type": "number"},
            )
        ),
        workers=list_of(
            object_of(
                "name version uptime heard leads lag_seconds",
                **_PROCESS,
                leads={"type": "boolean"},
                lag_seconds=_NUMBER
                | {"description": "Age of the oldest change that it has to append; null of a standby."},
            )
        ),
        snapshots=list_of(
            object_of("collection seq bytes age", collection=TEXT, seq=_SEQ, bytes=COUNT, age={"type": "number"})
        ),
        history=list_of(_TOTALS) | {"description": "Only with `since`."},
    ),
    "AdminClient": object_of(
        "id server client_id sub roles transport since lag_events shapes more_shapes",
        id={"type": "string", "description": "The session's."},
        server=TEXT,
        client_id={"type": ["string", "null"], "description": "Null if the client has not named itself."},
        sub=TEXT,
        roles=list_of(TEXT),
        transport=TEXT,
        since={"type": "number", "description": "Unix seconds."},
        lag_events=COUNT | {"description": "Events of the log between the session and the head."},
        shapes=list_of(object_of("shape position", shape=TEXT, position={"type": ["string", "null"]})),
        more_shapes=COUNT,
    ),
    "AdminClients": object_of(
        "clients servers complete",
        clients=list_of(schema("AdminClient")),
        servers=list_of(object_of("server connections listed", server=TEXT, connections=COUNT, listed=COUNT)),
        complete={"type": "boolean", "description": "False while some open sessions are not known to this server."},
        next={"type": "string", "description": "For `after`; absent on the last page."},
    ),
    "AdminInspection": object_of(
        "id server state next missed left_out shapes frames",
        id=TEXT,
        server=TEXT,
        state={"enum": ["starting", "running", "ended", "refused"]},
        since={"type": "number", "description": "Unix seconds of the beginning of the inspection."},
        next=COUNT | {"description": "For `after`."},
        missed=COUNT | {"description": "Notes after `after` that are not kept any more."},
        left_out=object_of("messages events bytes", messages=COUNT, events=COUNT, bytes=COUNT)
        | {"description": "What came faster than it was noted, since the beginning."},
        shapes=list_of(
            object_of(
                "shape position hidden plans",
                shape=TEXT,
                position=_OPTIONAL_TEXT,
                hidden=list_of(TEXT) | {"description": "Fields that the rules hide from the principal."},
                plans=list_of(_WHY) | {"description": "The newest plans, the oldest first."},
            )
        ),
        frames=list_of(_FRAME),
    ),
    "AdminLog": object_of(
        "log head events searched",
        log=TEXT,
        head=schema("Position"),
        events=list_of({"type": "object", "required": ["seq", "collection", "id", "op", "at"]})
        | {"description": "Events, the newest first. For observers without `doc` and `patch`, but with `paths`."},
        searched=object_of("after up_to", after=_SEQ, up_to=_SEQ),
        next=schema("Position"),
    ),
    "AdminCollections": object_of(
        "collections",
        collections=list_of(
            object_of(
                "name state events event_bytes last_seq tracked_from snapshot",
                name=TEXT,
                state={"enum": ["tracked", "asked", "refused"]},
                reason=TEXT,
                events=COUNT,
                event_bytes=COUNT,
                last_seq=_SEQ,
                tracked_from={"type": ["integer", "null"]},
                snapshot={"oneOf": [{"type": "null"}, object_of("seq bytes", seq=_SEQ, bytes=COUNT)]},
            )
        ),
    ),
    "AdminJobs": object_of(
        "jobs",
        jobs=list_of(
            object_of(
                "name worker running_since next_at succeeded worked failed",
                name={"enum": ["snapshotting", "archiving", "compacting"]},
                worker=_OPTIONAL_TEXT | {"description": "The worker that does it; null if none does."},
                running_since=_NUMBER | {"description": "Unix seconds; null while it does not run."},
                next_at=_NUMBER | {"description": "Unix seconds of the next run; null while one runs."},
                succeeded=_run("The last successful run."),
                worked=_run("The last run that has made or removed something."),
                failed=_run("The last run that has failed.", reason=TEXT),
            )
        ),
    ),
    "AdminRepairs": object_of(
        "repairs logs",
        repairs=list_of(
            object_of(
                "log kind reason after up_to began ended events collections",
                log=TEXT,
                kind={"type": "string", "description": "As `eventsync_worker_repairs_total` counts it."},
                reason=TEXT,
                after=_SEQ | {"description": "The newest event before the repair."},
                up_to={"type": ["integer", "null"], "description": "Its newest event; null if it has not ended."},
                began={"type": "number", "description": "Unix seconds."},
                ended=_NUMBER | {"description": "Null while it runs, and if it was interrupted."},
                events=COUNT,
                collections=list_of(object_of("name events", name=TEXT, events=COUNT))
                | {"description": "Those that had become others, the most events first; 50 at most."},
            )
        ),
        logs=list_of(
            object_of(
                "log number kind reason at previous head",
                log=TEXT,
                number=COUNT,
                kind=_OPTIONAL_TEXT | {"description": "As `eventsync_worker_logs_begun_total` counts it."},
                reason=TEXT,
                at=_NUMBER | {"description": "Unix seconds."},
                previous=_OPTIONAL_TEXT | {"description": "The log that ended."},
                head={"type": ["integer", "null"], "description": "The newest event of that one, if it was known."},
            )
        ),
    ),
    "AdminSegments": object_of(
        "log segments next",
        log=TEXT,
        segments=list_of(
            object_of(
                "first last earliest latest bytes raw_bytes",
                first=_SEQ,
                last=_SEQ,
                earliest={"type": "string", "description": "The time of its earliest change."},
                latest=TEXT,
                bytes=COUNT,
                raw_bytes=COUNT | {"description": "Before compression."},
            )
        ),
        next={"type": ["integer", "null"], "description": "The `before` of the next page; null on the last."},
    ),
    "AdminSnapshots": object_of(
        "log snapshots more",
        log=TEXT,
        snapshots=list_of(
            object_of(
                "id collection position seq time at complete documents bytes raw_bytes",
                id=TEXT,
                collection=TEXT,
                position=schema("Position"),
                seq=_SEQ,
                time={"type": "integer", "description": "Unix seconds of the state that it has."},
                at={"type": "number", "description": "Unix seconds of its last write."},
                complete={"type": "boolean", "description": "False while it is being written."},
                documents=COUNT,
                bytes=COUNT,
                raw_bytes=COUNT | {"description": "Before compression."},
            )
        ),
        more={"type": "boolean", "description": "True if there are older ones."},
    ),
    "AdminHistory": object_of(
        "name since since_at head",
        name=TEXT,
        since=schema("Position") | {"description": "The oldest position whose state is known."},
        since_at=_NUMBER | {"description": "Unix seconds of the oldest stored snapshot; null before there is one."},
        head=schema("Position"),
    ),
    "RestoreRequest": {
        "type": "object",
        "required": ["into"],
        "additionalProperties": False,
        "properties": {
            "into": {"type": "string", "description": "The name of the new collection."},
            "at": {"type": "string", "format": "date-time"},
            "position": schema("Position"),
        },
    },
    "AdminTask": object_of(
        "id kind target by server state began ended done total result reason",
        id=TEXT,
        kind={"enum": ["restore", "verify"]},
        target=TEXT,
        by={"type": "string", "description": "The principal that began it."},
        server=TEXT,
        state={"enum": ["running", "done", "failed", "cancelled"]},
        began={"type": "number", "description": "Unix seconds."},
        ended=_NUMBER,
        step=_OPTIONAL_TEXT | {"description": "The part that `done` and `total` are of, if the task has several."},
        done={"type": "integer", "description": "Documents and events so far."},
        total={"type": ["integer", "null"], "description": "An estimate."},
        result={
            "description": "None before it is done.",
            "oneOf": [{"type": "null"}, schema("RestoreResult"), schema("VerifyResult")],
        },
        reason=_OPTIONAL_TEXT | {"description": "Why it has failed."},
    ),
    "RestoreResult": object_of("into position documents", into=TEXT, position=schema("Position"), documents=COUNT),
    "VerifyResult": object_of(
        "whole head collections findings more note",
        whole={"type": "boolean", "description": "True if no fault was found."},
        head=schema("Position"),
        collections=COUNT | {"description": "Collections that were verified."},
        findings=list_of(
            object_of(
                "collection text shape",
                collection=_OPTIONAL_TEXT | {"description": "Null for a fault of the log itself."},
                text={"type": "string", "description": "Without content of documents."},
                shape=_OPTIONAL_TEXT | {"description": "The document that differs."},
            )
        )
        | {"description": "The first fault of the log, and of each collection; 10 at most."},
        more=COUNT | {"description": "Faults that are not listed."},
        note=_OPTIONAL_TEXT | {"description": "Why the collections were compared as they are now, if they were."},
    ),
    "AdminTasks": object_of("tasks", tasks=list_of(schema("AdminTask"))),
    "AdminSettings": object_of(
        "answered_by settings",
        answered_by=TEXT,
        settings=list_of(
            object_of(
                "name env value default description source",
                name=TEXT,
                env=TEXT,
                value={},
                default={},
                description=TEXT,
                source={"enum": ["environment", "file", "option", "default"]},
            )
        ),
    ),
    "AdminAccess": object_of(
        "answered_by rules shapes refusals",
        answered_by=TEXT,
        rules={"type": ["object", "null"], "description": "Null if no `[auth]` has been applied."},
        shapes=list_of(
            object_of(
                "name collection spec state",
                name=TEXT,
                collection=TEXT,
                spec={"type": "object"},
                state={"enum": ["active", "waiting", "refused"]},
                reason=TEXT,
            )
        ),
        refusals=object_of(
            "counts recent servers complete",
            counts={"type": "object", "description": "Refusals by reason, of all `servers`."},
            recent=list_of(
                object_of(
                    "at subject credential reason request server",
                    at={"type": "number", "description": "Unix seconds."},
                    subject=TEXT | {"description": "Empty if nobody was authenticated."},
                    credential=TEXT | {"description": "The id of the token or key."},
                    reason=TEXT,
                    request=TEXT,
                    server=TEXT,
                )
            )
            | {"description": "The newest 50 of all `servers`, the newest first."},
            servers=list_of(object_of("server count", server=TEXT, count=COUNT)),
            complete={"type": "boolean", "description": "False while some server's refusals are not known."},
        ),
    ),
    "ExplainRequest": {
        "type": "object",
        "required": ["shape"],
        "additionalProperties": False,
        "properties": {
            "shape": {"type": "string", "description": "A collection or a document."},
            "token": {"type": "string", "description": "A token or a service key; in place of `claims` and `roles`."},
            "claims": {"type": "object"},
            "roles": list_of(TEXT),
        },
    },
    "Explanation": object_of(
        "sub roles collection may_read because",
        sub=TEXT,
        roles=list_of(TEXT),
        collection=TEXT,
        may_read={"description": "True, false, or the filter of what may be read."},
        because=list_of({"type": "object"}),
        reason=TEXT,
        hidden=list_of(TEXT) | {"description": "Paths that are hidden from it."},
        hidden_here=list_of(TEXT) | {"description": "Those that the document has, as JSON Pointers."},
        scope=TEXT,
        parts=list_of(TEXT),
        seen={"type": ["object", "null"], "description": "The document as the principal sees it; null if it does not."},
    ),
}
