"""A server in place of MongoDB, for commands with `--url`. It needs the package `eventsync_client`."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from http import HTTPStatus
from typing import Final

from eventsync.cli.console import printable
from eventsync.cli.options import check_credential
from eventsync.cli.readings import Json, ReadDifference, ReadHistory, ReadPage
from eventsync.domain.positions import Position, Seq, unscoped
from eventsync.domain.shapes import Shape
from eventsync.errors import (
    ConfigurationError,
    EventsyncError,
    NotFound,
    NotTracked,
    ResetRequired,
    Unauthenticated,
    Unavailable,
)

try:
    from eventsync_client import AsyncClient, Collection, EventLog, LogReset, OutcomeUnknown, RequestError
except ImportError as missing:
    remedy = "--url needs the client package: pip install 'eventsync[client]'"
    raise ConfigurationError(remedy).because(str(missing)) from missing

_WAIT: Final = 25.0
"""Seconds that a page waits for an event."""

_KINDS: Final = {kind.code: kind for kind in (NotFound, NotTracked)}
"""Errors that a command tells from others."""


class Refused(EventsyncError):
    """A server refuses the request; the message is its own."""

    code = "refused"


class ServerLog:
    """The events of a shape at a server: an `EventLog` of `eventsync.cli.readings`."""

    def __init__(self, log: EventLog, url: str) -> None:
        self._log = log
        self._url = url

    async def head(self) -> Position:
        """Return the position of the newest event."""
        return (await self._page(None, 0.0)).end

    async def page(self, after: Position) -> ReadPage:
        """Return the events after a position; wait a while for one."""
        return await self._page(str(after), _WAIT)

    async def _page(self, after: str | None, wait: float) -> ReadPage:
        with _translated(self._url):
            page = await self._log.page(after, wait=wait, repeat=False)
        return ReadPage(page.events, Position.parse(page.end))


@asynccontextmanager
async def log_of(url: str, token: str | None, shape: Shape) -> AsyncIterator[ServerLog]:
    """Connect to a server while the block reads the events of a shape."""
    async with _client(url, token) as client:
        yield ServerLog(client.log(str(shape)), url)


async def history(url: str, token: str | None, shape: Shape, limit: int) -> ReadHistory:
    """Read the newest events of a document, and count all of them. Raises `NotFound`, and as the server refuses."""
    async with _client(url, token) as client:
        head = await ServerLog(client.log(str(shape)), url).head()
        collection = _collection(client, shape)
        newest, count, first = deque[Json](maxlen=limit), 0, Seq(0)
        with _translated(url):
            async with aclosing(collection.history_pages(str(shape.id))) as pages:
                async for page in pages:
                    newest.extend(page.events)
                    count += len(page.events)
                    first = first if page.since is None else Position.parse(page.since).seq
        if not count:
            await _require(collection, url, shape)
    return ReadHistory(unscoped(head.log), first, list(newest), count)


async def _require(collection: Collection, url: str, shape: Shape) -> None:
    try:
        with _translated(url):
            await collection.get(str(shape.id))
    except NotFound as error:
        raise NotFound(f"the document {shape} is not known") from error


async def difference(url: str, token: str | None, shape: Shape, start: str, end: str | None) -> ReadDifference:
    """Read the patch between two points of a document's history. Raises as the server refuses."""
    async with _client(url, token) as client:
        with _translated(url):
            found = await _collection(client, shape).diff(str(shape.id), start, end)
    before, after = [{"version": side.version, "position": side.position} for side in (found.start, found.end)]
    return ReadDifference(before, after, found.patch)


@asynccontextmanager
async def _client(url: str, token: str | None) -> AsyncIterator[AsyncClient]:
    check_credential(token)
    try:
        client = AsyncClient(url, token=token)
    except ValueError as error:
        raise ConfigurationError(f"--url: {error}") from error
    async with client:
        yield client


def _collection(client: AsyncClient, shape: Shape) -> Collection:
    collection = client.collection(shape.collection)
    # A person at a terminal is better served by the reason than by another attempt.
    collection.repeat = False
    return collection


@contextmanager
def _translated(url: str) -> Iterator[None]:
    """Raise what a server or the network refuses as an error of the command."""
    try:
        yield
    except RequestError as error:
        raise _translation(url, error) from error


def _translation(url: str, error: RequestError) -> EventsyncError:
    """Return the error of the command. Its text, which another machine may have written, can't control a terminal."""
    text = printable(str(error.problem.get("detail", "")) or str(error))
    is_foreign = error.code == "http_error" and error.status < HTTPStatus.INTERNAL_SERVER_ERROR
    if isinstance(error, OutcomeUnknown) and not is_foreign:
        cause = error.__cause__
        said = f": {error}" if cause is None else f" cannot be reached: {str(cause) or type(cause).__name__}"
        return Unavailable(printable(url + said))
    if isinstance(error, LogReset):
        return ResetRequired(error.reason, text, oldest=error.oldest, head=error.head)
    # A path without a route has no other words than those of the status; a document that is missing is named.
    if is_foreign or error.problem.get("detail") == HTTPStatus.NOT_FOUND.phrase:
        return Refused(f"{printable(url)} does not answer as a server of eventsync does: {text}")
    if error.status == 401:
        reason = str(error.problem.get("reason", "token_invalid"))
        return Unauthenticated(reason, f"{text} (--token or EVENTSYNC_TOKEN gives one)")
    return _KINDS.get(error.code, Refused)(text)
