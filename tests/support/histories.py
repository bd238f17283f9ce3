"""Random histories of a collection: writes of the API's kind and from elsewhere, with everything that is awkward."""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Any

from bson.binary import Binary
from bson.int64 import Int64
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import AutoReconnect, DuplicateKeyError

from eventsync.domain.ids import IdText, format_id
from eventsync.domain.positions import LogId, Seq
from eventsync.domain.replay import State
from eventsync.domain.stamp import unversioned
from eventsync.domain.values.extended_json import CODEC, Document, decode
from eventsync.mongodb.change_stream import watch
from eventsync.stores.log.logs import Checkpoint
from eventsync.stores.snapshots.store import StoredSnapshot
from eventsync.stores.stores import Stores
from support.documents import LEAVES
from support.waiting import within

_VALUES: tuple[Any, ...] = (
    *LEAVES, Int64(0), Int64(-5), {"$x": Int64(3)}, {"$numberLong": "7"}, [Int64(1), 1, 1.0], {"a": {"b": Int64(9)}},
    Binary(b"short", 4), {"a.b": 1, "": Int64(2)}, [[], [Int64(4)]],
)  # fmt: skip
_KEYS: tuple[Any, ...] = (*range(12), *(f"k{n}" for n in range(6)), {"x": Int64(1)}, {"x": 2.5}, b"\x00\x01", True)


@dataclass
class History:
    """Writes by the driver to documents with these `keys`.

    `stamped`: also those of the API's kind, with a stamp. Documents that the API writes need their own stamps.
    """

    documents: AsyncCollection[Any]
    choose: random.Random
    keys: Sequence[Any] = _KEYS
    values: Sequence[Any] = _VALUES
    stamped: bool = True
    count: int = 0
    _versions: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, stores: Stores, name: str, seed: int, **options: Any) -> History:
        return cls(stores.data.get_collection(name, codec_options=CODEC), random.Random(seed), **options)

    async def run(self, writes: int) -> None:
        """Write while others write, too."""
        for _ in range(writes):
            with suppress(AutoReconnect, DuplicateKeyError):
                await self.write()

    async def write(self) -> None:
        """Make one write, or one transaction of a few."""
        if self.choose.random() > 0.3:
            await self._write(None)
            return
        async with self.documents.database.client.start_session() as session:
            await session.with_transaction(self._transact)

    async def _transact(self, session: AsyncClientSession) -> None:
        for _ in range(self.choose.randrange(1, 6)):
            await self._write(session)

    async def _write(self, session: Any) -> None:
        self.count += 1
        key = self.choose.choice(self.keys)
        query = {"_id": {"$eq": key}}
        kind = self.choose.randrange(8)
        if kind == 0:
            await self.documents.delete_one(query, session=session)
        elif kind in {1, 2}:
            await self.documents.replace_one(query, self._document(key), upsert=True, session=session)
        else:
            await self.documents.update_one(query, self._update(kind), upsert=kind != 4, session=session)

    def _document(self, key: Any) -> Document:
        document = {"_id": key} | {name: self._value() for name in self.choose.sample("abcdef", 3)}
        return document | ({"_sync": self._stamp(key)} if self.stamped and self.choose.random() < 0.6 else {})

    def _update(self, kind: int) -> Any:
        name = self.choose.choice("abcdef")
        if kind == 4:
            return {"$unset": {name: ""}, "$set": {"n": self.count}}
        if kind == 5:
            return {"$set": {"n": self.choose.choice([self.count, Int64(self.count), float(self.count)])}}
        if kind == 6:
            # What was an int32 becomes the int64 of the same value, and the other way round.
            return [{"$set": {"n": {self.choose.choice(["$toLong", "$toInt"]): {"$literal": 5}}}}]
        if kind == 7:
            return [{"$set": {"list": {"$concatArrays": [{"$ifNull": ["$list", []]}, [{"$literal": self._value()}]]}}}]
        return {"$set": {name: self._value()} | ({"_sync": self._stamp(name)} if self.stamped else {})}

    def _value(self) -> Any:
        return self.choose.choice(self.values)

    def _stamp(self, key: Any) -> Document:
        self._versions[str(key)] = version = self._versions.get(str(key), 0) + 1
        return {"v": Int64(version), "op": f"op-{self.count}", "by": "history"}


async def newest_checkpoint(stores: Stores, log: LogId) -> Checkpoint:
    checkpoint = await stores.logs.read_checkpoint(log)
    assert checkpoint is not None
    return checkpoint


async def collection_at(stores: Stores, name: str, checkpoint: Checkpoint) -> dict[IdText, State]:
    """Return the collection at a checkpoint, from the collection itself."""
    found: dict[IdText, State] = {}
    async with aclosing(stores.snapshots.live.read(name, checkpoint.time)) as documents:
        async for raw in documents:
            version, document = unversioned(decode(raw))
            found[format_id(document["_id"])] = (version, document)
    return found


async def stored_at(stores: Stores, log: LogId, name: str, checkpoint: Checkpoint) -> StoredSnapshot:
    """A stored snapshot of the collection at a checkpoint."""

    async def documents() -> Any:
        async with aclosing(stores.snapshots.live.read(name, checkpoint.time)) as found:
            async for raw in found:
                yield unversioned(decode(raw))

    return await stores.snapshots.stored.write(log, name, checkpoint.seq, checkpoint.time, documents())


async def state_of(stores: Stores, log: LogId, name: str, up_to: Seq) -> dict[IdText, State]:
    """Return the collection as the log has it, by walking the log. Fail if a document comes twice."""
    found: dict[IdText, State] = {}
    async with aclosing(stores.history.state.walk(log, name, up_to)) as batches:
        async for rows in batches:
            for text, version, document in rows:
                assert text not in found, "each document once"
                found[text] = (version, document)
    return found


async def based(stores: Stores, log: LogId, name: str) -> StoredSnapshot:
    """Wait until a worker has stored the base of a collection."""
    async with within(20), watch(stores.log, [{"$match": {"ns.coll": "snapshots"}}]) as stream:
        while (found := await stores.snapshots.stored.newest(log, name)) is None:
            await stream.read(wait=1, limit=100)
    return found
