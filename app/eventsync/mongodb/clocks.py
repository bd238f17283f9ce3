"""MongoDB's clocks: the wall clock, and the cluster time that orders all commits."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from bson.timestamp import Timestamp
from pymongo.asynchronous.database import AsyncDatabase

from eventsync.domain.values.extended_json import CODEC
from eventsync.mongodb.errors import translated

NOW: Final = "$$NOW"
"""The server's wall clock, in an aggregation expression or an update pipeline."""

_FAILED: Final = "MongoDB's clock can't be read"


def max_time_ms(seconds: float) -> int:
    """Return a `maxTimeMS` of so many seconds, at least 1: with 0, MongoDB would have no limit."""
    return max(1, int(1000 * seconds))


def literals(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields for the `$set` of an update pipeline, which is how `NOW` is stored beside them."""
    return {name: {"$literal": value} for name, value in fields.items()}


def from_now(seconds: float) -> dict[str, Any]:
    """Return the expression for the server's wall clock plus `seconds`."""
    return {"$dateAdd": {"startDate": NOW, "unit": "millisecond", "amount": int(seconds * 1000)}}


def ago(seconds: float) -> dict[str, Any]:
    """Return the expression for the server's wall clock minus `seconds`."""
    return {"$dateSubtract": {"startDate": NOW, "unit": "millisecond", "amount": int(seconds * 1000)}}


def is_past(field: str) -> dict[str, Any]:
    """Return the filter for documents whose time in `field` is over by the server's wall clock."""
    return {"$expr": {"$lte": [f"${field}", NOW]}}


def is_ahead(field: str) -> dict[str, Any]:
    """Return the filter for documents whose time in `field` is still to come by the server's wall clock."""
    return {"$expr": {"$gt": [f"${field}", NOW]}}


async def wall_time(database: AsyncDatabase[Any]) -> datetime:
    """Return the time by the server's clock, never by this process's own. Raises `Unavailable`."""
    with translated(_FAILED):
        hello = await database.client["admin"].command("hello", codec_options=CODEC)
    time: datetime = hello["localTime"]
    return time


async def confirmed_time(database: AsyncDatabase[Any], *, timeout: float) -> Timestamp:
    """Return a cluster time past every write acknowledged before the call, by any primary. Raises `Unavailable`.

    A primary that was deposed and does not know it yet answers a ping, too, with a time before its successor's writes.
    A linearizable read ends only once a majority has confirmed the primary, by an entry that it makes in the oplog for
    this; the time of the answer is that entry's.
    """
    command = {"find": "heads", "filter": {"_id": ""}, "limit": 1, "singleBatch": True}
    options = {"readConcern": {"level": "linearizable"}, "maxTimeMS": max_time_ms(timeout)}
    with translated(_FAILED):
        answer = await database.command(command | options)
    time: Timestamp = answer["operationTime"]
    return time


async def cluster_time(database: AsyncDatabase[Any]) -> Timestamp:
    """Return a cluster time at or after every write acknowledged so far. Raises `Unavailable`."""
    with translated(_FAILED):
        answer = await database.command("ping")
    time: Timestamp = answer["operationTime"]
    return time
