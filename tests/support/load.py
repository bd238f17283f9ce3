"""Writes that continue while a test does something else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from pymongo.errors import DuplicateKeyError

from support.waiting import within

Write = Callable[[], Awaitable[object]]


@dataclass
class Load:
    """`count` is how many writes have been made; `wait` returns after more of them."""

    count: int = 0
    made: asyncio.Condition | None = None

    async def wait(self, more: int) -> None:
        assert self.made is not None
        goal = self.count + more
        async with within(60), self.made:
            await self.made.wait_for(lambda: self.count >= goal)


@asynccontextmanager
async def under_load(*writers: Write) -> AsyncIterator[Load]:
    """Each writer writes again and again while the block runs."""
    # A flag, not a cancellation: the driver may swallow one, and the writer would never end.
    stop, load = asyncio.Event(), Load(made=asyncio.Condition())

    async def run(write: Write) -> None:
        while not stop.is_set():
            try:
                await write()
            except DuplicateKeyError:
                continue  # two upserts of the same document at once
            assert load.made is not None
            async with load.made:
                load.count += 1
                load.made.notify_all()

    async with asyncio.TaskGroup() as group:
        for write in writers:
            group.create_task(run(write))
        try:
            yield load
        finally:
            stop.set()
