from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import cast

import pytest

from eventsync.concurrency.waiting import LightEvent
from eventsync.domain.positions import LogId, Position, Seq
from eventsync.domain.shapes import Shape
from eventsync.errors import EventsyncError, NotTracked, Unavailable
from eventsync.sync.live.fan_out import DirectWriter
from eventsync.sync.sessions.scheduler import SubscriptionScheduler
from eventsync.sync.sessions.subscription import OutboundMessage, Subscription
from support.waiting import within

LOG = LogId("k3f9ab2c")

NOTHING = -1
"""A fetch without a result, after which the subscription is in the window."""


WRITER = DirectWriter(lambda publication: publication.data, lambda _: True)


class Scripted:
    """A subscription whose messages a test provides, from the window or by a fetch."""

    def __init__(self, name: str, *, in_window: bool) -> None:
        self.shape = Shape(name)
        self.position: Position | None = None
        self.in_window = in_window
        self.freed = False
        self.attached = False
        self.last_sent = 0.0
        self.asked = 0
        self._coming: asyncio.Queue[int | Exception] = asyncio.Queue()

    def is_allowed(self) -> bool:
        return True

    def coming(self, *numbers: int | Exception) -> None:
        for number in numbers:
            self._coming.put_nowait(number)

    def attach(self, writer: DirectWriter) -> None:
        assert writer is WRITER
        self.attached = True

    def detach(self) -> float:
        attached, self.attached = self.attached, False
        return self.last_sent if attached else 0.0

    async def messages(self) -> AsyncGenerator[OutboundMessage | None]:
        try:
            while True:
                self.asked += 1
                if self.in_window and self._coming.empty():
                    yield None
                    continue
                number = await self._coming.get()
                if number == NOTHING:
                    self.in_window = True
                    yield None
                    continue
                if isinstance(number, Exception):
                    raise number
                self.position = Position(LOG, Seq(number))
                yield OutboundMessage("events", f"{self.shape}:{number}".encode())
        finally:
            self.freed = True


class Played:
    """A scheduler whose wake-ups a test can wait for."""

    def __init__(self, *scripted: Scripted) -> None:
        self.woken = LightEvent()
        self.errors: dict[Shape, EventsyncError] = {}
        self.scheduler = SubscriptionScheduler(self.woken.set, self.errors.__setitem__)
        for one in scripted:
            self.scheduler.add(cast("Subscription", one))

    async def round(self) -> list[bytes]:
        given = [message.data async for message in self.scheduler.round()]
        await asyncio.sleep(0)  # what is to be fetched now has begun
        return given

    async def after_wake_up(self) -> list[bytes]:
        async with within(5):
            await self.woken.wait()
        self.woken.clear()
        return await self.round()

    @property
    def vector(self) -> dict[str, int]:
        return {str(shape): position.seq for shape, position in self.scheduler.vector.items()}


async def test_round_does_not_wait_for_a_fetch() -> None:
    live, far = Scripted("live", in_window=True), Scripted("far", in_window=False)
    played = Played(far, live)
    for number in range(1, 4):
        live.coming(number)
        assert await played.round() == [b"live:%d" % number]
    played.woken.clear()
    far.coming(7)
    assert await played.after_wake_up() == [b"far:7"]
    assert far.asked == 2, "the next one is on its way"
    await played.scheduler.aclose()
    assert live.freed
    assert far.freed


async def test_vector_includes_a_fetched_message_only_after_it_was_yielded() -> None:
    live, far = Scripted("live", in_window=True), Scripted("far", in_window=False)
    played = Played(live, far)
    live.coming(1)
    far.coming(7)
    assert await played.round() == [b"live:1"]
    live.coming(2)
    rounds = played.scheduler.round()
    assert (await anext(rounds)).data == b"live:2"
    # The message is fetched, but a client that disconnects now would return with this vector.
    await asyncio.sleep(0)
    assert far.position is not None
    assert played.vector == {"live": 2}
    assert (await anext(rounds)).data == b"far:7"
    assert played.vector == {"live": 2, "far": 7}
    await rounds.aclose()
    await played.scheduler.aclose()


async def test_attach_leaves_out_a_subscription_with_a_fetch() -> None:
    live, far = Scripted("live", in_window=True), Scripted("far", in_window=False)
    played = Played(live, far)
    await played.round()
    played.scheduler.attach(WRITER)
    assert (live.attached, far.attached) == (True, False)
    played.woken.clear()
    far.coming(NOTHING)
    assert await played.after_wake_up() == []
    assert far.in_window
    played.scheduler.attach(WRITER)
    assert (live.attached, far.attached) == (True, True)
    live.last_sent, far.last_sent = 3.0, 7.0
    assert played.scheduler.detach() == 7.0
    assert (live.attached, far.attached) == (False, False)
    assert played.scheduler.detach() == 0.0
    await played.scheduler.aclose()


async def test_round_yields_events_that_came_during_a_fetch_without_a_result() -> None:
    far = Scripted("far", in_window=False)
    played = Played(far)
    await played.round()
    far.coming(NOTHING)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    # They wake the session once, before it has seen the result of the fetch.
    far.coming(7)
    assert await played.round() == [b"far:7"]
    await played.scheduler.aclose()


async def test_fetches_run_one_at_a_time_in_turn() -> None:
    far = [Scripted(name, in_window=False) for name in "abc"]
    played = Played(*far)
    order = []
    await played.round()
    for number in range(1, 7):
        for one in far:
            one.coming(number)
        played.woken.clear()
        order += await played.after_wake_up()
        assert sum(one.asked for one in far) == number + 1
    assert [one[:1] for one in order] == [b"a", b"b", b"c"] * 2
    await played.scheduler.aclose()


async def test_remove_cancels_the_fetch_and_frees_the_subscription() -> None:
    far, other = Scripted("far", in_window=False), Scripted("other", in_window=False)
    played = Played(far, other)
    await played.round()
    played.scheduler.remove(far.shape)
    assert far.shape not in played.scheduler
    assert await played.round() == []
    assert far.freed
    other.coming(3)
    played.woken.clear()
    assert await played.after_wake_up() == [b"other:3"]
    await played.scheduler.aclose()


@pytest.mark.parametrize("in_window", [True, False])
async def test_error_ends_one_subscription_and_not_the_others(in_window: bool) -> None:
    failing, live = Scripted("failing", in_window=in_window), Scripted("live", in_window=True)
    played = Played(failing, live)
    error = NotTracked("failing is not tracked")
    failing.coming(error)
    await played.round()
    await played.round()
    live.coming(1)
    assert await played.round() == [b"live:1"]
    assert played.errors == {failing.shape: error}
    assert len(played.scheduler) == 1
    await played.scheduler.aclose()


@pytest.mark.parametrize("in_window", [True, False])
async def test_round_raises_what_on_error_raises(in_window: bool) -> None:
    failing = Scripted("failing", in_window=in_window)
    played = Played(failing)

    def raised(_: Shape, error: EventsyncError) -> None:
        raise error

    played.scheduler._on_error = raised
    failing.coming(Unavailable("not now"))
    with pytest.raises(Unavailable):
        [await played.round() for _ in range(3)]
    await played.scheduler.aclose()
    assert failing.freed


async def test_aclose_drops_the_error_of_a_finished_fetch() -> None:
    far = Scripted("far", in_window=False)
    played = Played(far)
    far.coming(Unavailable("not now"))
    played.woken.clear()
    await played.round()
    await played.woken.wait()
    await played.scheduler.aclose()
    assert far.freed
