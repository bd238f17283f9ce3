from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import cast

import pytest

from eventsync.concurrency.waiting import LightEvent
from eventsync.domain.positions import LogId, Position, Seq
from eventsync.domain.shapes import Shape
from eventsync.errors import EventsyncError, NotTracked, Unavailable
from eventsync.sync.live.fan_out import Channel, DirectWriter, Subscriber
from eventsync.sync.sessions.scheduler import SubscriptionScheduler
from eventsync.sync.sessions.subscription import OutboundMessage, Subscription
from support.waiting import within

LOG = LogId("k3f9ab2c")

NOTHING = -1
"""That nothing was found behind the window, and what comes now is in it."""


STRAIGHT = DirectWriter(lambda news: news.data, lambda _: True)


class Scripted:
    """A subscription whose messages a test hands out, as live ones or as what has to be fetched."""

    def __init__(self, name: str, *, at_hand: bool) -> None:
        self.shape = Shape(name)
        self.position: Position | None = None
        self.at_hand = at_hand
        self.freed = False
        self.rests = False
        self.sent = 0.0
        self.asked = 0
        self._coming: asyncio.Queue[int | Exception] = asyncio.Queue()

    def coming(self, *numbers: int | Exception) -> None:
        for number in numbers:
            self._coming.put_nowait(number)

    def rest(self, _seat: Subscriber, straight: DirectWriter) -> None:
        assert straight is STRAIGHT
        self.rests = True

    def rouse(self) -> float:
        rested, self.rests = self.rests, False
        return self.sent if rested else 0.0

    async def outgoing(self) -> AsyncGenerator[OutboundMessage | None]:
        try:
            while True:
                self.asked += 1
                if self.at_hand and self._coming.empty():
                    yield None
                    continue
                number = await self._coming.get()
                if number == NOTHING:
                    self.at_hand = True
                    yield None
                    continue
                if isinstance(number, Exception):
                    raise number
                self.position = Position(LOG, Seq(number))
                yield OutboundMessage("events", f"{self.shape}:{number}".encode())
        finally:
            self.freed = True


class Played:
    """Turns whose news a test can wait for."""

    def __init__(self, *scripted: Scripted) -> None:
        self.news = LightEvent()
        self.over: dict[Shape, EventsyncError] = {}
        self.turns = SubscriptionScheduler(self.news.set, self.over.__setitem__)
        for one in scripted:
            self.turns.add(cast("Subscription", one), Channel(one.shape, Seq(0)).join(self.news))

    async def round(self) -> list[bytes]:
        given = [message.data async for message in self.turns.round()]
        await asyncio.sleep(0)  # what is to be fetched now has begun
        return given

    async def after_news(self) -> list[bytes]:
        async with within(5):
            await self.news.wait()
        self.news.clear()
        return await self.round()

    @property
    def vector(self) -> dict[str, int]:
        return {str(shape): position.seq for shape, position in self.turns.vector.items()}


async def test_who_has_to_wait_keeps_nobody_waiting() -> None:
    live, far = Scripted("live", at_hand=True), Scripted("far", at_hand=False)
    played = Played(far, live)
    for number in range(1, 4):
        live.coming(number)
        assert await played.round() == [b"live:%d" % number]
    played.news.clear()
    far.coming(7)
    assert await played.after_news() == [b"far:7"]
    assert far.asked == 2, "the next one is on its way"
    await played.turns.aclose()
    assert live.freed
    assert far.freed


async def test_what_is_fetched_is_the_clients_only_once_it_is_given_out() -> None:
    live, far = Scripted("live", at_hand=True), Scripted("far", at_hand=False)
    played = Played(live, far)
    live.coming(1)
    far.coming(7)
    assert await played.round() == [b"live:1"]
    live.coming(2)
    rounds = played.turns.round()
    assert (await anext(rounds)).data == b"live:2"
    # It is there by now, but a client that goes here would come back with this vector.
    await asyncio.sleep(0)
    assert far.position is not None
    assert played.vector == {"live": 2}
    assert (await anext(rounds)).data == b"far:7"
    assert played.vector == {"live": 2, "far": 7}
    await rounds.aclose()
    await played.turns.aclose()


async def test_who_is_fetched_for_does_not_rest() -> None:
    live, far = Scripted("live", at_hand=True), Scripted("far", at_hand=False)
    played = Played(live, far)
    await played.round()
    played.turns.rest(STRAIGHT)
    assert (live.rests, far.rests) == (True, False)
    played.news.clear()
    far.coming(NOTHING)
    assert await played.after_news() == []
    assert far.at_hand
    played.turns.rest(STRAIGHT)
    assert (live.rests, far.rests) == (True, True)
    live.sent, far.sent = 3.0, 7.0
    assert played.turns.rouse() == 7.0
    assert (live.rests, far.rests) == (False, False)
    assert played.turns.rouse() == 0.0
    await played.turns.aclose()


async def test_news_that_come_while_nothing_is_found_are_not_waited_for() -> None:
    far = Scripted("far", at_hand=False)
    played = Played(far)
    await played.round()
    far.coming(NOTHING)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    # They wake the session before it has seen what was fetched, and only once.
    far.coming(7)
    assert await played.round() == [b"far:7"]
    await played.turns.aclose()


async def test_one_is_fetched_for_at_a_time_each_in_turn() -> None:
    far = [Scripted(name, at_hand=False) for name in "abc"]
    played = Played(*far)
    order = []
    await played.round()
    for number in range(1, 7):
        for one in far:
            one.coming(number)
        played.news.clear()
        order += await played.after_news()
        assert sum(one.asked for one in far) == number + 1
    assert [one[:1] for one in order] == [b"a", b"b", b"c"] * 2
    await played.turns.aclose()


async def test_who_is_unsubscribed_while_it_is_fetched_for_is_freed() -> None:
    far, other = Scripted("far", at_hand=False), Scripted("other", at_hand=False)
    played = Played(far, other)
    await played.round()
    played.turns.remove(far.shape)
    assert far.shape not in played.turns
    assert await played.round() == []
    assert far.freed
    other.coming(3)
    played.news.clear()
    assert await played.after_news() == [b"other:3"]
    await played.turns.aclose()


@pytest.mark.parametrize("at_hand", [True, False])
async def test_who_fails_is_ended_and_the_others_go_on(at_hand: bool) -> None:
    failing, live = Scripted("failing", at_hand=at_hand), Scripted("live", at_hand=True)
    played = Played(failing, live)
    error = NotTracked("failing is not tracked")
    failing.coming(error)
    await played.round()
    await played.round()
    live.coming(1)
    assert await played.round() == [b"live:1"]
    assert played.over == {failing.shape: error}
    assert len(played.turns) == 1
    await played.turns.aclose()


@pytest.mark.parametrize("at_hand", [True, False])
async def test_where_mongodb_can_not_be_used_the_session_ends(at_hand: bool) -> None:
    failing = Scripted("failing", at_hand=at_hand)
    played = Played(failing)
    failing.coming(Unavailable("not now"))
    with pytest.raises(Unavailable):
        [await played.round() for _ in range(3)]
    await played.turns.aclose()
    assert failing.freed


async def test_a_failure_that_nobody_hears_of_any_more_is_dropped() -> None:
    far = Scripted("far", at_hand=False)
    played = Played(far)
    far.coming(Unavailable("not now"))
    played.news.clear()
    await played.round()
    await played.news.wait()
    await played.turns.aclose()
    assert far.freed
