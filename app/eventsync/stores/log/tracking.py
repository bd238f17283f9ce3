"""Which collections are tracked: the `collections` collection, and each server's copy of it in memory.

`eventsync track` *asks* for a collection; the sequencer *activates* it, at a point of the stream from which on every
change has its images. From then on, and not before, it can be written through the API and subscribed to.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from bson.int64 import Int64
from bson.timestamp import Timestamp
from pymongo import UpdateOne
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase

from eventsync.concurrency.waiting import set_within
from eventsync.domain.positions import LogId, Seq
from eventsync.domain.shapes import check_collection, not_tracked
from eventsync.errors import NotTracked, Unavailable
from eventsync.mongodb.errors import translated
from eventsync.stores.log.logs import NoLogYet


@dataclass(frozen=True, slots=True)
class TrackedCollection:
    """A collection that is asked for, and, once active, the log and the seq from which on its events are there.

    `refused` is why it can't be tracked, where the sequencer has found that it can't. `time` is the cluster time of
    the checkpoint from which on it is active: what was stored of it before says nothing, whatever its seq.
    """

    name: str
    log: LogId | None
    tracked_from: Seq
    refused: str | None = None
    time: Timestamp | None = None

    def tells(self, seq: Seq, time: Timestamp) -> bool:
        """Whether the events after `seq`, which is cluster time `time`, are all there."""
        return seq >= self.tracked_from and (self.time is None or time >= self.time)


_MARK = ""
"""The `_id` of the row that is no collection. No command of ours removes it."""


class TrackingStore:
    """The registry, `{_id: collection, log?, tracked_from?, refused?}`. Asking is anybody's, all else the
    sequencer's.
    """

    def __init__(self, database: AsyncDatabase[Any]) -> None:
        self._collections: AsyncCollection[Any] = database["collections"]

    async def ask(self, names: Iterable[str]) -> None:
        """Ask for collections to be tracked. Raises `Malformed` for a name that can't be."""
        checked = [check_collection(name) for name in names]
        if checked:
            # An earlier refusal says nothing any more: the sequencer looks again.
            asked = {"$unset": {"refused": ""}}
            with translated("the collections can't be tracked"):
                await self._collections.bulk_write([UpdateOne({"_id": name}, asked, upsert=True) for name in checked])

    async def forget(self, names: Iterable[str]) -> None:
        """Have collections tracked no longer. Their past events stay in the log."""
        with translated("the collections can't be untracked"):
            await self._collections.delete_many({"_id": {"$in": list(names)}})

    async def activate(
        self, names: Iterable[str], log: LogId, tracked_from: Seq, time: Timestamp | None = None
    ) -> None:
        """Declare that every change of these collections after `tracked_from`, which is cluster time `time`, is in
        `log`.
        """
        active = {"$set": {"log": log, "base": Int64(tracked_from), "time": time}, "$unset": {"refused": ""}}
        requests = [UpdateOne({"_id": name}, active) for name in names]
        if requests:
            with translated("the collections can't be activated"):
                await self._collections.bulk_write(requests)

    async def mark(self) -> None:
        """Leave a mark by which `is_marked` tells this registry from one that somebody has dropped or emptied."""
        with translated("the registry of collections can't be marked"):
            await self._collections.update_one({"_id": _MARK}, {"$setOnInsert": {"_id": _MARK}}, upsert=True)

    async def is_marked(self) -> bool:
        """Tell whether the mark is still there."""
        with translated("the tracked collections can't be read"):
            return await self._collections.find_one({"_id": _MARK}, {"_id": 1}) is not None

    async def deactivate(self, names: Iterable[str]) -> None:
        """Declare that changes of these collections are in the log no longer; they stay asked for."""
        with translated("the collections can't be deactivated"):
            if listed := list(names):
                await self._collections.update_many({"_id": {"$in": listed}}, {"$unset": {"log": "", "base": ""}})

    async def refuse(self, reasons: Mapping[str, str]) -> bool:
        """Record why collections can't be tracked: name → reason. Whether any of it is new."""
        requests = [
            UpdateOne({"_id": name, "refused": {"$ne": reason}}, {"$set": {"refused": reason}})
            for name, reason in reasons.items()
        ]
        if not requests:
            return False
        with translated("the refused collections can't be recorded"):
            result = await self._collections.bulk_write(requests)
        return result.modified_count > 0

    async def accept(self, names: Iterable[str]) -> None:
        """Take back what `refuse` recorded."""
        if listed := list(names):
            with translated("the collections can't be accepted"):
                await self._collections.update_many({"_id": {"$in": listed}}, {"$unset": {"refused": ""}})

    async def read(self) -> list[TrackedCollection]:
        """All of them, by name."""
        with translated("the tracked collections can't be read"):
            rows = await self._collections.find({"_id": {"$ne": _MARK}}, sort=[("_id", 1)]).to_list()
        return [
            TrackedCollection(row["_id"], row.get("log"), Seq(row.get("base", 0)), row.get("refused"), row.get("time"))
            for row in rows
        ]


def inactive(name: str, *, asked: bool, refused: str | None) -> NotTracked | Unavailable:
    """Return the error for a collection that is not active in the log."""
    if refused:
        return NotTracked(f"the collection {name!r} can't be tracked: {refused}")
    if asked:
        return Unavailable(f"the collection {name!r} is about to be tracked: is a worker running?")
    return not_tracked(name)


class Tracking:
    """A server's copy, replaced as a whole by the feed when the registry or the log changes."""

    def __init__(self) -> None:
        self._tracked_from: Mapping[str, Seq] = MappingProxyType({})
        self._refused: Mapping[str, str] = MappingProxyType({})
        self._asked: frozenset[str] = frozenset()
        self._known = False
        self._begun = False
        self._changed = asyncio.Event()

    def replace(self, log: LogId | None, collections: Iterable[TrackedCollection]) -> None:
        """Take over the registry: what is active in `log`."""
        listed = list(collections)
        self._known = True
        self._begun = log is not None
        self._tracked_from = MappingProxyType(
            {item.name: item.tracked_from for item in listed if log and item.log == log}
        )
        self._refused = MappingProxyType({item.name: item.refused for item in listed if item.refused})
        self._asked = frozenset(item.name for item in listed)
        self._changed.set()
        self._changed = asyncio.Event()

    def is_pending(self, name: str) -> bool:
        """Tell whether a collection is asked for and about to be active, as at first and whenever a new log begins."""
        return name in self._asked and name not in self._tracked_from and name not in self._refused

    async def until(self, reached: Callable[[], bool], seconds: float) -> None:
        """Wait for a change of the registry, or of the log, that brings something about; at most so long."""
        deadline = time.monotonic() + seconds
        while not reached() and await set_within(self._changed, deadline - time.monotonic()):
            continue

    def __contains__(self, name: str) -> bool:
        """Whether a collection is active."""
        return name in self._tracked_from

    @property
    def names(self) -> list[str]:
        """The active collections, by name."""
        return sorted(self._tracked_from)

    @property
    def refused(self) -> Mapping[str, str]:
        """The collections that are asked for and can't be tracked: name → why."""
        return self._refused

    def require(self, name: str) -> None:
        """Raises `Malformed` for a name that no collection can have, `NotTracked` where it is not tracked.

        Between the asking and the activation, at first and whenever a new log begins, it raises `Unavailable`. It does
        so, too, before the registry was read and before the first worker has run.
        """
        self.tracked_from(name)

    def tracked_from(self, name: str) -> Seq:
        """The seq from which on the collection's events are in the log. Raises like `require`."""
        if (tracked_from := self._tracked_from.get(check_collection(name))) is None:
            if not self._known:
                raise Unavailable("which collections are tracked is not known yet: MongoDB was not reached")
            asked = name in self._asked
            if not asked and not self._begun:
                # The first worker tracks the collections of its settings.
                raise NoLogYet
            raise inactive(name, asked=asked, refused=self._refused.get(name))
        return tracked_from
