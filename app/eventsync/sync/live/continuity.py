"""Proof that a read of MongoDB continues the log that the window holds.

An answer to a client is often made of both: a snapshot from MongoDB, and then the window's events. A restored backup
takes MongoDB back, while the window keeps the events that were read before. The feed detects that whenever it joins the
log, but a client's read may come first.

A `mongod` process does not outlive a restore. So a read counts only if the feed has followed the log without
interruption since before the read, and if the process in which it began is primary still after the read. Any other read
is repeated, once the feed has joined the log again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from eventsync.concurrency.single_flight import SingleFlight
from eventsync.concurrency.waiting import set_within
from eventsync.domain.replay import Damaged
from eventsync.errors import Unavailable


class NotContinued(Unavailable):
    """The read may not continue the content of the window. Read again."""

    def __init__(self) -> None:
        super().__init__("the feed was interrupted, or MongoDB's primary has changed, during the read")


@dataclass(frozen=True, slots=True, eq=False)
class Term:
    """An uninterrupted time in which the feed follows the log in the `mongod` process `process`.

    None before a feed has begun: there is nothing to confirm.
    """

    process: str | None = None


class Continuity:
    """Confirms reads. The feed says when it `follows` the log, and when it is `interrupted`."""

    def __init__(self, process: Callable[[], Awaitable[str]], wait: float) -> None:
        """`process` asks MongoDB which process is primary. Readers wait for the feed for at most `wait` seconds."""
        self._ask = process
        self._wait = wait
        self._asked = 0
        self._one_at_a_time = asyncio.Lock()
        self._answers: SingleFlight[str] = SingleFlight()
        self._term = Term()
        self._following = asyncio.Event()
        self._following.set()
        self.is_doubted = False
        """True from a read that found another primary until the feed is `interrupted`."""

    # --- the feed's side ------------------------------------------------------------------------------------------

    def follows(self, process: str) -> None:
        """Let clients read. The window agrees with the log in this process, and is kept up to date from it."""
        # The same term continues if the feed has not been interrupted: reads under way stay valid.
        if not self._following.is_set() or self._term.process is None:
            self._term = Term(process)
            self._following.set()

    def interrupted(self) -> None:
        """Let no read begin or be confirmed until the feed follows the log again."""
        self._following.clear()
        self.is_doubted = False

    @property
    def is_following(self) -> bool:
        """True while the feed follows the log, as far as it knows."""
        return self._following.is_set()

    # --- the readers' side ----------------------------------------------------------------------------------------

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[None]:
        """Confirm what the block reads, or finds damaged. Raises `NotContinued` and `Unavailable`."""
        # Before the read: a process that is asked for afterwards may be another one than that which answered.
        term = await self.begin()
        try:
            yield
        except Damaged:
            await self.confirm(term)
            raise
        await self.confirm(term)

    async def confirmed(self, term: Term, rows: AsyncIterable[Iterable[bytes]]) -> AsyncGenerator[Iterable[bytes]]:
        """Yield `rows`, of which none was read before `term`, and confirm them before the end."""
        try:
            async for some in rows:
                yield some
        except Damaged:
            await self.confirm(term)
            raise
        await self.confirm(term)

    async def begin(self) -> Term:
        """Wait until the feed follows the log, and return the term to confirm. Raises `Unavailable`."""
        if not self._following.is_set() and not await set_within(self._following, self._wait):
            raise Unavailable("this server does not follow the event log right now")
        return self._term

    async def confirm(self, term: Term) -> None:
        """Confirm all that was read since `begin` returned `term`. Raises `NotContinued` and `Unavailable`."""
        if term.process is None and term is self._term and self._following.is_set():
            return
        # Concurrent calls share an answer, but never one that was asked for before the call.
        process = await self._answers.fetch(self._asked, self._ask_again)
        if term is self._term and self._following.is_set():
            if process == term.process:
                return
            # The feed has not noticed yet. It checks this before it takes the next events.
            self._following.clear()
            self.is_doubted = True
        raise NotContinued

    async def _ask_again(self) -> str:
        async with self._one_at_a_time:
            self._asked += 1
            return await self._ask()
