"""Repair of a log whose history is lost: events that make it say what the collections have become meanwhile.

The state by the log (its newest stored snapshot and the events after it) and a collection at one cluster time are
compared document by document; each document that differs gets one event. Clients see nothing but events. A repair can
be interrupted anywhere and run again: a repaired document no longer differs.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from typing import TypeVar

from bson.raw_bson import RawBSONDocument
from bson.timestamp import Timestamp

from eventsync.domain.ids import IdText
from eventsync.domain.positions import Seq
from eventsync.errors import EventsyncError, Unavailable
from eventsync.mongodb.change_stream import Token, token_time, watch
from eventsync.mongodb.errors import Barred
from eventsync.stores.history.comparison import Outdated
from eventsync.stores.history.log_state import NoBase
from eventsync.stores.snapshots.live_snapshots import ReadRefused
from eventsync.stores.stores import Stores
from eventsync_workers.sequencing.activation import ActiveCollections, change_pipeline
from eventsync_workers.sequencing.converter import EncodedEvent, encode_deletion, encode_replacement
from eventsync_workers.sequencing.faults import WorkTimeout, timed
from eventsync_workers.sequencing.log_writer import LogWriter

logger = logging.getLogger(__name__)

T = TypeVar("T")

_BATCH = 500
_BATCH_BYTES = 4 * 1024 * 1024
"""Events that are appended together, and their bytes; one event may exceed them."""


class RepairInterrupted(EventsyncError):
    """The term ends in the middle of a repair: nothing may be appended after what there is of it."""

    code = "broken_off"


async def repair_log(
    stores: Stores,
    writer: LogWriter,
    collections: ActiveCollections,
    reason: str,
    kind: str,
    stopping: Callable[[], bool],
) -> None:
    """Repair all active collections, and record the checkpoint that the log resumes at.

    `kind` is that of the metrics. Raises `RepairInterrupted` when `stopping`, `Fenced` and `Unavailable`.
    """
    log = writer.log
    record = await _in_history(stores.repairs.begin(log, kind, reason, writer.seq))
    logger.warning("log %s: history is lost, repairing it: %s", log, reason)
    # This enables images. All changes after the new stream's token then have them.
    await collections.load(writer)
    async with watch(stores.data, change_pipeline(collections.names)) as stream:
        token = stream.token
    # A new stream begins just after the cluster time. This write moves the cluster time on, so it can be read at.
    await stores.logs.begin_repair(log, reason)
    repair = Repair(stores, writer, stopping)
    events: dict[str, int] = {}
    for name in collections.names:
        before = repair.events
        try:
            await repair.compare(name, token)
        except NoBase:
            # The log has nothing that the collection could be compared with, so it begins again, without a repair.
            await collections.restart(name)
        # One collection that can't be read must not keep the others from being repaired.
        except Barred as error:
            await collections.exclude(name, error)
        except (ReadRefused, WorkTimeout) as error:
            await collections.confine(error)
        events[name] = repair.events - before
    # The checkpoint before the end of the repair: a crash in between repeats the repair, which finds no difference. In
    # the other order the log would resume at a token whose history is lost.
    await stores.logs.checkpoint(log, writer.seq, token, token_time(token))
    await stores.logs.end_repair(log)
    if record is not None:
        await _in_history(stores.repairs.end(record, writer.seq, events))
    logger.warning("log %s: repaired by %d events, up to %d", log, repair.events, writer.seq)


async def _in_history(recording: Awaitable[T]) -> T | None:
    """Return what `recording` does, or None if the history can't be written. The repair is made all the same."""
    try:
        return await recording
    except Unavailable as error:
        logger.warning("%s; the repair is made all the same", error.diagnosis)
        return None


class Repair:
    """Appends to the log by `writer`. Call it between `begin_repair` and `end_repair`, which reveal a crash."""

    def __init__(self, stores: Stores, writer: LogWriter, stopping: Callable[[], bool]) -> None:
        self._stores = stores
        self._writer = writer
        self._stopping = stopping
        self.events = 0
        """The number of appended events."""

    async def compare(self, name: str, token: Token) -> None:
        """Append an event for each document of a collection that has become another one up to `token`.

        Raises `RepairInterrupted` when `stopping`, `NoBase`, `Fenced` and `Unavailable`; of that `WorkTimeout`.
        """
        time, at = token_time(token), _wall_time(token_time(token))
        events: list[EncodedEvent] = []
        size = 0
        whole = self._writer.router.covers(name)
        outdated = self._stores.history.comparison.outdated(self._writer.log, name, self._writer.seq, time, whole=whole)
        with timed(name):
            async with aclosing(outdated):
                async for document in outdated:
                    events.append(event := await self._event(name, document, at))
                    size += len(event.encoded)
                    if len(events) >= _BATCH or size >= _BATCH_BYTES:
                        await self._append(events, token, time)
                        events, size = [], 0
                        self._raise_if_stopping()
        await self._append(events, token, time)

    async def empty(self, name: str, change: RawBSONDocument) -> None:
        """Append the deletion of all documents that the log has of a collection. Raises like `compare`."""
        token, time = change["_id"]["_data"], change["clusterTime"]
        log, seq, state, at = self._writer.log, self._writer.seq, self._stores.history.state, _wall_time(time)
        with timed(name):
            async with aclosing(state.versions(log, name, seq)) as batches:
                async for batch in batches:
                    if self._writer.router.covers(name):
                        deleted = await self._routed_deletions(name, list(batch), seq, at)
                    else:
                        deleted = [encode_deletion(name, id_text, version, at) for id_text, version in batch.items()]
                    await self._append(deleted, token, time)
                    self._raise_if_stopping()

    async def _routed_deletions(self, name: str, ids: Sequence[IdText], seq: Seq, at: datetime) -> list[EncodedEvent]:
        """Return the deletions of documents by their states at `seq`, which their routes are computed from."""
        deletions: list[EncodedEvent] = []
        async with aclosing(self._stores.history.state.states(self._writer.log, name, ids, seq)) as states:
            async for id_text, (version, was) in states:
                deletions.append(await self._deletion(name, id_text, version, at, was))
        return deletions

    async def _deletion(
        self, name: str, id_text: IdText, version: int, at: datetime, was: bytes | None
    ) -> EncodedEvent:
        size, router = 0 if was is None else len(was), self._writer.router
        return await self._stores.offload.call(size, encode_deletion, name, id_text, version, at, was, router)

    async def _event(self, name: str, document: Outdated, at: datetime) -> EncodedEvent:
        """Return the event, marked as external, that turns the log's state of a document into the collection's."""
        if (raw := document.raw) is None:
            return await self._deletion(name, document.id, document.version or 0, at, document.in_log)
        router = self._writer.router
        was = document.in_log if router.covers(name) else None
        event, is_odd = await self._stores.offload.call(
            len(raw) + len(was or b""), encode_replacement, name, document.id, document.version, raw, at, was, router
        )
        if is_odd:
            logger.error("ALARM: %s/%s can't be represented in JSON; it is kept as bytes", name, document.id)
        return event

    async def _append(self, events: list[EncodedEvent], token: Token, time: Timestamp) -> None:
        if events:
            await self._writer.append_repair(events, token, time)
            self.events += len(events)

    def _raise_if_stopping(self) -> None:
        if self._stopping():
            raise RepairInterrupted("the worker stops in the middle of a repair, which the next leader completes")


def _wall_time(time: Timestamp) -> datetime:
    return time.as_datetime().astimezone(UTC)
