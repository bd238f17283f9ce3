"""`POST /v1/tickets` and `/v1/session`: credentials for browsers, which can give an `EventSource` no header.

While no `[auth]` has been applied, nothing is checked, so nothing is stored and no cookie is set. A client can do the
same in development as later.
"""

from __future__ import annotations

import math
import secrets
from typing import Any, Final

import orjson
from starlette.requests import Request
from starlette.responses import Response

from eventsync.access.access import Access
from eventsync.access.tokens import LEEWAY
from eventsync.api.authentication import MAX_COOKIE, cookie_name, credential_of, is_plain_loopback
from eventsync.api.bodies import read_small
from eventsync.api.endpoint import AccessLevel, Endpoint
from eventsync.api.responses import JSON, NO_STORE
from eventsync.api.state import Services, access_of, services_of
from eventsync.domain.shapes import Shape
from eventsync.errors import Malformed, TooLarge
from eventsync.stores.access import tickets

_FIELDS: Final = frozenset({"shapes"})


async def create_ticket(request: Request) -> Response:
    """Make a ticket for an event stream of certain shapes."""
    services, access = services_of(request), access_of(request)
    shapes = _shapes(await read_small(request, services.settings.message_bytes), services.settings.max_shapes)
    if access.is_open:
        text, expires_in = f"{tickets.PREFIX}{secrets.token_urlsafe(32)}", services.settings.ticket_ttl
    else:
        text, ends = await services.access.create_ticket(access, shapes)
        expires_in = ends - services.access.now()
    return _answer(201, {"ticket": text, "expires_in": max(0, int(expires_in))})


def _shapes(body: Any, limit: int) -> list[str]:
    """Return the shapes in the body, as the event stream names them. Raises `Malformed`."""
    if not isinstance(body, dict) or not body.keys() <= _FIELDS or not isinstance(listed := body.get("shapes"), list):
        raise Malformed('a ticket is for shapes: {"shapes": ["orders"]}')
    if not 1 <= len(listed) <= limit:
        raise Malformed(f"shapes is a list of 1 to {limit}")
    return [str(Shape.parse(item)) for item in listed]


async def begin_session(request: Request) -> Response:
    """Set a cookie with the credential of the request."""
    services, access = services_of(request), access_of(request)
    response = _answer(200, _described(services, access))
    if access.is_open or (credential := credential_of(request)) is None:
        return response
    if len(credential) > MAX_COOKIE:
        raise TooLarge(f"a cookie takes a credential of at most {MAX_COOKIE} characters; use tickets")
    # As long as it is accepted: a browser drops a cookie without any time left, even if the sign-in has succeeded.
    left = None if access.expires is None else max(1, math.ceil(access.expires + LEEWAY - services.access.now()))
    _set_cookie(request, response, credential, max_age=left)
    return response


async def end_session(request: Request) -> Response:
    """Remove the cookie. The credential itself stays good until it ends or is revoked."""
    response = Response(status_code=204, headers=NO_STORE)
    _set_cookie(request, response, "", max_age=0)
    return response


def _set_cookie(request: Request, response: Response, value: str, *, max_age: int | None) -> None:
    response.set_cookie(
        cookie_name(request),
        value,
        max_age=max_age,
        path="/",
        secure=not is_plain_loopback(request),
        httponly=True,
        samesite="strict",
    )


def _described(services: Services, access: Access) -> dict[str, Any]:
    described: dict[str, Any] = {"sub": access.principal.sub}
    if (seconds := _expires_in(services, access)) is not None:
        described["expires_in"] = seconds
    return described


def _expires_in(services: Services, access: Access) -> int | None:
    return None if access.expires is None else max(0, int(access.expires - services.access.now()))


def _answer(status: int, body: dict[str, Any]) -> Response:
    return Response(orjson.dumps(body), status, NO_STORE, JSON)


routes = [
    Endpoint("/v1/tickets", create_ticket, methods=["POST"], access=AccessLevel.PRINCIPAL, name="tickets"),
    Endpoint("/v1/session", begin_session, methods=["POST"], access=AccessLevel.PRINCIPAL, name="session"),
    # For everybody: also a cookie whose token has ended has to go.
    Endpoint("/v1/session", end_session, methods=["DELETE"], access=AccessLevel.PUBLIC),
]
