"""`/healthz`: this process lives. `/readyz`: it can serve: MongoDB answers, the feed is live, a worker leads."""

from __future__ import annotations

from dataclasses import asdict

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app.api.state import services

_HEADERS = {"Cache-Control": "no-store"}


async def healthz(_request: Request) -> Response:
    return Response(b'{"status":"ok"}', headers=_HEADERS, media_type="application/json")


async def readyz(request: Request) -> Response:
    """200 when ready, else 503, with the same body: what is known, and `detail` on what is missing."""
    health = await services(request).sync.health()
    ready = health.live and health.sequencer_live
    body = orjson.dumps({"status": "ready" if ready else "not_ready", **asdict(health)})
    return Response(body, 200 if ready else 503, _HEADERS, "application/json")


routes = [
    Route("/healthz", healthz, methods=["GET"]),
    Route("/readyz", readyz, methods=["GET"]),
]
