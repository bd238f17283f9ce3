"""`eventsync tail`: prints new events. It reads MongoDB directly, so no server has to run; or asks a server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Annotated, Any, Final

import orjson
import typer

from eventsync.access.access import UNRESTRICTED
from eventsync.cli.console import NOTES, print_json, print_line
from eventsync.cli.event_text import lines
from eventsync.cli.options import Database, Json, MongodbUri, Token, Url, check_url
from eventsync.cli.readings import EventLog, ReadPage
from eventsync.domain.plan import ResetReason
from eventsync.domain.positions import LogId, Position, unscoped
from eventsync.domain.shapes import Shape
from eventsync.errors import EventsyncError, NotTracked, ResetRequired, Unavailable
from eventsync.logging import configure_logging
from eventsync.process import event_loop
from eventsync.settings import Settings, load_settings
from eventsync.stores.log.logs import NoLogYet
from eventsync.stores.readiness import connected
from eventsync.stores.stores import Stores
from eventsync.sync.service import SyncService

_WAIT: Final = 60.0
_RETRY: Final = 1.0

Deliver = Callable[[dict[str, Any]], None]


class _LimitReached(Exception):
    """The requested number of events has been printed."""


def tail(
    shape: Annotated[
        str, typer.Argument(help="A collection, `collection/id`, or a declared shape: `my_orders?owner=7`.")
    ],
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="POSITION",
            help="Start after this position: `log:seq`, also for a declared shape.",
            show_default="now",
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="Stop after this number of events.", min=1, show_default="never")
    ] = None,
    as_json: Json = False,
    url: Url = None,
    token: Token = None,
    mongodb_uri: MongodbUri = None,
    database: Database = None,
) -> None:
    """Print new events until Ctrl-C. With --json, print one event a line.

    If the connection is lost, the events that were missed are printed as soon as it is back.
    """
    configure_logging("warning")
    parsed, position = Shape.parse(shape), Position.parse(start) if start is not None else None
    deliver = _counted(print_json if as_json else _print, limit)
    if url is None:
        log = _log_of(load_settings(mongodb_uri=mongodb_uri, database=database), parsed)
    else:
        from eventsync.cli import remote  # noqa: PLC0415 - it needs an optional package

        check_url(url, mongodb_uri, database)
        log = remote.log_of(url, token, parsed)
    try:
        event_loop.run(_tail(log, parsed, position, deliver))
    except (KeyboardInterrupt, _LimitReached):
        return


def _print(event: dict[str, Any]) -> None:
    for line in lines(event):
        print_line(line)


def _counted(deliver: Deliver, limit: int | None) -> Deliver:
    count = 0

    def counting(event: dict[str, Any]) -> None:
        nonlocal count
        deliver(event)
        count += 1
        if count == limit:
            raise _LimitReached

    return counting


async def _tail(
    opening: AbstractAsyncContextManager[EventLog], shape: Shape, position: Position | None, deliver: Deliver
) -> None:
    async with opening as log:
        head = await log.head()
        begin = head if position is None else _scoped(position, head.log)
        _note(f"{shape}: events after {begin}", style="dim")
        await _follow(log, begin, deliver)


async def _follow(log: EventLog, position: Position, deliver: Deliver) -> None:
    said = ""
    while True:
        try:
            page = await log.page(position)
        except ResetRequired as error:
            if error.reason == ResetReason.DAMAGED or error.oldest is None or error.head is None:
                raise
            position = _restart_position(position, Position.parse(error.oldest), Position.parse(error.head))
            _note(f"reset ({error.reason}): {error.message}; continuing from {position}")
        except (Unavailable, NotTracked) as error:
            # Not tracked: a new log has begun, in which the worker has not activated the collection yet.
            if error.diagnosis != said:
                said = error.diagnosis
                _note(f"{said}; trying again")
            await asyncio.sleep(_RETRY)
        else:
            position, said = page.end, ""
            for event in page.events:
                deliver(event)


def _restart_position(refused: Position, oldest: Position, head: Position) -> Position:
    """Return the position of this log that is nearest to `refused`, whatever its scope; the oldest in another log."""
    if unscoped(refused.log) != unscoped(head.log):
        return oldest
    return Position(head.log, max(oldest.seq, min(refused.seq, head.seq)))


def _scoped(position: Position, log: LogId) -> Position:
    """Return a position in `log`, the log of a declared shape, for one without a scope."""
    return Position(log, position.seq) if position.log == unscoped(log) else position


def _note(text: str, *, style: str = "yellow") -> None:
    NOTES.print(text, style=style, markup=False, soft_wrap=True)


# --- MongoDB ----------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _log_of(settings: Settings, shape: Shape) -> AsyncIterator[EventLog]:
    """Follow the log in MongoDB while the block reads the events of a shape."""
    outcome: EventsyncError | _LimitReached | None = None
    async with connected(settings, "tail") as client:
        stores = Stores.of(client, settings)
        await stores.logs.require()
        service = SyncService(stores, settings)
        async with asyncio.TaskGroup() as group:
            stop = asyncio.Event()
            feed = group.create_task(service.feed.run(stop), name="feed")
            try:
                await _joined(service, shape, settings.mongodb_timeout)
                yield _MongodbLog(service, shape)
            except (EventsyncError, _LimitReached) as error:
                outcome = error  # Raised below: here the group would wrap it.
            finally:
                # Both, because PyMongo takes a cancellation during a read for a broken connection, which the feed
                # would survive.
                stop.set()
                feed.cancel()
    if outcome is not None:
        raise outcome


async def _joined(service: SyncService, shape: Shape, timeout: float) -> None:
    """Wait until the feed has read the log, and events of the shape can come. Raises `Unavailable`."""
    with service.window.subscribers() as subscribers:
        # A declared shape is not bound before the feed is live, which wakes the subscribers of every shape.
        subscribers.add(Shape(shape.name))
        try:
            async with asyncio.timeout(timeout):
                # The log's id is known before its newest event is.
                while service.window.log is None or not service.feed.state.live:
                    await subscribers.event.wait()
                    subscribers.event.clear()
        except TimeoutError as error:
            raise Unavailable(f"the event log can't be read: {service.feed.state.detail}") from error
    await service.source.wait_until_servable(shape, lambda: UNRESTRICTED)


class _MongodbLog:
    """The events of a shape in MongoDB."""

    def __init__(self, service: SyncService, shape: Shape) -> None:
        self._service = service
        self._shape = shape

    async def head(self) -> Position:
        """Return the position of the newest event. Raises as `Source.bind`."""
        window = self._service.window
        log = window.log_of(self._service.source.bind(self._shape, UNRESTRICTED))
        if log is None:
            raise NoLogYet
        return Position(log, window.head)

    async def page(self, after: Position) -> ReadPage:
        """Return the events after a position; wait a while for one."""
        page = await self._service.pages.page(self._shape, after, UNRESTRICTED, limit=1000, wait=_WAIT)
        return ReadPage(orjson.loads(b"".join(page.parts))["events"], page.end)
