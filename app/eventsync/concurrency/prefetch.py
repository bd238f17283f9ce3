"""The next batch is fetched while one is used."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Final, TypeVar

_TURNS: Final = 3
"""Turns of the loop until a request is written: the driver does it in a task of a task."""

T = TypeVar("T", bound=Sequence[object])


@asynccontextmanager
async def ahead(fetch: Callable[[], Awaitable[T]]) -> AsyncIterator[AsyncIterator[T]]:
    """The batches that `fetch` gives, until an empty one; at most one is there that nobody has asked for.

    Raises what `fetch` raises. When the block ends, what is being fetched is waited for, not broken off: the driver
    would close its connection.
    """
    fetching: list[asyncio.Future[T]] = []

    async def batches() -> AsyncGenerator[T]:
        fetching.append(asyncio.ensure_future(fetch()))
        while batch := await asyncio.shield(fetching[-1]):
            fetching[:] = [asyncio.ensure_future(fetch())]
            # Its request is to be on its way before the batch is used, which may take long without a pause.
            for _ in range(_TURNS):
                await asyncio.sleep(0)
            yield batch

    try:
        async with aclosing(batches()) as found:
            yield found
    finally:
        if fetching:
            await asyncio.wait(fetching)
            if not fetching[-1].cancelled():
                fetching[-1].exception()  # whoever has gone does not want to know
