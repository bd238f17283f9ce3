"""OpenAPI of the jobs of the workers, repairs, segments and snapshots."""

from __future__ import annotations

from typing import Final

from eventsync.api.openapi.admin_parts import LIMIT, POSITIVE, read
from eventsync.api.openapi.admin_schemas import TEXT
from eventsync.api.openapi.parts import POSITION, Json, query

PATHS: Final[Json] = {
    "/v1/admin/jobs": {
        "get": read(
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
        "get": read(
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
        "get": read(
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
                query("before", "Only segments that begin before this event: the last `next`.", POSITIVE, 5000),
                LIMIT,
            ],
        )
    },
    "/v1/admin/snapshots": {
        "get": read(
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
            parameters=[query("collection", "Only those of this collection.", TEXT, "theaters"), LIMIT],
        )
    },
}
