"""Budgets of principals: what one of them may use at a time, so that a busy one does not delay all others.

What is over the number of requests waits its turn behind the principal's own requests, and in nobody else's way.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

from eventsync.concurrency.held_bytes import Share, belong_to
from eventsync.errors import RateLimited


@dataclass(frozen=True, slots=True)
class BudgetLimits:
    """The limits of one principal in a server process; 0: no limit. Of its requests, `waiting` may wait their turn."""

    requests: int = 0
    waiting: int = 1000
    connections: int = 0
    held_bytes: int = 0


@dataclass(slots=True)
class _Usage:
    """The use of one principal, while it uses anything."""

    share: Share
    users: int = 0
    requests: int = 0
    connections: int = 0
    queue: deque[tuple[int, asyncio.Future[None]]] = field(default_factory=deque)


class Budgets:
    """The budgets of all principals; one instance a server process."""

    def __init__(self, limits: BudgetLimits) -> None:
        self._limits = limits
        self._used: dict[str, _Usage] = {}
        self.refused = 0

    def __len__(self) -> int:
        """Return the number of principals that use anything."""
        return len(self._used)

    @asynccontextmanager
    async def request(self, sub: str, weight: int = 1) -> AsyncIterator[None]:
        """Hold `weight` places among the requests of `sub` while the block runs; wait for them if there are none.

        Raises `RateLimited` if too many requests wait already. Don't nest: the outer one might hold the last place.
        """
        limit = self._limits.requests
        weight = min(weight, limit) if limit else 0
        with self._using(sub) as usage:
            if limit:
                await self._enter(usage, weight)
            try:
                yield
            finally:
                usage.requests -= weight
                self._admit(usage)

    @contextmanager
    def connection(self, sub: str) -> Iterator[None]:
        """Hold a connection of `sub` while the block runs. Raises `RateLimited` if it has as many as it may."""
        limit = self._limits.connections
        with self._using(sub) as usage:
            if limit and usage.connections >= limit:
                self.refused += 1
                raise RateLimited(f"you have your {limit} connections to this server already")
            usage.connections += 1
            try:
                yield
            finally:
                usage.connections -= 1

    @contextmanager
    def _using(self, sub: str) -> Iterator[_Usage]:
        """Count a user of the entry of `sub`, which leaves with the last one: ever new subjects fill no memory."""
        if (usage := self._used.get(sub)) is None:
            usage = self._used[sub] = _Usage(Share(self._limits.held_bytes))
        usage.users += 1
        belong_to(usage.share)
        try:
            yield usage
        finally:
            usage.users -= 1
            if not usage.users:
                del self._used[sub]

    async def _enter(self, usage: _Usage, weight: int) -> None:
        if not usage.queue and usage.requests + weight <= self._limits.requests:
            usage.requests += weight
            return
        if len(usage.queue) >= self._limits.waiting:
            self.refused += 1
            raise RateLimited(f"{len(usage.queue)} of your requests wait already")
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        usage.queue.append((weight, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                # Its turn has come at the same time: the places are for the next one.
                usage.requests -= weight
            self._admit(usage)
            raise

    def _admit(self, usage: _Usage) -> None:
        """Let those in whose turn it is."""
        while usage.queue:
            weight, turn = usage.queue[0]
            # One that has gone needs no place.
            if not turn.done():
                if usage.requests + weight > self._limits.requests:
                    return
                usage.requests += weight
                turn.set_result(None)
            usage.queue.popleft()
