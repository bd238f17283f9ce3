"""Paths below the application's root, and path segments exactly as the client percent-encoded them.

A document id may contain `/`, and the server decodes a whole path at once, which would make `a%2Fb` two segments.
`ExactPaths` decodes the path again from `raw_path`, except for the two characters that decoding must keep. Routes then
see one segment, and `segment` decodes the rest.

In an application that is mounted under a path, `scope["root_path"]` is that path, and both paths of the scope begin
with it (`mounting`).
"""

from __future__ import annotations

from urllib.parse import quote, unquote, unquote_to_bytes

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from eventsync.errors import Malformed
from eventsync.server.problems import respond


def route_path(scope: Scope) -> str:
    """Return the path below the application's root, wherever the application is mounted."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def root_of(scope: Scope) -> str:
    """Return the root path as it stands in a URL; empty where the application is not mounted."""
    return quote(scope.get("root_path", ""))


class ExactPaths:
    """ASGI middleware that keeps `%2F` and `%25` in `scope["path"]`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # ASGI servers may leave `raw_path` out. An id with a `/` has no URL there.
        raw = scope.get("raw_path")
        if scope["type"] == "http" and raw and b"%" in raw:
            try:
                scope["path"] = scope.get("root_path", "") + _decoded(raw.removeprefix(root_of(scope).encode()))
            except UnicodeDecodeError:
                await respond(Malformed("the path is not UTF-8"))(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _decoded(raw: bytes) -> str:
    kept = raw.replace(b"%25", b"%2525").replace(b"%2F", b"%252F").replace(b"%2f", b"%252F")
    return unquote_to_bytes(kept).decode()


def segment(request: Request, name: str) -> str:
    """Return a path parameter, fully decoded."""
    return unquote(request.path_params[name])
