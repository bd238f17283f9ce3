"""Which answer a client gets: asks for figures, as few as it can, and has `eventsync.domain.plan` decide.

The figures may be a few seconds old. They only choose between answers that are exact; whether one still can be given
is found out while it is read.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import Final

from eventsync.concurrency.ttl_cache import TTLCache
from eventsync.domain import plan
from eventsync.domain.plan import (
    Answer,
    Backlog,
    CollectionSize,
    Plan,
    ResetReason,
    ServableRange,
    SnapshotOption,
    refusal,
)
from eventsync.domain.positions import START, LogId, Position, Seq
from eventsync.domain.shapes import Shape
from eventsync.errors import Unavailable
from eventsync.stores.log.tiers import Tiers
from eventsync.stores.log.tracking import Tracking
from eventsync.stores.snapshots.store import StoredSnapshot
from eventsync.stores.stats.estimates import MOST_EVENTS
from eventsync.stores.stores import Stores
from eventsync.sync.live.window import Window

_AGE: Final = 2.0
"""Seconds that a figure is used for."""

_BLOCK: Final = 1000
"""Positions this near to each other have the same figures."""

_ROW: Final = 250
"""Bytes of an event's row besides its body, about."""

_MOST: Final = 1000


class NotAhead(Unavailable):
    """The newest checkpoint is before the client's position: squashed or as a snapshot it can't be brought on."""


@dataclass(frozen=True, slots=True)
class Beginning:
    """A stored snapshot that a new client may begin with, and the position that it then has."""

    snapshot: StoredSnapshot
    position: Position


class Planner:
    """One for a whole server process."""

    def __init__(self, stores: Stores, window: Window, tracking: Tracking) -> None:
        self._stores = stores
        self._window = window
        self._tracking = tracking
        self._tiers: TTLCache[Tiers] = TTLCache(age=_AGE, most=1)
        self._sizes: TTLCache[CollectionSize] = TTLCache(age=_AGE, most=_MOST)
        self._newest: TTLCache[StoredSnapshot | None] = TTLCache(age=_AGE, most=_MOST)
        self._missed: TTLCache[tuple[int, int]] = TTLCache(age=_AGE, most=_MOST)
        self._touched: TTLCache[int] = TTLCache(age=_AGE, most=_MOST)
        self._damaged: set[str] = set()

    def log(self) -> LogId:
        """The log in force. Raises `Unavailable` before the first worker has run, and while the log is lost."""
        if self._window.log is None:
            raise Unavailable("there is no event log yet: is a worker running?", retry_after=2.0)
        if self._window.suspended is not None:
            raise Unavailable(self._window.suspended, retry_after=2.0)
        return self._window.log

    def require(self, shape: Shape) -> None:
        """Raises `NotTracked`, and `Unavailable` while it can't be served yet."""
        self._recent(shape)

    # --- clients that have something ------------------------------------------------------------------------------

    async def refusal(self, shape: Shape, position: Position) -> ResetReason | None:
        """Why the events after `position` can't bring a client up to date. Raises `NotTracked` and `Unavailable`.

        Within the window MongoDB is not asked.
        """
        reason = refusal(position, self._recent(shape))
        if reason is ResetReason.FUTURE:
            # Another server may have told the client of events that have not reached this one.
            return None if await self._stores.events.reaches(self.log(), position.seq) else reason
        if reason is not None or self._window.covers(position.seq, shape):
            return reason
        return refusal(position, await self._extent(shape))

    async def plan(self, shape: Shape, position: Position, avoid: frozenset[Answer] = frozenset()) -> Plan:
        """What brings a client from `position` up to date. Raises `NotTracked` and `Unavailable`.

        `avoid`: answers that have been found not to work; one of them is returned only where there is no other.
        """
        reason = await self.refusal(shape, position)
        if reason is None and self._window.covers(position.seq, shape):
            return Plan(Answer.EVENTS, 0.0)
        extent = await self._extent(shape)
        if reason is not None and plan.allowed(position, extent) == {Answer.SNAPSHOT}:
            return Plan(Answer.SNAPSHOT, 0.0, reason)
        # At first as if all was about one document. Nearly all clients are near enough for events even then.
        size, best, stored = await asyncio.gather(
            self._size(shape),
            self._tail(shape, position.seq, counted=False),
            self._stored(shape, extent, counted=False),
        )
        chosen = plan.catch_up(position, extent, best, size, stored, avoid)
        if chosen.answer is Answer.EVENTS or shape.id is not None:
            return chosen
        tail = await self._tail(shape, position.seq, counted=True)
        return plan.catch_up(position, extent, tail, size, await self._stored(shape, extent, counted=True), avoid)

    async def oldest(self, shape: Shape) -> Position:
        """The oldest position from which events lead on. Raises `NotTracked` and `Unavailable`."""
        extent = await self._extent(shape)
        return Position(extent.log, max(extent.base, extent.horizon))

    async def missed(self, shape: Shape, position: Position) -> int:
        """About how many events of the shape come after a position of the log in force. Raises like `plan`."""
        return (await self._tail(shape, position.seq, counted=False)).events

    def outdated(self) -> None:
        """What was planned could not be done: ask anew."""
        for memo in (self._tiers, self._newest):
            memo.clear()

    # --- clients that have nothing --------------------------------------------------------------------------------

    async def beginning(self, shape: Shape, *, after: Seq = START) -> Beginning | None:
        """The stored snapshot to begin with, of a position not before `after`; None where reading is better.

        Raises `NotTracked` and `Unavailable`.
        """
        if shape.id is not None:
            return None
        extent = await self._extent(shape)
        stored = await self._stored(shape, extent, counted=True)
        size = await self._size(shape)
        newest = await self._newest_stored(shape)
        if newest is None or stored is None or stored.seq < after or not plan.prefers_stored(size, stored, extent):
            return None
        return Beginning(newest, Position(extent.log, stored.seq))

    def damaged(self, snapshot: StoredSnapshot) -> None:
        """Never offer this snapshot again."""
        self._damaged.add(snapshot.id)
        self._newest.clear()

    async def is_large(self, shape: Shape) -> bool:
        """Whether reading it again and again costs more than storing it."""
        return shape.id is None and plan.live_cost(await self._size(shape)) > plan.WORTH_STORING

    # --- figures --------------------------------------------------------------------------------------------------

    def _recent(self, shape: Shape) -> ServableRange:
        """What is known without asking."""
        return ServableRange(self.log(), self._window.head, self._tracking.tracked_from(shape.collection))

    async def _extent(self, shape: Shape) -> ServableRange:
        recent = self._recent(shape)
        tiers = await self._tiers.get(recent.log, lambda: self._stores.tiers.read(recent.log))
        # What one document is now needs no list of what was touched.
        squash_floor = tiers.squash_floor if shape.id is None else recent.base
        return replace(recent, horizon=tiers.horizon, squash_floor=squash_floor)

    async def _size(self, shape: Shape) -> CollectionSize:
        size = await self._sizes.get(shape.collection, lambda: self._stores.estimates.size(shape.collection))
        return size if shape.id is None else CollectionSize(1, round(size.each))

    async def _stored(self, shape: Shape, extent: ServableRange, *, counted: bool) -> SnapshotOption | None:
        found = await self._newest_stored(shape) if shape.id is None else None
        if found is None:
            return None
        size = CollectionSize(found.documents, found.raw_bytes)
        seq = await self._lasts_until(found, extent)
        stored = SnapshotOption(seq, size, await self._tail(shape, seq, counted=counted))
        return stored if plan.usable(stored, extent) else None

    async def _lasts_until(self, snapshot: StoredSnapshot, extent: ServableRange) -> Seq:
        """The seq that a snapshot stands for: its own, or a later one where the log begins, if it still says it all."""
        if snapshot.seq >= extent.horizon:
            return snapshot.seq
        quiet = await self._stores.counters.quiet_until(extent.log, snapshot.collection, snapshot.seq)
        return max(snapshot.seq, min(extent.horizon, quiet))

    async def _newest_stored(self, shape: Shape) -> StoredSnapshot | None:
        log, name = self.log(), shape.collection
        found = await self._newest.get((log, name), lambda: self._stores.stored.newest(log, name))
        return None if found is None or found.id in self._damaged else found

    async def _tail(self, shape: Shape, after: Seq, *, counted: bool) -> Backlog:
        """What has happened to the shape after a position; without `counted`, as if to one document of it."""
        if shape.id is not None:
            return await self._tail_of_document(shape, after)
        log, name, head = self.log(), shape.collection, self._window.head
        key = (log, name, after // _BLOCK, head // _BLOCK)
        events, size = await self._missed.get(key, lambda: self._count_events(log, name, after, head))
        touched = min(events, 1)
        if counted and events:
            touched = min(events, await self._touched.get(key, lambda: self._count_touched(log, name, after, head)))
        return Backlog(max(0, head - after), events, size, touched)

    async def _tail_of_document(self, shape: Shape, after: Seq) -> Backlog:
        log = self.log()
        tiers = await self._tiers.get(log, lambda: self._stores.tiers.read(log))
        events = await self._stores.estimates.of_document(log, shape, after=after)
        # How many are archived is not known, but that each has to be looked for.
        events += MOST_EVENTS if after < tiers.archived_up_to else 0
        return Backlog(0, events, round(events * self._window.mean), min(events, 1))

    async def _count_events(self, log: LogId, name: str, after: Seq, head: Seq) -> tuple[int, int]:
        """As far as is tallied; of the newest events it is taken that they are all of this collection."""
        tallied = min(head, max(after, await self._stores.counters.counted_up_to(log)))
        tally = await self._stores.counters.after(log, after, name)
        newer = head - tallied
        bodies = max(0, tally.bytes - tally.events * _ROW)
        return tally.events + newer, bodies + round(newer * self._window.mean)

    async def _count_touched(self, log: LogId, name: str, after: Seq, head: Seq) -> int:
        tiers = await self._tiers.get(log, lambda: self._stores.tiers.read(log))
        return await self._stores.estimates.touched(
            log, name, after=after, up_to=head, archived_up_to=tiers.archived_up_to
        )
