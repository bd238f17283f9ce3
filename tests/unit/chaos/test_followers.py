"""A follower's end: nothing keeps it going, and nothing is recorded behind it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from support.chaos.followers import Follower
from support.chaos.history import Recorder
from support.clients import TRANSPORTS
from support.replica import Replica
from support.waiting import within


@asynccontextmanager
async def failing_at_its_end(url: str, replica: Replica) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
    """A connection that fails while it is given up, as one does whose peer has gone."""

    async def messages() -> AsyncIterator[dict[str, Any]]:
        for seq in range(1000):
            yield {"type": "events", "from": f"log:{seq}", "to": f"log:{seq + 1}"}
            await asyncio.sleep(0)
        await asyncio.Event().wait()

    try:
        yield messages()
    finally:
        raise ConnectionResetError


@pytest.fixture
def follower(monkeypatch: pytest.MonkeyPatch) -> Follower:
    monkeypatch.setitem(TRANSPORTS, "broken", failing_at_its_end)
    return Follower(Recorder(), ["http://nowhere"], "orders", "broken", 1)


async def test_a_connection_that_fails_while_it_is_cancelled_does_not_keep_it_going(follower: Follower) -> None:
    async with within(), asyncio.TaskGroup() as group:
        task = group.create_task(follower.run())
        await follower.arrive(1, "log", seconds=10.0)
        follower.leave()
        task.cancel()


async def test_nothing_is_recorded_behind_the_end(follower: Follower) -> None:
    async with within(), asyncio.TaskGroup() as group:
        group.create_task(follower.run())
        await follower.arrive(3, "log", seconds=10.0)
        follower.end()
    frames = follower._recorder.history().frames
    assert [frame.kind for frame in frames if frame.kind != "connect"][-1] == "end"
    assert frames[-1].kind == "end"
    assert frames[-1].end == "log:3"
