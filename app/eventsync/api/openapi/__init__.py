"""The OpenAPI 3.1 document of this server. Limits and errors come from the code that enforces them.

Source: https://spec.openapis.org/oas/v3.1.1
"""

from __future__ import annotations

from eventsync import __version__
from eventsync.api.openapi import credentials, documents, operations, syncing
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

**Errors** are problem documents (RFC 9457) with a stable `code`. A request whose `Host` or `Origin` is not allowed is
refused with 403 everywhere.\
"""

_TAGS = [
    {"name": "Documents", "description": "Read and write documents, one at a time, by version."},
    {"name": "Transactions", "description": "Several writes, all or nothing."},
    {"name": "Sync", "description": "Follow collections and documents, from a snapshot or from a position."},
    {"name": "Credentials", "description": "Tickets and cookies, for browsers that can send no header."},
    {"name": "Operations", "description": "Liveness, readiness and metrics."},
    {"name": "Pages", "description": "Pages for browsers."},
]


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
        "paths": documents.PATHS | syncing.PATHS | credentials.PATHS | operations.PATHS,
        "components": {"schemas": SCHEMAS | credentials.SCHEMAS, "parameters": PARAMETERS, "headers": HEADERS},
    }
