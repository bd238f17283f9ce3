"""`eventsync tail`: prints new events. It reads MongoDB directly, so no server has to run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, Any, Final

import orjson
import typer

from eventsync.access.access import UNRESTRICTED
from eventsync.cli.console import NOTES, print_json, print_line
from eventsync.cli.event_text import lines
from eventsync.cli.options import Database, Json, MongodbUri
from eventsync.domain.plan import ResetReason
from eventsync.domain.positions import LogId, Position, unscoped
from eventsync.domain.shapes import Shape
from eventsync.errors import EventsyncError, NotTracked, ResetRequired, Unavailable
from eventsync.logging import configure_logging
from eventsync.mongodb.client import connect
from eventsync.process import event_loop
from eventsync.settings import Settings, load_settings
from eventsync.stores.log.logs import NoLogYet
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
    mongodb_uri: MongodbUri = None,
    database: Database = None,
) -> None:
    """Print new events until Ctrl-C. With --json, print one event a line."""
    settings = load_settings(mongodb_uri=mongodb_uri, database=database)
    configure_logging("warning")
    position = Position.parse(start) if start is not None else None
    deliver = _counted(print_json if as_json else _print, limit)
    try:
        event_loop.run(_tail(settings, Shape.parse(shape), position, deliver))
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


async def _tail(settings: Settings, shape: Shape, position: Position | None, deliver: Deliver) -> None:
    outcome: EventsyncError | _LimitReached | None = None
    async with connect(settings, "tail") as client:
        stores = Stores.of(client, settings)
        await stores.logs.require()
        service = SyncService(stores, settings)
        async with asyncio.TaskGroup() as group:
            stop = asyncio.Event()
            feed = group.create_task(service.feed.run(stop), name="feed")
            try:
                bound = await _joined(service, shape, settings.mongodb_timeout)
                begin = _head(service, bound) if position is None else _scoped(position, _head(service, bound).log)
                _note(f"{shape}: events after {begin}", style="dim")
                await _follow(service, shape, begin, deliver)
            except (EventsyncError, _LimitReached) as error:
                outcome = error  # Raised below: here the group would wrap it.
            finally:
                # Both, because PyMongo takes a cancellation during a read for a broken connection, which the feed
                # would survive.
                stop.set()
                feed.cancel()
    if outcome is not None:
        raise outcome


async def _joined(service: SyncService, shape: Shape, timeout: float) -> Shape:
    """Wait until the feed has read the log, and return the shape bound.

    Raises `Unavailable`, and as `Source.bind` if no events can come.
    """
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
    return service.source.bind(shape, UNRESTRICTED)


async def _follow(service: SyncService, shape: Shape, position: Position, deliver: Deliver) -> None:
    while True:
        try:
            page = await service.pages.page(shape, position, UNRESTRICTED, limit=1000, wait=_WAIT)
        except ResetRequired as error:
            if error.reason == ResetReason.DAMAGED:
                raise
            position = await _restart_position(service, shape, position)
            _note(f"reset ({error.reason}): {error.message}; continuing from {position}")
        except (Unavailable, NotTracked) as error:
            # Not tracked: a new log has begun, in which the worker has not activated the collection yet.
            _note(f"{error.diagnosis}; trying again")
            await asyncio.sleep(_RETRY)
        else:
            position = page.end
            for event in orjson.loads(b"".join(page.parts))["events"]:
                deliver(event)


async def _restart_position(service: SyncService, shape: Shape, refused: Position) -> Position:
    """Return the position of this log that is nearest to `refused`, whatever its scope; the oldest in another log."""
    bound = service.source.bind(shape, UNRESTRICTED)
    head = _head(service, bound)
    oldest = await service.source.planner.oldest(bound)
    if unscoped(refused.log) != unscoped(head.log):
        return oldest
    return Position(head.log, max(oldest.seq, min(refused.seq, head.seq)))


def _scoped(position: Position, log: LogId) -> Position:
    """Return a position in `log`, the log of a declared shape, for one without a scope."""
    return Position(log, position.seq) if position.log == unscoped(log) else position


def _head(service: SyncService, bound: Shape) -> Position:
    log = service.window.log_of(bound)
    if log is None:
        raise NoLogYet
    return Position(log, service.window.head)


def _note(text: str, *, style: str = "yellow") -> None:
    NOTES.print(text, style=style, markup=False, soft_wrap=True)
