"""OpenAPI of tickets and the cookie session."""

from __future__ import annotations

from typing import Final

from eventsync.api.openapi.parts import Json, answer, content, default, failures, schema

_TICKET: Final[Json] = {
    "operationId": "createTicket",
    "tags": ["Credentials"],
    "summary": "Make a ticket for an event stream",
    "description": (
        "For `EventSource`, which sends no header: `GET /v1/sync/sse?shape=…&ticket=…`. The ticket is for these shapes "
        "alone, and ends with the credential that makes it."
    ),
    "requestBody": {"required": True, "content": content(schema("TicketRequest"), {"shapes": ["theaters"]})},
    "responses": {
        "201": answer(
            "The ticket. It is shown once.",
            content(
                schema("Ticket"), {"ticket": "est_3q2-7wW1hYc0o5Kx9JtTn0aV8mQb6rZy4uLsPeDfGhI", "expires_in": 3600}
            ),
        ),
        **failures("too_large", "rate_limited", "unavailable"),
    },
}

_BEGIN: Final[Json] = {
    "operationId": "beginSession",
    "tags": ["Credentials"],
    "summary": "Set a cookie with the credential of the request",
    "description": (
        "The cookie is `__Host-eventsync`, `HttpOnly`, `Secure` and `SameSite=Strict` (without TLS on loopback: "
        "`eventsync`). It counts only for requests of the server's own origin. Without an `[auth]` there is no cookie."
    ),
    "responses": {
        "200": answer("The principal.", content(schema("Principal"), {"sub": "ada", "expires_in": 3600})),
        **failures("too_large", "unavailable"),
    },
}

_END: Final[Json] = {
    "operationId": "endSession",
    "tags": ["Credentials"],
    "summary": "Remove the cookie",
    "responses": {"204": answer("Removed."), **failures()},
}

_SECONDS: Final[Json] = {"type": "integer", "minimum": 0, "description": "Seconds until it ends."}

SCHEMAS: Final[Json] = {
    "TicketRequest": {
        "type": "object",
        "required": ["shapes"],
        "additionalProperties": False,
        "properties": {
            "shapes": {
                "type": "array",
                "items": schema("Shape"),
                "minItems": 1,
                "maxItems": default("max_shapes"),
            }
        },
    },
    "Ticket": {
        "type": "object",
        "required": ["ticket", "expires_in"],
        "properties": {"ticket": {"type": "string"}, "expires_in": _SECONDS},
    },
    "Principal": {
        "type": "object",
        "required": ["sub"],
        "properties": {"sub": {"type": "string"}, "expires_in": _SECONDS},
    },
}

PATHS: Final[Json] = {"/v1/tickets": {"post": _TICKET}, "/v1/session": {"post": _BEGIN, "delete": _END}}
