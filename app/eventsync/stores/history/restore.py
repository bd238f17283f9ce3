"""A new collection with what a tracked one was at a position: what `eventsync restore` does.

It is built under another name, in the same database, and renamed when it is whole: under its own name it is either not
there or complete. From the newest stored snapshot before the position, and all events from there on, in their order.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import OperationFailure

from eventsync.domain.bson_scan.opaque import encode
from eventsync.domain.positions import Position
from eventsync.domain.replay import Change, Damaged
from eventsync.domain.shapes import Shape, check_collection
from eventsync.errors import Conflict, Unavailable
from eventsync.mongodb.clocks import from_now, is_past
from eventsync.mongodb.errors import translated
from eventsync.mongodb.leases import RenewalTimer
from eventsync.stores.history.restore_target import RestoreTarget
from eventsync.stores.snapshots.pins import Pin
from eventsync.stores.snapshots.store import StoredSnapshot
from eventsync.stores.stores import Stores

_BATCH = 500
_BATCH_BYTES = 4 * 1024 * 1024
"""Most events, and bytes of what they carry, in one batch; one event may exceed it."""

_EXISTS = 48
"""NamespaceExists."""

Advance = Callable[[int], object]
"""Called with the number of documents or of events that were written since the last call."""


@dataclass(frozen=True, slots=True)
class RestoreSource:
    """What a restore is made of: a snapshot, and the events after it up to `position`, in that order."""

    position: Position
    snapshot: StoredSnapshot


@dataclass(frozen=True, slots=True)
class Restored:
    """What was made."""

    into: str
    position: Position
    documents: int


class Restore:
    """Restores collections.

    Every method raises `NoBase`, `Damaged` and `Unavailable`, and `BehindHorizon` for events that are not kept.
    """

    def __init__(self, stores: Stores) -> None:
        self._stores = stores
        self._restores = Restores(stores.data, stores.log, stores.pins.ttl)

    async def unfinished(self) -> list[str]:
        """Remove what restores that have died were building; the names of what others still build."""
        return await self._restores.sweep()

    async def source(self, collection: str, position: Position) -> RestoreSource:
        """What `run` would use."""
        return RestoreSource(position, await self._stores.state.base(position.log, collection, position.seq))

    async def run(self, source: RestoreSource, into: str, advance: Advance = lambda _: None) -> Restored:
        """Make the collection `into`.

        Raises `Conflict` where there is one, or it is tracked; `Malformed` for a name that no collection can have.
        """
        check_collection(into)
        await self._check_untracked(into)
        await self._check_absent(into)
        async with self._held(source) as pin, self._built(into) as (name, building):

            async def went_on(count: int) -> None:
                await pin.keep()
                await self._restores.keep(name)
                advance(count)

            async with aclosing(self._stores.stored.rows(source.snapshot)) as chunks:
                async for rows in chunks:
                    await building.insert(rows)
                    await went_on(len(rows))
            async with aclosing(self._changes(source)) as batches:
                async for changes in batches:
                    await building.change(changes)
                    await went_on(len(changes))
        return Restored(into, source.position, building.count)

    async def _check_absent(self, into: str) -> None:
        with translated("the collections can't be listed"):
            if await self._stores.data.list_collection_names(filter={"name": into}):
                raise _taken(into)

    async def _check_untracked(self, into: str) -> None:
        if into in {item.name for item in await self._stores.tracking.read()}:
            raise Conflict(f"{into} is a tracked collection: a restore makes a new one")

    @asynccontextmanager
    async def _held(self, source: RestoreSource) -> AsyncIterator[Pin]:
        found = source.snapshot
        async with self._stores.pins.held(found.log, found.seq, found.id) as pin:
            if await self._stores.stored.find(found.id) is None:
                raise Unavailable(f"snapshot {found.id} of {found.collection} was just retired; try again")
            yield pin

    @asynccontextmanager
    async def _built(self, into: str) -> AsyncIterator[tuple[str, RestoreTarget]]:
        """A collection, and its name for now, that becomes `into` after the block; nothing is left where that fails."""
        name = await self._restores.begin(into)
        try:
            building = RestoreTarget(self._stores.data, name)
            await building.create()
            yield name, building
            if (found := await building.counted()) != building.count:
                raise Damaged(f"{name} has {found} documents instead of {building.count}: somebody else wrote to it")
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
        """The events after the snapshot, in batches."""
        position, found = source.position, source.snapshot
        # What is behind the horizon was no event of this collection, or this snapshot would not be its newest.
        after = max(found.seq, (await self._stores.tiers.read(position.log)).horizon)
        shape, batch, size = Shape(found.collection), list[Change](), 0
        changes = self._stores.history.in_order(position.log, shape, after=after, up_to=position.seq)
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
    """About how many bytes of memory its values stand for."""
    return len(encode({"": change.document or change.patch}))


class Restores:
    """Keeps the entries. `data` is the user's database, `log` the log's."""

    def __init__(self, data: AsyncDatabase[Any], log: AsyncDatabase[Any], ttl: float) -> None:
        """`ttl` is in seconds: how long an entry outlives a restore that has died."""
        self._data = data
        self._entries: AsyncCollection[Any] = log["restores"]
        self._ttl = ttl
        self._renewals: dict[str, RenewalTimer] = {}

    async def begin(self, into: str) -> str:
        """Enter a restore into `into`; the name to build it under. Raises `Malformed` where `into` can't be a name."""
        name = f"{check_collection(into)}.restoring-{secrets.token_hex(4)}"
        check_collection(name)
        with translated("the restore can't be recorded"):
            fields = {"into": {"$literal": into}} | self._until()
            await self._entries.update_one({"_id": name}, [{"$set": fields}], upsert=True)
        self._renewals[name] = RenewalTimer(self._ttl)
        return name

    async def keep(self, name: str, *, now: bool = False) -> None:
        """Call it as the work goes on: nearly free, until a quarter of the time to live has passed; or `now`.

        Raises `Unavailable` where another one has taken this restore for dead.
        """
        if not now and not self._renewals[name].is_due:
            return
        with translated("the restore can't be recorded"):
            result = await self._entries.update_one({"_id": name}, [{"$set": self._until()}])
        if not result.matched_count:
            raise Unavailable(f"{name} was removed: this restore was idle for too long")
        self._renewals[name].restart()

    async def sweep(self) -> list[str]:
        """Remove what has run out; returns the names of what is still being built, or was until a moment ago."""
        dead = is_past("until")
        with translated("restores that were broken off can't be removed"):
            for row in await self._entries.find(dead, {"_id": 1}).to_list():
                # Renewed meanwhile, it is left alone; removed, its owner can no longer make a collection of it.
                if (await self._entries.delete_one(dead | {"_id": row["_id"]})).deleted_count:
                    await self._data[row["_id"]].drop()
            return [row["_id"] async for row in self._entries.find({}, {"_id": 1}, sort=[("_id", 1)])]

    async def end(self, name: str) -> None:
        """It is done, or given up: what is still there under that name is removed."""
        with translated(f"{name} can't be removed"):
            await self._data[name].drop()
            await self._entries.delete_one({"_id": name})

    def _until(self) -> dict[str, Any]:
        return {"until": from_now(self._ttl)}
