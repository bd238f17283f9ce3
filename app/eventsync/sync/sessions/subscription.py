"""One shape of one client: from wherever the client stands to live, and on, without a hole.

A subscription is a cursor. It holds a position and, while a snapshot is read, the reading; never a queue.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from eventsync.domain import protocol
from eventsync.domain.plan import Answer, Plan, ResetReason
from eventsync.domain.positions import START, Position, Seq
from eventsync.domain.replay import Damaged, DamagedEvents
from eventsync.domain.shapes import Shape
from eventsync.errors import Unavailable
from eventsync.logging import Alarms
from eventsync.stores.log.tiers import BehindHorizon
from eventsync.stores.snapshots.squashed import Unsquashable
from eventsync.sync.catch_up.parts import parts_of
from eventsync.sync.catch_up.planner import NotAhead
from eventsync.sync.catch_up.source import Source
from eventsync.sync.live.fan_out import DirectWriter, Subscriber

logger = logging.getLogger(__name__)
_alarms = Alarms(logger)

_PATIENCE = 10_000
"""Events that a client may fall further behind than its plan was made for, at least, before another is made."""


class OutboundMessage:
    """A message for the client, encoded; `kind` is its type.

    A large one is in pieces, which are never copied together where the connection takes them one by one.
    """

    __slots__ = ("kind", "pieces")

    def __init__(self, kind: str, *pieces: bytes) -> None:
        self.kind = kind
        self.pieces = pieces

    @property
    def data(self) -> bytes:
        """All of it."""
        return b"".join(self.pieces)


class Subscription:
    """A cursor over one shape. While it rests, news go straight to the client; nothing else may be asked of it then.

    Until it is live, an answer to `avoid` is given only where no other is exact.
    """

    def __init__(
        self, source: Source, shape: Shape, position: Position | None, avoid: frozenset[Answer] = frozenset()
    ) -> None:
        self.shape = shape
        self._source = source
        self._position = position
        self._seat: Subscriber | None = None
        """Where it rests."""
        self.live = False
        self._avoid = avoid
        self._distrust = False
        self._beyond = START
        """Up to here what is stored of the past can't be read: a snapshot has to be no older."""
        self._told = START
        """What the client knows that it has; it may have more, of which nothing was to be told."""

    @property
    def position(self) -> Position | None:
        """What the client has once it has taken what was sent; None while it has nothing whole."""
        return self._position if self._seat is None else self._seat.position

    @property
    def at_hand(self) -> bool:
        """Whether what comes next is in the window, or not there yet: nothing has to be waited for."""
        window, position = self._source.window, self._position
        return (
            self.live
            and position is not None
            and position.log == window.log
            and window.covers(position.seq, self.shape)
        )

    def rest(self, seat: Subscriber, straight: DirectWriter) -> None:
        """Have news sent straight to the client from now on, if it has, and knows of, all that there is."""
        position, window = self._position, self._source.window
        if (
            position is not None
            and self.live
            and position.log == window.log
            # A snapshot may have brought the client further than the window is: what that gets next is no news to it.
            and position.seq <= window.head
            and window.is_current(self.shape, self._told)
        ):
            seat.rest(position, straight)
            self._seat = seat

    def rouse(self) -> float:
        """Go on by `outgoing`. When something was last sent straight, on the monotonic clock; 0 for never."""
        if (seat := self._seat) is None:
            return 0.0
        seat.rouse()
        self._seat = None
        if seat.position is not None and seat.position != self._position:
            self._position, self._told = seat.position, seat.position.seq
        return seat.sent

    async def outgoing(self) -> AsyncGenerator[OutboundMessage | None]:
        """What to send, for ever; None whenever there is nothing for now.

        Raises `NotTracked` and `Unavailable`.
        """
        while True:
            plan = await self._plan()
            if plan.reset is not None:
                yield self._reset(plan.reset)
            reset = None
            try:
                async with aclosing(self._answer(plan.answer)) as answer:
                    async for message in answer:
                        yield message
            except BehindHorizon:
                self._source.planner.outdated()
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
        await self._source.settled(self.shape)
        if self._position is None:
            return Plan(Answer.SNAPSHOT, 0.0)
        return await self._source.planner.plan(self.shape, self._position, self._avoid)

    def _answer(self, answer: Answer) -> AsyncGenerator[OutboundMessage | None]:
        if self._position is None or answer is Answer.SNAPSHOT:
            return self._snapshot()
        return self._squashed(self._position) if answer is Answer.SQUASHED else self._events(self._position)

    def _reset(self, reason: ResetReason) -> OutboundMessage:
        self._position = None
        return OutboundMessage("reset", protocol.reset(self.shape, reason.value))

    def _wait_for_checkpoint(self, plan: Plan) -> None:
        """Go on by events, which need no checkpoint. Raises `Unavailable` where that has been tried."""
        if plan.answer in self._avoid or self._position is None:
            raise Unavailable(f"{self.shape} waits for a checkpoint: is a worker running?")
        self._avoid |= {Answer.SQUASHED, Answer.SNAPSHOT}

    def _damaged(self, error: Damaged) -> OutboundMessage:
        """Begin anew, by reading the collection itself. Raises `Unavailable` where that has been done already."""
        _alarms.tell(f"what is stored is damaged: {error.diagnosis}")
        logger.info("%s is reset: %s", self.shape, error.diagnosis)
        if isinstance(error, DamagedEvents):
            self._beyond = max(self._beyond, error.last)
        if self._distrust:
            raise Unavailable(f"{self.shape} can't be read: it is damaged", retry_after=10.0) from error
        self._distrust = True
        return self._reset(ResetReason.DAMAGED)

    async def _snapshot(self) -> AsyncGenerator[OutboundMessage | None]:
        """The shape's state, in parts of bounded size. Until the last one the client keeps its position, if any."""
        # One that is no newer than what the client has would leave it where it is, to be planned for again, for ever.
        after = Seq(self._position.seq + 1) if self._position else self._beyond
        pieces: Sequence[bytes] = ()
        most = self._source.limit.bytes
        async with (
            self._source.bootstraps.open(self.shape, after=after, live=self._distrust, run_bytes=most) as found,
            aclosing(parts_of(found.rows, most)) as parts,
        ):
            async for part in parts:
                pieces = protocol.snapshot(found.position, self.shape, part.number, part.rows, last=part.last)
                if not part.last:
                    yield OutboundMessage("snapshot", *pieces)
            self._position = found.position
        yield OutboundMessage("snapshot", *pieces)

    async def _squashed(self, start: Position) -> AsyncGenerator[OutboundMessage | None]:
        """What has become of the documents that were touched since `start`, in parts as a snapshot."""
        pieces: Sequence[bytes] = ()
        async with (
            self._source.catch_ups.open(self.shape, start) as found,
            aclosing(parts_of(found.rows, self._source.limit.bytes)) as parts,
        ):
            async for part in parts:
                pieces = protocol.squashed(start, found.end, self.shape, part.number, part.rows, last=part.last)
                if not part.last:
                    yield OutboundMessage("squashed", *pieces)
            self._position = found.end
        yield OutboundMessage("squashed", *pieces)

    async def _events(self, position: Position) -> AsyncGenerator[OutboundMessage | None]:
        """The events after `position`, until something else is the better answer, or the only one."""
        self._told = position.seq
        patience = max(_PATIENCE, 2 * (self._source.window.head - position.seq))
        while self._continues(position, patience):
            frame = await self._source.frame(self.shape, position.seq)
            if frame.data and frame.start > self._told:
                # It does not know yet that there was nothing of its shape in between, and would take that for a hole.
                yield OutboundMessage("progress", protocol.progress({self.shape: position}))
            if frame.end > position.seq:
                self._position = position = Position(position.log, frame.end)
            if frame.data:
                self._told = frame.end
                yield OutboundMessage("events", frame.data)
            elif self._source.window.covers(position.seq, self.shape) and not self.live:
                self._arrived()
                self._told = position.seq
                yield OutboundMessage("live", protocol.live(self.shape, position))
            else:
                yield None
            # Meanwhile it may have rested.
            position = self._position or position

    def _continues(self, position: Position, patience: int) -> bool:
        """Whether events are the answer still: the log and the tracking are the same, and the client keeps up."""
        window = self._source.window
        if position.log != window.log or self.shape.collection not in self._source.tracking:
            return False
        return window.covers(position.seq, self.shape) or window.head - position.seq <= patience

    def _arrived(self) -> None:
        self.live, self._avoid, self._distrust, self._beyond = True, frozenset(), False, START
