"""Prefetching: fetch the next batch while the current one is used."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Final, TypeVar

_TURNS: Final = 3
"""Iterations of the loop until the driver has written a request: it does so in a task of a task."""

T = TypeVar("T", bound=Sequence[object])


@asynccontextmanager
async def ahead(fetch: Callable[[], Awaitable[T]]) -> AsyncIterator[AsyncIterator[T]]:
    """Yield the batches that `fetch` returns, until an empty one, and prefetch at most one.

    Raises what `fetch` raises. At the end of the block, a fetch in progress is awaited and not cancelled: a
    cancellation would make the driver close its connection.
    """
    fetching: list[asyncio.Future[T]] = []

    async def batches() -> AsyncGenerator[T]:
        fetching.append(asyncio.ensure_future(fetch()))
        while batch := await asyncio.shield(fetching[-1]):
            fetching[:] = [asyncio.ensure_future(fetch())]
            # Send the request before the batch is used: using it may block the loop for long.
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
                fetching[-1].exception()  # marks it as retrieved: the consumer has gone
