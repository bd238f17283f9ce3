"""The OpenAPI parts that the operations of `/v1/admin/…` share."""

from __future__ import annotations

from typing import Any, Final

from eventsync.api.openapi.admin_schemas import TEXT
from eventsync.api.openapi.parts import Json, answer, content, failures, query, schema

SERVER: Final = "db-1:311:0c9f2a"
SESSION: Final = "4f0d7f7c2a8a4a1e9b0f3c5d6e7f8a9b"
ID: Json = {
    "name": "id",
    "in": "path",
    "description": "The id of a session, of the listing.",
    "required": True,
    "schema": TEXT,
    "example": SESSION,
}
POSITIVE: Final[Json] = {"type": "integer", "minimum": 1}
LIMIT = query("limit", "The most entries of a page.", POSITIVE, 100)


def operation(name: str, summary: str, ok: Json, *codes: str, **more: Any) -> Json:
    """Return an operation with its answers: those in `ok`, and the problems with these codes."""
    return {
        "operationId": name,
        "tags": ["Administration"],
        "summary": summary,
        **more,
        "responses": {**failures("unavailable", *codes), **ok},
    }


def read(name: str, summary: str, of: str, example: Any, *codes: str, **more: Any) -> Json:
    """Return an operation that answers by the schema `of`."""
    return operation(name, summary, {"200": answer(f"{summary}.", content(schema(of), example))}, *codes, **more)
