"""The event log read by document, with what the events say BSON-exact: for whoever replays it, not for clients."""

from __future__ import annotations

import zlib
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from bson.int64 import Int64
from pymongo import ASCENDING
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.cursor import AsyncCursor
from pymongo.asynchronous.database import AsyncDatabase

from app.domain.event import Group
from app.domain.ids import IdText
from app.domain.marks import unpacked
from app.domain.position import LogId, Seq
from app.domain.replay import Change, Damaged, read_change
from app.driver import translated
from app.errors import Malformed
from app.stores.events import stored_event

_BATCH = 500
"""Rows in one read: what the index gives is scattered, and each read has to end within the driver's timeout."""


class History:
    """Reads of the log along the index `by_document`, and of the bare numbering."""

    def __init__(self, database: AsyncDatabase[Any]) -> None:
        self._events: AsyncCollection[Any] = database["events"]

    async def changes(
        self, log: LogId, collection: str, *, after: Seq, upto: Seq, ids: Sequence[IdText] | None = None
    ) -> AsyncGenerator[Change]:
        """What events with `after < seq <= upto` say, of these documents or of all: by id, and for each id by seq.

        Raises `Damaged` at an event that can't be read.
        """
        query = _query(log, collection, after, upto)
        if ids is not None:
            query["i"] = {"$in": list(ids)}
        fields = {"t": 0, "s": 0, "g": 0}
        with translated("events can't be read"):
            async with self._find(query, fields) as cursor:
                async for row in cursor:
                    yield _change(log, row)

    async def ids(self, log: LogId, collection: str, *, after: Seq, upto: Seq) -> AsyncGenerator[IdText]:
        """The documents that events with `after < seq <= upto` are about: by text, each once."""
        last: str | None = None
        with translated("events can't be read"):
            async with self._find(_query(log, collection, after, upto), {"_id": 0, "i": 1}) as cursor:
                async for row in cursor:
                    if row["i"] != last:
                        last = row["i"]
                        yield IdText(row["i"])

    async def numbering(self, log: LogId, *, after: Seq, upto: Seq) -> AsyncGenerator[tuple[Seq, Group | None]]:
        """The numbers that are there with `after < seq <= upto`, in order, and the transactions they belong to."""
        bounds = {"$gt": {"l": log, "n": Int64(after)}, "$lte": {"l": log, "n": Int64(upto)}}
        with translated("events can't be read"):
            cursor = self._events.find({"_id": bounds}, {"g": 1}, sort=[("_id", ASCENDING)], batch_size=10 * _BATCH)
            async with cursor:
                async for row in cursor:
                    mark = row.get("g")
                    yield Seq(row["_id"]["n"]), Group(mark["id"], mark["n"], mark["of"]) if mark else None

    def _find(self, query: dict[str, Any], fields: dict[str, int]) -> AsyncCursor[dict[str, Any]]:
        order = [("i", ASCENDING), ("_id.n", ASCENDING)]
        return self._events.find(query, fields, sort=order, hint="by_document", batch_size=_BATCH)


def _query(log: LogId, collection: str, after: Seq, upto: Seq) -> dict[str, Any]:
    return {"_id.l": log, "c": collection, "_id.n": {"$gt": Int64(after), "$lte": Int64(upto)}}


def _change(log: LogId, row: dict[str, Any]) -> Change:
    seq = row["_id"]["n"]
    try:
        stored = stored_event(row)
        change = read_change(stored.body, unpacked(row.get("w")))
    except (Malformed, LookupError, TypeError, ValueError, AttributeError, zlib.error) as error:
        raise Damaged(f"event {log}:{seq} can't be read: {error}") from error
    said = (change.seq, change.collection, change.id, change.version)
    if said != (seq, row["c"], row["i"], row["v"]):
        raise Damaged(f"event {log}:{seq} says that it is {said}, and is stored as of {row['c']}/{row['i']}")
    return change
