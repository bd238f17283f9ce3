"""Pages for browsers: the dashboard, the live page, the API reference, the OpenAPI document, and their assets.

All files are in the package, and the pages load nothing from elsewhere: they work without the internet.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from eventsync import web
from eventsync.api import conditions, openapi
from eventsync.api.endpoint import AccessLevel, Endpoint
from eventsync.api.paths import root_of
from eventsync.api.responses import JSON

_FOLDER: Final = Path(web.__file__).parent
_HTML: Final = "text/html; charset=utf-8"
_MEDIA_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

_SECURITY: Final = {
    # No inline code and no other origins: the text of a document can't become code.
    "Content-Security-Policy": (
        "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
}


@dataclass(frozen=True, slots=True)
class Asset:
    """A file to serve; `tag` is its strong entity tag, with quotes."""

    body: bytes
    media_type: str
    tag: str

    @classmethod
    def of(cls, body: bytes, media_type: str) -> Asset:
        return cls(body, media_type, f'"{hashlib.sha256(body).hexdigest()[:32]}"')

    def respond(self, request: Request) -> Response:
        """Respond with the file, or 304. Browsers revalidate each time: no old script meets an upgraded server."""
        headers = {**_SECURITY, "Cache-Control": "no-cache", "ETag": self.tag}
        if conditions.unchanged(request, self.tag):
            return Response(status_code=304, headers=headers)
        return Response(self.body, headers=headers, media_type=self.media_type)


def _page(asset: Asset) -> Callable[[Request], Awaitable[Response]]:
    async def page(request: Request) -> Response:
        return asset.respond(request)

    return page


def _read(name: str) -> Asset:
    return Asset.of((_FOLDER / name).read_bytes(), _HTML)


_DASHBOARD: Final = _read("index.html")
_SHOWN: Final = ("collection", "shape")


async def dashboard(request: Request) -> Response:
    """Respond with the dashboard. Old links that name a collection or a shape lead to the live page."""
    if any(name in request.query_params for name in _SHOWN):
        location = f"{root_of(request.scope)}/try?{request.url.query}"
        return Response(status_code=307, headers={**_SECURITY, "Cache-Control": "no-cache", "Location": location})
    return _DASHBOARD.respond(request)


@lru_cache(maxsize=16)
def _openapi(server: str) -> Asset:
    return Asset.of(orjson.dumps(openapi.document(server)), JSON)


async def openapi_document(request: Request) -> Response:
    """Answer with the OpenAPI document of the path that this application is mounted at."""
    return _openapi(root_of(request.scope) or "/").respond(request)


ASSETS: Final = {
    path.name: Asset.of(path.read_bytes(), _MEDIA_TYPES[path.suffix])
    for path in sorted(_FOLDER.iterdir())
    if path.suffix in _MEDIA_TYPES
}
"""Assets by name, read once: no request names a path on the disk."""


async def asset(request: Request) -> Response:
    requested = ASSETS.get(request.path_params["name"])
    if requested is None:
        raise HTTPException(404, "there is no such asset")
    return requested.respond(request)


routes: list[BaseRoute] = [
    Endpoint("/", dashboard, methods=["GET"], access=AccessLevel.PUBLIC, name="page", query=_SHOWN, tagged=True),
    Endpoint(
        "/try",
        _page(_read("try.html")),
        methods=["GET"],
        access=AccessLevel.PUBLIC,
        name="try",
        query=_SHOWN,
        tagged=True,
    ),
    Endpoint("/docs", _page(_read("docs.html")), methods=["GET"], access=AccessLevel.PUBLIC, name="docs", tagged=True),
    Endpoint(
        "/openapi.json", openapi_document, methods=["GET"], access=AccessLevel.PUBLIC, name="openapi", tagged=True
    ),
    Endpoint("/assets/{name}", asset, methods=["GET"], access=AccessLevel.PUBLIC, name="assets", tagged=True),
]
