"""The floors: what the driver and MongoDB cost with nothing of ours around them."""

from __future__ import annotations

import time
from typing import Any

from bson.raw_bson import RawBSONDocument
from pymongo import ASCENDING, IndexModel
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase

from eventsync.domain.values.extended_json import RAW_CODEC
from eventsync.mongodb.change_stream import watch

_BATCH = 1000


async def read_only(database: AsyncDatabase[Any], after: str, count: int, *, images: bool) -> float:
    """Seconds in which a bare change stream brings `count` changes that are only counted, never looked into."""
    async with watch(database, [{"$match": {"ns.coll": "docs"}}], after=after, images=images) as stream:
        left = count - len((await stream.read(wait=1.0, limit=1)).changes)
        began = time.perf_counter()
        while left > 0:
            left -= len((await stream.read(wait=1.0, limit=_BATCH)).changes)
        return time.perf_counter() - began


async def insert_only(events: AsyncCollection[Any]) -> float:
    """Seconds for bare ordered inserts of the same rows, into a collection with the same indexes."""
    raw: AsyncCollection[RawBSONDocument] = events.with_options(codec_options=RAW_CODEC)
    copy = raw.database["floor"]
    keys = [("_id.l", ASCENDING), ("c", ASCENDING), ("i", ASCENDING), ("_id.n", ASCENDING)]
    await copy.create_indexes([IndexModel(keys)])
    taken = 0.0
    # Only the inserts count, and no more than a batch of the rows is held.
    async with raw.find().sort("_id").batch_size(_BATCH) as rows:
        while batch := await rows.to_list(_BATCH):
            began = time.perf_counter()
            await copy.insert_many(batch, ordered=True)
            taken += time.perf_counter() - began
    return taken
