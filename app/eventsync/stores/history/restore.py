"""Restores: a new collection with the state of a tracked one at a position.

A restore starts from the newest stored snapshot before the position and applies the events after it, in order. It
builds the collection under another name, in the same database, and renames it when it is complete. So under its final
name the collection is either absent or complete.

The collection `restores` has a record of each running restore, `{_id: the collection being built, into, until, dead?}`.
A restore that dies leaves its record and its unfinished collection. Both are removed once the record has expired by
MongoDB's clock: by a worker, or by the next restore.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import OperationFailure

from eventsync.domain.bson_scan.opaque import encode
from eventsync.domain.names import MAX_COLLECTION_BYTES, check_collection
from eventsync.domain.positions import Position
from eventsync.domain.replay import Change, Damaged
from eventsync.domain.shapes import Shape
from eventsync.errors import Conflict, Malformed, Unavailable
from eventsync.mongodb.clocks import from_now, is_past
from eventsync.mongodb.errors import Barred, translated
from eventsync.mongodb.leases import RenewalTimer
from eventsync.stores.history.restore_target import RestoreTarget
from eventsync.stores.snapshots.pins import Pin
from eventsync.stores.snapshots.store import StoredSnapshot
from eventsync.stores.stores import Stores

logger = logging.getLogger(__name__)

_BATCH = 500
_BATCH_BYTES = 4 * 1024 * 1024
"""Most events, and bytes of their content, in one batch. A single event may exceed it."""

_EXISTS = 48
"""NamespaceExists."""

_BESIDE = ".restoring-"
_MAX_TARGET = MAX_COLLECTION_BYTES - len(_BESIDE) - 8

Advance = Callable[[int], object]
"""Called with the number of documents or of events that were written since the last call."""


@dataclass(frozen=True, slots=True)
class RestoreSource:
    """The source of a restore: a snapshot, and the events after it up to `position`."""

    position: Position
    snapshot: StoredSnapshot


@dataclass(frozen=True, slots=True)
class Restored:
    """The result of a restore."""

    into: str
    position: Position
    documents: int


def check_target(into: object) -> str:
    """Return the name of a collection that a restore may make. Raises `Malformed`."""
    name = check_collection(into)
    if len(name.encode()) > _MAX_TARGET:
        raise Malformed(f"the new collection has a name of at most {_MAX_TARGET} bytes: it is built under a longer one")
    return name


class Restore:
    """Restores collections.

    Every method raises `NoBase`, `Damaged` and `Unavailable`, and `BehindHorizon` for events that are no longer kept.
    """

    def __init__(self, stores: Stores) -> None:
        self._stores = stores
        self._restores = Restores(stores.data, stores.log, stores.snapshots.pins.ttl)

    async def unfinished(self) -> list[str]:
        """Remove the leftovers of dead restores. Return the names of the collections that others are building."""
        return await self._restores.sweep()

    async def source(self, collection: str, position: Position) -> RestoreSource:
        """Return the source that `run` takes for a collection at a position."""
        return RestoreSource(position, await self._stores.history.state.base(position.log, collection, position.seq))

    async def run(self, source: RestoreSource, into: str, advance: Advance = lambda _: None) -> Restored:
        """Create the collection `into`.

        Raises `Conflict` if it exists or is tracked, and `Malformed` for an invalid name.
        """
        check_target(into)
        await self._check_untracked(into)
        await self._check_absent(into)
        async with self._held(source) as pin, self._built(into) as (name, building):

            async def advanced(count: int) -> None:
                await pin.keep()
                await self._restores.keep(name)
                advance(count)

            async with aclosing(self._stores.snapshots.stored.rows(source.snapshot)) as chunks:
                async for rows in chunks:
                    await building.insert(rows)
                    await advanced(len(rows))
            async with aclosing(self._changes(source)) as batches:
                async for changes in batches:
                    await building.change(changes)
                    await advanced(len(changes))
        return Restored(into, source.position, building.count)

    async def _check_absent(self, into: str) -> None:
        if await self._stores.has_collection(into):
            raise _taken(into)

    async def _check_untracked(self, into: str) -> None:
        if into in {item.name for item in await self._stores.tracking.read()}:
            raise Conflict(f"{into} is a tracked collection: a restore makes a new one")

    @asynccontextmanager
    async def _held(self, source: RestoreSource) -> AsyncIterator[Pin]:
        snapshot = source.snapshot
        async with self._stores.snapshots.pins.held(snapshot.log, snapshot.seq, snapshot.id) as pin:
            if await self._stores.snapshots.stored.find(snapshot.id) is None:
                raise Unavailable(f"snapshot {snapshot.id} of {snapshot.collection} was just retired; try again")
            yield pin

    @asynccontextmanager
    async def _built(self, into: str) -> AsyncIterator[tuple[str, RestoreTarget]]:
        """Give a collection under a temporary name, and rename it to `into` after the block. A failure removes it."""
        name = await self._restores.begin(into)
        try:
            building = RestoreTarget(self._stores.data, name)
            await building.create()
            yield name, building
            if (stored_count := await building.counted()) != building.count:
                raise Damaged(
                    f"{name} has {stored_count} documents instead of {building.count}: somebody else wrote to it"
                )
            # Another restore may have taken this one for dead, and removed its record: then it must not be renamed.
            await self._restores.keep(name, now=True)
            await self._check_untracked(into)
            await self._rename(name, into)
        finally:
            with suppress(Unavailable):  # then the next restore removes it
                await self._restores.end(name)

    async def _rename(self, name: str, into: str) -> None:
        with translated(f"{name} can't be renamed to {into}"):
            try:
                await self._stores.data[name].rename(into)
            except OperationFailure as error:
                if error.code == _EXISTS:
                    raise _taken(into) from error
                raise

    async def _changes(self, source: RestoreSource) -> AsyncGenerator[list[Change]]:
        """Yield the changes after the snapshot, in batches."""
        position, snapshot = source.position, source.snapshot
        # If an event up to the horizon were of this collection, there would be a newer snapshot of it.
        after = max(snapshot.seq, (await self._stores.tiers.read(position.log)).horizon)
        shape, batch, size = Shape(snapshot.collection), list[Change](), 0
        changes = self._stores.history.reader.in_order(position.log, shape, after=after, up_to=position.seq)
        async with aclosing(changes):
            async for change in changes:
                batch.append(change)
                size += _size(change)
                if len(batch) >= _BATCH or size >= _BATCH_BYTES:
                    yield batch
                    batch, size = [], 0
        if batch:
            yield batch


def _taken(into: str) -> Conflict:
    return Conflict(f"there is a collection {into} already: a restore makes a new one")


def _size(change: Change) -> int:
    """Return the approximate size of a change in bytes."""
    return len(encode({"": change.document or change.patch}))


class Restores:
    """The records of running restores. `data` is the user's database, `log` the log's."""

    def __init__(self, data: AsyncDatabase[Any], log: AsyncDatabase[Any], ttl: float) -> None:
        """`ttl` is the time that the record of a dead restore stays, in seconds."""
        self._data = data
        self._entries: AsyncCollection[Any] = log["restores"]
        self._ttl = ttl
        self._renewals: dict[str, RenewalTimer] = {}

    async def begin(self, into: str) -> str:
        """Record a restore. Return the temporary name of its collection. Raises `Malformed` for an invalid `into`."""
        name = f"{check_target(into)}{_BESIDE}{secrets.token_hex(4)}"
        with translated("the restore can't be recorded"):
            fields = {"into": {"$literal": into}} | self._until()
            await self._entries.update_one({"_id": name}, [{"$set": fields}], upsert=True)
        self._renewals[name] = RenewalTimer(self._ttl)
        return name

    async def keep(self, name: str, *, now: bool = False) -> None:
        """Renew the record if a quarter of its time to live has passed, or `now`. Call this often: it is nearly free.

        Raises `Unavailable` if another restore has removed this one as dead.
        """
        if not now and not self._renewals[name].is_due:
            return
        with translated("the restore can't be recorded"):
            result = await self._entries.update_one({"_id": name, "dead": {"$ne": True}}, [{"$set": self._until()}])
        if not result.matched_count:
            raise Unavailable(f"{name} was removed: this restore was idle for too long")
        self._renewals[name].restart()

    async def sweep(self) -> list[str]:
        """Remove expired restores, except those that MongoDB does not let this user remove.

        Return the names of the collections in the remaining records.
        """
        dead = is_past("until")
        with translated("restores that were broken off can't be removed"):
            for row in await self._entries.find(dead, {"dead": 1}).to_list():
                # A record that was renewed meanwhile stays. The owner of a dead one cannot finish its restore.
                if (await self._entries.update_one(dead | {"_id": row["_id"]}, {"$set": {"dead": True}})).matched_count:
                    try:
                        await self.end(row["_id"])
                    except Barred as error:
                        # It stays among the records. A process whose user may do it removes it.
                        if "dead" not in row:
                            logger.warning("%s", error.diagnosis)
            return [row["_id"] async for row in self._entries.find({}, {"_id": 1}, sort=[("_id", 1)])]

    async def end(self, name: str) -> None:
        """Remove the record, and the collection with the temporary name if it still exists."""
        with translated(f"{name} can't be removed"):
            # MongoDB refuses a drop without the privilege even if there is nothing to drop.
            if await self._data.list_collection_names(filter={"name": name}):
                await self._data[name].drop()
            # The record goes last: without it, nobody would find the collection.
            await self._entries.delete_one({"_id": name})

    def _until(self) -> dict[str, Any]:
        return {"until": from_now(self._ttl)}
