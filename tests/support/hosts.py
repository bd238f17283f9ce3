"""Applications that mount eventsync, for uvicorn's command line: `uvicorn --factory support.hosts:starlette`.

`HOST_MOUNT` is the path that eventsync is mounted at. The settings come from the environment, as for every process.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route
from starlette.types import ASGIApp

import eventsync

_MOUNT = os.environ.get("HOST_MOUNT", "/")


async def _own(_request: Request) -> JSONResponse:
    return JSONResponse({"host": "starlette"})


def starlette() -> ASGIApp:
    """Return a host that has no lifespan of its own."""
    sync = eventsync.asgi()
    return Starlette(routes=[Route("/own", _own), Mount(_MOUNT, sync)], lifespan=sync.lifespan)


def fastapi() -> ASGIApp:
    """Return a host that starts eventsync in its own lifespan, and writes through its storage."""
    sync = eventsync.asgi()

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[dict[str, str]]:
        async with sync.lifespan():
            yield {"own": "fastapi"}

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/own")
    async def own(request: Request) -> dict[str, str]:
        return {"host": request.state.own}

    app.mount(_MOUNT, sync)
    return app


def forgotten() -> ASGIApp:
    """Return a host that does not start what it mounts."""
    return Starlette(routes=[Mount(_MOUNT, eventsync.asgi())])


def alone() -> ASGIApp:
    """Return eventsync without a host."""
    return eventsync.asgi()
