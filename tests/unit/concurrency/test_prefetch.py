from __future__ import annotations

import asyncio

import pytest

from eventsync.concurrency.prefetch import ahead


class Source:
    """Batches that a test lets come."""

    def __init__(self) -> None:
        self.asked = 0
        self.coming: asyncio.Queue[list[int] | Exception] = asyncio.Queue()

    async def fetch(self) -> list[int]:
        self.asked += 1
        batch = await self.coming.get()
        if isinstance(batch, Exception):
            raise batch
        return batch


async def test_the_next_batch_is_asked_for_before_one_is_used_and_no_further() -> None:
    source = Source()
    for batch in ([1], [2, 3], []):
        source.coming.put_nowait(batch)
    got, asked = [], []
    async with ahead(source.fetch) as batches:
        async for batch in batches:
            got += batch
            asked.append(source.asked)
    assert got == [1, 2, 3]
    assert asked == [2, 3]


async def test_an_error_comes_behind_what_was_fetched() -> None:
    source = Source()
    source.coming.put_nowait([1])
    source.coming.put_nowait(OSError("gone"))
    async with ahead(source.fetch) as batches:
        assert await anext(batches) == [1]
        with pytest.raises(OSError, match="gone"):
            await anext(batches)


@pytest.mark.parametrize("rest", [[2], OSError("gone")], ids=["more", "failure"])
async def test_an_early_exit_waits_for_the_fetch_under_way(rest: list[int] | Exception) -> None:
    source = Source()
    source.coming.put_nowait([1])

    async def take_one() -> list[int]:
        async with ahead(source.fetch) as batches:
            return await anext(batches)

    leaving = asyncio.create_task(take_one())
    while source.asked < 2:  # noqa: ASYNC110 - it is a matter of turns of the loop
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not leaving.done()
    source.coming.put_nowait(rest)
    assert await leaving == [1]
    assert source.coming.empty()
