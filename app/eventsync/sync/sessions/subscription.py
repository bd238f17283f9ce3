"""A subscription: one shape of one client, from any position to live and onwards, without a gap.

It is a cursor. It holds a position and, while a snapshot is read, the open read; it never holds a queue.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from time import time
from typing import Final, NamedTuple

from eventsync.access.access import Access
from eventsync.domain import protocol
from eventsync.domain.plan import Answer, Plan, ResetReason
from eventsync.domain.positions import START, Position, Seq
from eventsync.domain.replay import Damaged, DamagedEvents
from eventsync.domain.shapes import Shape
from eventsync.errors import Unavailable
from eventsync.logging import Alarms
from eventsync.stores.log.tiers import BehindHorizon
from eventsync.stores.snapshots.squashed import Unsquashable
from eventsync.sync.catch_up.planner import NotAhead
from eventsync.sync.catch_up.source import Source
from eventsync.sync.live.continuity import NotContinued
from eventsync.sync.live.fan_out import DirectWriter
from eventsync.sync.live.window import Subscribers

logger = logging.getLogger(__name__)
_alarms = Alarms(logger)

_REPLAN_LAG = 10_000
"""Lag, in events, that a client may always reach before it gets a new plan."""


class Extent(NamedTuple):
    """The part of a shape that a message leads through, for inspection.

    `events` is the number of events in it, and `part` that of the part of a state, of which more follow unless `last`.
    """

    shape: Shape
    start: Position | None = None
    end: Position | None = None
    events: int = 0
    part: int | None = None
    last: bool = True


class PlanDecision(NamedTuple):
    """A plan of a subscription, made for a client at `position` at a Unix time.

    `avoided` are answers that had failed before. `is_windowed` is True if the window had every event after `position`.
    """

    plan: Plan
    position: Position | None
    avoided: frozenset[Answer]
    is_windowed: bool
    at: float


_DECISIONS: Final = 4
"""Plans that a subscription remembers: each answer that brings a client closer is followed by another plan."""


class OutboundMessage:
    """An encoded message for the client; `kind` is its type, and `extent` what it covers of a shape.

    A large message consists of several pieces, which a connection may send one by one without joining them.
    """

    __slots__ = ("extent", "kind", "pieces")

    def __init__(self, kind: str, *pieces: bytes, extent: Extent | None = None) -> None:
        self.kind = kind
        self.pieces = pieces
        self.extent = extent

    @property
    def data(self) -> bytes:
        """The whole message."""
        return b"".join(self.pieces)


class Subscription:
    """A cursor over one shape. Between `attach` and `detach`, only `position` may be used.

    Until the subscription is live, an answer in `avoid` is given only where no other is exact.
    """

    def __init__(
        self,
        source: Source,
        subscribers: Subscribers,
        shape: Shape,
        position: Position | None,
        access: Callable[[], Access],
        avoid: frozenset[Answer] = frozenset(),
    ) -> None:
        """`shape` is bound, and not subscribed to yet. `access` returns what the client may see at present."""
        self.shape = shape
        self.live = False
        self.decisions: tuple[PlanDecision, ...] = ()
        """The newest plans."""
        self._source = source
        self._subscribers = subscribers
        self._subscriber = subscribers.add(shape)
        self._attached = False
        """True between `attach` and `detach`, also where a failed write has detached the subscriber already."""
        self._position = position
        self._access = access
        self._bound_by = access()
        """The access by which the shape is bound."""
        self._has_begun = position is not None
        """True if the client may hold something of the shape."""
        self._is_other = False
        """True if the client may see something else of the shape than what it holds."""
        self._announced = START
        """Seq that the client knows it has reached. Its position may be later, with no event in between."""
        self._avoid = avoid
        self._ignore_stored = False
        """True after a stored snapshot or stored events were found damaged."""
        self._damaged_up_to = START
        """Last damaged event; a snapshot must not be older."""

    @property
    def position(self) -> Position | None:
        """Position of the client after all messages so far; None while it has no complete state."""
        return self._subscriber.position if self._attached else self._position

    @property
    def is_attached(self) -> bool:
        """True while publications are written to the client directly, which so has every event of the shape."""
        return self._subscriber.is_attached

    @property
    def in_window(self) -> bool:
        """True while the next message comes from the window, now or later: `messages` does not wait for it."""
        position = self._position
        return (
            self.live
            and position is not None
            # A shape that is interrupted is planned again, and that waits until it is active.
            and self._source.has_all_after(self.shape, position)
            and self._source.window.covers(position.seq, self.shape)
        )

    def is_allowed(self) -> bool:
        """Return True if what is read for the client is what it may see at present.

        Raises as `Source.bind`, but not `Unavailable`: a subscription that has to wait for its rules is not allowed.
        """
        access = self._access()
        if access is self._bound_by:
            return True
        if not self._source.is_same(self.shape, self._bound_by, access):
            try:
                shape = self._source.bind(self.shape, access)
            except Unavailable:
                return False
            if not shape.is_followed_as(self.shape):
                return False
        self._bound_by = access
        return True

    def at(self, position: Position | None) -> Subscription:
        """Return a subscription in place of this one, which binds the shape before it reads anything."""
        self._subscribers.remove(self.shape)
        subscription = Subscription(self._source, self._subscribers, self.shape, position, self._access)
        subscription._has_begun, subscription._is_other = self._has_begun, self._is_other
        subscription.decisions = self.decisions
        return subscription

    def attach(self, writer: DirectWriter) -> None:
        """Attach the subscriber, if the client has, and knows that it has, every event of the shape."""
        position, window = self._position, self._source.window
        if (
            position is not None
            and self.live
            and position.log == window.log_of(self.shape)
            # A snapshot may bring a client to a later position than the window's: it has the window's next events.
            and position.seq <= window.head
            and window.is_current(self.shape, self._announced)
        ):
            self._subscriber.attach(position, writer)
            self._attached = True

    def tidy(self) -> None:
        """Forget the writer of the last `attach`, if no other connection has one of its kind."""
        self._subscriber.channel.tidy()

    def detach(self) -> float:
        """Detach the subscriber and continue after its position.

        Returns the monotonic time of the last direct write, or 0 without any.
        """
        if not self._attached:
            return 0.0
        subscriber = self._subscriber
        subscriber.detach()
        self._attached = False
        if subscriber.position is not None and subscriber.position != self._position:
            self._position, self._announced = subscriber.position, subscriber.position.seq
        return subscriber.last_sent

    async def messages(self) -> AsyncGenerator[OutboundMessage | None]:
        """Yield the client's messages without end, and None whenever there is none for now.

        Raises `NotTracked`, `UnknownShape` and `Unavailable`.
        """
        while True:
            plan = await self._plan()
            self.decisions = (*self.decisions[1 - _DECISIONS :], self._decision(plan))
            if plan.reset is not None:
                yield self._reset(plan.reset)
                # Only now does the client have it: a message that is dropped is the last one.
                self._has_begun = self._is_other = False
            reset = None
            self._source.window.figures.answers[plan.answer.value] += 1
            try:
                async with aclosing(self._answer(plan.answer)) as answer:
                    async for message in answer:
                        yield message
            # Each of these ends one answer, not the subscription: the next plan knows what has failed.
            except BehindHorizon:
                # The next plan knows the present borders, and does not try for ever what can't be had.
                self._source.planner.outdated()
                self._avoid |= {plan.answer}
            except NotContinued as error:
                logger.info("%s is read again: %s", self.shape, error.message)
            except Unsquashable as error:
                logger.info("no squashed answer: %s", error.message)
                self._avoid |= {Answer.SQUASHED}
            except NotAhead:
                self._wait_for_checkpoint(plan)
            except Damaged as error:
                reset = self._damaged(error)
            if reset is not None:
                yield reset

    async def _plan(self) -> Plan:
        self.live = False
        await self._source.wait_until_servable(self.shape, self._access)
        self._rebind()
        if self._is_other and self._has_begun:
            return Plan(Answer.SNAPSHOT, 0.0, ResetReason.SCOPE_CHANGED)
        self._is_other = False
        if self._position is None:
            return Plan(Answer.SNAPSHOT, 0.0)
        return await self._source.planner.plan(self.shape, self._position, self._avoid)

    def _decision(self, plan: Plan) -> PlanDecision:
        position, window = self._position, self._source.window
        is_windowed = position is not None and plan.reset is None and window.covers(position.seq, self.shape)
        return PlanDecision(plan, position, self._avoid, is_windowed, time())

    def _rebind(self) -> None:
        """Bind the shape by the present definitions, and by what the client may see. Raises as `Source.bind`."""
        access = self._access()
        shape = self._source.bind(self.shape, access)
        self._bound_by = access
        if not shape.is_followed_as(self.shape):
            self._is_other = self._is_other or shape.topic != self.shape.topic
            self._subscribers.remove(self.shape)
            self.shape, self._subscriber = shape, self._subscribers.add(shape)

    def _answer(self, answer: Answer) -> AsyncGenerator[OutboundMessage | None]:
        if self._position is None or answer is Answer.SNAPSHOT:
            return self._snapshot()
        return self._squashed(self._position) if answer is Answer.SQUASHED else self._events(self._position)

    def _reset(self, reason: ResetReason) -> OutboundMessage:
        self._position = None
        self._source.window.figures.resets[reason.value] += 1
        return OutboundMessage("reset", protocol.reset(self.shape, reason.value), extent=Extent(self.shape))

    def _wait_for_checkpoint(self, plan: Plan) -> None:
        """Continue with events, which need no checkpoint. Raises `Unavailable` if that was tried before."""
        if plan.answer in self._avoid or self._position is None:
            raise Unavailable(f"{self.shape} waits for a checkpoint: is a worker running?")
        self._avoid |= {Answer.SQUASHED, Answer.SNAPSHOT}

    def _damaged(self, error: Damaged) -> OutboundMessage:
        """Restart with a snapshot read from the collection. Raises `Unavailable` if that was tried before."""
        _alarms.log(f"what is stored is damaged: {error.diagnosis}")
        logger.info("%s is reset: %s", self.shape, error.diagnosis)
        if isinstance(error, DamagedEvents):
            self._damaged_up_to = max(self._damaged_up_to, error.last)
        if self._ignore_stored:
            raise Unavailable(f"{self.shape} can't be read: it is damaged", retry_after=10.0) from error
        self._ignore_stored = True
        return self._reset(ResetReason.DAMAGED)

    async def _snapshot(self) -> AsyncGenerator[OutboundMessage | None]:
        """Yield the shape's state in parts of bounded size. The client keeps its position until the last one."""
        # A snapshot at the client's own position would not advance it, and the same plan would be made again for ever.
        after = Seq(self._position.seq + 1) if self._position else self._damaged_up_to
        pieces: Sequence[bytes] = ()
        extent = Extent(self.shape)
        self._has_begun = True
        limit = self._source.limit.bytes
        bootstrap = self._source.bootstraps.open(self.shape, after=after, live=self._ignore_stored, run_bytes=limit)
        async with bootstrap as snapshot, aclosing(parts_of(snapshot.rows, limit)) as parts:
            async for part in parts:
                pieces = protocol.snapshot(snapshot.position, self.shape, part.number, part.rows, last=part.last)
                extent = Extent(self.shape, None, snapshot.position, 0, part.number, part.last)
                if not part.last:
                    yield OutboundMessage("snapshot", *pieces, extent=extent)
            self._position = snapshot.position
        # The last part leaves when the read has ended and is confirmed: it completes the client's state.
        yield OutboundMessage("snapshot", *pieces, extent=extent)

    async def _squashed(self, start: Position) -> AsyncGenerator[OutboundMessage | None]:
        """Yield the present state of each document with events since `start`, in parts of bounded size."""
        pieces: Sequence[bytes] = ()
        extent = Extent(self.shape)
        async with (
            self._source.catch_ups.open(self.shape, start) as catch_up,
            aclosing(parts_of(catch_up.rows, self._source.limit.bytes)) as parts,
        ):
            # It may have waited for a place since it was planned: documents that changed in a gap are in no event.
            if not await self._source.has_all_between(self.shape, start, catch_up.end):
                return
            async for part in parts:
                pieces = protocol.squashed(start, catch_up.end, self.shape, part.number, part.rows, last=part.last)
                extent = Extent(self.shape, start, catch_up.end, 0, part.number, part.last)
                if not part.last:
                    yield OutboundMessage("squashed", *pieces, extent=extent)
            self._position = catch_up.end
        yield OutboundMessage("squashed", *pieces, extent=extent)

    async def _events(self, position: Position) -> AsyncGenerator[OutboundMessage | None]:
        """Yield the events after `position`, until another answer is cheaper, or the only exact one."""
        self._announced = position.seq
        # A client that falls further behind while it reads would be served faster by another answer.
        max_lag = max(_REPLAN_LAG, 2 * (self._source.window.head - position.seq))
        while self._continues(position, max_lag):
            frame = await self._source.frame(self.shape, position.seq)
            if not self._source.has_all_after(self.shape, position):
                return
            if frame.data and frame.start > self._announced:
                # The client does not know that the shape had no events up to the frame, and would detect a gap.
                extent = Extent(self.shape, None, position)
                yield OutboundMessage("progress", protocol.progress({self.shape: position}), extent=extent)
            if frame.end > position.seq:
                self._position = position = Position(position.log, frame.end)
            if frame.data:
                self._announced = frame.end
                self._source.window.figures.sent += frame.events
                extent = Extent(self.shape, Position(position.log, frame.start), position, frame.events)
                yield OutboundMessage("events", frame.data, extent=extent)
            elif self._source.window.covers(position.seq, self.shape) and not self.live:
                self._become_live()
                self._announced = position.seq
                extent = Extent(self.shape, None, position)
                yield OutboundMessage("live", protocol.live(self.shape, position), extent=extent)
            else:
                yield None
            # The subscription may have been attached since.
            position = self._position or position

    def _continues(self, position: Position, max_lag: int) -> bool:
        """Return True while events are the answer: same log, tracked all the time, and the client keeps up."""
        window = self._source.window
        if not self._source.has_all_after(self.shape, position):
            return False
        return window.covers(position.seq, self.shape) or window.head - position.seq <= max_lag

    def _become_live(self) -> None:
        self.live, self._avoid, self._ignore_stored, self._damaged_up_to = True, frozenset(), False, START


@dataclass(frozen=True, slots=True)
class Part:
    """The `number`-th part of a snapshot or squashed answer, counted from 0. The `last` one may be empty.

    A row may be several rows, joined by commas.
    """

    number: int
    rows: list[bytes]
    last: bool


async def parts_of(batches: AsyncIterable[Iterable[bytes]], limit_bytes: int) -> AsyncGenerator[Part]:
    """Yield all rows in parts of at most `limit_bytes`, or of one larger row. Holds one batch and one part."""
    number, rows, size = 0, list[bytes](), 0
    async for batch in batches:
        for row in batch:
            if rows and size + len(row) > limit_bytes:
                yield Part(number, rows, last=False)
                number, rows, size = number + 1, [], 0
            rows.append(row)
            size += len(row)
    yield Part(number, rows, last=True)
