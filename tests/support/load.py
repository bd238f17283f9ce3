"""Writes that continue while a test does something else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx
from pymongo.errors import DuplicateKeyError

from support.waiting import patience, within

Write = Callable[[], Awaitable[object]]


@dataclass
class Load:
    """`count` is how many writes have been made; `wait` returns after more of them."""

    count: int = 0
    made: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def wait(self, more: int) -> None:
        goal = self.count + more
        async with within(60), self.made:
            await self.made.wait_for(lambda: self.count >= goal)


@asynccontextmanager
async def under_load(*writers: Write) -> AsyncIterator[Load]:
    """Each writer writes again and again while the block runs."""
    # A flag, not a cancellation: the driver may swallow one, and the writer would never end.
    stop, load = asyncio.Event(), Load()

    async def run(write: Write) -> None:
        while not stop.is_set():
            try:
                await write()
            except DuplicateKeyError:
                continue  # two upserts of the same document at once
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


DOCUMENTS = "/v1/collections/docs/documents"


@dataclass
class Overload:
    """`accepted` are the ids of the documents that were created, `others` the texts of answers that are neither."""

    url: str
    accepted: set[str] = field(default_factory=set)
    refused: list[httpx.Response] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    _numbers: int = 0

    async def run(self, *, writers: int, accepted: int, refused: int) -> None:
        """Create documents from so many connections, until there are so many more of each answer."""
        most = (len(self.accepted) + accepted, len(self.refused) + refused)
        limits = httpx.Limits(max_connections=writers)
        async with httpx.AsyncClient(base_url=self.url, timeout=patience(60), limits=limits) as client:

            async def write() -> None:
                while len(self.accepted) < most[0] or len(self.refused) < most[1]:
                    await self._one(client)

            async with within(60), asyncio.TaskGroup() as group:
                for _ in range(writers):
                    group.create_task(write())

    async def _one(self, client: httpx.AsyncClient) -> None:
        self._numbers += 1
        name = f"n{self._numbers}"
        answer = await client.put(f"{DOCUMENTS}/{name}", json={"n": 1})
        if answer.status_code == 201:
            self.accepted.add(name)
        elif answer.status_code == 503 and answer.json()["code"] == "overloaded":
            self.refused.append(answer)
            await asyncio.sleep(0.2)  # a client that does not wait as long as it is asked to
        else:
            self.others.append(answer.text)
