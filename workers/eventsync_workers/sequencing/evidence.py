"""Evidence, besides the events themselves, that a log was set back: a backup was restored, or a part of one.

There are three kinds, all written by eventsync alone: what other collections of the log's database record of the log,
because a dump that is not of one instant has them from different times; what the archive records, the witness and the
segments; and what this process knows itself, see `audit`. A position that a client sends is none of them: anybody can
make one up.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

from eventsync.domain.positions import LogId, Seq
from eventsync.domain.replay import Damaged
from eventsync.domain.segments.file import open_footer
from eventsync.domain.segments.format import Span
from eventsync.errors import Unavailable
from eventsync.stores.archive.objects import ObjectEntry, Objects
from eventsync.stores.archive.witness import read_witness
from eventsync.stores.log.logs import Log, LogLost
from eventsync.stores.stores import Stores

logger = logging.getLogger(__name__)

_COMPARED: Final = 5
"""Number of unregistered objects whose last event is compared with the log's. A crash leaves one object."""


class Evidence:
    """The evidence known to a process. Each term checks it; checks that take long are made only once for a log."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores
        self._examined: set[LogId] = set()

    async def check(self, current: Log, head: Seq) -> None:
        """Raise `LogLost` if the log, which ends with `head`, has been further. Raises `Unavailable`."""
        await self._check_collections(current.id, head)
        objects = self._stores.archive.objects
        if current.id not in self._examined:
            await self._check_vectors(current.id, head)
        if objects is None:
            self._examined.add(current.id)
            return
        try:
            await self._check_witness(objects, current.id, head)
            if current.id not in self._examined:
                await self._check_objects(objects, current.id, head)
        # `LogLost` is an `Unavailable` as well.
        except LogLost:
            raise
        except Unavailable as error:
            # Sequencing does not depend on the archive. The next term checks again.
            logger.warning("log %s: it can't be compared with the archive: %s", current.id, error.diagnosis)
        else:
            self._examined.add(current.id)

    async def _check_collections(self, log_id: LogId, head: Seq) -> None:
        tiers = await self._stores.tiers.read(log_id)
        newest = await self._stores.archive.segments.newest(log_id)
        bases = [item.tracked_from for item in await self._stores.tracking.active(log_id)]
        snapshots = (await self._stores.snapshots.stored.positions(log_id)).values()
        known = {
            "it says that it has archived events": max(tiers.archived_up_to, newest.span.last if newest else 0),
            "it has counted events": await self._stores.stats.counters.counted_up_to(log_id),
            "a collection is tracked behind events": max(bases, default=0),
            "a snapshot is stored of events": max(snapshots, default=0),
        }
        for what, seq in known.items():
            await self._check(log_id, Seq(seq), head, what)

    async def _check(self, log_id: LogId, seq: Seq, head: Seq, what: str) -> None:
        """Raise `LogLost` if the log does not reach `seq`. Another worker may have appended in the meantime."""
        events = self._stores.events
        if seq > head and await events.head(log_id) < seq and not await events.reaches(log_id, seq):
            raise LogLost(f"the log ends with event {head}, and {what} up to {seq}: was a backup restored?")

    async def _check_vectors(self, log_id: LogId, head: Seq) -> None:
        await self._check(log_id, await self._stores.vectors.furthest(log_id), head, "a client has acknowledged events")

    async def _check_witness(self, objects: Objects, log_id: LogId, head: Seq) -> None:
        witness = await read_witness(objects, log_id)
        if witness is None:
            return
        await self._check(log_id, witness.seq, head, "the archive knows of events")
        token = await self._stores.events.token(log_id, witness.seq)
        if token is not None and token != witness.token:
            raise LogLost(f"the archive knows event {witness.seq} as another one: was a backup restored?")

    async def _check_objects(self, objects: Objects, log_id: LogId, head: Seq) -> None:
        """Raise `LogLost` if a segment has events that the log does not have, or other ones."""
        unregistered: list[ObjectEntry] = []
        async with aclosing(self._entries(objects, log_id)) as entries:
            async for entry, last in entries:
                await self._check(log_id, last, head, f"the archive has {entry.path} with events")
                # A registered segment was compared with the log before it was registered.
                if not await self._stores.archive.segments.is_registered(entry.path):
                    unregistered = [*unregistered, entry][-_COMPARED:]
        for entry in unregistered:
            if (span := await _span(objects, entry)) and await self._differs(log_id, span):
                raise LogLost(f"{entry.path} has other events than the log: was a backup restored?")

    async def _entries(self, objects: Objects, log_id: LogId) -> AsyncGenerator[tuple[ObjectEntry, Seq]]:
        async with aclosing(objects.list(log_id)) as listed:
            async for entry in listed:
                parts = entry.path.removeprefix(f"{log_id}/").split("-")
                if len(parts) == 3 and parts[1].isdecimal():
                    yield entry, Seq(int(parts[1]))

    async def _differs(self, log_id: LogId, span: Span) -> bool:
        """Return True if the last event of a span has another cluster time in the log, if that is known at once."""
        time = await self._stores.events.time(log_id, span.last)
        if time is None:
            there = await self._stores.archive.segments.holding(log_id, span.last)
            time = there.span.last_time if there is not None and there.span.last == span.last else None
        return time is not None and time != span.last_time


async def _span(objects: Objects, entry: ObjectEntry) -> Span | None:
    try:
        return open_footer(await objects.read(entry.path), entry.size).span
    except Damaged:
        return None  # It was not written completely.
