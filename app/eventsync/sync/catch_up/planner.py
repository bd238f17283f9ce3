"""The planner: reads the estimates that `eventsync.domain.plan` needs to choose a client's answer.

The estimates are cached for seconds. They only choose between exact answers, so an outdated one costs time, never
correctness: an answer that is no longer possible fails while it is read, and is planned again.
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
from eventsync.domain.positions import START, LogId, Position, Seq, scoped
from eventsync.domain.shapes import Shape, Topic
from eventsync.errors import Unavailable
from eventsync.stores.log.definitions import Definitions
from eventsync.stores.log.logs import NoLogYet
from eventsync.stores.log.tiers import Tiers
from eventsync.stores.log.tracking import Tracking
from eventsync.stores.snapshots.store import StoredSnapshot
from eventsync.stores.stats.estimates import MAX_EVENTS
from eventsync.stores.stores import Stores
from eventsync.sync.live.window import Window

_AGE: Final = 2.0
"""Seconds for which an estimate is cached."""

_BLOCK: Final = 1000
"""Positions in the same block of this many seqs share their estimates."""

_ROW: Final = 250
"""Approximate bytes of an event's row besides its body."""

_CACHED: Final = 1000

_GUESS: Final = 100
"""Documents that a route is assumed to have before it is read."""


class NotAhead(Unavailable):
    """The newest checkpoint is not ahead of the client's position, so only events can bring the client forward."""


@dataclass(frozen=True, slots=True)
class Beginning:
    """A stored snapshot for a new client, and the client's position after it."""

    snapshot: StoredSnapshot
    position: Position


class Planner:
    """Plans catch-up for all clients; one instance a server process."""

    def __init__(self, stores: Stores, window: Window, tracking: Tracking, definitions: Definitions) -> None:
        self._stores = stores
        self._window = window
        self._tracking = tracking
        self._definitions = definitions
        self._tiers: TTLCache[Tiers] = TTLCache(ttl=_AGE, max_entries=1)
        self._sizes: TTLCache[CollectionSize] = TTLCache(ttl=_AGE, max_entries=_CACHED)
        self._newest: TTLCache[StoredSnapshot | None] = TTLCache(ttl=_AGE, max_entries=_CACHED)
        self._missed: TTLCache[tuple[int, int]] = TTLCache(ttl=_AGE, max_entries=_CACHED)
        self._touched: TTLCache[int] = TTLCache(ttl=_AGE, max_entries=_CACHED)
        self._damaged: set[str] = set()
        self._routes: dict[Topic, CollectionSize] = {}
        """Sizes of routes when they were last read."""

    def log(self) -> LogId:
        """Return the current log. Raises `Unavailable` before the first worker has run, and while the log is lost."""
        if self._window.log is None:
            raise NoLogYet(retry_after=2.0)
        if self._window.suspended is not None:
            raise Unavailable(self._window.suspended, retry_after=2.0)
        return self._window.log

    def require(self, shape: Shape) -> None:
        """Raise `NotTracked` if the shape is not tracked, and `Unavailable` while there is no log."""
        self._recent(shape)

    def has_all_after(self, shape: Shape, position: Position) -> bool:
        """Return True if the log has every event of a bound shape after `position`."""
        return position.log == self._window.log_of(shape) and (
            self._tracking.has_all_after(shape.collection, position.seq)
            if shape.route is None
            else shape.route.since <= position.seq and self._definitions.is_current(shape)
        )

    # --- clients with a position ----------------------------------------------------------------------------------

    async def refusal(self, shape: Shape, position: Position) -> ResetReason | None:
        """Return the reason why events can't bring a client from `position` up to date; None if they can.

        Does not query MongoDB for positions in the window. Raises `NotTracked` and `Unavailable`.
        """
        reason = refusal(position, self._recent(shape))
        if reason is ResetReason.FUTURE:
            # Another server may have sent the client events that this one has not read yet.
            return None if await self._stores.events.reaches(self.log(), position.seq) else reason
        if reason is not None or self._window.covers(position.seq, shape):
            return reason
        return refusal(position, await self._servable(shape))

    async def plan(self, shape: Shape, position: Position, avoid: frozenset[Answer] = frozenset()) -> Plan:
        """Return the plan that brings a client from `position` up to date. Raises `NotTracked` and `Unavailable`.

        `avoid` are answers that have failed before; one of them is returned only where no other is exact.
        """
        reason = await self.refusal(shape, position)
        if reason is None and self._window.covers(position.seq, shape):
            # No other answer is as cheap as one that takes no read of MongoDB.
            return Plan(Answer.EVENTS, 0.0)
        servable = await self._servable(shape)
        if reason is not None and plan.allowed(position, servable) == {Answer.SNAPSHOT}:
            return Plan(Answer.SNAPSHOT, 0.0, reason)
        # First assume that all events touched one document, which favours the other answers. If events are the cheapest
        # even so, as for nearly all clients, the touched documents need not be counted.
        size, lower_bound, stored = await asyncio.gather(
            self.size(shape),
            self._backlog(shape, position.seq, counted=False),
            self._stored(shape, servable, counted=False),
        )
        chosen = plan.catch_up(position, servable, lower_bound, size, stored, avoid)
        if chosen.answer is Answer.EVENTS or shape.id is not None or shape.keys is not None:
            return chosen
        backlog = await self._backlog(shape, position.seq, counted=True)
        return plan.catch_up(
            position, servable, backlog, size, await self._stored(shape, servable, counted=True), avoid
        )

    async def oldest(self, shape: Shape) -> Position:
        """Return the oldest position that events can bring up to date. Raises `NotTracked` and `Unavailable`."""
        servable = await self._servable(shape)
        return Position(servable.log, max(servable.tracked_from, servable.horizon))

    async def missed(self, shape: Shape, position: Position) -> int:
        """Return an estimate of the shape's events after a position of the current log. Raises what `plan` raises."""
        return (await self._backlog(shape, position.seq, counted=False)).events

    def outdated(self) -> None:
        """Drop cached estimates after a plan has failed."""
        self._tiers.clear()
        self._newest.clear()

    # --- new clients ----------------------------------------------------------------------------------------------

    async def beginning(self, shape: Shape, *, after: Seq = START) -> Beginning | None:
        """Return the stored snapshot for a new client, at a position of at least `after`.

        None if there is none, or if reading the collection is cheaper. Raises `NotTracked` and `Unavailable`.
        """
        if shape.id is not None or shape.route is not None:
            return None
        servable = await self._servable(shape)
        # Read once: the position must be that of this snapshot, also if a newer one is stored meanwhile.
        snapshot = await self._newest_stored(shape)
        if snapshot is None:
            return None
        stored = await self._option(shape, snapshot, servable, counted=True)
        if stored is None or stored.seq < after or not plan.prefers_stored(await self.size(shape), stored, servable):
            return None
        return Beginning(snapshot, Position(servable.log, stored.seq))

    def damaged(self, snapshot: StoredSnapshot) -> None:
        """Never plan with this snapshot again."""
        self._damaged.add(snapshot.id)
        self._newest.clear()

    async def is_large(self, shape: Shape) -> bool:
        """Return True if a stored snapshot of the shape is cheaper than reading the collection for each client."""
        if shape.id is not None or shape.route is not None:
            return False
        return plan.live_cost(await self.size(shape)) > plan.WORTH_STORING

    # --- estimates --------------------------------------------------------------------------------------------------

    def _recent(self, shape: Shape) -> ServableRange:
        """Return the range that is known without querying MongoDB."""
        since = self._tracking.tracked_from(shape.collection)
        if shape.route is not None:
            since = Seq(max(since, shape.route.since))
        return ServableRange(scoped(self.log(), shape.scope), self._window.head, since)

    async def _servable(self, shape: Shape) -> ServableRange:
        recent = self._recent(shape)
        tiers = await self._read_tiers(self.log())
        if shape.id is not None:
            # A squashed answer of one document needs no list of touched documents.
            squash_floor = recent.tracked_from
        elif shape.is_selective:
            # The list would name documents that the reader never saw: their events have one of the keys, too.
            squash_floor = Seq(recent.head + 1)
        else:
            # The touched documents of archived events are known by collection, not by key.
            squash_floor = tiers.squash_floor if shape.keys is None else tiers.archived_up_to
        return replace(recent, horizon=tiers.horizon, squash_floor=squash_floor, archived_up_to=tiers.archived_up_to)

    async def _read_tiers(self, log: LogId) -> Tiers:
        return await self._tiers.get(log, lambda: self._stores.tiers.read(log))

    async def size(self, shape: Shape) -> CollectionSize:
        """Return the size of a shape; a guess for a route that was not read yet."""
        size = await self._sizes.get(shape.collection, lambda: self._stores.stats.estimates.size(shape.collection))
        if shape.keys is not None:
            return self._routes.get(shape.topic) or CollectionSize(_GUESS, round(_GUESS * size.each))
        return size if shape.id is None else CollectionSize(1, round(size.each))

    def learn(self, shape: Shape, size: CollectionSize) -> None:
        """Record the size of a route that was read. Estimating it would take a scan."""
        self._routes[shape.topic] = size
        while len(self._routes) > _CACHED:
            del self._routes[next(iter(self._routes))]

    async def _stored(self, shape: Shape, servable: ServableRange, *, counted: bool) -> SnapshotOption | None:
        snapshot = await self._newest_stored(shape) if shape.id is None and shape.route is None else None
        return None if snapshot is None else await self._option(shape, snapshot, servable, counted=counted)

    async def _option(
        self, shape: Shape, snapshot: StoredSnapshot, servable: ServableRange, *, counted: bool
    ) -> SnapshotOption | None:
        if snapshot.seq < servable.tracked_from:
            return None  # It may be current until later by its events, but not all of its changes have some.
        size = CollectionSize(snapshot.documents, snapshot.raw_bytes)
        seq = await self._current_until(snapshot, servable)
        stored = SnapshotOption(seq, size, await self._backlog(shape, seq, counted=counted))
        return stored if plan.usable(stored, servable) else None

    async def _current_until(self, snapshot: StoredSnapshot, servable: ServableRange) -> Seq:
        """Return the seq at which a snapshot is current: its own, or up to the horizon if nothing has changed since."""
        if snapshot.seq >= servable.horizon:
            return snapshot.seq
        unchanged_up_to = await self._stores.stats.counters.quiet_until(servable.log, snapshot.collection, snapshot.seq)
        return max(snapshot.seq, min(servable.horizon, unchanged_up_to))

    async def _newest_stored(self, shape: Shape) -> StoredSnapshot | None:
        log, name = self.log(), shape.collection
        snapshot = await self._newest.get((log, name), lambda: self._stores.snapshots.stored.newest(log, name))
        return None if snapshot is None or snapshot.id in self._damaged else snapshot

    async def _backlog(self, shape: Shape, after: Seq, *, counted: bool) -> Backlog:
        """Return the shape's backlog after a position. Without `counted`, assume that it touched one document."""
        if shape.id is not None or shape.keys is not None:
            return await self._backlog_by_index(shape, after)
        log, name, head = self.log(), shape.collection, self._window.head
        key = (log, name, after // _BLOCK, head // _BLOCK)
        events, size = await self._missed.get(key, lambda: self._count_events(log, name, after, head))
        touched = min(events, 1)
        if counted and events:
            touched = min(events, await self._touched.get(key, lambda: self._count_touched(log, name, after, head)))
        return Backlog(max(0, head - after), events, size, touched)

    async def _backlog_by_index(self, shape: Shape, after: Seq) -> Backlog:
        """Return the backlog of a document or a route, whose events in MongoDB an index has."""
        log, estimates = self.log(), self._stores.stats.estimates
        tiers = await self._read_tiers(log)
        if (keys := shape.keys) is not None:
            events = touched = await estimates.of_route(log, keys, after=after)
        else:
            events = await estimates.of_document(log, shape, after=after)
            touched = min(events, 1)
        # The number of archived events is unknown, and each has to be searched for.
        events += MAX_EVENTS if after < tiers.archived_up_to else 0
        return Backlog(0, events, round(events * self._window.mean), touched)

    async def _count_events(self, log: LogId, name: str, after: Seq, head: Seq) -> tuple[int, int]:
        """Return number and bytes of a collection's events. Those not counted yet are assumed to be all of it."""
        counted_up_to = min(head, max(after, await self._stores.stats.counters.counted_up_to(log)))
        counted = await self._stores.stats.counters.after(log, after, name)
        newer = head - counted_up_to
        bodies = max(0, counted.bytes - counted.events * _ROW)
        return counted.events + newer, bodies + round(newer * self._window.mean)

    async def _count_touched(self, log: LogId, name: str, after: Seq, head: Seq) -> int:
        tiers = await self._read_tiers(log)
        return await self._stores.stats.estimates.touched(
            log, name, after=after, up_to=head, archived_up_to=tiers.archived_up_to
        )
