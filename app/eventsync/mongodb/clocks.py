"""MongoDB's clocks: the wall clock, and the cluster time that orders all that is committed."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from bson.timestamp import Timestamp
from pymongo.asynchronous.database import AsyncDatabase

from eventsync.domain.values.extended_json import CODEC
from eventsync.mongodb.errors import translated

_FAILED = "MongoDB's clock can't be read"


async def wall_time(database: AsyncDatabase[Any]) -> datetime:
    """The time by the server's clock, never by this process's own. Raises `Unavailable`."""
    with translated(_FAILED):
        hello = await database.client["admin"].command("hello", codec_options=CODEC)
    time: datetime = hello["localTime"]
    return time


async def cluster_time(database: AsyncDatabase[Any]) -> Timestamp:
    """A cluster time that no write which was acknowledged before is behind. Raises `Unavailable`."""
    with translated(_FAILED):
        answer = await database.command("ping")
    time: Timestamp = answer["operationTime"]
    return time
