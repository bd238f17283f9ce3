"""Writers of one document in one process take turns instead of racing each other.

It saves work and makes waiting fair; it decides nothing. Races with other processes are decided in MongoDB.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

from eventsync.errors import Conflict


class DocumentLocks:
    """One queue a document, as long as anybody is in it."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def of(self, document: str, *, within: float) -> AsyncIterator[None]:
        """Wait for the document's turn, and hold it. Raises `Conflict` where it does not come `within` seconds."""
        lock = self._locks.setdefault(document, asyncio.Lock())
        try:
            async with asyncio.timeout(within):
                await lock.acquire()
        except TimeoutError as error:
            raise Conflict(f"other writers of {document} took longer than {within:g} s; try again later") from error
        try:
            yield
        finally:
            lock.release()
