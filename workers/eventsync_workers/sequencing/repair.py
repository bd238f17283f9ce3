"""History that is lost is repaired: the log is told by events what the collections have become meanwhile.

What the log says (its newest stored snapshot and the events after it) and what a collection is at one cluster time are
compared document by document; each that differs gets one event. Clients notice nothing but events. It may be broken off
at any point and run again: what is repaired no longer differs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import aclosing
from datetime import UTC, datetime

from bson.raw_bson import RawBSONDocument
from bson.timestamp import Timestamp

from eventsync.domain.events import Event
from eventsync.domain.ids import IdText
from eventsync.errors import EventsyncError
from eventsync.mongodb.change_stream import Token, token_time
from eventsync.stores.history.comparison import Outdated
from eventsync.stores.stores import Stores
from eventsync_workers.sequencing.converter import EncodedEvent, told, told_found
from eventsync_workers.sequencing.log_writer import LogWriter

logger = logging.getLogger(__name__)

_BATCH = 500
_BATCH_BYTES = 4 * 1024 * 1024
"""Events that are appended together, and bytes of them; one event may exceed it."""


class BrokenOff(EventsyncError):
    """The term is to stop in the middle of a repair: nothing may be appended behind what there is of it."""

    code = "broken_off"


class Repair:
    """Appends by `writer`. Between `begin_repair` and `end_repair` of the log store, so that a crash is noticed."""

    def __init__(self, stores: Stores, writer: LogWriter) -> None:
        self._stores = stores
        self._writer = writer
        self.events = 0
        """How many were appended."""

    async def compared(self, name: str, token: Token, stopping: Callable[[], bool]) -> None:
        """Append what has become different in a collection up to `token`.

        Raises `BrokenOff` when `stopping`, `NoBase`, `Fenced` and `Unavailable`.
        """
        time, at = token_time(token), _wall(token_time(token))
        found: list[EncodedEvent] = []
        size = 0
        outdated = self._stores.comparison.outdated(self._writer.log, name, self._writer.seq, time)
        async with aclosing(outdated):
            async for document in outdated:
                found.append(event := await self._told(name, document, at))
                size += len(event.encoded)
                if len(found) >= _BATCH or size >= _BATCH_BYTES:
                    await self._append(found, token, time)
                    found, size = [], 0
                    _go_on_unless(stopping)
        await self._append(found, token, time)

    async def emptied(self, name: str, change: RawBSONDocument, stopping: Callable[[], bool]) -> None:
        """Append the deletion of all that the log has of a collection. Raises like `compared`."""
        token, time = change["_id"]["_data"], change["clusterTime"]
        async with aclosing(self._stores.state.versions(self._writer.log, name, self._writer.seq)) as batches:
            async for batch in batches:
                deleted = [_deleted(name, id_text, version, _wall(time)) for id_text, version in batch.items()]
                await self._append(deleted, token, time)
                _go_on_unless(stopping)

    async def _told(self, name: str, document: Outdated, at: datetime) -> EncodedEvent:
        """Return the event that turns the log's state of a document into the collection's, as made elsewhere."""
        if (raw := document.raw) is None:
            return _deleted(name, document.id, document.version or 0, at)
        offload = self._stores.offload
        event, is_odd = await offload.call(len(raw), told_found, name, document.id, document.version, raw, at)
        if is_odd:
            logger.error("ALARM: %s/%s can't be told as it is; it is kept as bytes", name, document.id)
        return event

    async def _append(self, events: list[EncodedEvent], token: Token, time: Timestamp) -> None:
        if events:
            await self._writer.append_found(events, token, time)
            self.events += len(events)


def _go_on_unless(stopping: Callable[[], bool]) -> None:
    if stopping():
        raise BrokenOff("it is stopped in the middle of a repair")


def _deleted(name: str, id_text: IdText, version: int, at: datetime) -> EncodedEvent:
    return told(Event(name, id_text, "delete", version, version, at))


def _wall(time: Timestamp) -> datetime:
    return time.as_datetime().astimezone(UTC)
