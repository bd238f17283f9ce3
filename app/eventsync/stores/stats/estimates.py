"""Estimates for the planner: sizes and counts. They may be wrong; no answer depends on them for exactness."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Hashable, Iterable
from typing import Any

from bson.int64 import Int64
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase

from eventsync.domain.event_key import event_key
from eventsync.domain.plan import CollectionSize
from eventsync.domain.positions import LogId, Seq
from eventsync.domain.shapes import Shape
from eventsync.mongodb.errors import translated
from eventsync.stores.log.hot_tier import BY_ROUTE

MAX_EVENTS = 1000
"""The limit for counting one document's events. With more of them, its present state is the better answer."""

_MAX_TOUCHED = 1_000_000
_PAIRS = 32
_MIN_SAMPLE, _MAX_SAMPLE = 100, 10_000
"""The sample of events from which the number of documents in a range is estimated.

The sample is large enough to meet about `_PAIRS` documents twice if there were half as many documents as events. With
fewer pairs the estimate is too uncertain. A larger sample would cost more than a wrong plan.
"""


class Estimates:
    """Cheap counts of what MongoDB holds: an index scan, a bounded sample, or metadata. Raises `Unavailable`."""

    def __init__(self, data: AsyncDatabase[Any], log: AsyncDatabase[Any]) -> None:
        self._data = data
        self._events: AsyncCollection[Any] = log["events"]
        self._touched: AsyncCollection[Any] = log["touched"]

    async def size(self, collection: str) -> CollectionSize:
        """Return the documents and the BSON bytes of a collection. (The size as JSON is about the same.)"""
        with translated(f"the size of {collection} can't be read"):
            stats = await self._data.command({"collStats": collection})
        return CollectionSize(int(stats.get("count", 0)), int(stats.get("size", 0)))

    async def of_document(self, log: LogId, shape: Shape, *, after: Seq) -> int:
        """Count the document's events in MongoDB with `after < seq`, up to `MAX_EVENTS`."""
        query = {"_id.l": log, "c": shape.collection, "i": shape.id, "_id.n": {"$gt": Int64(after)}}
        with translated(f"the events of {shape} can't be counted"):
            return await self._events.count_documents(query, limit=MAX_EVENTS, hint="by_document")

    async def of_route(self, log: LogId, keys: Iterable[bytes], *, after: Seq) -> int:
        """Count the events in MongoDB with `after < seq` that have one of these keys, up to `MAX_EVENTS`."""
        query = {"_id.l": log, "k": {"$in": sorted(keys)}, "_id.n": {"$gt": Int64(after)}}
        with translated("the events of a route can't be counted"):
            return await self._events.count_documents(query, limit=MAX_EVENTS, hint=BY_ROUTE)

    async def touched(self, log: LogId, collection: str, *, after: Seq, up_to: Seq, archived_up_to: Seq) -> int:
        """Estimate the number of documents with events `after < seq <= up_to`, archived ones included."""
        archived = await self._archived(log, collection, after) if after < archived_up_to else 0
        first = max(after, archived_up_to) + 1
        return archived + (await self._sampled(log, collection, range(first, up_to + 1)) if up_to >= first else 0)

    async def _archived(self, log: LogId, collection: str, after: Seq) -> int:
        query = {"_id.l": log, "_id.c": collection, "n": {"$gt": Int64(after)}}
        with translated(f"the touched documents of {collection} can't be counted"):
            return await self._touched.count_documents(query, limit=_MAX_TOUCHED)

    async def _sampled(self, log: LogId, collection: str, seqs: range) -> int:
        chosen = random.sample(seqs, min(len(seqs), _sample(len(seqs))))
        query = {"_id": {"$in": [event_key(log, seq) for seq in chosen]}}
        with translated(f"the events of {collection} can't be counted"):
            rows = await self._events.find(query, {"_id": 0, "c": 1, "i": 1}, batch_size=_MAX_SAMPLE).to_list()
        ids = [row["i"] for row in rows if row["c"] == collection]
        return distinct(ids, population=len(ids) * len(seqs) / len(chosen))


def _sample(count: int) -> int:
    # A random sample of n events of d equally frequent documents meets about n² / 2d of them twice.
    return max(_MIN_SAMPLE, min(_MAX_SAMPLE, math.isqrt(_PAIRS * count)))


def distinct(sample: Iterable[Hashable], population: float) -> int:
    """Estimate the number of distinct values in a population of this size from a random `sample` of it.

    The estimate is at least the number in the sample and, beyond that, at most the population. Many values that occur
    only once in the sample mean many that it missed.

    Source: A. Chao, Nonparametric Estimation of the Number of Classes in a Population, 1984 (bias-corrected form).
    """
    times = Counter(sample)
    once, twice = (sum(count == number for count in times.values()) for number in (1, 2))
    unseen = once * (once - 1) / (2 * (twice + 1))
    return max(len(times), int(min(population, len(times) + unseen)))
