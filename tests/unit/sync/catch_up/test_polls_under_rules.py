"""Polls and histories whose rules change while they read or wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

import pytest

from eventsync.access.access import Access
from eventsync.access.control import AccessControl
from eventsync.access.live import LiveAccesses
from eventsync.access.tokens import LEEWAY
from eventsync.concurrency.admission import ConnectionPlaces
from eventsync.domain.plan import ResetReason
from eventsync.domain.positions import Position, Seq, scoped
from eventsync.domain.shapes import Shape
from eventsync.errors import EventsyncError, Forbidden, ResetRequired, Unauthenticated, Unavailable
from eventsync.stores.stores import Stores
from eventsync.sync.catch_up.log_pages import LogPage, LogPages
from eventsync.sync.catch_up.source import Source
from support.readers import FORBIDDEN, LOG, ORDERS, A, B, Reader, Rules, Server, of, sees
from support.waiting import within


class Poll:
    """A poll of `orders` under way."""

    def __init__(self, server: Server, rules: Rules, *, seq: int) -> None:
        reader = cast("Reader", rules.reader)
        assert isinstance(reader.sees, Shape)
        accesses = LiveAccesses(cast("AccessControl", rules))
        pages = LogPages(cast("Source", server), cast("Stores", None), accesses, ConnectionPlaces(1))
        position = Position(scoped(LOG, reader.sees.scope), Seq(seq))
        polling = pages.page(ORDERS, position, cast("Access", reader), limit=10, wait=60)
        self._task = asyncio.get_running_loop().create_task(polling)

    async def has_ended(self) -> bool:
        """Return True if the poll is answered, after everything has happened that can."""
        for _ in range(50):
            await asyncio.sleep(0)
        return self._task.done()

    async def answer(self) -> bytes:
        async with within(10):
            page: LogPage = await self._task
        return b"".join(page.parts)


def waiting() -> tuple[Server, Rules, Poll]:
    """Return a poll that waits for events."""
    server, rules = Server(), Rules(sees(A))
    return server, rules, Poll(server, rules, seq=10)


def reading() -> tuple[Server, Rules, Poll]:
    """Return a poll that reads the store."""
    server, rules = Server(), Rules(sees(A))
    return server, rules, Poll(server, rules, seq=5)


Begin = Callable[[], tuple[Server, Rules, Poll]]


async def test_waiting_poll_with_the_same_view_notices_nothing() -> None:
    server, rules, poll = waiting()
    assert not await poll.has_ended()
    rules.change(sees(A))
    assert not await poll.has_ended()
    server.window.extend([of(B, 11), of(A, 12)])
    assert b'"seq":12' in await poll.answer()


async def test_read_under_way_is_used_with_the_same_view() -> None:
    server, rules, poll = reading()
    assert not await poll.has_ended()
    rules.change(sees(A))
    server.release(2)
    assert b'"seq":9' in await poll.answer()


@pytest.mark.parametrize("begin", [waiting, reading])
async def test_poll_with_another_view_is_reset(begin: Begin) -> None:
    server, rules, poll = begin()
    assert not await poll.has_ended()
    rules.change(sees(B))
    server.window.extend([of(A, 11)])
    server.release(2)
    with pytest.raises(ResetRequired) as error:
        await poll.answer()
    assert error.value.reason == "scope_changed"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (Reader(FORBIDDEN), Forbidden),
        (Unauthenticated("token_revoked"), Unauthenticated),
        (Unavailable("no [auth] has been applied"), Unavailable),
        (Reader(Unavailable("about to become active")), Unavailable),
    ],
)
@pytest.mark.parametrize("begin", [waiting, reading])
async def test_poll_that_may_not_be_answered_is_refused(
    begin: Begin, change: Reader | EventsyncError, expected: type[EventsyncError]
) -> None:
    server, rules, poll = begin()
    assert not await poll.has_ended()
    rules.change(change)
    server.release(2)
    with pytest.raises(expected):
        await poll.answer()


async def test_poll_gets_no_events_after_the_end_of_its_token() -> None:
    server, rules = Server(), Rules(sees(A))
    reader = cast("Reader", rules.reader)
    reader.expires = -LEEWAY + 1.0
    poll = Poll(server, rules, seq=10)
    assert not await poll.has_ended()
    reader.expires = -LEEWAY
    server.window.extend([of(A, 11)])
    with pytest.raises(Unauthenticated) as error:
        await poll.answer()
    assert error.value.reason == "token_expired"


async def test_poll_steps_over_no_gap_that_begins_while_its_position_is_checked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server, rules = Server(), Rules(sees(A))
    checks = 0

    async def refusal(*_: object) -> ResetReason | None:
        nonlocal checks
        checks += 1
        await asyncio.sleep(0)
        return None if checks == 1 else ResetReason.BEFORE_HORIZON

    monkeypatch.setattr(server, "refusal", refusal)
    monkeypatch.setattr(server, "has_all_after", lambda *_: checks != 1)
    poll = Poll(server, rules, seq=5)
    server.release(1)
    with pytest.raises(ResetRequired):
        await poll.answer()
    assert server.reads == []
