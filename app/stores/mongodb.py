"""Connections to MongoDB."""

from __future__ import annotations

from typing import Any

import pymongo
from pymongo import AsyncMongoClient
from pymongo.errors import ConfigurationError as DriverConfigurationError
from pymongo.errors import InvalidURI

from app.domain.values import CODEC
from app.errors import ConfigurationError
from app.settings import Settings

Client = AsyncMongoClient[dict[str, Any]]

GOODBYE = 1.0
"""Seconds that telling MongoDB of an end may take. It notices by itself what it is not told."""


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
    milliseconds = int(settings.mongodb_timeout * 1000)
    try:
        return _Client(
            settings.mongodb_uri,
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
    except (DriverConfigurationError, InvalidURI, ValueError) as error:
        raise ConfigurationError(f"the MongoDB connection string can't be used: {error}") from error
