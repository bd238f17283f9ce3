"""CORS: cross-origin access of pages to the API, with credentials for listed origins.

Source: https://fetch.spec.whatwg.org/#http-cors-protocol
"""

from __future__ import annotations

from typing import Any, Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from eventsync.server.problems import on_error
from eventsync.settings import Settings

_ANY: Final = "*"
_OPTIONS: Final[dict[str, Any]] = {
    "allow_methods": ["GET", "POST", "PUT", "PATCH", "DELETE"],
    # No wildcard includes `Authorization`. EventSource libraries that set headers send the last two.
    "allow_headers": [
        "Authorization",
        "Content-Type",
        "If-Match",
        "If-None-Match",
        "Idempotency-Key",
        "Prefer",
        "Last-Event-ID",
        "Cache-Control",
    ],
    "expose_headers": ["ETag", "Location", "Retry-After"],
    "max_age": 7200,
}


class Cors:
    """ASGI middleware. Pages of listed origins may send credentials; pages that only `*` allows may not.

    Every response varies by `Origin`: a cache must not serve a response without CORS headers to another origin.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        inner = _ErrorResponses(app)
        listed = [origin for origin in settings.allowed_origins if origin != _ANY]
        self._listed = frozenset(listed)
        self._plain = inner
        self._credentialed = CORSMiddleware(inner, allow_origins=listed, allow_credentials=True, **_OPTIONS)
        self._others = (
            CORSMiddleware(inner, allow_origins=[_ANY], **_OPTIONS) if _ANY in settings.allowed_origins else inner
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def varied(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).add_vary_header("Origin")
            await send(message)

        if scope["type"] != "http":
            await self._plain(scope, receive, send)
            return
        origin = Headers(scope=scope).get("origin")
        app = self._credentialed if origin in self._listed else self._others
        await app(scope, receive, varied)


class _ErrorResponses:
    """Responds 500 to an unhandled error inside of CORS, so that a page can read the response."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def sent(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, sent)
        except Exception as error:
            if begun or scope["type"] != "http":
                raise
            response = await on_error(Request(scope), error)
            await response(scope, receive, send)
