"""A follower's end: nothing keeps it going, and nothing is recorded behind it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from support.chaos.followers import Recording
from support.chaos.history import Recorder
from support.clients import PEERS
from support.peers.peer import Asked, Ended, Link, Received, TransportName
from support.waiting import within


class FailingAtItsEnd:
    """A peer whose connection fails while it is given up, as one does whose other side has gone."""

    name = "failing"
    transport: TransportName = "websocket"

    def __init__(self) -> None:
        self.ended: Ended | None = None
        self._seqs = iter(range(1000))

    @asynccontextmanager
    async def open(self, url: str, asked: Asked) -> AsyncIterator[Link]:  # noqa: ARG002 - as a peer does
        try:
            yield self
        finally:
            raise ConnectionResetError

    async def receive(self) -> Received | None:
        await asyncio.sleep(0)
        if (seq := next(self._seqs, None)) is None:
            await asyncio.Event().wait()
        return Received({"type": "events", "from": f"log:{seq}", "to": f"log:{(seq or 0) + 1}"})


@pytest.fixture
def follower(monkeypatch: pytest.MonkeyPatch) -> Recording:
    monkeypatch.setitem(PEERS, "broken", FailingAtItsEnd())
    return Recording(Recorder(), ["http://nowhere"], "orders", "broken", 1)


async def test_a_connection_that_fails_while_it_is_cancelled_does_not_keep_it_going(follower: Recording) -> None:
    async with within(), asyncio.TaskGroup() as group:
        task = group.create_task(follower.run())
        await follower.arrive(1, "log", seconds=10.0)
        follower.leave()
        task.cancel()


async def test_nothing_is_recorded_behind_the_end(follower: Recording) -> None:
    async with within(), asyncio.TaskGroup() as group:
        group.create_task(follower.run())
        await follower.arrive(3, "log", seconds=10.0)
        follower.end()
    frames = follower._recorder.history().frames
    assert [frame.kind for frame in frames if frame.kind != "connect"][-1] == "end"
    assert frames[-1].kind == "end"
    assert frames[-1].end == "log:3"
