"""Independent writes, many at a time: each succeeds or fails by itself."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable
from dataclasses import dataclass
from typing import Final, TypeVar

from eventsync.concurrency import held_bytes
from eventsync.concurrency.held_bytes import Reservation
from eventsync.errors import EventsyncError, NotAttempted, Unavailable
from eventsync.nodestorage.author import Author
from eventsync.nodestorage.deciding import Decision
from eventsync.nodestorage.idempotency import Idempotency
from eventsync.nodestorage.operations import WriteOperation
from eventsync.nodestorage.policy import WritePolicy
from eventsync.nodestorage.result import WriteResult
from eventsync.nodestorage.transaction_steps import name_of
from eventsync.nodestorage.writer import OperationWriter

T = TypeVar("T")

logger = logging.getLogger(__name__)

_UNKNOWN: Final = "the write was not finished in time; the outcome is unknown, it may have been made"


@dataclass(frozen=True, slots=True)
class BulkWrite:
    """An operation among others, with an author and an idempotency key of its own."""

    operation: WriteOperation
    author: Author
    idempotency: Idempotency | None = None


Outcome = WriteResult | EventsyncError
"""The outcome of one operation."""


class BulkWriter:
    """Carries out the writes of one bulk with `writer`, up to `policy.batch_concurrency` at a time.

    Operations on one document are carried out one after another, in the order in which they are given. All others are
    in no order.
    """

    def __init__(self, writer: OperationWriter, policy: WritePolicy, within: float) -> None:
        """After `within` seconds, cancel what is under way."""
        self._writer = writer
        self._policy = policy
        self._within = within
        self._last: dict[str, asyncio.Task[Outcome]] = {}
        """The last operation under way on each document."""
        self._waiting: deque[tuple[asyncio.Task[Outcome] | EventsyncError, Reservation]] = deque()
        """What was begun and not yielded, in order."""

    async def run(self, writes: AsyncIterable[BulkWrite | EventsyncError]) -> AsyncGenerator[list[Outcome]]:
        """Yield the outcomes in the order of `writes`, some at a time. An error among the writes keeps its place."""
        loop = asyncio.get_running_loop()
        begins_until = loop.time() + min(self._policy.deadline, self._within)
        end = loop.call_later(self._within, self._cancel)
        try:
            async for write in writes:
                if loop.time() >= begins_until:
                    break
                await self._begin(write)
                if len(self._waiting) >= self._policy.batch_concurrency:
                    yield await self._finished()
            while self._waiting:
                yield await self._finished()
        except asyncio.CancelledError:
            self._cancel()
            raise
        finally:
            # A caller that needs no further outcomes leaves the rest to finish: each write is whole.
            await self._settle()
            end.cancel()

    async def _begin(self, write: BulkWrite | EventsyncError) -> None:
        reservation = held_bytes.part()
        if isinstance(write, EventsyncError):
            self._waiting.append((write, reservation))
            return
        # Before the next operation is looked at, because only the JSON may name the document.
        decision = await _guarded(self._writer.prepared(write.operation, write.author))
        if isinstance(decision, EventsyncError):
            self._waiting.append((decision, reservation))
            return
        name = name_of(decision.intent)
        task = asyncio.create_task(self._outcome(write, decision, self._last.get(name), reservation))
        self._last[name] = task
        task.add_done_callback(lambda done: self._forget(name, done))
        self._waiting.append((task, reservation))

    def _forget(self, name: str, task: asyncio.Task[Outcome]) -> None:
        if self._last.get(name) is task:
            del self._last[name]

    async def _outcome(
        self, write: BulkWrite, decision: Decision, previous: asyncio.Task[Outcome] | None, reservation: Reservation
    ) -> Outcome:
        # The bytes of an operation are its own, so that it alone is refused where there are too many.
        reservation.enter()
        if previous is not None:
            try:
                await asyncio.wait({previous})
            except asyncio.CancelledError:
                return NotAttempted()
        return await _guarded(self._writer.decided(decision, write.author, write.idempotency))

    async def _finished(self) -> list[Outcome]:
        """Wait for the first operation that waits, and return its outcome and those behind it that are there too."""
        outcomes: list[Outcome] = []
        while self._waiting and (not outcomes or _is_done(self._waiting[0][0])):
            task, reservation = self._waiting[0]
            outcomes.append(task if isinstance(task, EventsyncError) else await _outcome_of(task))
            self._waiting.popleft()
            reservation.close()
        return outcomes

    def _cancel(self) -> None:
        for task, _ in self._waiting:
            if isinstance(task, asyncio.Task):
                task.cancel()

    async def _settle(self) -> None:
        tasks = [task for task, _ in self._waiting if isinstance(task, asyncio.Task)]
        await asyncio.gather(*tasks, return_exceptions=True)
        for _, reservation in self._waiting:
            reservation.close()


async def _guarded(work: Awaitable[T]) -> T | EventsyncError:
    """Return the result of `work`, or its error. An unexpected one is logged."""
    try:
        return await work
    except EventsyncError as error:
        return error
    except Exception:
        logger.exception("an operation of a batch failed")
        return EventsyncError()


def _is_done(task: asyncio.Task[Outcome] | EventsyncError) -> bool:
    return isinstance(task, EventsyncError) or task.done()


async def _outcome_of(task: asyncio.Task[Outcome]) -> Outcome:
    await asyncio.wait({task})
    return Unavailable(_UNKNOWN) if task.cancelled() else task.result()
