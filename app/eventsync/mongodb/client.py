"""Connections to MongoDB."""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl

import pymongo
from pymongo import AsyncMongoClient
from pymongo.errors import ConfigurationError as DriverConfigurationError
from pymongo.errors import InvalidURI

from eventsync.domain.values.extended_json import CODEC
from eventsync.errors import ConfigurationError
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
    if not settings.mongodb_uri:
        raise ConfigurationError(
            "no MongoDB given: set EVENTSYNC_MONGODB_URI to a replica set's connection string, or run `eventsync dev`"
        )
    with warnings.catch_warnings():
        # The driver only warns about an unknown option of the connection string, and ignores the option.
        warnings.simplefilter("error", UserWarning)
        try:
            _check_files(settings.mongodb_uri)
            return _client(settings, settings.mongodb_uri, role, timeout)
        except (DriverConfigurationError, InvalidURI, ValueError, OSError, UserWarning) as error:
            said = without_secrets(str(error), settings.mongodb_uri)
            raise ConfigurationError(f"the MongoDB connection string can't be used: {said}") from error


def _client(settings: Settings, uri: str, role: str, timeout: float | None) -> Client:
    milliseconds = int(settings.mongodb_timeout * 1000)
    return _Client(
        uri,
        appname=app_name(settings, role),
        w="majority",
        journal=True,
        readConcernLevel="majority",
        maxPoolSize=settings.mongodb_pool_size,
        serverSelectionTimeoutMS=milliseconds if timeout is None else int(timeout * 1000),
        connectTimeoutMS=milliseconds,
        socketTimeoutMS=milliseconds,
        waitQueueTimeoutMS=milliseconds,
        # With PyMongo's default of 10 s, a frozen primary stays in the topology for as long.
        heartbeatFrequencyMS=2000,
        tz_aware=CODEC.tz_aware,
        uuidRepresentation="standard",
        datetime_conversion="DATETIME_AUTO",
    )


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
