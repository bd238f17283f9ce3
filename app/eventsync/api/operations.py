"""`/healthz`, `/readyz` and `/metrics`. `docs/reference/metrics.md` lists the metrics."""

from __future__ import annotations

from dataclasses import asdict

import orjson
from starlette.requests import Request
from starlette.responses import Response

from eventsync.api.authentication import is_operator
from eventsync.api.endpoint import AccessLevel, Endpoint
from eventsync.api.responses import JSON, NO_STORE
from eventsync.api.scrape import scraped
from eventsync.api.state import services_of
from eventsync.metrics.figures import CONTENT_TYPE


async def healthz(_request: Request) -> Response:
    """Respond 200 while the process lives."""
    return Response(b'{"status":"ok"}', headers=NO_STORE, media_type=JSON)


async def readyz(request: Request) -> Response:
    """Respond 200 if this server can serve, else 503, with the same body; `detail` is the worst problem.

    With rules, only operators see more than the status. A missing leader does not make a server unready: it would be so
    for all servers, and they can still serve.
    """
    health = await services_of(request).sync.health()
    body = asdict(health) if await is_operator(request) else {"status": health.status}
    return Response(orjson.dumps(body), 503 if health.status == "not_ready" else 200, NO_STORE, JSON)


async def metrics(request: Request) -> Response:
    """Respond with the metrics of all server processes on this port, and those of MongoDB if it answers in time."""
    text = await scraped(services_of(request))
    return Response(text, headers={**NO_STORE, "Content-Type": CONTENT_TYPE})


routes = [
    Endpoint("/healthz", healthz, methods=["GET"], access=AccessLevel.PUBLIC),
    Endpoint("/readyz", readyz, methods=["GET"], access=AccessLevel.PUBLIC),
    Endpoint("/metrics", metrics, methods=["GET"], access=AccessLevel.OPERATOR),
]
