"""Checks of `Host` and `Origin`, which come before everything else.

Starlette and uvicorn accept any host and origin. Without the first check, a web page could reach the server under a
name of its own (DNS rebinding); without the second, any page could open a WebSocket, which browsers do not restrict.

DNS rebinding needs a *name* whose address changes. A `Host` that is an address is therefore always accepted, and a name
only if it is loopback's or listed.

Sources: RFC 9110 section 7.2, RFC 9112 section 3.2, RFC 6454.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from eventsync.api.paths import route_path
from eventsync.domain.protocol import SUBPROTOCOL
from eventsync.errors import EventsyncError, Forbidden, Malformed
from eventsync.server.problems import problem_of, respond
from eventsync.server.websocket_frames import close_reason
from eventsync.settings import Settings

_ANY: Final = "*"
_PROBES: Final = frozenset({"/healthz", "/readyz", "/metrics"})
"""Paths that accept any name, because probes may use another one. They show no user data."""

_HOST: Final = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9_.-]+)(?::([0-9]{0,5}))?", re.ASCII)
_DEFAULT_PORTS: Final = {"http": "80", "https": "443"}


class HostAndOrigin:
    """ASGI middleware that refuses foreign hosts and origins: HTTP with 403, WebSockets with close code 4403.

    A `Host` that is missing, doubled or malformed is 400, or 4400.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._settings = settings
        self._accepted: bytes | None = None
        """The `Host` that was accepted last. Nearly all requests of a server have the same one, and no `Origin`."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        try:
            if not self._is_as_before(scope):
                self._check(scope, Headers(scope=scope))
        except (Forbidden, Malformed) as error:
            await refuse(error, scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _is_as_before(self, scope: Scope) -> bool:
        """Return True if the request has the one `Host` that was accepted last, and no `Origin`."""
        hosts = 0
        for name, value in scope["headers"]:
            if name == b"host":
                if value != self._accepted:
                    return False
                hosts += 1
            elif name == b"origin":
                return False
        return hosts == 1

    def _check(self, scope: Scope, headers: Headers) -> None:
        probe = route_path(scope) in _PROBES
        hosts = headers.getlist("host")
        if not hosts and probe and scope.get("http_version") == "1.0":
            return  # probes of load balancers use HTTP/1.0 without a Host
        host = single_host(hosts)
        if not probe:
            check_host(host, self._settings)
        origins = headers.getlist("origin")
        if origins:
            check_origin(origins, str(scope["scheme"]).replace("ws", "http"), host, self._settings)
        elif not probe:
            self._accepted = hosts[0].encode("latin-1")


def single_host(hosts: list[str]) -> str:
    """Return the one `Host` of a request. Raises `Malformed`."""
    if len(hosts) != 1 or not (match := _HOST.fullmatch(hosts[0].strip())) or int(match[2] or 0) > 65535:
        raise Malformed("a request has exactly one Host, a name or an address, and perhaps a port")
    return hosts[0].strip()


def check_host(host: str, settings: Settings) -> None:
    """Raise `Forbidden` for a `Host` that is not a name of this server."""
    name = _name(host)
    allowed = {item.lower() for item in settings.allowed_hosts}
    if name == "localhost" or is_address(name) or _ANY in allowed or name in allowed:
        return
    raise Forbidden(f"this server does not go by the name {name[:100]!r}; EVENTSYNC_ALLOWED_HOSTS can allow it")


def check_origin(origins: list[str], scheme: str, host: str, settings: Settings) -> None:
    """Raise `Forbidden` for a browser's `Origin` that is neither the server's own nor allowed.

    The server's own origin is the scheme of the request, and its `Host`.
    """
    if not origins or (_ANY in settings.allowed_origins and len(origins) == 1):
        return
    origin, own = ", ".join(origins), f"{scheme}://{host}"
    if origin in settings.allowed_origins or _normal(origin) == _normal(own):
        return
    raise Forbidden(
        f"the origin {origin[:100]!r} is not this server's own, {own[:100]!r}; EVENTSYNC_ALLOWED_ORIGINS can allow it "
        "(behind TLS, a proxy of EVENTSYNC_TRUSTED_PROXIES sends X-Forwarded-Proto)"
    )


def is_own_origin(scope: Scope) -> bool:
    """Return True if a browser says that a page of this server's own origin makes the request."""
    headers = Headers(scope=scope)
    origins, sites = headers.getlist("origin"), headers.getlist("sec-fetch-site")
    own = _normal(f"{str(scope['scheme']).replace('ws', 'http')}://{headers.get('host', '')}")
    if origins and (own is None or any(_normal(origin) != own for origin in origins)):
        return False
    return all(site == "same-origin" for site in sites) if sites else bool(origins)


def _normal(origin: str) -> tuple[str, str, str] | None:
    """Return scheme, name and port of an origin, with the default port."""
    scheme, separator, host = origin.partition("://")
    if not separator or not (match := _HOST.fullmatch(host)):
        return None
    return scheme.lower(), _name(host), match[2] or _DEFAULT_PORTS.get(scheme.lower(), "")


def _name(host: str) -> str:
    """Return the name or address of a `Host`, without port and brackets."""
    match = _HOST.fullmatch(host)
    return match[1].lower().strip("[]").removesuffix(".") if match else ""


def is_address(name: str) -> bool:
    """Return True for an IP address."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


async def refuse(error: EventsyncError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer by a problem document, or by a close code where a WebSocket is asked for."""
    if scope["type"] == "http":
        await respond(error)(scope, receive, send)
        return
    await receive()
    # A browser shows a page the close code, but not the status of a refused handshake. It also fails a handshake
    # without the subprotocol that it has offered.
    subprotocol = SUBPROTOCOL if SUBPROTOCOL in scope["subprotocols"] else None
    await send({"type": "websocket.accept", "subprotocol": subprotocol})
    await send({"type": "websocket.close", "code": problem_of(error).close, "reason": close_reason(error.message)})
