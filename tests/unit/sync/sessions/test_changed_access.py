"""Rules that change while a session is connected: at every moment between a read and its sending."""

from __future__ import annotations

import asyncio
import logging
from contextlib import ExitStack
from functools import partial
from typing import cast

import pytest

from eventsync.access.access import Access
from eventsync.access.control import AccessControl
from eventsync.access.live import LiveAccesses
from eventsync.access.tokens import LEEWAY
from eventsync.domain.positions import Position, Seq, scoped
from eventsync.domain.protocol import Auth, Subscribe
from eventsync.domain.shapes import Shape
from eventsync.errors import Unauthenticated
from support.logs_by_hand import seen_shape
from support.readers import FORBIDDEN, LOG, ORDERS, A, B, Reader, Rules, of, sees
from support.sessions import attached, connected

# --- refusals ---------------------------------------------------------------------------------------------------------


async def test_each_refusal_of_a_session_is_recorded(caplog: pytest.LogCaptureFixture) -> None:
    """Refused: a shape that is followed, one in `hello`, one that is subscribed later, and a new token."""
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
        assert not attached(server), "direct writes end at once"
        assert await client.settle() == []
        assert attached(server)
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
        assert not attached(server)
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
        await accesses._until_resumed()
        assert sorted(woken) == list(range(100))
        woken.clear()
        rules.change(sees(A))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
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
