"""Repair of collections whose changes are lost: events that make the log say what they have become meanwhile.

The state by the log (its newest stored snapshot and the events after it) and a collection at one cluster time are
compared document by document; each document that differs gets one event. Each collection is repaired by itself, and its
repair is recorded: an interrupted repair continues with the collections that are left.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import aclosing
from datetime import UTC, datetime

from bson.timestamp import Timestamp

from eventsync.domain.events import Event
from eventsync.domain.ids import IdText
from eventsync.errors import EventsyncError
from eventsync.mongodb.change_stream import Token, token_time, watch
from eventsync.mongodb.errors import Barred
from eventsync.stores.history.comparison import Outdated
from eventsync.stores.history.log_state import NoBase
from eventsync.stores.log.logs import Repaired, UnfinishedRepair
from eventsync.stores.snapshots.live_snapshots import CollectionGone, ReadRefused, TimeNotKept
from eventsync.stores.stores import Stores
from eventsync_workers.sequencing.activation import ActiveCollections, change_pipeline
from eventsync_workers.sequencing.converter import EncodedEvent, encode_event, encode_replacement
from eventsync_workers.sequencing.log_writer import LogWriter

logger = logging.getLogger(__name__)

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
    unfinished: UnfinishedRepair,
    stopping: Callable[[], bool],
) -> None:
    """Repair all active collections, or those that are left, and record the checkpoint that the log resumes at.

    Raises as `Repair.run`.
    """
    logger.warning("log %s: history is lost, repairing it: %s", writer.log, unfinished.reason)
    # This enables images. All changes after the new stream's token then have them.
    await collections.load()
    names, token = collections.names, unfinished.token
    if token is None or unfinished.left is None:
        async with watch(stores.data, change_pipeline(names)) as stream:
            token = stream.token
    else:
        names = tuple(name for name in unfinished.left if name in names)
    repair = Repair(stores, writer, collections, stopping, token, token_time(token))
    await repair.run(unfinished.reason, names, is_log=True)


class Repair:
    """A repair of some collections. Its events stand behind the changes up to `token`, of cluster time `time`.

    A collection is compared as of `time`. Where it was dropped or replaced since, MongoDB cannot read it as of then: it
    is compared as of now, and its changes up to now are left out when the stream brings them. A collection that cannot
    be compared at all is tracked again from a later checkpoint on, which resets its clients. It never holds up others.
    """

    def __init__(
        self,
        stores: Stores,
        writer: LogWriter,
        collections: ActiveCollections,
        stopping: Callable[[], bool],
        token: Token,
        time: Timestamp,
    ) -> None:
        self._stores = stores
        self._writer = writer
        self._collections = collections
        self._stopping = stopping
        self._token = token
        self._time = time
        self._at = time.as_datetime().astimezone(UTC)
        self._ahead: frozenset[str] = frozenset()
        """Collections that an earlier repair has compared as of a time that the stream has not reached."""
        self.events = 0
        """The number of appended events."""
        self.is_outdating = False
        """True if the open stream is not right any more: a collection is ahead of it, or is not followed any more."""

    async def run(
        self,
        reason: str,
        names: Sequence[str],
        *,
        is_log: bool = False,
        gone: str | None = None,
        as_of_now: bool = False,
    ) -> None:
        """Repair `names`, of which `gone` was dropped. With `is_log`, the stream continues at the token.

        `as_of_now` is for changes after `time` that cannot be read. Raises `RepairInterrupted` when `stopping`,
        `Fenced` and `Unavailable`; what is recorded then tells the next term what is left.
        """
        logs, log, term = self._stores.logs, self._writer.log, self._writer.term
        # The token of a new stream is just after the cluster time. This write moves that on, so it can be read at.
        await logs.begin_repair(log, reason, names, self._token if is_log else None, term=term)
        if (checkpoint := await logs.read_checkpoint(log)) is not None:
            self._ahead = frozenset(one.collection for one in checkpoint.repaired)
        for name in names:
            repaired = await self._repaired(name, is_gone=name == gone, as_of_now=as_of_now)
            await logs.repaired(log, name, repaired, term=term)
        if is_log:
            # Before the end of the repair: in the other order, a crash in between would let the log resume at a token
            # whose history is lost.
            await logs.checkpoint(log, self._writer.seq, self._token, self._time)
        await logs.end_repair(log, term=term)
        logger.warning("log %s: repaired by %d events, up to %d", log, self.events, self._writer.seq)

    async def _repaired(self, name: str, *, is_gone: bool, as_of_now: bool) -> Repaired | None:
        """Repair a collection, or give it up. Return the repair if it is ahead of the stream."""
        try:
            return await (self._empty(name) if is_gone else self._compare(name, as_of_now=as_of_now))
        # One collection that can't be read must not keep the others from being repaired.
        except Barred as error:
            await self._collections.exclude(name, error)
        except ReadRefused as error:
            await self._collections.confine(error)
        except (NoBase, CollectionGone, TimeNotKept) as error:
            await self._collections.restart(name, error)
        self.is_outdating = True
        return None

    async def _compare(self, name: str, *, as_of_now: bool) -> Repaired | None:
        if not as_of_now:
            try:
                await self._compare_at(name, self._time)
            except (CollectionGone, TimeNotKept) as error:
                if name in self._ahead:
                    raise
                logger.warning("log %s: %s is compared as it is now: %s", self._writer.log, name, error.diagnosis)
            else:
                return None
        elif name in self._ahead:
            raise CollectionGone(f"{name} has changed again before the stream has reached its last repair")
        now = (await self._collections.enable_images([name])).time
        await self._compare_at(name, now)
        self.is_outdating = True
        return Repaired(name, self._writer.seq, now)

    async def _compare_at(self, name: str, time: Timestamp) -> None:
        """Append an event for each document of a collection that has become another one up to `time`."""
        events: list[EncodedEvent] = []
        size = 0
        outdated = self._stores.history.comparison.outdated(self._writer.log, name, self._writer.seq, time)
        async with aclosing(outdated):
            async for document in outdated:
                events.append(event := await self._event(name, document))
                size += len(event.encoded)
                if len(events) >= _BATCH or size >= _BATCH_BYTES:
                    await self._append(events)
                    events, size = [], 0
                    self._raise_if_stopping()
        await self._append(events)

    async def _empty(self, name: str) -> None:
        """Append the deletion of all documents that the log has of a collection."""
        async with aclosing(self._stores.history.state.versions(self._writer.log, name, self._writer.seq)) as batches:
            async for batch in batches:
                await self._append([_deletion(name, *document, self._at) for document in batch.items()])
                self._raise_if_stopping()

    async def _event(self, name: str, document: Outdated) -> EncodedEvent:
        """Return the event, marked as external, that turns the log's state of a document into the collection's."""
        if (raw := document.raw) is None:
            return _deletion(name, document.id, document.version or 0, self._at)
        event, is_odd = await self._stores.offload.call(
            len(raw), encode_replacement, name, document.id, document.version, raw, self._at
        )
        if is_odd:
            logger.error("ALARM: %s/%s can't be represented in JSON; it is kept as bytes", name, document.id)
        return event

    async def _append(self, events: list[EncodedEvent]) -> None:
        if events:
            await self._writer.append_repair(events, self._token, self._time)
            self.events += len(events)

    def _raise_if_stopping(self) -> None:
        if self._stopping():
            raise RepairInterrupted("the worker stops in the middle of a repair, which the next leader completes")


def _deletion(name: str, id_text: IdText, version: int, at: datetime) -> EncodedEvent:
    return encode_event(Event(name, id_text, "delete", version, version, at))
