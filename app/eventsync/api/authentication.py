"""Authentication of requests: the places where a credential stands, and the access that it gives.

A token or a service key stands in `Authorization`, in the cookie of a session, or in a WebSocket's `hello`. A ticket
stands in the URL of an event stream; nothing else does, because URLs are written to logs.

Browsers attach a cookie also to requests that a page of another origin makes. So a cookie counts only where the browser
says that the request is of this server's own origin.

Source: RFC 6750.
"""

from __future__ import annotations

from typing import Final

from starlette.requests import HTTPConnection
from starlette.types import Scope

from eventsync.access.access import Access
from eventsync.api.origins import is_own_origin
from eventsync.api.state import services_of
from eventsync.domain.access.auth import is_loopback
from eventsync.errors import Malformed, RateLimited, Unauthenticated, Unavailable

MAX_COOKIE: Final = 4096 - 512
"""Longest credential in a cookie: browsers keep cookies of up to 4 KiB, name and attributes included."""


async def authenticate(connection: HTTPConnection) -> Access:
    """Return the access of a request by its headers. Raises `RateLimited`, `Unauthenticated` and `Unavailable`."""
    control = services_of(connection).access
    return control.open_access or await control.authenticate(credential_of(connection), _address(connection))


def _address(connection: HTTPConnection) -> str:
    """Return the address that a request comes from: by a trusted proxy, or by the connection."""
    return "" if connection.client is None else connection.client.host


async def authenticate_stream(connection: HTTPConnection, shapes: list[str]) -> Access:
    """Return the access of an event stream for these shapes: by its headers, or by a ticket.

    Raises `Forbidden`, `Malformed`, `Unauthenticated` and `Unavailable`.
    """
    ticket = connection.query_params.get("ticket")
    if ticket is None:
        return await authenticate(connection)
    if "authorization" in connection.headers:
        raise Malformed("an event stream has one credential: Authorization, or a ticket")
    control = services_of(connection).access
    return control.open_access or await control.authenticate_ticket(ticket, shapes)


def handshake_credential(scope: Scope) -> str | Unauthenticated | None:
    """Return the credential in the headers of a WebSocket's handshake, which are dropped once that is over.

    An error is returned and not raised: a token in `hello` comes first.
    """
    try:
        # A connection of its own: the WebSocket's would keep its headers.
        return credential_of(HTTPConnection(scope))
    except Unauthenticated as error:
        return error


async def authenticate_hello(
    connection: HTTPConnection, token: str | None, of_handshake: str | Unauthenticated | None
) -> Access:
    """Return the access of a WebSocket, by the token of its `hello`, or by the credential of its handshake.

    Raises `Unauthenticated` and `Unavailable`.
    """
    control = services_of(connection).access
    if control.open_access is not None:
        return control.open_access
    if not token and isinstance(of_handshake, Unauthenticated):
        raise of_handshake
    credential = token or (None if isinstance(of_handshake, Unauthenticated) else of_handshake)
    return await control.authenticate(credential, _address(connection))


async def is_operator(connection: HTTPConnection) -> bool:
    """Return True if a request to a public endpoint may be shown what operators see."""
    control = services_of(connection).access
    if control.open_access is not None or control.is_pending:
        return True
    try:
        credential = credential_of(connection)
        return credential is not None and (await control.authenticate(credential, _address(connection))).is_operator
    except (RateLimited, Unauthenticated, Unavailable):
        # Probes are answered in any case, so a wrong credential counts as none.
        return False


def credential_of(connection: HTTPConnection) -> str | None:
    """Return the credential in the headers, or None. Raises `Unauthenticated` for one of another scheme."""
    lines = connection.headers.getlist("authorization")
    if not lines:
        return _cookie(connection)
    scheme, _, credential = lines[0].strip().partition(" ")
    # Of two headers, a proxy in front may have checked the other one.
    if len(lines) > 1 or scheme.lower() != "bearer" or not credential.strip():
        raise Unauthenticated("token_invalid", "a credential stands in one header: Authorization: Bearer …")
    return credential.strip()


def _cookie(connection: HTTPConnection) -> str | None:
    lines = connection.headers.getlist("cookie")
    if not lines or not is_own_origin(connection.scope):
        return None
    name = cookie_name(connection)
    pairs = (part.strip().partition("=") for line in lines for part in line.split(";"))
    found = [value for given, _, value in pairs if given == name]
    # Two cookies of one name come from two paths or domains, and nothing says which one is ours.
    return found[0] if len(found) == 1 and found[0] else None


def cookie_name(connection: HTTPConnection) -> str:
    """Return the name of a session's cookie. A browser takes `__Host-` by TLS alone, from the host itself alone."""
    return "eventsync" if is_plain_loopback(connection) else "__Host-eventsync"


def is_plain_loopback(connection: HTTPConnection) -> bool:
    """Return True for a request without TLS to a name of loopback, as in development."""
    is_plain = connection.url.scheme in {"http", "ws"}
    return is_plain and is_loopback(connection.url.hostname or "")
