"""The composition root of a server process: settings → stores, storage and sync → a Starlette application."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import uvloop
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import BaseRoute

from app.api import documents, health, pages, poll, sse, transactions, websocket
from app.api.origins import Gate
from app.api.paths import ExactPaths
from app.api.problems import on_error
from app.api.server import Server, server_config
from app.api.state import Services
from app.errors import EventsyncError, Unavailable
from app.nodestorage import NodeStorage, WritePolicy
from app.settings import Settings
from app.stores.mongodb import connect
from app.stores.stores import Stores
from app.sync.service import SyncService
from app.waiting import set_within

log = logging.getLogger(__name__)

ROUTES: list[BaseRoute] = [
    *documents.routes,
    *transactions.routes,
    *websocket.routes,
    *sse.routes,
    *poll.routes,
    *health.routes,
    *pages.routes,
]


def create_app(settings: Settings, *, on_failure: Callable[[], None] = lambda: None) -> Starlette:
    """The application. `on_failure` is called when it can't go on: without its feed a server would serve the past.

    While it runs, `app.state.sync` is its `SyncService`, to be drained before the server shuts down.
    """

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Services]]:
        async with running(settings, on_failure) as services:
            app.state.sync = services.sync
            yield {"services": services}

    application = Starlette(
        routes=ROUTES,
        lifespan=lifespan,
        exception_handlers={EventsyncError: on_error, HTTPException: on_error, Exception: on_error},
        middleware=[Middleware(Gate, settings=settings), *_cors(settings), Middleware(ExactPaths)],
    )
    # A path has one spelling.
    application.router.redirect_slashes = False
    return application


@asynccontextmanager
async def running(settings: Settings, on_failure: Callable[[], None]) -> AsyncIterator[Services]:
    """The services, connected and fed, while the block runs. Raises `Unavailable` where MongoDB can't be reached."""
    async with connect(settings, "serve") as requests, connect(settings, "feed") as tailing:
        stores = Stores.of(requests, settings)
        storage = NodeStorage(stores.data, stores.log["operations"], WritePolicy.of(settings))
        sync = SyncService(stores, settings, tailing=Stores.of(tailing, settings))
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(_feed(sync, stop, on_failure), name="feed")
            group.create_task(_prepared(storage, stop), name="indexes")
            try:
                yield Services(settings, storage, sync)
            finally:
                stop.set()


async def _feed(sync: SyncService, stop: asyncio.Event, on_failure: Callable[[], None]) -> None:
    try:
        await sync.feed.run(stop)
    except Exception:
        log.critical("the feed has failed; this server stops", exc_info=True)
        on_failure()


async def _prepared(storage: NodeStorage, stop: asyncio.Event) -> None:
    """Make the indexes, as soon as MongoDB can be written to: until then the server runs, and says that it can't."""
    pause = 0.1
    while not stop.is_set():
        try:
            await storage.ensure_indexes()
        except Unavailable as error:
            log.warning("%s; trying again", error.message)
            await set_within(stop, pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, 5.0)
        else:
            return


def _cors(settings: Settings) -> list[Middleware]:
    if not settings.allowed_origins:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=list(settings.allowed_origins),
            allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
            allow_headers=["Content-Type", "If-Match", "If-None-Match", "Idempotency-Key", "Prefer", "Last-Event-ID"],
            expose_headers=["ETag", "Location", "Retry-After"],
        )
    ]


def make_server(settings: Settings) -> Server:
    """A server that is ready to run, which drains its sessions before it shuts down."""

    async def drain() -> None:
        await app.state.sync.drain()

    def fail() -> None:
        server.should_exit = True

    app = create_app(settings, on_failure=fail)
    server = Server(server_config(app, settings), drain)
    return server


def serve(settings: Settings) -> None:
    """Run a server process until SIGTERM or SIGINT. Raises `ConfigurationError` and `Unavailable`."""
    server = make_server(settings)
    try:
        uvloop.run(server.serve())
    except KeyboardInterrupt:
        return  # uvicorn has shut down in order, and raises the signal again for whoever asks
    if not server.started:
        raise Unavailable("the server did not start; its log says why")
