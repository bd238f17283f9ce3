"""Rules that change while a session is connected: at every moment between a read and its sending."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from functools import partial
from typing import Any, cast

import pytest

from eventsync.access.access import Access
from eventsync.access.control import AccessControl
from eventsync.access.live import LiveAccess, LiveAccesses
from eventsync.access.tokens import LEEWAY
from eventsync.domain.plan import Answer, ResetReason
from eventsync.domain.positions import Position, Seq, scoped
from eventsync.domain.protocol import Auth, Subscribe
from eventsync.domain.shapes import Shape
from eventsync.errors import EventsyncError, Forbidden, Unauthenticated, Unavailable
from eventsync.sync.catch_up.source import Source
from eventsync.sync.live.fan_out import DirectWriter, Publication
from eventsync.sync.sessions.session import Connection, Identity, Session
from support.logs_by_hand import seen_shape
from support.readers import FORBIDDEN, LOG, ORDERS, A, B, Reader, Rules, Server, of, sees


class Client:
    """A client of one session, with all that it has received, and a connection that may be full."""

    def __init__(self, server: Server, rules: Rules, stack: AsyncExitStack) -> None:
        self.server = server
        self.rules = rules
        self.got: list[dict[str, Any]] = []
        self.writable = asyncio.Event()
        self.writable.set()
        subscribers = stack.enter_context(server.window.subscribers())
        accesses = LiveAccesses(cast("AccessControl", rules))
        live: LiveAccess = stack.enter_context(accesses.open(cast("Access", rules.reader)))
        self.session = Session(
            cast("Source", server),
            subscribers,
            live_access=live,
            client=Identity("c", "websocket"),
            on_ack=lambda _: None,
            heartbeat=60.0,
            max_shapes=10,
            connection=Connection(DirectWriter(_bytes, self._write), self._until_writable),
        )
        self.ended: Exception | None = None
        self.on_message: Callable[[], None] | None = None
        """Called while a message is being sent."""

    def _write(self, data: bytes) -> bool:
        if not self.writable.is_set():
            return False
        self.got.append(json.loads(data) | {"direct": True})
        return True

    async def _until_writable(self) -> None:
        await self.writable.wait()

    async def receive(self) -> None:
        try:
            async for message in self.session.messages():
                self.got.append(json.loads(message.data))
                if self.on_message is not None:
                    self.on_message()
        except EventsyncError as error:
            self.ended = error

    async def settle(self) -> list[str]:
        """Let everything happen that can, and return the kinds of the messages since the last call."""
        for _ in range(60):
            await asyncio.sleep(0)
        news, self.got = self.got, []
        self.news = [message for message in news if message["type"] not in {"welcome", "progress"}]
        return [message["type"] for message in self.news]

    @property
    def seqs(self) -> list[int]:
        return [item["seq"] for message in self.news for item in message.get("events", ())]

    @property
    def scopes(self) -> set[str]:
        """The scopes of all rows and positions that have arrived."""
        return {row["of"] for message in self.news for row in message.get("docs", ())}


def _attached(server: Server) -> int:
    """Return the number of subscribers that are written to directly."""
    return sum(len(each) for channel in server.window._channels.values() for each in channel.attached.values())


def _bytes(publication: Publication) -> bytes:
    return publication.data


@asynccontextmanager
async def connected(
    reader: Reader, *, seq: int | None = 10, server: Server | None = None
) -> AsyncIterator[tuple[Client, Server, Rules]]:
    """A client of `orders` at this seq, after all that it gets without an event."""
    server = server or Server()
    rules = Rules(reader)
    async with AsyncExitStack() as stack:
        client = Client(server, rules, stack)
        assert isinstance(reader.sees, Shape)
        position = None if seq is None else Position(scoped(LOG, reader.sees.scope), Seq(seq))
        client.session.subscribe(ORDERS, position)
        receiving = asyncio.get_running_loop().create_task(client.receive())
        try:
            yield client, server, rules
        finally:
            client.session.close()
            client.writable.set()
            await receiving
            await client.session.aclose()


# --- refusals ---------------------------------------------------------------------------------------------------------


async def test_each_refusal_of_a_session_is_recorded(caplog: pytest.LogCaptureFixture) -> None:
    """Of a shape that is followed, of one in `hello`, of one that is subscribed later, and of a new token."""
    caplog.set_level(logging.INFO)
    async with connected(sees(A)) as (client, _, rules):
        session = client.session
        await session.request(Subscribe(ORDERS, None))  # subscribed already: malformed, and no refusal
        rules.change(Reader(FORBIDDEN))
        session.begin([Shape("closed")], {})
        await session.request(Subscribe(Shape("closed"), None))
        await session.request(Auth("bad"))
        assert await client.settle() == ["error"] * 5
        assert rules.refusals.counts == {"not_granted": 3, "token_invalid": 1}
    lines = [record.getMessage() for record in caplog.records if record.name == "eventsync.access.audit"]
    assert lines == [
        f'refused: subject="ada" reason="{reason}" request="WEBSOCKET /v1/sync"'
        for reason in ("not_granted", "token_invalid")
    ]


# --- direct writes ----------------------------------------------------------------------------------------------------


async def test_attached_session_gets_no_event_that_was_taken_away() -> None:
    async with connected(sees(A)) as (client, server, rules):
        assert await client.settle() == ["live"]
        server.window.extend([of(A, 11)])
        assert await client.settle() == ["events"]
        assert client.news[0]["direct"], "the session is attached"
        rules.change(sees(B))
        server.window.extend([of(A, 12)])
        assert await client.settle() == ["reset"]
        assert client.news[0]["reason"] == "scope_changed"
        server.release(3)
        await client.settle()
        server.window.extend([of(A, 13), of(B, 14)])
        await client.settle()
        assert client.seqs == [14]


async def test_attached_session_with_the_same_view_notices_nothing() -> None:
    async with connected(sees(A)) as (client, server, rules):
        await client.settle()
        server.window.extend([of(A, 11)])
        await client.settle()
        rules.change(sees(A))
        server.window.extend([of(A, 12)])
        server.window.extend([of(A, 13)])
        assert set(await client.settle()) == {"events"}
        assert client.seqs == [12, 13]
        server.window.extend([of(A, 14)])
        assert await client.settle() == ["events"]
        assert client.news[0]["direct"], "it is attached again"


async def test_attached_session_with_the_same_view_waits_on() -> None:
    async with connected(sees(A)) as (client, server, rules):
        await client.settle()
        server.window.extend([of(A, 11)])
        await client.settle()
        server.during = partial(pytest.fail, "the session reads the window again")
        rules.change(sees(A))
        assert not _attached(server), "direct writes end at once"
        assert await client.settle() == []
        assert _attached(server)
        server.window.extend([of(A, 12)])
        assert client.got[-1].get("direct")


async def test_session_with_one_changed_view_of_two_is_woken() -> None:
    both = seen_shape("orders", {A}), seen_shape("users", {B})
    async with connected(sees(A)) as (client, server, rules):
        views = {str(shape): shape for shape in both}
        server.views = views
        client.session.subscribe(Shape("users"), Position(scoped(LOG, both[1].scope), Seq(10)))
        assert await client.settle() == ["live", "live"]
        views["users"] = seen_shape("users", {A})
        rules.change(sees(A))
        assert await client.settle() == ["reset"], "without an event that wakes it"
        server.window.extend([of(A, 11), of(B, 12, "users")])
        assert await client.settle() == ["events"]
        assert client.seqs == [11]


async def test_session_whose_clock_was_set_ends_direct_writes_in_time() -> None:
    reader = sees(A)
    reader.expires = 100.0
    async with connected(reader) as (client, server, rules):
        await client.settle()
        rules.time = 100.0 + LEEWAY - 0.2
        client.session.recheck()
        await client.settle()
        assert not _attached(server)
        server.window.extend([of(A, 11)])
        assert await client.settle() == ["events"]
        rules.time += 0.2
        server.window.extend([of(A, 12)])
        assert await client.settle() == []


async def test_view_that_is_taken_away_during_the_turn_of_another_ends_one_subscription() -> None:
    async with connected(sees(A)) as (client, server, rules):
        client.session.subscribe(Shape("users"), Position(scoped(LOG, seen_shape("users", {A}).scope), Seq(10)))
        assert await client.settle() == ["live", "live"]
        rules.on_change.clear()  # before the session is woken
        client.writable.clear()
        client.session._subscribers.event.set()
        await client.settle()

        def change() -> None:
            server.during = None
            client.writable.clear()
            asyncio.get_running_loop().call_soon(rules.change, Reader(FORBIDDEN))
            asyncio.get_running_loop().call_soon(client.writable.set)

        server.during = change
        client.writable.set()
        assert await client.settle() == ["error", "error"]
        assert client.ended is None, "the connection stays"


async def test_session_whose_view_is_taken_away_gets_an_error_and_nothing_else() -> None:
    async with connected(sees(A)) as (client, server, rules):
        await client.settle()
        rules.change(Reader(FORBIDDEN))
        server.window.extend([of(A, 11)])
        assert await client.settle() == ["error"]
        assert (client.news[0]["code"], client.news[0]["shape"]) == ("forbidden", "orders")
        assert client.session.vector == {}
        assert client.ended is None, "the connection stays"
        assert rules.refusals.counts == {"not_granted": 1}
        rules.change(sees(A))
        server.window.extend([of(A, 12)])
        assert await client.settle() == []


async def test_revoked_session_ends_without_another_event() -> None:
    async with connected(sees(A)) as (client, server, rules):
        await client.settle()
        rules.change(Unauthenticated("token_revoked"))
        server.window.extend([of(A, 11)])
        assert await client.settle() == []
        assert isinstance(client.ended, Unauthenticated)


async def test_renewed_token_with_other_claims_ends_direct_writes_at_once() -> None:
    async with connected(sees(A)) as (client, server, rules):
        await client.settle()
        rules.tokens["other"] = sees(B)
        await client.session.request(Auth("other"))
        server.window.extend([of(A, 11)])
        server.release(3)
        kinds = await client.settle()
        assert kinds[:2] == ["authenticated", "reset"]
        assert client.seqs == []


async def test_renewed_token_with_the_same_view_misses_and_repeats_nothing() -> None:
    async with connected(sees(A)) as (client, server, rules):
        await client.settle()
        rules.tokens["again"] = sees(A)
        server.window.extend([of(A, 11)])
        await client.session.request(Auth("again"))
        server.window.extend([of(A, 12)])
        kinds = await client.settle()
        assert kinds.count("authenticated") == 1
        assert set(kinds) == {"authenticated", "events"}
        assert client.seqs == [11, 12]


async def test_session_does_not_attach_after_a_change_during_its_round() -> None:
    async with connected(sees(A)) as (client, server, rules):
        await client.settle()

        def change() -> None:
            server.during = None
            # Before the session is woken.
            asyncio.get_running_loop().call_soon(server.window.extend, [of(A, 11)])
            rules.change(sees(B))

        server.during = change
        client.session._subscribers.event.set()
        assert await client.settle() == ["reset"]
        assert client.seqs == []


# --- reads under way --------------------------------------------------------------------------------------------------


async def test_read_of_the_store_under_way_is_not_used() -> None:
    async with connected(sees(A), seq=5) as (client, server, rules):
        assert await client.settle() == []
        assert len(server.reads) == 1
        rules.change(sees(B))
        server.release()
        assert await client.settle() == ["reset"]
        assert client.session.vector == {}


async def test_finished_read_of_the_store_is_not_used() -> None:
    async with connected(sees(A), seq=5) as (client, server, rules):
        await client.settle()
        client.writable.clear()
        server.release()
        assert await client.settle() == [], "the read is finished, and the connection is full"
        rules.change(sees(B))
        client.writable.set()
        assert await client.settle() == ["reset"]


async def test_finished_read_is_used_with_the_same_view() -> None:
    async with connected(sees(A), seq=5) as (client, server, rules):
        await client.settle()
        client.writable.clear()
        server.release()
        await client.settle()
        rules.change(sees(A))
        client.writable.set()
        assert await client.settle() == ["events", "live"]
        assert client.news[0]["events"] == [{"stored": True}]
        assert len(server.reads) == 1


async def test_events_are_read_after_the_connection_accepts_a_message() -> None:
    async with connected(sees(A)) as (client, server, rules):
        await client.settle()
        rules.on_change.clear()  # the session is not told
        client.writable.clear()
        client.session._subscribers.event.set()
        await client.settle()
        server.window.extend([of(A, 11)])
        assert await client.settle() == []
        rules.change(Reader(FORBIDDEN))
        client.writable.set()
        assert await client.settle() == ["error"]


@pytest.mark.parametrize(("seq", "answer"), [(None, Answer.SNAPSHOT), (5, Answer.SNAPSHOT), (5, Answer.SQUASHED)])
async def test_change_between_two_parts_restarts_in_the_other_scope(seq: int | None, answer: Answer) -> None:
    server, other = Server(), sees(B)
    server.answer = answer
    async with connected(sees(A), seq=seq, server=server) as (client, _, rules):
        server.release(2)
        assert await client.settle() == [answer.value], "a part is sent; the next one is not complete"
        server.answer = Answer.EVENTS
        rules.change(other)
        server.release(9)
        assert (await client.settle())[:2] == ["reset", "snapshot"]
        assert isinstance(other.sees, Shape)
        assert client.scopes == {other.sees.scope}
        assert [message["part"] for message in client.news if message["type"] == "snapshot"] == [0, 1, 2]


async def test_change_before_the_first_part_needs_no_reset() -> None:
    async with connected(sees(A), seq=None) as (client, server, rules):
        client.writable.clear()
        await client.settle()
        rules.change(sees(B))
        client.writable.set()
        server.release(9)
        assert "snapshot" in await client.settle()
        assert len(client.scopes) == 1


async def test_change_to_nothing_between_two_parts_ends_the_subscription() -> None:
    async with connected(sees(A), seq=None) as (client, server, rules):
        server.release(2)
        assert await client.settle() == ["snapshot"]
        rules.change(Reader(FORBIDDEN))
        server.release(9)
        assert await client.settle() == ["error"]


async def test_dropped_reset_comes_again() -> None:
    """The client holds a part of the first scope, and never gets the reset that was made for the second."""
    async with connected(sees(A), seq=None) as (client, server, rules):
        server.release(2)
        assert await client.settle() == ["snapshot"]
        server.planning = client.writable.clear
        rules.change(sees(B))
        assert await client.settle() == [], "the reset is made, and the connection is full"
        server.planning = None
        rules.change(sees(B, A))
        client.writable.set()
        server.release(9)
        assert (await client.settle())[:2] == ["reset", "snapshot"]
        assert len(client.scopes) == 1


async def test_view_that_is_not_active_yet_waits() -> None:
    async with connected(sees(A)) as (client, server, rules):
        await client.settle()
        waiting = Reader(Unavailable("about to become active"))
        rules.change(waiting)
        server.window.extend([of(A, 11), of(B, 12)])
        assert await client.settle() == []
        waiting.sees = seen_shape("orders", {B})
        server.changed.set()
        server.release(9)
        assert (await client.settle())[:2] == ["reset", "snapshot"]
        assert client.news[0]["reason"] == ResetReason.SCOPE_CHANGED.value


async def test_view_that_is_the_same_after_a_wait_misses_and_repeats_nothing() -> None:
    async with connected(sees(A)) as (client, server, rules):
        await client.settle()
        server.window.extend([of(A, 11)])
        await client.settle()
        waiting = Reader(Unavailable("about to become active"))
        rules.change(waiting)
        server.window.extend([of(A, 12)])
        assert await client.settle() == []
        waiting.sees = seen_shape("orders", {A})
        server.changed.set()
        assert set(await client.settle()) == {"events", "live"}
        assert client.seqs == [12]


async def test_dropped_read_is_repeated_from_the_position_of_the_client() -> None:
    async with connected(sees(A), seq=5) as (client, server, rules):
        await client.settle()
        client.writable.clear()
        server.release()
        await client.settle()
        waiting = Reader(Unavailable("about to become active"))
        rules.change(waiting)
        client.writable.set()
        assert await client.settle() == []
        assert client.session.vector[ORDERS].seq == 5
        waiting.sees = seen_shape("orders", {A})
        server.changed.set()
        server.release()
        assert await client.settle() == ["events", "live"]
        assert client.news[0]["events"] == [{"stored": True}]


async def test_message_that_is_made_after_a_wait_for_a_plan_is_not_used() -> None:
    async with connected(sees(A)) as (client, server, rules):
        await client.settle()
        server.plans, server.is_interrupted = asyncio.Semaphore(0), True
        client.session._subscribers.event.set()
        assert await client.settle() == [], "it is planned again"
        server.window.extend([of(A, 11)])
        rules.change(sees(B))
        server.plans.release()
        server.release(3)
        assert (await client.settle())[0] == "reset"
        assert client.seqs == []


async def test_change_while_one_shape_is_sent_is_obeyed_by_the_next() -> None:
    async with connected(sees(A)) as (client, server, rules):
        client.session.subscribe(Shape("users"), Position(scoped(LOG, seen_shape("users", {A}).scope), Seq(10)))
        assert await client.settle() == ["live", "live"]
        client.writable.clear()
        server.window.extend([of(A, 11), of(A, 12, "users")])
        assert await client.settle() == []
        rules.on_change.clear()  # before the session is woken

        def change() -> None:
            client.on_message = None
            rules.change(Reader(FORBIDDEN))

        client.on_message = change
        client.writable.set()
        kinds = await client.settle()
        assert sorted(kinds) == ["error", "error", "events"]


async def test_change_while_a_token_is_verified_counts_for_it() -> None:
    async with connected(sees(A)) as (client, _, rules):
        await client.settle()
        rules.tokens["other"], rules.verified = sees(B), asyncio.Event()
        renewing = asyncio.get_running_loop().create_task(client.session.request(Auth("other")))
        await client.settle()
        rules.change(Reader(FORBIDDEN))
        await client.settle()
        rules.verified.set()
        await renewing
        with pytest.raises(Forbidden):
            client.session.subscribe(Shape("users"), None)


# --- thousands --------------------------------------------------------------------------------------------------------


async def test_change_suspends_all_at_once_and_wakes_a_few_at_a_time() -> None:
    rules = Rules(sees(A))
    accesses = LiveAccesses(cast("AccessControl", rules))
    suspended: list[int] = []
    woken: list[int] = []
    with ExitStack() as stack:
        for number in range(100):
            live = stack.enter_context(accesses.open(cast("Access", rules.reader)))
            live.suspend, live.wake = partial(suspended.append, number), partial(woken.append, number)
        rules.change(sees(B))
        assert sorted(suspended) == list(range(100))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert 0 < len(woken) < 50
        rules.change(sees(B))
        first = len(woken)
        for _ in range(100):
            await asyncio.sleep(0)
        assert sorted(woken[first:]) == list(range(100)), "once for both changes, unless the first one has woken it"


async def test_change_that_concerns_nobody_wakes_nobody() -> None:
    async with connected(sees(A)) as (client, server, rules):
        await client.settle()
        assert isinstance(rules.reader, Reader)
        rules.change(rules.reader)
        assert not client.session._subscribers.event.is_set()
        server.window.extend([of(A, 11)])
        assert client.got[-1].get("direct"), "it is attached still"
