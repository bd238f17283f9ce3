"""Connections to MongoDB."""

from __future__ import annotations

from typing import Any

from pymongo import AsyncMongoClient
from pymongo.errors import ConfigurationError as DriverConfigurationError
from pymongo.errors import InvalidURI

from app.domain.values import CODEC
from app.errors import ConfigurationError
from app.settings import Settings

Client = AsyncMongoClient[dict[str, Any]]


def connect(settings: Settings, role: str) -> Client:
    """A client whose every wait is bounded. `role` names it in MongoDB's own logs (`eventsync-serve`).

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
        return AsyncMongoClient(
            settings.mongodb_uri,
            appname=f"eventsync-{role}",
            w="majority",
            journal=True,
            readConcernLevel="majority",
            maxPoolSize=settings.mongodb_pool_size,
            serverSelectionTimeoutMS=milliseconds,
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
