from __future__ import annotations

import asyncio

import pytest

from eventsync.server.websocket_protocol import Inbox


async def test_first_in_first_out_and_who_waits_is_woken() -> None:
    inbox = Inbox[int]()
    assert inbox.empty()
    taking = asyncio.create_task(inbox.get())
    await asyncio.sleep(0)
    for number in (1, 2, 3):
        inbox.put_nowait(number)
    assert await taking == 1
    assert (inbox.qsize(), inbox.empty()) == (2, False)
    assert [await inbox.get(), await inbox.get()] == [2, 3]


async def test_a_cancelled_reader_takes_no_message() -> None:
    inbox = Inbox[int]()
    taking = asyncio.create_task(inbox.get())
    await asyncio.sleep(0)
    inbox.put_nowait(1)
    taking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await taking
    assert await inbox.get() == 1
