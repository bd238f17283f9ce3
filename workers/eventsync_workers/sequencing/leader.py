"""A leader: sequences one log for one term, along one change stream over all active collections.

It keeps nothing in memory that matters. Any failure ends the term, and the next one resumes at the log's head.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

from bson.objectid import ObjectId

from eventsync.mongodb.change_stream import ChangeTooLarge, HistoryLost, Token
from eventsync.mongodb.client import PinnedClient
from eventsync.settings import Settings
from eventsync.stores.log.logs import Log
from eventsync.stores.snapshots.live_snapshots import ReadRefused
from eventsync.stores.stores import Stores
from eventsync_workers.monitoring.figures import SequencingFigures
from eventsync_workers.sequencing.activation import ActiveCollections
from eventsync_workers.sequencing.audit import Appended, Audit, Known
from eventsync_workers.sequencing.checkpoint import CheckpointRecorder, find_resume_point
from eventsync_workers.sequencing.evidence import Evidence
from eventsync_workers.sequencing.faults import Faults, WorkTimeout
from eventsync_workers.sequencing.journal_flusher import JournalFlusher
from eventsync_workers.sequencing.log_writer import LogWriter, NewCheckpoint
from eventsync_workers.sequencing.missing_images import CollectionBarred, ImageReader
from eventsync_workers.sequencing.repair import RepairInterrupted, repair_log
from eventsync_workers.sequencing.shape_activation import ActiveShapes
from eventsync_workers.sequencing.stream_reader import StreamReader

logger = logging.getLogger(__name__)

_INTERRUPTED: Final = "interrupted"
"""The kind of a repair that an earlier term has begun."""

_REPAIR_PAUSE = 5.0
"""Seconds after a repair within which another would not help: the term ends, and the next one begins after a pause."""


class Leader:
    """The work of one term on one log: resume, read, and repair where history is lost."""

    def __init__(  # noqa: PLR0913 - most is of the process, which keeps it over all terms
        self,
        stores: Stores,
        settings: Settings,
        log: Log,
        stopping: Callable[[], bool],
        *,
        client: PinnedClient,
        evidence: Evidence,
        faults: Faults,
        appended: Appended | None = None,
        figures: SequencingFigures | None = None,
    ) -> None:
        """Write the log by `client`. `appended` is an event that an earlier term knew to be in this log."""
        self._figures = figures or SequencingFigures()
        self._client = client
        # The audit only reads, and not over the pinned connections: those are few, and appending needs them.
        self._audit = Audit(stores, log, self._known)
        self._stores = stores = stores.written_by(client, str(ObjectId()))
        self._settings = settings
        self._images = ImageReader(stores.snapshots.live)
        self._log = log
        self._stopping = stopping
        self._evidence = evidence
        self._appended = appended
        self._collections = ActiveCollections(stores, log, faults, images=settings.images)
        self._shapes = ActiveShapes(stores, log)
        journal = JournalFlusher(stores.logs, log.id, settings.journal_flush_interval)
        self._checkpoints = CheckpointRecorder(stores.logs, log.id, settings.checkpoint_interval, journal)
        self._reader = StreamReader(
            stores, settings, log, self._collections, self._shapes, self._checkpoints, journal, self._is_over
        )
        self._writer: LogWriter | None = None
        self._next_repair = 0.0

    async def run(self) -> None:
        """Sequence until `stopping`. Raises what ends the term; of that, `LogLost` ends the log."""
        over = asyncio.Event()
        auditing = asyncio.create_task(self._audit.run(over, self._settings.checkpoint_interval), name="audit the log")
        try:
            await self._sequence()
        finally:
            over.set()
            await auditing
        # The audit only notes a fault. The reader stops by it (`_is_over`), and has appended what it had read.
        if self._audit.failure is not None:
            raise self._audit.failure

    @property
    def appended(self) -> Appended | None:
        """The newest event that this term, or one before it, knows to be in the log."""
        if self._writer is None or self._writer.token is None:
            return self._appended
        return Appended(self._writer.seq, self._writer.token, self._writer.newest)

    @property
    def active(self) -> tuple[str, ...]:
        """The collections that are sequenced."""
        return self._collections.names

    def _known(self) -> Known | None:
        return None if self._writer is None else Known(self.appended, self.active)

    def _is_over(self) -> bool:
        return self._stopping() or self._audit.failure is not None

    async def _sequence(self) -> None:
        try:
            token: Token | None = await self._resume()
            while token is not None and not self._is_over():
                try:
                    token = await self._read_from(token)
                except HistoryLost as error:
                    token = await self._repair(error.diagnosis, error.code)
                except CollectionBarred as error:
                    await self._collections.exclude(error.collection, error)
                    token = await self._resume()
                except (ReadRefused, WorkTimeout) as error:
                    await self._collections.confine(error)
                    token = await self._resume()
        except RepairInterrupted as error:
            # The log still says that it needs the repair: the next leader makes it.
            logger.info("log %s: %s", self._log.id, error.diagnosis)

    async def _read_from(self, token: Token) -> Token | None:
        try:
            return await self._reader.read_from(token)
        # The batch that failed had other changes, too. From the head on, changes are read one by one (`ReadMode`).
        except ChangeTooLarge:
            return await self._resume()

    async def _resume(self) -> Token:
        """Continue the log at its head; return the token to read on from. Raises `RepairInterrupted`."""
        # Before anything is read: what is written from now on reaches the process that answers, or none.
        await self._client.pin()
        await self._stores.logs.take_over(self._log.id)
        point = await find_resume_point(self._stores, self._log, self._evidence, self.appended)
        checkpoint = point.checkpoint
        self._writer = LogWriter(
            self._log.id, self._stores.events, self._images, point.head, point.time, self._stores.offload
        )
        self._writer.figures = self._figures
        # After the head: whoever has read an event has read a registry no older than that of the event's writer.
        await self._shapes.load(self._writer)
        self._checkpoints.resume(self._writer, NewCheckpoint(checkpoint.seq, checkpoint.token, checkpoint.time))
        # Not the head's time, at which more changes may follow. Of the checkpoint's time, all are in the log.
        self._reader.resume(self._writer, checkpoint.time)
        if checkpoint.repair is not None:
            return await self._repair(checkpoint.repair, _INTERRUPTED)
        return point.token

    async def _repair(self, reason: str, kind: str) -> Token:
        """Append what the lost changes have made of the collections, and resume. Raises `RepairInterrupted`."""
        if self._writer is None or time.monotonic() < self._next_repair:
            raise HistoryLost(reason)
        # What was converted is given up, and with it the event that was to name the registry's revision.
        self._writer.route_by(self._writer.router)
        self._figures.repairs[kind] += 1
        head = self._writer.seq
        try:
            await repair_log(self._stores, self._writer, self._collections, reason, kind, self._is_over)
        finally:
            self._figures.events += self._writer.seq - head
            self._figures.repair_events += self._writer.seq - head
        self._next_repair = time.monotonic() + _REPAIR_PAUSE
        return await self._resume()
