"""Path segments, exactly as the client percent-encoded them.

A document id may contain `/`, and the server decodes a whole path at once, which would make `a%2Fb` two segments. So
`ExactPaths` decodes again from `raw_path`, all but the two characters that decoding must not lose; routes then see one
segment, and `segment` decodes the rest.
"""

from __future__ import annotations

from urllib.parse import unquote, unquote_to_bytes

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from eventsync.errors import Malformed
from eventsync.server.problems import respond


class ExactPaths:
    """ASGI middleware that keeps `%2F` and `%25` in `scope["path"]`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and b"%" in scope["raw_path"]:
            try:
                scope["path"] = _decoded(scope["raw_path"])
            except UnicodeDecodeError:
                await respond(Malformed("the path is not UTF-8"))(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _decoded(raw: bytes) -> str:
    kept = raw.replace(b"%25", b"%2525").replace(b"%2F", b"%252F").replace(b"%2f", b"%252F")
    return unquote_to_bytes(kept).decode()


def segment(request: Request, name: str) -> str:
    """A path parameter, decoded to the end."""
    return unquote(request.path_params[name])
