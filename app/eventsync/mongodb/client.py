"""Connections to MongoDB."""

from __future__ import annotations

import warnings
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final, Self, TypeVar
from urllib.parse import parse_qsl

import pymongo
from pymongo import AsyncMongoClient
from pymongo.errors import ConfigurationError as DriverConfigurationError
from pymongo.errors import InvalidURI, PyMongoError

from eventsync.domain.values.extended_json import CODEC
from eventsync.errors import ConfigurationError
from eventsync.mongodb import condition_wait
from eventsync.mongodb.connections import TasklessPool
from eventsync.mongodb.errors import translated
from eventsync.settings import Settings
from eventsync.urls import without_secrets

Client = AsyncMongoClient[dict[str, Any]]

CLOSE_TIMEOUT = 1.0
"""Seconds for ending sessions and cursors on the server. It cleans up the rest by itself."""

_FILES: Final = frozenset({"tlscafile", "tlscertificatekeyfile", "tlscrlfile"})


def time_limit(seconds: float) -> AbstractContextManager[None]:
    """Bound all calls to MongoDB in the block together."""
    return pymongo.timeout(seconds)


class _Client(AsyncMongoClient[dict[str, Any]]):
    """Bounds the time that `close` spends on ending sessions on an unreachable server."""

    async def close(self) -> None:
        with pymongo.timeout(CLOSE_TIMEOUT):
            await super().close()


_C = TypeVar("_C", bound=_Client)

_PINNED: Final = 4
"""Connections of a `PinnedClient`: one that appends, one that flushes the journal, and two for other commands."""


class ConnectionReplaced(PyMongoError):
    """The pinned connections are gone. The write was not sent over another one."""


class PinnedClient(_Client):
    """A client whose writes travel over the connections that `pin` has opened, and over no later one.

    The driver reconnects, and repeats a write, without a word. If a backup was restored in between, the write arrives
    in data that contradicts everything its sender has read. A connection ends with the process that accepted it. So a
    writer first pins connections, then reads what its writes depend on, and then writes. Its writes reach the `mongod`
    process that has answered the reads, or none.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._pinned: list[object] = []
        # Until the first `pin`, any connection may be used: nothing has been read that a write could depend on.
        self._is_pinning = True

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        return self

    async def pin(self) -> None:
        """Pin connections to the primary. Nothing may be written meanwhile. Raises `Unavailable`."""
        self._pinned, self._is_pinning = [], True
        with translated("no connections to MongoDB can be pinned"):
            async with AsyncExitStack() as held:
                # All of them are held at once: a connection that was returned would be handed out again.
                while len(self._pinned) < _PINNED:
                    await held.enter_async_context(await self._conn_for_writes(None, "pin a connection"))
        self._is_pinning = False

    def _checkout(self, server: Any, session: Any) -> Any:
        return self._pinned_only(super()._checkout(server, session))

    @asynccontextmanager
    async def _pinned_only(self, checkout: AbstractAsyncContextManager[object]) -> AsyncIterator[object]:
        async with checkout as connection:
            if self._is_pinning:
                self._pinned.append(connection)
            elif not any(connection is one for one in self._pinned):
                raise ConnectionReplaced("the pinned connections to MongoDB are gone")
            yield connection


def app_name(settings: Settings, role: str) -> str:
    """Return the `appName` of a process, as MongoDB's logs and `currentOp` show it (`eventsync-serve/shop`)."""
    return f"eventsync-{role}/{settings.database}"


def connect(settings: Settings, role: str, *, timeout: float | None = None) -> Client:
    """Return a client with a timeout on every wait. `role` names it in MongoDB's logs (see `app_name`).

    `timeout`, in seconds, shortens the wait for an available server.

    Writes are acknowledged by a majority and journaled; with less, change streams deliver them about 60 ms later.
    Use separate clients for tailing and for requests: an open change stream occupies a connection.

    Raises `ConfigurationError` if there is no usable connection string.
    """
    return _connected(_Client, settings, role, timeout)


def connect_pinned(settings: Settings, role: str) -> PinnedClient:
    """Return a client like that of `connect`, which is to be pinned. The driver repeats none of its writes.

    Raises `ConfigurationError` as `connect`.
    """
    return _connected(PinnedClient, settings, role, None, maxPoolSize=_PINNED, retryWrites=False)


def _connected(kind: type[_C], settings: Settings, role: str, timeout: float | None, **options: Any) -> _C:
    if not settings.mongodb_uri:
        raise ConfigurationError(
            "no MongoDB given: set EVENTSYNC_MONGODB_URI to a replica set's connection string, or run `eventsync dev`"
        )
    condition_wait.install()
    with warnings.catch_warnings():
        # The driver only warns about an unknown option of the connection string, and ignores the option.
        warnings.simplefilter("error", UserWarning)
        try:
            _check_files(settings.mongodb_uri)
            return kind(settings.mongodb_uri, **(_options(settings, role, timeout) | options))
        except (DriverConfigurationError, InvalidURI, ValueError, OSError, UserWarning) as error:
            said = without_secrets(str(error), settings.mongodb_uri)
            raise ConfigurationError(f"the MongoDB connection string can't be used: {said}") from error


def _options(settings: Settings, role: str, timeout: float | None) -> dict[str, Any]:
    milliseconds = int(settings.mongodb_timeout * 1000)
    return {
        "appname": app_name(settings, role),
        "w": "majority",
        "journal": True,
        # A local read may return what a failover rolls back, and then no event ever takes it back.
        "readConcernLevel": "majority",
        "maxPoolSize": settings.mongodb_pool_size,
        "serverSelectionTimeoutMS": milliseconds if timeout is None else int(timeout * 1000),
        "connectTimeoutMS": milliseconds,
        "socketTimeoutMS": milliseconds,
        "waitQueueTimeoutMS": milliseconds,
        # With PyMongo's default of 10 s, a frozen primary stays in the topology for as long.
        "heartbeatFrequencyMS": 2000,
        "tz_aware": CODEC.tz_aware,
        "uuidRepresentation": "standard",
        "datetime_conversion": "DATETIME_AUTO",
        "_pool_class": TasklessPool,
    }


def _check_files(uri: str) -> None:
    """Raise `OSError` with option and path if a file named in the connection string can't be read.

    The driver's own message does not name the file.
    """
    for name, value in parse_qsl(uri.partition("?")[2]):
        if name.lower() in _FILES:
            try:
                with Path(value).open("rb"):
                    pass
            except OSError as error:
                raise OSError(f"{name} {value}: {error.strerror or error}") from error
