"""Rules that change while something is read for a session, or is sent in parts."""

from __future__ import annotations

import asyncio

import pytest

from eventsync.domain.plan import Answer, ResetReason
from eventsync.domain.positions import Position, Seq, scoped
from eventsync.domain.protocol import Auth
from eventsync.domain.shapes import Shape
from eventsync.errors import Forbidden, Unavailable
from support.logs_by_hand import seen_shape
from support.readers import FORBIDDEN, LOG, ORDERS, A, B, Reader, Server, of, sees
from support.sessions import connected


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
