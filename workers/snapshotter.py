"""The snapshotter: stores the base of each tracked collection, from which on the log is complete by itself.

It runs beside the sequencer, under a lease of its own, and gives way to it every millisecond. Nothing waits for it: a
collection can be written and followed while its base is being made.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from bson.timestamp import Timestamp

from app.domain.position import LogId
from app.domain.stamp import unstamp
from app.domain.values import Document, decode
from app.errors import EventsyncError, Unavailable
from app.settings import Settings
from app.stores.stores import SNAPSHOTTING, Stores
from app.stores.tracking import TrackedCollection
from app.waiting import set_within
from workers.turns import Turns

log = logging.getLogger(__name__)

_BACKOFF_CAP = 60.0
_ABANDONED = 60.0
"""Seconds after which a snapshot that has not grown is nobody's any more."""


class _Stopped(EventsyncError):
    code = "stopped"


class Snapshotter:
    """Makes what is missing, while it holds the lease, until `stop`."""

    def __init__(self, stores: Stores, settings: Settings, name: str, stop: asyncio.Event) -> None:
        self._stores = stores
        self._settings = settings
        self._name = name
        self._stop = stop
        self._renewed = 0.0

    async def run(self) -> None:
        """Work until `stop`; whatever goes wrong is tried again, less and less often."""
        failures = 0
        while not self._stop.is_set():
            pause = self._settings.checkpoint_interval
            try:
                if await self._renew():
                    await self.make()
                failures = 0
            except _Stopped:
                break
            except EventsyncError as error:
                failures += 1
                log.warning("snapshots: %s; trying again", error.message)
            except Exception:
                failures += 1
                log.exception("snapshots: failed; trying again")
            if failures:
                pause = min(_BACKOFF_CAP, pause * 2 ** min(failures, 10)) * random.uniform(0.5, 1.0)
            await set_within(self._stop, pause)
        await self._release()

    async def make(self) -> None:
        """One look: store the bases that are missing, and remove what nobody needs any more."""
        stored = self._stores.stored
        current = await self._stores.logs.current()
        if current is None:
            return
        tracked = [item for item in await self._stores.tracking.read() if item.log == current.id]
        bases = await stored.positions(current.id)
        await stored.sweep(_ABANDONED)
        for item in tracked:
            if bases.get(item.name, -1) < item.base:
                await self._make(current.id, item)
        await stored.retire([item.name for item in tracked], current.id)

    async def _make(self, name: LogId, item: TrackedCollection) -> None:
        # Activation records a checkpoint first, so this one is no older than the collection's first event.
        checkpoint = await self._stores.logs.read_checkpoint(name)
        if checkpoint is None:
            return
        began = time.monotonic()
        async with aclosing(self._documents(item.name, checkpoint.time)) as documents:
            made = await self._stores.stored.write(name, item.name, checkpoint.seq, checkpoint.time, documents)
        log.info(
            "log %s: the base of %s is stored: %d documents, %d bytes, at %d, in %.1f s",
            name, item.name, made.documents, made.bytes, made.seq, time.monotonic() - began,
        )  # fmt: skip

    async def _documents(self, collection: str, at: Timestamp) -> AsyncGenerator[tuple[int, Document]]:
        turns = Turns()
        async with aclosing(self._stores.snapshots.read(collection, at)) as documents:
            async for raw in documents:
                if self._stop.is_set():
                    raise _Stopped
                if await turns.next():
                    await self._keep()
                stamp, document = unstamp(decode(raw.raw))
                yield stamp.version, document

    async def _keep(self) -> None:
        if time.monotonic() - self._renewed > self._settings.lease_period / 4 and not await self._renew():
            raise Unavailable("another worker has taken the lease")

    async def _renew(self) -> bool:
        self._renewed = time.monotonic()
        return await self._stores.leases.acquire(SNAPSHOTTING, self._name, self._settings.lease_period)

    async def _release(self) -> None:
        try:
            await self._stores.leases.release(SNAPSHOTTING, self._name)
        except Unavailable as error:
            log.warning("%s; it runs out by itself", error.message)
