"""History that is lost is repaired: the log is told by events what the collections have become meanwhile.

What the log says (its newest stored snapshot and the events after it) and what a collection is at one cluster time are
compared document by document; each that differs gets one event. Clients notice nothing but events. It may be broken off
at any point and run again: what is repaired no longer differs.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from datetime import UTC, datetime

from bson.raw_bson import RawBSONDocument
from bson.timestamp import Timestamp

from app.domain.event import Event
from app.domain.ids import IdText
from app.errors import EventsyncError
from app.stores.changes import Token, token_time
from app.stores.comparison import Difference
from app.stores.stores import Stores
from workers.log_writer import LogWriter

_BATCH = 500
"""Events that are appended together."""


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
        found: list[Event] = []
        differences = self._stores.comparison.differences(self._writer.log, name, self._writer.seq, time)
        async with aclosing(differences) as different:
            async for difference in different:
                found.append(_event(name, difference, at))
                if len(found) >= _BATCH:
                    await self._append(found, token, time)
                    found = []
                    _go_on_unless(stopping)
        await self._append(found, token, time)

    async def emptied(self, name: str, change: RawBSONDocument, stopping: Callable[[], bool]) -> None:
        """Append the deletion of all that the log has of a collection. Raises like `compared`."""
        token, time = change["_id"]["_data"], change["clusterTime"]
        async with aclosing(self._stores.state.walk(self._writer.log, name, self._writer.seq)) as batches:
            async for batch in batches:
                deleted = [_deleted(name, id_text, version, _wall(time)) for id_text, version, _ in batch]
                await self._append(deleted, token, time)
                _go_on_unless(stopping)

    async def _append(self, events: list[Event], token: Token, time: Timestamp) -> None:
        if events:
            await self._writer.append_found(events, token, time)
            self.events += len(events)


def _go_on_unless(stopping: Callable[[], bool]) -> None:
    if stopping():
        raise BrokenOff("it is stopped in the middle of a repair")


def _event(name: str, difference: Difference, at: datetime) -> Event:
    """What turns the log's state of a document into the collection's, marked as made elsewhere."""
    was, now = difference.in_log, difference.in_collection
    if now is None:
        return _deleted(name, difference.id, was[0] if was else 0, at)
    version, document = now
    base = was[0] if was else 0
    return Event(name, difference.id, "replace" if was else "create", base, version, at, document=document)


def _deleted(name: str, id_text: IdText, version: int, at: datetime) -> Event:
    return Event(name, id_text, "delete", version, version, at)


def _wall(time: Timestamp) -> datetime:
    return time.as_datetime().astimezone(UTC)
