"""The OpenAPI 3.1 document of this server. Limits and errors come from the code that enforces them.

Source: https://spec.openapis.org/oas/v3.1.1
"""

from __future__ import annotations

from eventsync import __version__
from eventsync.api.openapi import admin, admin_schemas, credentials, documents, operations, syncing
from eventsync.api.openapi.parts import HEADERS, PARAMETERS, Json
from eventsync.api.openapi.schemas import SCHEMAS

__all__ = ["document"]

_DESCRIPTION = """\
Every committed change to a tracked MongoDB collection becomes a numbered event, and every client gets exactly the
events that it has not seen, in order: over WebSocket, Server-Sent Events or plain HTTP, from any position.

**Values.** Documents are MongoDB Relaxed Extended JSON v2. Canonical Extended JSON is accepted as well, and stored with
exactly the BSON types that it names.

**Ids.** 24 lowercase hexadecimal digits are an ObjectId; `int:42` and `uuid:…` name those types; `str:…` forces a
string; anything else is that string. Percent-encode an id in a path.

**Rules.** Once access rules are applied, a request needs a credential. It sees and changes what the rules allow its
principal: what it may not read is not there, and hidden fields are left out. No shared cache may keep an answer.

**Errors** are problem documents (RFC 9457) with a stable `code`. A request whose `Host` or `Origin` is not allowed is
refused with 403 everywhere.\
"""

_TAGS = [
    {"name": "Documents", "description": "Read and write documents, one at a time, by version."},
    {"name": "Transactions", "description": "Several writes, all or nothing."},
    {"name": "Sync", "description": "Follow collections and documents, from a snapshot or from a position."},
    {"name": "Credentials", "description": "Tickets and cookies, for browsers that can send no header."},
    {"name": "Operations", "description": "Liveness, readiness and metrics."},
    {"name": "Administration", "description": "The state of all servers and workers, for operators."},
    {"name": "Pages", "description": "Pages for browsers."},
]


_SECURITY: Json = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "A token of an issuer in the rules, or a service key (`esk_…`).",
    },
    "cookie": {
        "type": "apiKey",
        "in": "cookie",
        "name": "__Host-eventsync",
        "description": "The cookie of `POST /v1/session`, for requests of the server's own origin.",
    },
    "ticket": {
        "type": "apiKey",
        "in": "query",
        "name": "ticket",
        "description": "A ticket of `POST /v1/tickets`, for event streams.",
    },
}
_PUBLIC = {
    "/healthz": ["get"],
    "/readyz": ["get"],
    "/": ["get"],
    "/try": ["get"],
    "/docs": ["get"],
    "/openapi.json": ["get"],
    "/assets/{name}": ["get"],
    "/v1/session": ["delete"],
}
"""Operations that need no credential."""

_OPERATORS = {
    "/metrics": ["get"],
    "/v1/sync/segments": ["get"],
    "/v1/sync/segments/{position}": ["get"],
    "/v1/admin/clients/{id}": ["delete"],
    "/v1/admin/collections/{collection}": ["put", "delete"],
    "/v1/admin/collections/{collection}/snapshots": ["post"],
    "/v1/admin/collections/{collection}/restores": ["post"],
    "/v1/admin/collections/{collection}/verifications": ["post"],
    "/v1/admin/verifications": ["post"],
    "/v1/admin/tasks/{id}": ["delete"],
    "/v1/admin/access/explain": ["post"],
}
"""Operations for principals with the role `operator`."""

_OBSERVERS = {
    "/v1/state-vectors": ["get"],
    "/v1/admin/overview": ["get"],
    "/v1/admin/clients": ["get"],
    "/v1/admin/clients/{id}": ["get"],
    "/v1/admin/clients/{id}/frames": ["get"],
    "/v1/admin/collections/{collection}/history": ["get"],
    "/v1/admin/tasks": ["get"],
    "/v1/admin/jobs": ["get"],
    "/v1/admin/repairs": ["get"],
    "/v1/admin/segments": ["get"],
    "/v1/admin/snapshots": ["get"],
    "/v1/admin/log": ["get"],
    "/v1/admin/collections": ["get"],
    "/v1/admin/settings": ["get"],
    "/v1/admin/access": ["get"],
}
"""Operations for principals with the role `operator` or `observer`."""

_STREAM = "/v1/sync/sse"


def _secured(paths: Json) -> Json:
    """Return the paths with the credentials that each operation takes."""
    return {
        path: {
            method: operation if method in {"parameters", "summary", "description"} else _one(path, method, operation)
            for method, operation in item.items()
        }
        for path, item in paths.items()
    }


def _one(path: str, method: str, operation: Json) -> Json:
    if method in _PUBLIC.get(path, ()):
        return operation | {"security": []}
    if path == _STREAM:
        return operation | {"security": [{"bearer": []}, {"cookie": []}, {"ticket": []}]}
    for paths, readers in ((_OPERATORS, "operators only"), (_OBSERVERS, "operators and observers only")):
        if method in paths.get(path, ()):
            text = operation.get("description", "")
            return operation | {"description": f"{text} With rules, for {readers}.".strip()}
    return operation


def document(server: str = "/") -> Json:
    """Return the whole document, ready to be encoded. `server` is the base URL of its paths."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "eventsync",
            "version": __version__,
            "summary": "A sync server for MongoDB: every change, to every client, exactly once and in order.",
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": server, "description": "This server"}],
        "tags": _TAGS,
        "security": [{"bearer": []}, {"cookie": []}],
        "paths": _secured(documents.PATHS | syncing.PATHS | credentials.PATHS | operations.PATHS | admin.PATHS),
        "components": {
            "schemas": SCHEMAS | credentials.SCHEMAS | admin_schemas.SCHEMAS,
            "parameters": PARAMETERS,
            "headers": HEADERS,
            "securitySchemes": _SECURITY,
        },
    }
