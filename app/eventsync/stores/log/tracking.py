"""The registry of tracked collections: the collection `collections`, and each server's copy of it in memory.

`eventsync track` *asks* for a collection. The sequencer *activates* it at a point of the stream from which every change
has its images. Clients can write to it and subscribe to it only after that.

A worker that was deposed without noticing may append events without the changes of a collection that its successor has
activated. So the event right behind an activation names the collection, as `a`: only a worker that follows it can write
that event. An activation behind which another event stands is void, and the collection is activated again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from bson.int64 import Int64
from bson.timestamp import Timestamp
from pymongo import UpdateOne
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase

from eventsync.concurrency.waiting import set_within
from eventsync.domain.names import check_collection, not_tracked
from eventsync.domain.positions import LogId, Seq
from eventsync.errors import NotTracked, Unavailable
from eventsync.mongodb.errors import translated
from eventsync.stores.log.logs import NoLogYet

logger = logging.getLogger(__name__)

_UNTRACKED: Final = "it was untracked"

_LISTED: Final = 10
"""Most collections that a log line names."""


@dataclass(frozen=True, slots=True)
class TrackedCollection:
    """A collection that is asked for. Once active, it has a log, which contains its events after `tracked_from`.

    `refused` is the sequencer's reason for not tracking it. `time` is the cluster time of the checkpoint at which the
    collection became active. A snapshot from before that time is invalid, whatever its seq. An activation that is
    `fenced` is void unless the event behind it names the collection. Earlier versions made others.
    """

    name: str
    log: LogId | None
    tracked_from: Seq
    refused: str | None = None
    time: Timestamp | None = None
    fenced: bool = False

    def covers(self, seq: Seq, time: Timestamp) -> bool:
        """Return True if the log has all events after `seq`, which is cluster time `time`."""
        return seq >= self.tracked_from and (self.time is None or time >= self.time)


_MARK: Final = ""
"""The `_id` of the marker row, which is no collection. No eventsync command removes it."""

_REMEMBERED: Final = 1000
"""Most collections that the marker row names. With more, each counts as one that was active before."""


class TrackingStore:
    """The registry: `{_id: collection, log?, base?, time?, fenced?, refused?}`.

    Anyone may `ask`; the sequencer does all else.

    The marker row, `{_id: "", log, active}`, names all collections that have ever been active in the newest log, also
    those that are not asked for any more.
    """

    def __init__(self, database: AsyncDatabase[Any]) -> None:
        self._collections: AsyncCollection[Any] = database["collections"]

    async def ask(self, names: Iterable[str]) -> None:
        """Ask for collections to be tracked; an earlier refusal is removed. Raises `Malformed` for an invalid name."""
        await self._request(names, {"$unset": {"refused": ""}})

    async def ask_if_new(self, names: Iterable[str]) -> None:
        """Ask for those collections that are not in the registry. Raises `Malformed` for an invalid name."""
        await self._request(names, {"$setOnInsert": {}})

    async def _request(self, names: Iterable[str], change: Mapping[str, Any]) -> None:
        requests = [UpdateOne({"_id": check_collection(name)}, change, upsert=True) for name in names]
        if requests:
            with translated("the collections can't be tracked"):
                await self._collections.bulk_write(requests)

    async def forget(self, names: Iterable[str]) -> None:
        """Stop tracking collections. Their past events stay in the log."""
        with translated("the collections can't be untracked"):
            await self._collections.delete_many({"_id": {"$in": list(names)}})

    async def activate(
        self,
        names: Iterable[str],
        log: LogId,
        tracked_from: Seq,
        time: Timestamp | None = None,
        session: AsyncClientSession | None = None,
    ) -> None:
        """Declare that every change of these collections after `tracked_from`, which is cluster time `time`, is in
        `log`.

        A sequencer does so in the transaction of `LogStore.leading`: its successor, which would not know of them, has
        then read the registry before. A later activation stays.
        """
        base = Int64(tracked_from)
        active = {"$set": {"log": log, "base": base, "time": time, "fenced": True}, "$unset": {"refused": ""}}
        at_base = {"base": base, "time": {"$not": {"$gt": time}}} if time else {"base": base}
        not_later = {"$or": [{"log": {"$ne": log}}, {"base": {"$not": {"$gte": base}}}, at_base]}
        requests = [UpdateOne({"_id": name} | not_later, active) for name in names]
        if requests:
            with translated("the collections can't be activated"):
                await self._collections.bulk_write(requests, session=session)

    async def mark(self, log: LogId, names: Iterable[str], session: AsyncClientSession | None = None) -> None:
        """Record in the marker row that collections are active in `log`. Call it before clients can see them active.

        `is_marked` detects by the row that the registry was dropped or emptied. A sequencer calls it in the transaction
        of `LogStore.leading`, as `deactivate`: the mark of a former log would hide what was active in its successor.
        """
        known = {"$cond": [{"$eq": ["$log", log]}, {"$ifNull": ["$active", []]}, []]}
        # One more than are remembered: a full list shows that others are not in it.
        listed = {"$slice": [{"$setUnion": [known, {"$literal": list(names)}]}, _REMEMBERED + 1]}
        with translated("the registry of collections can't be marked"):
            change = [{"$set": {"log": log, "active": listed}}]
            await self._collections.update_one({"_id": _MARK}, change, upsert=True, session=session)

    async def once_active(self, log: LogId, names: Iterable[str]) -> list[str]:
        """Return those of `names` that may have been active in `log` before, sorted."""
        with translated("the tracked collections can't be read"):
            row = await self._collections.find_one({"_id": _MARK, "log": log}, {"active": 1})
        known = set(row.get("active", ())) if row else set[str]()
        return sorted(name for name in names if name in known or len(known) > _REMEMBERED)

    async def is_marked(self) -> bool:
        """Return True if the marker row exists."""
        with translated("the tracked collections can't be read"):
            return await self._collections.find_one({"_id": _MARK}, {"_id": 1}) is not None

    async def deactivate(self, names: Iterable[str], session: AsyncClientSession | None = None) -> None:
        """Declare that the log no longer gets changes of these collections. They stay asked for."""
        with translated("the collections can't be deactivated"):
            if listed := list(names):
                change = {"$unset": {"log": "", "base": "", "fenced": ""}}
                await self._collections.update_many({"_id": {"$in": listed}}, change, session=session)

    async def refuse(self, reasons: Mapping[str, str]) -> bool:
        """Record the reasons, by name, for not tracking collections. Return True if any reason is new."""
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
        """Remove the reasons that `refuse` recorded."""
        if listed := list(names):
            with translated("the collections can't be accepted"):
                await self._collections.update_many({"_id": {"$in": listed}}, {"$unset": {"refused": ""}})

    async def read(self) -> list[TrackedCollection]:
        """Return all collections in the registry, by name."""
        with translated("the tracked collections can't be read"):
            rows = await self._collections.find({"_id": {"$ne": _MARK}}, sort=[("_id", 1)]).to_list()
        return [
            TrackedCollection(
                row["_id"],
                row.get("log"),
                Seq(row.get("base", 0)),
                row.get("refused"),
                row.get("time"),
                row.get("fenced") is True,
            )
            for row in rows
        ]

    async def active(self, log: LogId) -> list[TrackedCollection]:
        """Return the collections that are active in `log`, by name."""
        return [item for item in await self.read() if item.log == log]


def inactive(name: str, *, asked: bool, refused: str | None) -> NotTracked | Unavailable:
    """Return the error for a collection that is not active in the log."""
    if refused:
        return NotTracked(f"the collection {name!r} can't be tracked: {refused}")
    if asked:
        return Unavailable(f"the collection {name!r} is about to be tracked: is a worker running?")
    return not_tracked(name)


class Tracking:
    """A server's copy of the registry. The feed replaces it as a whole when the registry or the log changes."""

    def __init__(self) -> None:
        self._tracked_from: Mapping[str, Seq] = MappingProxyType({})
        self._refused: Mapping[str, str] = MappingProxyType({})
        self._asked: frozenset[str] = frozenset()
        self._known = False
        self._log: LogId | None = None
        self._changed = asyncio.Event()

    def replace(self, log: LogId | None, collections: Iterable[TrackedCollection]) -> bool:
        """Replace the copy with `collections`, of which those in `log` are active. Return True if others are now."""
        listed = list(collections)
        self._known = True
        active = {item.name: item.tracked_from for item in listed if log and item.log == log}
        are_others = active != self._tracked_from
        if are_others:
            self._report_ended(log, active, {item.name: item.refused for item in listed})
        self._log = log
        self._tracked_from = MappingProxyType(active)
        self._refused = MappingProxyType({item.name: item.refused for item in listed if item.refused})
        self._asked = frozenset(item.name for item in listed)
        self.wake()
        return are_others

    def wake(self) -> None:
        """Have all that wait by `until` look again: what they wait for may be more than the registry and the log."""
        # A new event in place of `clear`: this one stays set for waiters that have not run yet.
        self._changed.set()
        self._changed = asyncio.Event()

    def _report_ended(self, log: LogId | None, active: Mapping[str, Seq], asked: Mapping[str, str | None]) -> None:
        """Log which collections this server no longer serves as before, and why. `asked` has reasons of refusals."""
        by_reason: dict[str, list[str]] = defaultdict(list)
        for name, before in self._tracked_from.items():
            if name in active and log == self._log:
                # It was not active for a while, which was over before the registry was read.
                if active[name] != before:
                    by_reason["it was tracked again"].append(name)
            elif name not in asked:
                by_reason[_UNTRACKED].append(name)
            elif refused := asked[name]:
                by_reason[refused].append(name)
            elif log != self._log:
                by_reason["there is no log any more" if log is None else f"log {log} has begun"].append(name)
            else:
                by_reason["its sequencing was interrupted, the worker's log says why"].append(name)
        for reason, names in by_reason.items():
            # An operator has asked for it.
            level = logging.INFO if reason == _UNTRACKED else logging.WARNING
            logger.log(level, "not served as before: %s: %s", _listed(sorted(names)), reason)

    def has_all_after(self, name: str, seq: Seq) -> bool:
        """Return True if a collection is active and all of its events after `seq` are in the log."""
        tracked_from = self._tracked_from.get(name)
        return tracked_from is not None and tracked_from <= seq

    def is_pending(self, name: str) -> bool:
        """Return True if a collection is asked for but not active yet, as at first and after each new log."""
        return name in self._asked and name not in self._tracked_from and name not in self._refused

    async def until(self, reached: Callable[[], bool], seconds: float) -> None:
        """Wait until `reached` returns True after a change of the registry or the log, for at most `seconds`.

        If it also asks for something else, `wake` has to be called when that changes.
        """
        deadline = time.monotonic() + seconds
        while not reached() and await set_within(self._changed, deadline - time.monotonic()):
            continue

    def __contains__(self, name: str) -> bool:
        """Return True if a collection is active."""
        return name in self._tracked_from

    @property
    def names(self) -> list[str]:
        """The names of the active collections, sorted."""
        return sorted(self._tracked_from)

    @property
    def refused(self) -> Mapping[str, str]:
        """The reasons, by name, for collections that cannot be tracked."""
        return self._refused

    def require(self, name: str) -> None:
        """Raise `Malformed` for an invalid name, and `NotTracked` for a collection that is not tracked.

        Raises `Unavailable` between the request and the activation, which includes the start of each new log. Also
        raises it before the registry was read, and before the first worker has run.
        """
        self.tracked_from(name)

    def tracked_from(self, name: str) -> Seq:
        """Return the seq after which the collection's events are in the log. Raises as `require`."""
        if (tracked_from := self._tracked_from.get(check_collection(name))) is None:
            if not self._known:
                raise Unavailable("which collections are tracked is not known yet: MongoDB was not reached")
            asked = name in self._asked
            if not asked and self._log is None:
                # The first worker tracks the collections of its settings.
                raise NoLogYet
            raise inactive(name, asked=asked, refused=self._refused.get(name))
        return tracked_from


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {more} more" if more > 0 else "")
