"""The writes that are sequenced: documents of a size, backlogs of them, and an open loop at a rate."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import bson
from bson.decimal128 import Decimal128
from bson.int64 import Int64
from bson.objectid import ObjectId
from pymongo import UpdateOne
from pymongo.asynchronous.collection import AsyncCollection

Collection = AsyncCollection[dict[str, Any]]

_WORDS = ("alpha", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel")
_BATCH = 1000


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of change: inserts of documents of `size` bytes, or small updates of such."""

    name: str
    size: int
    update: bool = False

    async def prepare(self, collection: Collection, count: int) -> None:
        """Insert the documents that updates change, before the changes are made."""
        if self.update:
            await _insert(collection, count, self.size)

    async def make(self, collection: Collection, count: int) -> None:
        """Make `count` changes, as fast as they go."""
        if self.update:
            for first in range(0, count, _BATCH):
                changes = [UpdateOne({"_id": number}, change(number)) for number in range(first, first + _BATCH)]
                await collection.bulk_write(changes, ordered=False)
        else:
            await _insert(collection, count, self.size)

    async def one(self, collection: Collection, number: int) -> None:
        """Make change `number` by itself."""
        if self.update:
            await collection.update_one({"_id": number}, change(number))
        else:
            await collection.insert_one(document(number, self.size))


def document(number: int, size: int) -> dict[str, Any]:
    """An order of about `size` bytes of BSON: flat fields of the usual types, an object, and a list of lines."""
    rng = random.Random(number)
    made: dict[str, Any] = {
        "_id": number,
        "status": rng.choice(_WORDS),
        "total": Decimal128("129.90"),
        "at": datetime(2026, 1, 1, 12, tzinfo=UTC),
        "customer": ObjectId(),
        "count": Int64(2**40 + number),
        "score": rng.random(),
        "address": {"street": "12 Long Street", "city": "Longtown", "open": True},
        "lines": [],
    }
    empty, line = len(bson.encode(made)), len(bson.encode(_line(rng)))
    made["lines"] = [_line(rng) for _ in range(max(0, size - empty) // (line + 8))]
    return made


def change(number: int) -> dict[str, Any]:
    """A small update: two fields of the many."""
    return {"$set": {"status": "paid", "address.city": f"Town {number}"}}


def _line(rng: random.Random) -> dict[str, Any]:
    return {"sku": f"{rng.choice(_WORDS)}-{rng.randrange(10**6)}", "qty": rng.randrange(100), "price": rng.random()}


async def _insert(collection: Collection, count: int, size: int) -> None:
    for first in range(0, count, _BATCH):
        documents = [document(number, size) for number in range(first, min(count, first + _BATCH))]
        await collection.insert_many(documents, ordered=False)


async def open_loop(count: int, rate: float, one: Callable[[int], Awaitable[None]]) -> dict[int, float]:
    """Do `one` for each number at its intended time, however long the others take; number → when it was done."""
    done: dict[int, float] = {}

    async def run(number: int) -> None:
        await one(number)
        done[number] = time.perf_counter()

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number in range(count):
            await asyncio.sleep(began + number / rate - time.perf_counter())
            group.create_task(run(number), name=f"write {number}")
    return done
