"""The composition root of a server process: settings → stores, storage and sync → a Starlette application."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import BaseRoute
from starlette.types import Receive, Scope, Send

from eventsync.api import (
    documents,
    health,
    metrics,
    pages,
    poll,
    segments,
    sse,
    state_vectors,
    time_travel,
    transactions,
    websocket,
)
from eventsync.api.cors import Cors
from eventsync.api.origins import HostAndOrigin
from eventsync.api.paths import ExactPaths
from eventsync.api.state import Services
from eventsync.concurrency.held_bytes import HeldBytes
from eventsync.concurrency.offload import Offload
from eventsync.concurrency.waiting import backoff, set_within
from eventsync.errors import ConfigurationError, EventsyncError, Unavailable
from eventsync.logging import configure_logging
from eventsync.mongodb.client import connect
from eventsync.nodestorage import NodeStorage, WritePolicy
from eventsync.process import event_loop
from eventsync.process.garbage_collection import collect_rarely
from eventsync.process.memory import return_free_memory
from eventsync.process.open_files import allow_sockets
from eventsync.reload import Reread, hangups_heard
from eventsync.server.deadline import Deadlines
from eventsync.server.problems import not_found, on_error
from eventsync.server.sized_response import Answers
from eventsync.server.uvicorn_server import Server, server_config
from eventsync.settings import Settings
from eventsync.stores.history.time_travel import TimeTravel
from eventsync.stores.readiness import reached
from eventsync.stores.stores import Stores
from eventsync.sync.catch_up.time_travel import TimeTravelReads
from eventsync.sync.operating import Operating
from eventsync.sync.service import SyncService

logger = logging.getLogger(__name__)

_HEAD_START = 1.0
"""A server process accepts once it follows the log, or after so many seconds: before, others serve better."""

ROUTES: list[BaseRoute] = [
    *documents.routes,
    *time_travel.routes,
    *transactions.routes,
    *websocket.routes,
    *sse.routes,
    *poll.routes,
    *segments.routes,
    *state_vectors.routes,
    *health.routes,
    *metrics.routes,
    *pages.routes,
]


class _Application(Starlette):
    """Starlette, but for the connections that stay: what it puts around an endpoint costs each of them 3 KiB."""

    def __init__(self, settings: Settings, **options: Any) -> None:
        super().__init__(**options)
        self._sync = HostAndOrigin(websocket.Sync(), settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket" and scope["path"] == websocket.PATH:
            await self._sync(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


OnFailure = Callable[[EventsyncError], None]
"""Is told why a server can't go on: without its feed it would serve the past."""


def create_app(settings: Settings, *, on_failure: OnFailure = lambda _: None, head_start: float = 0.0) -> Starlette:
    """The application. It begins once it follows the log, or after `head_start` seconds.

    While it runs, `app.state.sync` is its `SyncService`, to be drained before the server shuts down.
    """

    held = HeldBytes(settings.held_bytes)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Services]]:
        async with running(settings, on_failure, held) as services:
            app.state.sync = services.sync
            await set_within(services.sync.feed.followed, head_start)
            yield {"services": services}

    application = _Application(
        settings,
        routes=ROUTES,
        lifespan=lifespan,
        exception_handlers={EventsyncError: on_error, HTTPException: on_error, Exception: on_error},
        middleware=[
            Middleware(HostAndOrigin, settings=settings),
            *_cors(settings),
            Middleware(Answers, held=held, timeout=settings.send_timeout),
            Middleware(Deadlines, seconds=settings.request_timeout),
            Middleware(ExactPaths),
        ],
    )
    # A path has one spelling.
    application.router.redirect_slashes = False
    application.router.default = not_found
    return application


@asynccontextmanager
async def running(settings: Settings, on_failure: OnFailure, held: HeldBytes) -> AsyncIterator[Services]:
    """The services while the block runs; connected and fed as soon as MongoDB can be used."""
    async with (
        connect(settings, "serve") as requests,
        connect(settings, "feed") as tailing,
        Offload.running(settings) as offload,
    ):
        stores = Stores.of(requests, settings, offload)
        storage = NodeStorage(stores.data, stores.log["operations"], WritePolicy.of(settings), offload)
        sync = SyncService(stores, settings, tailing=Stores.of(tailing, settings))
        reading = sync.source.admissions["read"]
        time_travel = TimeTravelReads(
            TimeTravel(stores, cache_bytes=settings.past_cache_bytes), sync.window, reading, offload
        )
        services = Services(settings, storage, sync, time_travel, stores.archive, Operating(stores), offload, held)
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(_work(services, stop, on_failure), name="feed and indexes")
            try:
                yield services
            finally:
                stop.set()


async def _work(services: Services, stop: asyncio.Event, on_failure: OnFailure) -> None:
    """What a server does besides answering. It waits for MongoDB first: until then the server runs, and says so."""
    try:
        if await reached(services.settings, "serve", stop):
            async with asyncio.TaskGroup() as group:
                group.create_task(_prepared(services, stop), name="indexes")
                await services.sync.run(stop)
    except ConfigurationError as error:
        on_failure(error)
    except Exception:
        logger.critical("the feed has failed; this server stops", exc_info=True)
        on_failure(EventsyncError("the feed has failed; the log says why"))


async def _prepared(services: Services, stop: asyncio.Event) -> None:
    """Make the indexes, as soon as MongoDB can be written to."""
    failures = 0
    while not stop.is_set():
        try:
            await services.storage.ensure_indexes()
            await services.sync.vectors.ensure_indexes(services.settings.client_ttl)
        except Unavailable as error:
            logger.warning("%s; trying again", error.diagnosis)
            await set_within(stop, backoff(failures, first=0.1, cap=5.0))
            failures += 1
        else:
            return


def _cors(settings: Settings) -> list[Middleware]:
    return [Middleware(Cors, settings=settings)] if settings.allowed_origins else []


def make_server(settings: Settings, *, head_start: float = 0.0) -> Server:
    """A server that is ready to run, which drains its sessions before it shuts down."""

    async def drain() -> None:
        await app.state.sync.drain()

    async def live() -> None:
        await app.state.sync.feed.followed.wait()

    def fail(reason: EventsyncError) -> None:
        server.failure = reason
        server.should_exit = True

    app = create_app(settings, on_failure=fail, head_start=head_start)
    server = Server(server_config(app, settings), drain, live, patience=settings.send_timeout)
    return server


def serve(
    settings: Settings,
    sockets: list[socket.socket],
    *,
    reread: Reread,
    on_serving: Callable[[], None] = lambda: None,
) -> None:
    """Run a server process on `sockets` until SIGTERM or SIGINT; at SIGHUP another server takes over, in this process.

    Who connects in between waits until that one accepts. `on_serving` is called once clients can be served. Raises
    what it could not start or go on for.
    """
    collect_rarely(waited_for=True)
    return_free_memory()
    event_loop.run(_serve_on(settings, sockets, reread, on_serving))


async def _serve_on(
    settings: Settings, sockets: list[socket.socket], reread: Reread, on_serving: Callable[[], None]
) -> None:
    following: list[Settings] = [settings]

    def restart(new: Settings) -> None:
        following[:] = [new]
        server.should_exit = True

    async with hangups_heard("serve", reread, restart):
        while following:
            current = following.pop()
            configure_logging(current.log_level)
            allow_sockets(current.max_sockets)
            server = make_server(current, head_start=_HEAD_START)
            # Copies: the sockets themselves go on listening while one server ends and the next begins.
            await _serve(server, [listener.dup() for listener in sockets], on_serving)
            _check_ended(server)
            if server.told_to_end:
                return


def _check_ended(server: Server) -> None:
    if server.failure is not None:
        raise server.failure
    if not server.started:
        raise Unavailable("the server did not start; its log says why")


async def _serve(server: Server, sockets: list[socket.socket], on_serving: Callable[[], None]) -> None:
    async def tell() -> None:
        await server.serving()
        on_serving()

    async with asyncio.TaskGroup() as group:
        telling = group.create_task(tell(), name="tell that clients are served")
        await server.serve(sockets)
        telling.cancel()
