"""Pins: the claims of readers on data that must not be removed during their reads. The collection `pins`.

A reader pins first, and *then* checks that the data still exists: the snapshot is not hidden, the horizon is not beyond
the position. A remover first hides the snapshot or raises the horizon, and *then* reads the pins. So one of the two
always sees the other. All times are by MongoDB's clock.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from bson.int64 import Int64
from pymongo import ASCENDING, IndexModel
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase

from eventsync.domain.positions import LogId, Seq
from eventsync.errors import Unavailable
from eventsync.mongodb.clocks import from_now, is_ahead, literals
from eventsync.mongodb.errors import translated
from eventsync.mongodb.leases import RenewalTimer


@dataclass(frozen=True, slots=True)
class Pinned:
    """The data that the live pins of a log need: the events after `seq` (None: no events), and these snapshots."""

    seq: Seq | None
    snapshots: frozenset[str]


class Pin:
    """The pin of one reader."""

    def __init__(self, store: Pins, name: str) -> None:
        self._store = store
        self._name = name
        self._renewal = RenewalTimer(store.ttl)

    async def keep(self) -> None:
        """Renew the pin if a quarter of its time to live has passed. Call this often: it is nearly free.

        Raises `Unavailable` if the pin has expired, because the pinned data may be gone.
        """
        if self._renewal.is_due:
            await self._store.renew(self._name)
            self._renewal.restart()


class Pins:
    """The pins of all readers, `{_id, l: log, n: needs events after this seq, s: needs this snapshot, until}`."""

    def __init__(self, database: AsyncDatabase[Any], ttl: float) -> None:
        """`ttl` is the time that the pin of a dead reader stays, in seconds."""
        self._pins: AsyncCollection[Any] = database["pins"]
        self.ttl = ttl

    async def ensure_indexes(self) -> None:
        """Create the TTL index that removes expired pins."""
        with translated("the index of pins can't be made"):
            await self._pins.create_indexes([IndexModel([("until", ASCENDING)], name="expiry", expireAfterSeconds=0)])

    @asynccontextmanager
    async def held(self, log: LogId, seq: Seq | None, snapshot: str | None = None) -> AsyncIterator[Pin]:
        """Pin the events after `seq` (None: no events), and a snapshot if given, while the block runs.

        The caller must check inside the block that they still exist.
        """
        name = secrets.token_hex(8)
        row = {"l": log, "n": None if seq is None else Int64(seq), "s": snapshot}
        # Not an insert: only the pipeline of an update has MongoDB's time.
        with translated("what is being read can't be pinned"):
            change = [{"$set": literals(row) | {"until": from_now(self.ttl)}}]
            await self._pins.update_one({"_id": name}, change, upsert=True)
        try:
            yield Pin(self, name)
        finally:
            with suppress(Unavailable):  # then it expires
                await self._remove(name)

    async def renew(self, name: str) -> None:
        """Extend a live pin by another `ttl`. Raises `Unavailable` if it has expired."""
        live = {"_id": name} | is_ahead("until")
        with translated("a pin can't be renewed"):
            result = await self._pins.update_one(live, [{"$set": {"until": from_now(self.ttl)}}])
        if not result.matched_count:
            raise Unavailable("the reader was idle for too long: what it was reading may have been removed")

    async def pinned(self, log: LogId) -> Pinned:
        """Return the data that live pins need. Later pins see what the caller has hidden or raised before."""
        live = {"l": log} | is_ahead("until")
        with translated("the pins can't be read"):
            rows = await self._pins.find(live, {"n": 1, "s": 1}).to_list()
        seqs = [Seq(row["n"]) for row in rows if row["n"] is not None]
        return Pinned(min(seqs, default=None), frozenset(row["s"] for row in rows if row["s"] is not None))

    async def _remove(self, name: str) -> None:
        with translated("a pin can't be removed"):
            await self._pins.delete_one({"_id": name})
