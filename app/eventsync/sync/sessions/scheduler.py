"""The subscriptions of one session take turns, and those that have to wait keep nobody else waiting.

Who is in the window is served in passing: nothing is waited for. What has to be read (a snapshot, events behind the
window) is fetched beside that, for one subscription at a time, so that a session never holds more than one message that
is fetched and one that is being sent.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass

from eventsync.domain.positions import Position, StateVector
from eventsync.domain.shapes import Shape
from eventsync.errors import EventsyncError
from eventsync.sync.live.fan_out import DirectWriter, Subscriber
from eventsync.sync.sessions.subscription import OutboundMessage, Subscription


@dataclass(slots=True, eq=False)
class ScheduledSubscription:
    """One subscription, and what is fetched for it."""

    subscription: Subscription
    seat: Subscriber
    outgoing: AsyncGenerator[OutboundMessage | None]
    fetch: asyncio.Task[OutboundMessage | None] | None = None
    before: Position | None = None
    """Where the client stands as long as what is fetched has not been given out."""
    fetched: int = 0
    """When something was last fetched for it, by number: the others come first."""

    @property
    def position(self) -> Position | None:
        """What the client has once it has taken what `SubscriptionScheduler.round` gave."""
        return self.subscription.position if self.fetch is None else self.before


class SubscriptionScheduler:
    """The subscriptions of a session, by shape."""

    def __init__(self, wake: Callable[[], None], ended: Callable[[Shape, EventsyncError], None]) -> None:
        """`wake` is called when there is something new for `round`, `ended` for a shape that can't be gone on with."""
        self._wake = wake
        self._ended = ended
        self._turns: dict[Shape, ScheduledSubscription] = {}
        self._fetching: ScheduledSubscription | None = None
        self._fetches = 0
        self._retired: list[ScheduledSubscription] = []
        # Readers may keep something in it between two messages, so it is the same one for all fetches.
        self._context = contextvars.copy_context()

    def __contains__(self, shape: Shape) -> bool:
        return shape in self._turns

    def __len__(self) -> int:
        return len(self._turns)

    @property
    def vector(self) -> StateVector:
        """What the client has of each shape; a shape that it has nothing whole of is left out."""
        return {shape: turn.position for shape, turn in self._turns.items() if turn.position is not None}

    def add(self, subscription: Subscription, seat: Subscriber) -> None:
        """Let a subscription of a new shape take part, which has a seat in the shape's audience."""
        self._turns[subscription.shape] = ScheduledSubscription(subscription, seat, subscription.outgoing())
        self._wake()

    def remove(self, shape: Shape) -> None:
        """End a shape's subscription. What it holds is freed in the next `round`."""
        self._retired.append(self._turns.pop(shape))
        self._wake()

    def rest(self, straight: DirectWriter) -> None:
        """Have news sent straight to the client, past `round`, of every shape that it has all of. Until `rouse`."""
        for turn in self._turns.values():
            # What is being fetched comes first: that is what the subscription is live after.
            if turn.fetch is None:
                turn.subscription.rest(turn.seat, straight)

    def rouse(self) -> float:
        """Have nothing sent straight any more. When something last was, on the monotonic clock; 0 for never."""
        return max((turn.subscription.rouse() for turn in self._turns.values()), default=0.0)

    async def round(self) -> AsyncGenerator[OutboundMessage]:
        """The next message of each subscription that has one now. Raises what ends the session: `Unavailable`."""
        await self._free()
        for shape, turn in list(self._turns.items()):
            # While a message was being sent, the client may have ended a subscription, or renewed it.
            if self._turns.get(shape) is turn and (message := await self._message(turn)) is not None:
                yield message
        self._fetch_next()

    async def _message(self, turn: ScheduledSubscription) -> OutboundMessage | None:
        message = None
        try:
            if turn.fetch is not None:
                if not turn.fetch.done():
                    return None
                fetch, turn.fetch, self._fetching = turn.fetch, None, None
                message = fetch.result()
            if message is None and turn.subscription.at_hand:
                # Also where nothing was fetched: there may be news since, of which nobody tells again.
                message = await anext(turn.outgoing)
        except EventsyncError as error:
            if error.retryable:
                raise
            self.remove(turn.subscription.shape)
            self._ended(turn.subscription.shape, error)
            return None
        return message

    def _fetch_next(self) -> None:
        """Begin to fetch for the subscription that has waited longest, if any has to."""
        if self._fetching is not None:
            return
        turn = min(self._waiting(), key=lambda waiting: waiting.fetched, default=None)
        if turn is None:
            return
        self._fetches += 1
        turn.fetched, turn.before = self._fetches, turn.subscription.position
        turn.fetch = asyncio.get_running_loop().create_task(_next(turn.outgoing), context=self._context)
        turn.fetch.add_done_callback(lambda _: self._wake())
        self._fetching = turn

    def _waiting(self) -> Iterator[ScheduledSubscription]:
        return (turn for turn in self._turns.values() if not turn.subscription.at_hand)

    async def _free(self) -> None:
        while self._retired:
            turn = self._retired.pop()
            if turn.fetch is not None:
                self._fetching = None
                await _abandoned(turn.fetch)
            await turn.outgoing.aclose()

    async def aclose(self) -> None:
        """Free what the subscriptions hold (open reads)."""
        self._retired.extend(self._turns.values())
        self._turns.clear()
        await self._free()


async def _abandoned(fetch: asyncio.Task[OutboundMessage | None]) -> None:
    fetch.cancel()
    await asyncio.wait({fetch})
    if not fetch.cancelled():
        fetch.exception()  # nobody wants to know any more, and that is nothing to warn of


async def _next(outgoing: AsyncGenerator[OutboundMessage | None]) -> OutboundMessage | None:
    return await anext(outgoing)
