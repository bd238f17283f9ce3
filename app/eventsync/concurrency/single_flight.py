"""Collapse concurrent identical fetches into one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class SingleFlight(Generic[T]):
    """The fetches in progress, by key. Concurrent callers share one result or one error.

    Errors are shared because otherwise the last of a thousand callers would wait for a thousand timeouts.
    """

    def __init__(self) -> None:
        self._flying: dict[Hashable, asyncio.Future[T]] = {}

    async def fetch(self, key: Hashable, fetch: Callable[[], Awaitable[T]]) -> T:
        """Return or raise the outcome of `fetch`, or of the fetch of this key that is already in progress.

        If the caller that fetches is cancelled, the next waiting caller fetches again.
        """
        while (flying := self._flying.get(key)) is not None:
            # `await flying` would let a cancelled waiter cancel the fetch for all.
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
            flying.exception()  # marks it as retrieved: without waiters asyncio would log a warning
            raise
        else:
            flying.set_result(result)
            return result
        finally:
            del self._flying[key]
            flying.cancel()  # has an effect only if this task was cancelled

    def __len__(self) -> int:
        return len(self._flying)


def _outcome(flying: asyncio.Future[T]) -> T:
    error = flying.exception()
    if error is not None:
        # Many callers raise the same error object: drop the frames that others have added.
        raise error.with_traceback(None)
    return flying.result()
