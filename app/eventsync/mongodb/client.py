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

GOODBYE = 1.0
"""Seconds that telling MongoDB of an end may take. It notices by itself what it is not told."""

_FILES: Final = frozenset({"tlscafile", "tlscertificatekeyfile", "tlscrlfile"})


def time_limit(seconds: float) -> AbstractContextManager[None]:
    """Bound all calls to MongoDB in the block together."""
    return pymongo.timeout(seconds)


class _Client(AsyncMongoClient[dict[str, Any]]):
    """Does not wait for a MongoDB that is gone in order to end its sessions there."""

    async def close(self) -> None:
        with pymongo.timeout(GOODBYE):
            await super().close()


def app_name(settings: Settings, role: str) -> str:
    """What a process of this role is called in MongoDB's own logs and operations (`eventsync-serve/shop`)."""
    return f"eventsync-{role}/{settings.database}"


def connect(settings: Settings, role: str, *, patience: float | None = None) -> Client:
    """A client whose every wait is bounded. `role` names it in MongoDB's own logs (see `app_name`).

    `patience` is how long an operation waits for a server to be there, in seconds, where that is to be shorter.

    Writes are acknowledged by a majority, journaled: with less, change streams see them about 60 ms late.
    Use separate clients for tailing and for requests: an open change stream occupies a connection.

    Raises `ConfigurationError` where there is no usable connection string.
    """
    if not settings.mongodb_uri:
        raise ConfigurationError(
            "no MongoDB given: set EVENTSYNC_MONGODB_URI to a replica set's connection string, or run `eventsync dev`"
        )
    with warnings.catch_warnings():
        # The driver warns of an option of the connection string that it does not know, and goes on without it.
        warnings.simplefilter("error", UserWarning)
        try:
            _check_files(settings.mongodb_uri)
            return _client(settings, settings.mongodb_uri, role, patience)
        except (DriverConfigurationError, InvalidURI, ValueError, OSError, UserWarning) as error:
            said = without_secrets(str(error), settings.mongodb_uri)
            raise ConfigurationError(f"the MongoDB connection string can't be used: {said}") from error


def _client(settings: Settings, uri: str, role: str, patience: float | None) -> Client:
    milliseconds = int(settings.mongodb_timeout * 1000)
    return _Client(
        uri,
        appname=app_name(settings, role),
        w="majority",
        journal=True,
        readConcernLevel="majority",
        maxPoolSize=settings.mongodb_pool_size,
        serverSelectionTimeoutMS=milliseconds if patience is None else int(patience * 1000),
        connectTimeoutMS=milliseconds,
        socketTimeoutMS=milliseconds,
        waitQueueTimeoutMS=milliseconds,
        # PyMongo's default of 10 s keeps a frozen primary's place in the topology for as long.
        heartbeatFrequencyMS=2000,
        tz_aware=CODEC.tz_aware,
        uuidRepresentation="standard",
        datetime_conversion="DATETIME_AUTO",
    )


def _check_files(uri: str) -> None:
    """Raise `OSError`, naming option and file, where a file that the connection string names can't be read.

    The driver's own message does not say which file it is.
    """
    for name, value in parse_qsl(uri.partition("?")[2]):
        if name.lower() in _FILES:
            try:
                with Path(value).open("rb"):
                    pass
            except OSError as error:
                raise OSError(f"{name} {value}: {error.strerror or error}") from error
