"""Of many who want the same thing at the same time, one fetches it for all."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class SingleFlight(Generic[T]):
    """What is being fetched right now, by key. Who comes meanwhile joins, and shares what comes of it, failures too.

    (One after the other, each with a failure of its own, the last of a thousand would wait for a thousand timeouts.)
    """

    def __init__(self) -> None:
        self._flying: dict[Hashable, asyncio.Future[T]] = {}

    async def fetch(self, key: Hashable, fetch: Callable[[], Awaitable[T]]) -> T:
        """What `fetch` returns or raises: this one, or that of somebody who has begun already.

        Where whoever has begun is cancelled, the next one begins anew.
        """
        while (flying := self._flying.get(key)) is not None:
            # Not `await flying`: a waiter that is cancelled would cancel it for all.
            await asyncio.wait({flying})
            if not flying.cancelled():
                return _outcome(flying)
        return await self._lead(key, fetch)

    async def _lead(self, key: Hashable, fetch: Callable[[], Awaitable[T]]) -> T:
        flying: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._flying[key] = flying
        try:
            result = await fetch()
        except Exception as error:
            flying.set_exception(error)
            flying.exception()  # nobody may have joined, and that is nothing to warn of
            raise
        else:
            flying.set_result(result)
            return result
        finally:
            del self._flying[key]
            flying.cancel()  # where none of both came: cancelled

    def __len__(self) -> int:
        return len(self._flying)


def _outcome(flying: asyncio.Future[T]) -> T:
    error = flying.exception()
    if error is not None:
        # One error for many who raise it: none of them is to carry the frames of the others.
        raise error.with_traceback(None)
    return flying.result()
