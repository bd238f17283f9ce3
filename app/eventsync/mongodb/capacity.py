"""A bound on the size of a collection, for records that requests leave behind."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any, Final

from pymongo.errors import OperationFailure

_AGE: Final = 5.0
"""Seconds between two reads of the collection's size. Documents added by this process are counted in between."""

_NO_COLLECTION: Final = 26


@dataclass(frozen=True, slots=True)
class CollectionUsage:
    """The size of a collection: documents, and bytes of BSON."""

    documents: int = 0
    bytes: int = 0


async def stored(collection: Any) -> CollectionUsage:
    """Return the size of a collection as MongoDB counts it. Raises the driver's errors."""
    try:
        stats = await collection.database.command("collStats", collection.name)
    except OperationFailure as error:
        if error.code != _NO_COLLECTION:
            raise
        return CollectionUsage()
    return CollectionUsage(int(stats.get("count", 0)), int(stats.get("size", 0)))


class Capacity:
    """The bound of one collection, as one process checks it.

    The bound can be exceeded by the documents that other processes add within `_AGE`.
    """

    def __init__(self, collection: Any, *, documents: int, size: int) -> None:
        """Bound the collection to `documents` and to `size` bytes."""
        self._collection = collection
        self._documents = documents
        self._size = size
        self._stored = CollectionUsage()
        self._read_at = -_AGE
        self._added = 0
        self._reading = asyncio.Lock()

    def add(self, documents: int = 1) -> None:
        """Count documents added by this process."""
        self._added += documents

    async def is_full(self) -> bool:
        """Return True if the collection has reached its bound. Raises the driver's errors."""
        if self._is_old():
            async with self._reading:
                # Another caller may have read it while this one waited for the lock.
                if self._is_old():
                    # Documents added during the read may be counted twice until the next read.
                    added = self._added
                    self._stored = await stored(self._collection)
                    self._added -= added
                    self._read_at = time.monotonic()
        return self._stored.documents + self._added >= self._documents or self._stored.bytes >= self._size

    def _is_old(self) -> bool:
        return time.monotonic() - self._read_at >= _AGE
