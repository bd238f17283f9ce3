"""Time travel: the position of a point in history, and the state of a document there.

Every reading is at a position, and the state at a position never changes. Instants and versions are converted to
positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bson.int64 import Int64
from bson.timestamp import Timestamp
from pymongo import DESCENDING
from pymongo.asynchronous.collection import AsyncCollection

from eventsync.concurrency.lru_cache import LRUCache
from eventsync.domain.encoded_state import EncodedState, decoded, head_of
from eventsync.domain.events import last_whole, timestamp
from eventsync.domain.ids import IdText
from eventsync.domain.plan import ResetReason
from eventsync.domain.points import Point, Version
from eventsync.domain.positions import LogId, Position, Seq
from eventsync.domain.replay import DamagedEvents, State
from eventsync.domain.shapes import Shape
from eventsync.errors import BehindRetention, Malformed, NotFound, ResetRequired, Unavailable
from eventsync.mongodb.clocks import wall_time
from eventsync.mongodb.errors import translated
from eventsync.stores.history.log_state import NoBase
from eventsync.stores.history.past_pages import PastCursor, PastId, PastPages
from eventsync.stores.log.stored_event import UNREADABLE, StoredEvent
from eventsync.stores.log.tiers import BehindHorizon
from eventsync.stores.log.tracking import inactive
from eventsync.stores.stores import Stores

_PAGE = 500
_OVERHEAD = 500
"""The approximate overhead of a cached state, in bytes."""

_SETTLED = 2.0
"""The approximate time, in seconds, after which a running worker has read past an instant."""


@dataclass(frozen=True, slots=True)
class Reading:
    """The state of a document at `position`, in BSON. `encoded` is None if it did not exist.

    `view` names what its reader may see; it is empty where that is everything.
    """

    position: Position
    encoded: EncodedState
    view: bytes = b""

    @property
    def state(self) -> State:
        """The decoded state."""
        return decoded(self.encoded)

    def tree(self) -> dict[str, Any]:
        """Return the version, or None, and the position in the form for answers."""
        return {"version": self.encoded[0] if self.encoded is not None else None, "position": str(self.position)}


@dataclass(frozen=True, slots=True)
class RetainedRange:
    """The retained history of a collection: events after `tracked` and `horizon`, and the oldest stored snapshot."""

    log: LogId
    tracked: Seq
    horizon: Seq
    snapshot: tuple[Seq, Timestamp] | None

    @property
    def since(self) -> Seq:
        """The seq from which every state is known. Raises `NoBase` before the first snapshot is stored."""
        if self.snapshot is None:
            raise NoBase("no snapshot of the collection is stored yet: is a worker running?")
        return max(self.snapshot[0], self.horizon)

    def behind_retention(self, what: str) -> BehindRetention:
        """Return the error for a point before the retained history."""
        return BehindRetention(
            f"{what} is no longer retained: states are known from {self.log}:{self.since} on",
            since=str(Position(self.log, self.since)),
        )


class TimeTravel:
    """Reads past states.

    Every method raises `NotTracked`, `Malformed` for a point in the future, `ResetRequired` for a position of another
    log, `BehindRetention`, `Damaged`, and `Unavailable`: without a log or a snapshot, or if an instant may not be over.
    """

    def __init__(self, stores: Stores, *, cache_bytes: int = 0) -> None:
        """`cache_bytes` bounds the cache of states, which never change."""
        self._known: LRUCache[tuple[RetainedRange, Shape, Seq], EncodedState] = LRUCache(cache_bytes, _cost)
        self._stores = stores
        self._events: AsyncCollection[Any] = stores.log["events"]

    async def document(self, shape: Shape, point: Point | None) -> Reading:
        """Read the document at a point (None: the head). Raises `NotFound` for a version that never existed."""
        text = _id(shape)
        retained = await self.retained(shape.collection)
        try:
            if isinstance(point, int):
                return await self._version(retained, shape, text, point)
            seq = await self._seq(retained, str(shape), point)
            return Reading(Position(retained.log, seq), await self._state(retained, shape, text, seq))
        except BehindHorizon as error:
            raise retained.behind_retention(f"{shape} at {point}") from error

    async def position(self, collection: str, point: Point) -> Position:
        """Return the position of a point for a whole collection. Raises `Malformed` for a version."""
        if isinstance(point, int):
            raise Malformed("a collection has no version: give an instant or a position")
        retained = await self.retained(collection)
        seq = await self._seq(retained, collection, point)
        if seq < retained.since:
            raise retained.behind_retention(f"{collection} at {retained.log}:{seq}")
        return Position(retained.log, seq)

    async def page(
        self, collection: str, point: Point, after: PastCursor | None, limit: int
    ) -> tuple[Position, Position, list[PastId]]:
        """Return the position of a point, the head, and the next ids that the collection may have had there."""
        position = await self.position(collection, point)
        try:
            ids = await PastPages(self._stores).ids(collection, position, after, limit)
        except BehindHorizon as error:
            raise (await self.retained(collection)).behind_retention(f"{collection} at {position}") from error
        return position, Position(position.log, await self.head(position.log)), ids

    async def states(self, collection: str, position: Position, ids: Sequence[IdText]) -> dict[IdText, EncodedState]:
        """Return the states of those documents that existed at a position. Pass a few of them."""
        state = self._stores.history.state
        async with aclosing(state.states(position.log, collection, ids, position.seq)) as states:
            return {text: encoded async for text, encoded in states}

    async def head(self, log: LogId) -> Seq:
        """Return the newest event that no further one of its transaction follows."""
        tail = await self._stores.events.tail(log)
        return Seq(0) if tail is None else last_whole(tail.seq, tail.transaction)

    async def retained(self, collection: str) -> RetainedRange:
        """Return the retained history of a collection in the current log."""
        log = await self._stores.logs.require()
        tracked = {item.name: item for item in await self._stores.tracking.read()}.get(collection)
        if tracked is None or tracked.log != log.id:
            refused = tracked.refused if tracked is not None and tracked.log is None else None
            raise inactive(collection, asked=tracked is not None, refused=refused)
        horizon = (await self._stores.tiers.read(log.id)).horizon
        oldest = await self._stores.snapshots.stored.oldest(log.id, collection, tracked.tracked_from)
        return RetainedRange(log.id, tracked.tracked_from, horizon, (oldest.seq, oldest.time) if oldest else None)

    # --- where ----------------------------------------------------------------------------------------------------

    async def _seq(self, retained: RetainedRange, what: str, point: Position | datetime | None) -> Seq:
        head = await self.head(retained.log)
        if point is None:
            return head
        if isinstance(point, datetime):
            return await self._at(retained, what, point, head)
        if point.log != retained.log:
            raise ResetRequired(ResetReason.UNKNOWN_LOG.value, f"{point} is of another log than {retained.log}")
        if point.seq > head:
            raise Malformed(f"{point} is in the future: the newest event is {retained.log}:{head}")
        return point.seq

    async def _at(self, retained: RetainedRange, what: str, at: datetime, head: Seq) -> Seq:
        await self._check_over(retained.log, at)
        second = int(at.timestamp())
        seq = await self._stores.history.instants.newest(retained.log, at, head) if second > 0 else Seq(0)
        # The time before the collection was tracked is unknown, although no event of it marks the border.
        began = retained.snapshot[1].time if retained.snapshot and retained.snapshot[0] == retained.tracked else None
        if seq < retained.tracked or (seq == retained.tracked and (began is None or second <= began)):
            raise retained.behind_retention(f"{what} at {timestamp(at)}")
        return seq

    async def _check_over(self, log: LogId, at: datetime) -> None:
        """Raise `Unavailable` if events with a cluster time in this second can still come."""
        checkpoint = await self._stores.logs.read_checkpoint(log)
        if checkpoint is not None and int(at.timestamp()) < checkpoint.time.time:
            return
        if at > await wall_time(self._stores.data):
            raise Malformed(f"{timestamp(at)} is in the future")
        read = f"up to {timestamp(checkpoint.time.as_datetime())}" if checkpoint else "nothing"
        raise Unavailable(
            f"{timestamp(at)} may not be over: the worker has read the changes {read}; try again", retry_after=_SETTLED
        )

    # --- what -----------------------------------------------------------------------------------------------------

    async def _state(self, retained: RetainedRange, shape: Shape, text: IdText, seq: Seq) -> EncodedState:
        key = (retained, shape, seq)  # with the retained range, so that states no longer retained are not returned
        if (known := self._known.get(key)) is not None:
            return known
        if retained.snapshot is not None and seq >= retained.since:
            state = await self._stores.history.state.document(retained.log, shape.collection, text, seq)
        else:
            state = await self._without_snapshot(retained, shape, text, seq)
        self._known.keep(key, state)
        return state

    async def _without_snapshot(self, retained: RetainedRange, shape: Shape, text: IdText, seq: Seq) -> EncodedState:
        """Return a state before the first snapshot. It is known after the first event with the whole document."""
        events = self._stores.history.reader.sealed(
            retained.log, shape.collection, after=max(retained.tracked, retained.horizon), up_to=seq, ids=[text]
        )
        state, whole = await self._stores.history.state.replay(retained.log, events, whole=False)
        if not whole:
            raise retained.behind_retention(f"{shape} at {retained.log}:{seq}")
        return state

    # --- versions -------------------------------------------------------------------------------------------------

    async def _version(self, retained: RetainedRange, shape: Shape, text: IdText, version: Version) -> Reading:
        """Read the newest state with this version."""
        seq = await self._newest(retained, shape, version)
        if seq is not None:
            return Reading(Position(retained.log, seq), await self._state(retained, shape, text, seq))
        # A version without an event may have existed before the first event.
        state = await self._state(retained, shape, text, retained.since)
        if state is not None and state[0] == version:
            return Reading(Position(retained.log, retained.since), state)
        if state is not None and state[0] > version:
            raise retained.behind_retention(f"{shape} at version {version}")
        now = await self._state(retained, shape, text, await self.head(retained.log))
        if now is not None and now[0] < version:
            raise NotFound(f"{shape} has no version {version} yet: it is at version {now[0]}")
        raise NotFound(
            f"{shape} had no version {version}, as far as it is known ({retained.log}:{retained.since} and later)"
        )

    async def _newest(self, retained: RetainedRange, shape: Shape, version: Version) -> Seq | None:
        """Return the newest event that left the document at this version, or None."""
        query = {"_id.l": retained.log, "c": shape.collection, "i": shape.id, "v": Int64(version)} | {
            "_id.n": {"$gt": Int64(max(retained.tracked, retained.horizon))}
        }
        with translated(f"the events of {shape} can't be read"):
            cursor = self._events.find(query, {"t": 0, "w": 0}, sort=[("_id.n", DESCENDING)], hint="by_document")
            async with cursor.batch_size(10):
                async for row in cursor:
                    event = await self._stores.events.whole(row)
                    if _head(event)[0] != "delete":
                        return event.seq
        archived_up_to = (await self._stores.tiers.read(retained.log)).archived_up_to
        return (
            await self._newest_archived(retained, shape, version, archived_up_to)
            if archived_up_to > retained.tracked
            else None
        )

    async def _newest_archived(
        self, retained: RetainedRange, shape: Shape, version: Version, archived_up_to: Seq
    ) -> Seq | None:
        newest: Seq | None = None
        after = max(retained.tracked, retained.horizon)
        while True:
            page = await self._stores.events.of_document(
                retained.log, shape, after_version=version - 1, after=after, up_to=archived_up_to, limit=_PAGE
            )
            for event in page:
                op, left = _head(event)
                if left == version and op != "delete":
                    newest = event.seq
            if len(page) < _PAGE:
                return newest
            after = page[-1].seq


def _cost(state: EncodedState) -> int:
    return _OVERHEAD + (0 if state is None else len(state[1]))


def _id(shape: Shape) -> IdText:
    if shape.id is None:
        raise Malformed(f"{shape} is a collection; this is about one document")
    return shape.id


def _head(event: StoredEvent) -> tuple[str, int]:
    """Return the op and the version of an event. Raises `DamagedEvents`."""
    try:
        return head_of(event.body)
    except UNREADABLE as error:
        raise DamagedEvents(f"event {event.seq} can't be read: {error!r}", event.seq) from error
