"""OpenAPI of the long tasks that operators begin: restores and verifications."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from eventsync.api.openapi.admin_parts import ID, SERVER, operation, read
from eventsync.api.openapi.parts import POSITION, Json, answer, content, parameters, schema

_TASK_EXAMPLE: Json = {
    "id": "5f2c81ab09d3e417",
    "kind": "restore",
    "target": "theaters at k3f9ab2c:128 into theaters_restored",
    "by": "paul",
    "server": SERVER,
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


def _verify(name: str, summary: str, given: Sequence[Json]) -> Json:
    return operation(
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


PATHS: Final[Json] = {
    "/v1/admin/collections/{collection}/restores": {
        "post": operation(
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
        "get": read(
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
        "delete": operation(
            "cancelTask",
            "Cancel a task",
            {"202": answer("It ends soon, and removes what it has made.")},
            "not_found",
            parameters=[ID | {"description": "The id of a task.", "example": _TASK_EXAMPLE["id"]}],
        )
    },
}
