"""The snapshotter: counts the log's events, and makes and removes snapshots by policy.

The first snapshot of a collection is its base, which makes the log complete. Nothing waits for it: a collection can be
written and followed while its base is being made.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager

from bson.timestamp import Timestamp

from eventsync.concurrency.slices import Slices
from eventsync.domain.policies.snapshots import Retention
from eventsync.domain.positions import LogId
from eventsync.domain.shapes import Shape
from eventsync.domain.stamp import unversioned
from eventsync.domain.values.extended_json import Document, decode
from eventsync.errors import Unavailable
from eventsync.mongodb.errors import Barred
from eventsync.mongodb.primary import primary_process
from eventsync.settings import Settings
from eventsync.stores.log.logs import Checkpoint
from eventsync.stores.log.tracking import TrackedCollection
from eventsync.stores.snapshots.live_snapshots import query_for
from eventsync.stores.snapshots.requests import SnapshotRequest
from eventsync.stores.snapshots.rows import EncodedRow, line_of
from eventsync.stores.snapshots.store import StoredSnapshot
from eventsync.stores.stores import SNAPSHOTTING, Stores
from eventsync_workers.jobs.job import Job, LeaseLost, Stopped
from eventsync_workers.jobs.retirement import Retirement
from eventsync_workers.jobs.snapshot_need import SnapshotNeed

logger = logging.getLogger(__name__)

_ABANDONED = 60.0
"""Seconds after which a snapshot that has not grown counts as abandoned."""


class Snapshotter(Job):
    """Makes the snapshots that are due or requested."""

    def __init__(self, stores: Stores, settings: Settings, name: str, stop: asyncio.Event) -> None:
        super().__init__(SNAPSHOTTING, stores.leases, settings, name, stop)
        self._stores = stores
        self._need = SnapshotNeed(stores, settings)
        retention = Retention(settings.snapshots_kept, settings.snapshot_days)
        self._retirement = Retirement(stores, retention, self.yield_control)

    async def run_once(self) -> None:
        """Count events, store the snapshots that are due or requested, and remove those that are not needed.

        A snapshot that needs a newer checkpoint is made in a later run.
        """
        stores = self._stores
        current = await stores.logs.current()
        checkpoint = await stores.logs.read_checkpoint(current.id) if current else None
        if current is None or checkpoint is None:
            return
        tracked = await stores.tracking.active(current.id)
        await stores.snapshots.stored.sweep(_ABANDONED)
        await self._need.update(current.id, self.yield_control)
        failures = await self._make_all_due(current.id, tracked, checkpoint)
        failures += await self._answer_requests(current.id)
        # The last, because a snapshot that was just stored may make older ones superfluous.
        removed = await self._retirement.run_once(current.id, tracked, checkpoint.at)
        self.figures.done.update(removed_snapshots=removed)
        if failures:
            raise failures[0]

    # --- by policy ------------------------------------------------------------------------------------------------

    async def _make_all_due(
        self, log_id: LogId, tracked: Sequence[TrackedCollection], checkpoint: Checkpoint
    ) -> list[Exception]:
        """Make the snapshots that are due. Failures of one collection do not affect the others; return them."""
        newest = {item.shape: item for item in await self._stores.snapshots.stored.listing(log_id)}
        failures: list[Exception] = []
        for item in tracked:
            await self.yield_control()
            last = newest.get(item.name)
            valid = last if last is not None and item.covers(last.seq, last.time) else None
            async with self._isolated(Shape(item.name), failures):
                await self._make_due(log_id, item.name, valid, checkpoint)
        return failures

    async def _make_due(
        self, log_id: LogId, collection: str, valid: StoredSnapshot | None, checkpoint: Checkpoint
    ) -> None:
        cause = await self._need.cause(log_id, collection, valid, checkpoint.at)
        if cause is not None and (valid is None or valid.seq < checkpoint.seq):
            await self._make(log_id, Shape(collection), cause.value)

    @asynccontextmanager
    async def _isolated(
        self, shape: Shape, failures: list[Exception], requests: Sequence[SnapshotRequest] = ()
    ) -> AsyncIterator[None]:
        """Keep the failure of one snapshot from the others. If a retry may help, add it to `failures`.

        Otherwise the collection can't be read: record why, for the sequencer and the operator.
        """
        try:
            yield
        except (Stopped, LeaseLost):
            raise
        except Barred as error:
            if await self._stores.tracking.refuse({shape.collection: error.message}):
                logger.warning("no snapshot of %s: %s", shape, error.diagnosis)
            await self._refuse(requests, error.message)
        except Exception as error:  # noqa: BLE001 - raised after the other snapshots
            failures.append(error)

    # --- on demand ------------------------------------------------------------------------------------------------

    async def _answer_requests(self, log_id: LogId) -> list[Exception]:
        """Make one snapshot for all requests of the same shape. Return failures as `_make_all_due`."""
        waiting: dict[Shape, list[SnapshotRequest]] = defaultdict(list)
        for request in await self._stores.snapshots.requests.unanswered():
            waiting[request.shape].append(request)
        # After the requests: a collection may have been tracked, and requested, while other snapshots were made.
        listed = {item.name: item for item in await self._stores.tracking.read()} if waiting else {}
        failures: list[Exception] = []
        for shape, requests in waiting.items():
            item = listed.get(shape.collection)
            if item is None or (item.log is None and item.refused):
                await self._refuse(requests, f"the collection {shape.collection!r} is not tracked")
            # One that is not active yet, or again, is answered in a later run.
            elif item.log == log_id:
                async with self._isolated(shape, failures, requests):
                    await self._answer(log_id, shape, requests)
        return failures

    async def _answer(self, log_id: LogId, shape: Shape, requests: Sequence[SnapshotRequest]) -> None:
        checkpoint = await self._stores.logs.read_checkpoint(log_id)
        due = [request for request in requests if checkpoint and request.time <= checkpoint.time]
        if due and (made := await self._make(log_id, shape, "it was requested")) is not None:
            for request in due:
                await self._stores.snapshots.requests.answer(request, snapshot=made.id)

    async def _refuse(self, requests: Sequence[SnapshotRequest], reason: str) -> None:
        for request in requests:
            await self._stores.snapshots.requests.answer(request, refused=reason)

    # --- making ---------------------------------------------------------------------------------------------------

    async def _make(self, log_id: LogId, shape: Shape, reason: str) -> StoredSnapshot | None:
        # Before the checkpoint is read: the snapshot counts only if this process is primary until its end.
        process = await primary_process(self._stores.log)
        # Activation records a checkpoint first, so the newest one is no older than the collection's first event.
        checkpoint = await self._stores.logs.read_checkpoint(log_id)
        if checkpoint is None:
            return None
        began = time.monotonic()
        async with aclosing(self._documents(shape, checkpoint.time, process)) as documents:
            made = await self._stores.snapshots.stored.write(
                log_id, str(shape), checkpoint.seq, checkpoint.time, documents
            )
        self.figures.done.update(snapshots=1, snapshot_documents=made.documents, snapshot_bytes=made.bytes)
        logger.info(
            "log %s: a snapshot of %s is stored (%s): %d documents, %d bytes, at %d, in %.1f s",
            log_id, shape, reason, made.documents, made.bytes, made.seq, time.monotonic() - began,
        )  # fmt: skip
        return made

    async def _documents(
        self, shape: Shape, at: Timestamp, process: str
    ) -> AsyncGenerator[tuple[int, Document] | EncodedRow]:
        """Read documents for the store. A helper process encodes large ones, which takes hundreds of milliseconds.

        Raises `Unavailable` at the end if `process`, in which the checkpoint was read, is no longer primary: a backup
        may have been restored in between.
        """
        offload, slices = self._stores.offload, Slices()
        async with aclosing(self._stores.snapshots.live.read(shape.collection, at, query_for(shape))) as documents:
            async for raw in documents:
                await self.yield_control()
                if len(raw) > offload.above:
                    yield await offload.run(line_of, bytes(raw), size=len(raw))
                else:
                    yield unversioned(decode(raw))
                await slices.did(len(raw))
        if await primary_process(self._stores.log) != process:
            raise Unavailable(f"no snapshot of {shape} is stored: MongoDB's primary has changed during the read")
