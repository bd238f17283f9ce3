"""Answers that may be a little old, shared by all who ask: a thousand clients at a time ask MongoDB once."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from eventsync.concurrency.single_flight import SingleFlight

T = TypeVar("T")


class TTLCache(Generic[T]):
    """The newest answer to each of at most `most` questions, for `age` seconds."""

    def __init__(self, *, age: float, most: int) -> None:
        self._age = age
        self._most = most
        self._known: OrderedDict[Hashable, tuple[float, T]] = OrderedDict()
        self._flights: SingleFlight[T] = SingleFlight()
        self._cleared = 0

    async def get(self, question: Hashable, ask: Callable[[], Awaitable[T]]) -> T:
        """The answer; `ask` is awaited where none is known that is young enough, by one caller for all."""
        known = self._known.get(question)
        if known is not None and time.monotonic() - known[0] < self._age:
            return known[1]
        # Not joined by who asks after `clear`: what is on its way may be as old as what was cleared.
        return await self._flights.fetch((self._cleared, question), lambda: self._ask(question, ask))

    async def _ask(self, question: Hashable, ask: Callable[[], Awaitable[T]]) -> T:
        cleared = self._cleared
        answer = await ask()
        if cleared == self._cleared:
            self._known[question] = time.monotonic(), answer
            self._known.move_to_end(question)
            while len(self._known) > self._most:
                self._known.popitem(last=False)
        return answer

    def clear(self) -> None:
        """Forget all answers: something has shown that they are too old."""
        self._known.clear()
        self._cleared += 1
