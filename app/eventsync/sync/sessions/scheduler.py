"""Scheduling of a session's subscriptions: they take turns, and a slow read of one does not delay the others.

Messages from the window are taken without waiting. Everything else (a snapshot, events behind the window) is fetched in
a task, for one subscription at a time: a session holds at most one fetched message and one that is being sent.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from dataclasses import dataclass

from eventsync.domain.positions import Position, StateVector
from eventsync.domain.shapes import Shape
from eventsync.errors import EventsyncError
from eventsync.sync.live.fan_out import DirectWriter
from eventsync.sync.sessions.subscription import OutboundMessage, PlanDecision, Subscription


@dataclass(slots=True, eq=False)
class ScheduledSubscription:
    """A subscription and its fetch, if one is under way."""

    subscription: Subscription
    messages: AsyncGenerator[OutboundMessage | None]
    fetch: asyncio.Task[OutboundMessage | None] | None = None
    position_before_fetch: Position | None = None
    last_fetch: int = 0
    """Number of the last fetch; the subscription with the lowest number is next."""

    @property
    def position(self) -> Position | None:
        """Position of the client after all messages that `SubscriptionScheduler.round` has yielded."""
        return self.subscription.position if self.fetch is None else self.position_before_fetch


class SubscriptionScheduler:
    """The subscriptions of a session, by shape."""

    def __init__(
        self,
        wake: Callable[[], None],
        on_error: Callable[[Shape, EventsyncError], None],
        may_send: Callable[[], bool] = lambda: True,
        until_writable: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Call `wake` when `round` has something new to yield, and `on_error` when an error ends a subscription.

        `on_error` may raise an error, which ends the session instead.

        `may_send` returns True if the client may be sent data now; `until_writable` waits until its connection accepts
        a message. Both are called before a message is made: one that is made has to be sent at once.
        """
        self._wake = wake
        self._on_error = on_error
        self._may_send = may_send
        self._until_writable = until_writable
        self._by_shape: dict[Shape, ScheduledSubscription] = {}
        self._fetching: ScheduledSubscription | None = None
        self._fetches = 0
        self._removed: list[ScheduledSubscription] = []
        # One context for all fetches: an async generator may set a context variable in one and reset it in another.
        self._context = contextvars.copy_context()

    def __contains__(self, shape: Shape) -> bool:
        return shape in self._by_shape

    def __len__(self) -> int:
        return len(self._by_shape)

    @property
    def shapes(self) -> list[Shape]:
        """The shapes that are subscribed to."""
        return list(self._by_shape)

    @property
    def vector(self) -> StateVector:
        """Position of the client in each shape. A shape without a complete state is left out."""
        items = self._by_shape.values()
        return {item.subscription.shape: item.position for item in items if item.position is not None}

    @property
    def subscriptions(self) -> list[Subscription]:
        """The subscriptions, to look at."""
        return [item.subscription for item in self._by_shape.values()]

    def decisions(self, shape: Shape) -> tuple[PlanDecision, ...]:
        """Return the newest plans for a shape."""
        item = self._by_shape.get(shape)
        return () if item is None else item.subscription.decisions

    @property
    def is_attached(self) -> bool:
        """True while there are subscriptions, all of them attached."""
        return bool(self._by_shape) and all(item.subscription.is_attached for item in self._by_shape.values())

    def add(self, subscription: Subscription) -> None:
        """Schedule a subscription to a new shape."""
        self._by_shape[subscription.shape] = ScheduledSubscription(subscription, subscription.messages())
        self._wake()

    def remove(self, shape: Shape) -> None:
        """End a shape's subscription. The next `round` frees its resources."""
        self._discard(self._by_shape.pop(shape))

    def _discard(self, item: ScheduledSubscription) -> None:
        if item.fetch is not None:
            # At once: it must not bind the shape again, for which there may be another subscription by then.
            item.fetch.cancel()
        self._removed.append(item)
        self._wake()

    def _begin_again(self, item: ScheduledSubscription, position: Position | None) -> None:
        """Replace a subscription by one that is bound again and continues at the client's position."""
        subscription = item.subscription.at(position)
        self._by_shape[subscription.shape] = ScheduledSubscription(
            subscription, subscription.messages(), last_fetch=item.last_fetch
        )
        self._discard(item)

    def attach(self, writer: DirectWriter) -> bool:
        """Attach all subscriptions that are up to date. `round` may be called again only after `detach`.

        Return False if one has to be bound again, by `round`. Raises as `Subscription.is_allowed`.
        """
        are_allowed = True
        for item in self._by_shape.values():
            if not item.subscription.is_allowed():
                are_allowed = False
            # A subscription is live behind what is being fetched for it, which has to be sent first.
            elif item.fetch is None:
                item.subscription.attach(writer)
        return are_allowed

    def detach(self) -> float:
        """Detach all subscriptions. Returns the monotonic time of the last direct write, or 0 without any."""
        return max((item.subscription.detach() for item in self._by_shape.values()), default=0.0)

    async def round(self) -> AsyncGenerator[OutboundMessage]:
        """Yield the next message of each subscription that has one. Raises what `on_error` raises."""
        await self._free()
        for shape, item in list(self._by_shape.items()):
            if self._until_writable is not None:
                await self._until_writable()
            if not self._may_send():
                return
            # While a message was sent, the client may have unsubscribed, and subscribed again.
            if self._by_shape.get(shape) is item and (message := await self._message(item)) is not None:
                yield message
        self._fetch_next()

    async def _message(self, item: ScheduledSubscription) -> OutboundMessage | None:
        message, position = None, item.position
        try:
            # Before a fetch is used, and before the window is read: neither shows what has been taken away.
            if item.subscription.is_allowed():
                message = await self._next_message(item)
                # Planning may have waited for MongoDB.
                if message is None or (self._may_send() and item.subscription.is_allowed()):
                    return message
        except EventsyncError as error:
            self._on_error(item.subscription.shape, error)
            self.remove(item.subscription.shape)
            return None
        # A message that was made is dropped: the client does not have what is in it.
        self._begin_again(item, position)
        return None

    async def _next_message(self, item: ScheduledSubscription) -> OutboundMessage | None:
        message = None
        if item.fetch is not None:
            if not item.fetch.done():
                return None
            fetch, item.fetch, self._fetching = item.fetch, None, None
            message = fetch.result()
        if message is None and item.subscription.in_window:
            # Also after a fetch without a result: events may have come since, and their wake-up is over.
            message = await anext(item.messages)
        return message

    def _fetch_next(self) -> None:
        """Start a fetch for the subscription that has waited longest, unless a fetch is under way."""
        if self._fetching is not None:
            return
        # One fetch at a time bounds the memory of a session, and the oldest wait keeps one shape from starving the
        # others.
        item = min(self._behind(), key=lambda behind: behind.last_fetch, default=None)
        if item is None:
            return
        self._fetches += 1
        item.last_fetch, item.position_before_fetch = self._fetches, item.subscription.position
        item.fetch = asyncio.get_running_loop().create_task(_next(item.messages), context=self._context)
        item.fetch.add_done_callback(lambda _: self._wake())
        self._fetching = item

    def _behind(self) -> Iterator[ScheduledSubscription]:
        return (item for item in self._by_shape.values() if not item.subscription.in_window)

    async def _free(self) -> None:
        while self._removed:
            item = self._removed.pop()
            if item.fetch is not None:
                self._fetching = None
                await _cancel(item.fetch)
            await item.messages.aclose()

    async def aclose(self) -> None:
        """Free the resources of all subscriptions (open reads)."""
        self._removed.extend(self._by_shape.values())
        self._by_shape.clear()
        await self._free()


async def _cancel(fetch: asyncio.Task[OutboundMessage | None]) -> None:
    fetch.cancel()
    await asyncio.wait({fetch})
    if not fetch.cancelled():
        fetch.exception()  # retrieved, so that asyncio does not warn of it


async def _next(messages: AsyncGenerator[OutboundMessage | None]) -> OutboundMessage | None:
    return await anext(messages)
