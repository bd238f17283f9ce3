"""OpenAPI of health, metrics and the pages."""

from __future__ import annotations

from typing import Final

from eventsync.api.openapi.parts import (
    POSITION,
    PROBLEM,
    Json,
    answer,
    content,
    failures,
    headers,
    parameters,
    query,
    schema,
)

_READY: Final[Json] = {
    "status": "ready",
    "live": True,
    "sequencer_live": True,
    "leader": "db-worker-1:311:0c9f2a",
    "position": POSITION,
    "lag_events": 0,
    "lag_seconds": 0.4,
    "archive": None,
    "connections": 12,
    "journal_delay": None,
    "detail": "live",
}
_NOT_READY: Final = _READY | {"status": "not_ready", "live": False, "detail": "MongoDB was not reached yet"}


def _page(operation: str, summary: str, *media_types: str) -> Json:
    return {
        "operationId": operation,
        "tags": ["Pages"],
        "summary": summary,
        "parameters": parameters("if_changed", "if_still"),
        "responses": {
            "200": answer("The file.", {name: {"schema": {}} for name in media_types}, sent=headers("FileETag")),
            "304": answer("Not modified.", sent=headers("FileETag")),
            **failures("version_mismatch"),
        },
    }


_ASSET: Json = _page(
    "readAsset", "A script, style sheet or image of the pages", "text/javascript", "text/css", "image/svg+xml"
)
_ASSET["parameters"].insert(
    0,
    {
        "name": "name",
        "in": "path",
        "description": "The file's name.",
        "required": True,
        "schema": {"type": "string"},
        "example": "client.js",
    },
)
_ASSET["responses"]["404"] = answer("There is no such file.", {PROBLEM: {"schema": schema("Problem")}})

_DASHBOARD: Json = _page("readDashboard", "The dashboard", "text/html")
_DASHBOARD["responses"]["307"] = answer("A link that names a collection or a shape: the live page shows it.")
_PAGE: Json = _page("readPage", "The live page", "text/html")
for _parameters in (_DASHBOARD["parameters"], _PAGE["parameters"]):
    _parameters += [
        query("collection", "The collection that the live page shows first.", {"type": "string"}, "theaters"),
        query(
            "shape", "The shape that it shows first, if it is a declared one.", {"type": "string"}, "my_orders?owner=7"
        ),
    ]

PATHS: Final[Json] = {
    "/healthz": {
        "get": {
            "operationId": "isAlive",
            "tags": ["Operations"],
            "summary": "Liveness of the process",
            "responses": {"200": answer("Alive.", content(schema("Health"), {"status": "ok"})), **failures()},
        }
    },
    "/readyz": {
        "get": {
            "operationId": "isReady",
            "tags": ["Operations"],
            "summary": "Readiness: MongoDB answers, the server follows the log, and the archive is the configured one",
            "responses": {
                **failures(),
                "200": answer(
                    "Ready; or `degraded`: the archive does not answer. `sequencer_live` says whether a worker leads.",
                    content(schema("Readiness"), _READY),
                ),
                "503": answer(
                    "Not ready: `detail` says why. A problem document if MongoDB does not answer.",
                    content(schema("Readiness"), _NOT_READY) | {PROBLEM: {"schema": schema("Problem")}},
                ),
            },
        }
    },
    "/metrics": {
        "get": {
            "operationId": "readMetrics",
            "tags": ["Operations"],
            "summary": "Metrics for Prometheus",
            "description": "Of all server processes on the port. Without MongoDB's metrics if it does not answer "
            "within 3 s: `eventsync_mongodb_up 0`.",
            "responses": {
                "200": answer("The metrics.", content({"type": "string"}, "eventsync_feed_live 1.0\n", "text/plain")),
                **failures(),
            },
        }
    },
    "/": {"get": _DASHBOARD},
    "/try": {"get": _PAGE},
    "/docs": {"get": _page("readReference", "This reference", "text/html")},
    "/openapi.json": {"get": _page("readOpenApi", "The OpenAPI document", "application/json")},
    "/assets/{name}": {"get": _ASSET},
}
