"""The ASGI application: its routes, its middlewares and, while it runs, its services."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import BaseRoute
from starlette.types import Receive, Scope, Send

from eventsync.access.control import AccessControl
from eventsync.api import (
    admin,
    batch,
    credentials,
    documents,
    operations,
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
from eventsync.api.endpoint import on_eventsync_error
from eventsync.api.origins import HostAndOrigin
from eventsync.api.paths import ExactPaths, route_path
from eventsync.api.scrape import own_figures
from eventsync.api.state import Monitoring, Services
from eventsync.concurrency.admission import DelayAdmission
from eventsync.concurrency.budgets import BudgetLimits, Budgets
from eventsync.concurrency.held_bytes import HeldBytes
from eventsync.concurrency.offload import Offload
from eventsync.concurrency.waiting import backoff, set_within
from eventsync.errors import (
    ConfigurationError,
    Conflict,
    EventsyncError,
    IncompatibleFormat,
    NotFound,
    PatchFailed,
    Unavailable,
    VersionMismatch,
)
from eventsync.metrics.shared import SharedFigures
from eventsync.mongodb.client import connect
from eventsync.nodestorage import NodeStorage, WritePolicy
from eventsync.server.deadline import Deadlines
from eventsync.server.observing import Observed
from eventsync.server.problems import not_found, on_error
from eventsync.server.sized_response import Answers
from eventsync.settings import Settings
from eventsync.stores.formats import FormatStore
from eventsync.stores.history.time_travel import TimeTravel
from eventsync.stores.readiness import wait_for_mongodb
from eventsync.stores.stores import Stores
from eventsync.sync.catch_up.time_travel import TimeTravelReads
from eventsync.sync.operations import CachedOverview
from eventsync.sync.reports import Reports
from eventsync.sync.service import SyncService
from eventsync.sync.tasks import Tasks
from eventsync.tracing.process import running as tracing_in_process

logger = logging.getLogger(__name__)

HEAD_START: Final = 1.0
"""Seconds to wait for the log before the first request. Other servers answer better until then."""

_SLOW_AGE: Final = 10.0
"""Maximum age of the figures that take long to collect, where they are written every second."""

ROUTES: list[BaseRoute] = [
    *documents.routes,
    *time_travel.routes,
    *transactions.routes,
    *batch.routes,
    *websocket.routes,
    *sse.routes,
    *poll.routes,
    *segments.routes,
    *state_vectors.routes,
    *credentials.routes,
    *operations.routes,
    *admin.routes,
    *pages.routes,
]


class _Application(Starlette):
    """Starlette, except for WebSockets: its wrapping of an endpoint would cost each open connection 3 KiB."""

    def __init__(self, settings: Settings, **options: Any) -> None:
        super().__init__(**options)
        self._sync = HostAndOrigin(websocket.Sync(), settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket" and route_path(scope) == websocket.PATH:
            await self._sync(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


OnFailure = Callable[[EventsyncError], None]
"""Called with the reason why the application must stop: without its feed it would serve outdated data."""


def create_app(
    settings: Settings,
    *,
    on_failure: OnFailure = lambda _: None,
    head_start: float = 0.0,
    figures: Path | None = None,
) -> Starlette:
    """Make the application. Its lifespan begins once it follows the log, or after `head_start` seconds.

    While it runs, `app.state.sync` is its `SyncService`. Drain that before the server shuts down. `figures` is the
    directory in which the server processes on one port share their metrics.
    """

    monitoring = Monitoring()
    held = HeldBytes(settings.held_bytes)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Services]]:
        async with (
            tracing_in_process("eventsync-server", enabled=settings.tracing),
            running(settings, on_failure, held, monitoring) as services,
            _monitored(services, figures),
        ):
            app.state.sync = services.sync
            await set_within(services.sync.feed.followed, head_start)
            yield {"services": services}

    application = _Application(
        settings,
        routes=ROUTES,
        lifespan=lifespan,
        exception_handlers={EventsyncError: on_eventsync_error, HTTPException: on_error, Exception: on_error},
        middleware=[
            # The outermost first: of a foreign request nothing but its refusal is counted.
            Middleware(Observed, figures=monitoring.requests, log=settings.access_log),
            Middleware(HostAndOrigin, settings=settings),
            *_cors(settings),
            Middleware(Answers, held=held, timeout=settings.send_timeout),
            Middleware(Deadlines, seconds=settings.request_timeout),
            Middleware(ExactPaths),
        ],
    )
    application.state.monitoring = monitoring
    # Each path has one spelling.
    application.router.redirect_slashes = False
    application.router.default = not_found
    return application


@asynccontextmanager
async def running(
    settings: Settings, on_failure: OnFailure, held: HeldBytes, monitoring: Monitoring
) -> AsyncIterator[Services]:
    """Run the services while the block runs. They connect and follow the log as soon as MongoDB can be used."""
    async with (
        connect(settings, "serve") as requests,
        connect(settings, "feed") as tailing,
        Offload.running(settings) as offload,
        Offload.running(settings, processes=1) as live,
    ):
        stores = Stores.of(requests, settings, offload)
        storage = NodeStorage(
            stores.data,
            stores.log["operations"],
            WritePolicy.of(settings),
            offload,
            query_timeout=settings.query_timeout,
        )
        access = AccessControl(settings, stores.credentials)
        sync = SyncService(stores, settings, tailing=Stores.of(tailing, settings, live), access=access)
        reading = sync.source.admissions["read"]
        time_travel = TimeTravelReads(
            TimeTravel(stores, cache_bytes=settings.past_cache_bytes),
            storage,
            sync.window,
            sync.continuity,
            reading,
            offload,
        )
        writes = DelayAdmission(
            settings.write_queue_delay, "a write", (Conflict, NotFound, PatchFailed, VersionMismatch)
        )
        overview = CachedOverview(stores)
        services = Services(
            settings,
            storage,
            sync,
            time_travel,
            stores.archive,
            overview,
            offload,
            held,
            writes,
            access,
            Budgets(_limits(settings)),
            Reports(sync, stores, overview, lambda: writes.done, Tasks(settings), access.refusals),
            stores,
            monitoring,
        )
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(_work(services, stores.formats, stop, on_failure), name="feed and indexes")
            try:
                yield services
            finally:
                stop.set()
                access.authenticator.close()


@asynccontextmanager
async def _monitored(services: Services, directory: Path | None) -> AsyncIterator[None]:
    """Measure this process while the block runs, and share its figures in `directory`, if there is one."""
    monitoring = services.monitoring
    tasks = [asyncio.create_task(monitoring.lag.measure(), name="measure the event loop")]
    if directory is not None:
        monitoring.shared = SharedFigures(directory, partial(own_figures, services, max_age=_SLOW_AGE))
        tasks.append(asyncio.create_task(monitoring.shared.keep(), name="share the metrics"))
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _limits(settings: Settings) -> BudgetLimits:
    return BudgetLimits(
        settings.principal_requests,
        settings.principal_waiting,
        settings.principal_connections,
        settings.principal_held_bytes,
    )


async def _work(services: Services, formats: FormatStore, stop: asyncio.Event, on_failure: OnFailure) -> None:
    """Wait for MongoDB; then follow the log and make the indexes until `stop`.

    Until then the application answers, and `/readyz` reports that it is not ready.
    """
    try:
        if await wait_for_mongodb(services.settings, "serve", stop):
            async with asyncio.TaskGroup() as group:
                group.create_task(_keep_indexes(services, stop), name="indexes")
                group.create_task(_watch_formats(formats, stop, on_failure), name="versions of the stored formats")
                group.create_task(services.reports.run(stop), name="report what this server does")
                await services.sync.run(stop)
    except ConfigurationError as error:
        on_failure(error)
    except Exception:
        logger.critical("the feed has failed", exc_info=True)
        on_failure(EventsyncError("the feed has failed; the log has the reason"))


async def _watch_formats(formats: FormatStore, stop: asyncio.Event, on_failure: OnFailure) -> None:
    """Stop the application once what is stored has a format that it does not know."""
    try:
        await formats.watch(stop)
    except IncompatibleFormat as error:
        on_failure(error)


async def _keep_indexes(services: Services, stop: asyncio.Event) -> None:
    """Make the indexes as soon as MongoDB accepts writes, and with each log: the former one may have been dropped."""
    failures = 0
    while not stop.is_set():
        joined = services.sync.feed.joined
        try:
            await services.storage.ensure_indexes()
            await services.sync.vectors.ensure_indexes(services.settings.client_ttl)
        except Unavailable as error:
            logger.warning("%s; trying again", error.diagnosis)
            await set_within(stop, backoff(failures, first=0.1, cap=5.0))
            failures += 1
        else:
            failures = 0
            await joined.wait()


def _cors(settings: Settings) -> list[Middleware]:
    return [Middleware(Cors, settings=settings)] if settings.allowed_origins else []
