"""Writes of every kind to one collection, behind the API and in its way, from one seed."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Any

from bson import ObjectId
from pymongo import InsertOne, UpdateOne

from eventsync.domain.stamp import Stamp
from eventsync.domain.values.extended_json import CODEC
from eventsync.mongodb.client import Client

Write = Callable[[], Awaitable[object]]


def random_writes(client: Client, database: str, name: str, seed: int, *, documents: int = 20) -> Write:
    """Makes one random write at each call; transactions among them."""
    rng = random.Random(seed)
    docs = client[database].get_collection(name, codec_options=CODEC)

    async def write() -> None:
        key, kind = rng.randrange(documents), rng.random()
        if kind < 0.5:
            update = {"$inc": {"n": 1}, "$push": {"l": {"$each": [rng.random()], "$slice": -5}}}
            await docs.update_one({"_id": key}, update, upsert=True)
        elif kind < 0.6:
            await docs.delete_one({"_id": key})
        elif kind < 0.7:
            await docs.replace_one({"_id": key}, {"r": rng.random(), "oid": ObjectId()}, upsert=True)
        elif kind < 0.8:
            await stamped(key)
        else:
            count = rng.randrange(2, 6)
            async with client.start_session() as session:
                await session.with_transaction(lambda session: transact(session, count))

    async def stamped(key: int) -> None:
        """As the API writes: on the version that was read."""
        found = await docs.find_one({"_id": key}, {"_sync": 1})
        if found is not None:
            was = Stamp.of(found)
            now = Stamp(was.version + 1, str(ObjectId()), "ann").stored()
            guard = {"_id": key, "_sync.v": was.version or {"$exists": False}}
            await docs.update_one(guard, {"$set": {"api": rng.random(), "_sync": now}})

    async def transact(session: Any, count: int) -> None:
        requests = [UpdateOne({"_id": rng.randrange(documents)}, {"$inc": {"t": 1}}, upsert=True) for _ in range(count)]
        await docs.bulk_write([*requests, InsertOne({"_id": ObjectId()})], session=session)

    return write
