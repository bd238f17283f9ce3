"""Who may talk to this server from a browser: `Host` and `Origin`, checked before anything else.

Starlette and uvicorn accept any. Without the first check a web page could reach a server on loopback under a name of
its own (DNS rebinding); without the second, any page could open a WebSocket, which browsers do not restrict.
"""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.problems import problem_of, respond
from app.errors import Forbidden
from app.settings import Settings

_ANY = "*"


class Gate:
    """ASGI middleware: refuses foreign hosts and origins, HTTP by 403, WebSockets by close code 4403."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        try:
            self._check(Headers(scope=scope))
        except Forbidden as error:
            await _refuse(error, scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _check(self, headers: Headers) -> None:
        host = headers.get("host", "")
        check_host(host, self._settings)
        check_origin(headers.get("origin"), host, self._settings)


def check_host(host: str, settings: Settings) -> None:
    """Raise `Forbidden` for a `Host` that this server does not go by."""
    name = _hostname(f"//{host}")
    if _is_loopback(name) or _ANY in settings.allowed_hosts or name in settings.allowed_hosts:
        return
    if not settings.allowed_hosts and not _is_loopback(settings.host):
        return
    raise Forbidden(f"this server does not go by the name {host[:100]!r}; EVENTSYNC_ALLOWED_HOSTS can allow it")


def check_origin(origin: str | None, host: str, settings: Settings) -> None:
    """Raise `Forbidden` for a browser's `Origin` that is neither the server's own nor allowed."""
    if origin is None or _ANY in settings.allowed_origins or origin in settings.allowed_origins:
        return
    if origin.partition("://")[2] == host:
        return
    raise Forbidden(f"the origin {origin[:100]!r} is not allowed; EVENTSYNC_ALLOWED_ORIGINS can allow it")


def _hostname(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _is_loopback(name: str) -> bool:
    try:
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


async def _refuse(error: Forbidden, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        await respond(error)(scope, receive, send)
        return
    await receive()
    # A browser shows a close code to the page, but never the status of a refused handshake.
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.close", "code": problem_of(error).close, "reason": error.message[:120]})
