"""`/healthz`: this process lives. `/readyz`: it can serve: MongoDB answers, the feed is live, the archive is right."""

from __future__ import annotations

from dataclasses import asdict

import orjson
from starlette.requests import Request
from starlette.responses import Response

from eventsync.api.endpoint import Endpoint
from eventsync.api.state import services_of

_HEADERS = {"Cache-Control": "no-store"}


async def healthz(_request: Request) -> Response:
    return Response(b'{"status":"ok"}', headers=_HEADERS, media_type="application/json")


async def readyz(request: Request) -> Response:
    """Answer 200 where this server can serve, else 503, with the same body; `detail` says what is wrong.

    That no worker leads takes no server out: it is so for all of them, and they go on serving what there is.
    """
    health = await services_of(request).sync.health()
    return Response(
        orjson.dumps(asdict(health)), 503 if health.status == "not_ready" else 200, _HEADERS, "application/json"
    )


routes = [
    Endpoint("/healthz", healthz, methods=["GET"]),
    Endpoint("/readyz", readyz, methods=["GET"]),
]
