"""Independent writes, many at a time: each succeeds or fails by itself."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

from eventsync.concurrency import held_bytes
from eventsync.concurrency.held_bytes import Reservation
from eventsync.errors import EventsyncError, NotAttempted, Unavailable
from eventsync.mongodb.errors import translated_write
from eventsync.nodestorage.author import Author
from eventsync.nodestorage.deciding import Decision
from eventsync.nodestorage.idempotency import Idempotency
from eventsync.nodestorage.operations import WriteOperation
from eventsync.nodestorage.policy import WritePolicy
from eventsync.nodestorage.result import WriteResult
from eventsync.nodestorage.transaction_steps import doing, name_of
from eventsync.nodestorage.writer import OperationWriter

T = TypeVar("T")

logger = logging.getLogger(__name__)

_UNKNOWN: Final = "the write was not finished in time; the outcome is unknown, it may have been made"


@dataclass(slots=True)
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
        self._last: dict[str, _Begun] = {}
        """The last operation under way on each document."""
        self._waiting: deque[_Begun] = deque()
        """Writes that have begun and were not yielded, in order."""

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
        begun = _Begun(held_bytes.part())
        self._waiting.append(begun)
        if isinstance(write, EventsyncError):
            begun.outcome = write
            return
        # Before the next operation is looked at, because only the JSON may name the document.
        decision = await _guarded(self._writer.prepared(write.operation, write.author))
        if isinstance(decision, EventsyncError):
            begun.outcome = decision
            return
        previous = self._last.get(name := name_of(decision.intent))
        self._last[name] = begun
        # Most operations need no task: their group tells each the outcome. A delete needs a context of its own.
        is_single = previous is not None or write.idempotency is not None or decision.intent.transacts
        group = None if is_single else self._writer.grouped(decision, write.author)
        begun.work = group or asyncio.create_task(self._outcome(write, decision, begun, previous))
        begun.work.add_done_callback(partial(self._done, write, decision, begun))

    async def _outcome(
        self, write: BulkWrite, decision: Decision, begun: _Begun, previous: _Begun | None = None
    ) -> Outcome:
        # The bytes of an operation are its own, so that it alone is refused where there are too many.
        begun.reservation.enter()
        if previous is not None:
            try:
                await previous.end()
            except asyncio.CancelledError:
                return NotAttempted()
        return await _guarded(self._writer.decided(decision, write.author, write.idempotency))

    def _done(self, write: BulkWrite, decision: Decision, begun: _Begun, work: asyncio.Future[Any]) -> None:
        """Note the outcome of an operation, or let it go alone if its group did not make it."""
        if work.cancelled():
            outcome: Outcome | None = Unavailable(_UNKNOWN)
        elif (error := work.exception()) is not None:
            outcome = _known(error, write, decision)
        else:
            outcome = work.result()
        if outcome is None:
            begun.work = asyncio.create_task(self._alone(write, decision, begun))
            begun.work.add_done_callback(partial(self._done, write, decision, begun))
            return
        begun.outcome = outcome
        if self._last.get(name := name_of(decision.intent)) is begun:
            del self._last[name]

    async def _alone(self, write: BulkWrite, decision: Decision, begun: _Begun) -> Outcome:
        begun.reservation.enter()
        return await _guarded(self._writer.alone(decision, write.author))

    async def _finished(self) -> list[Outcome]:
        """Wait for the first operation that waits, and return its outcome and those behind it that are there too."""
        outcomes = [await self._waiting[0].end()]
        self._waiting.popleft().reservation.close()
        while self._waiting and (outcome := self._waiting[0].outcome) is not None:
            outcomes.append(outcome)
            self._waiting.popleft().reservation.close()
        return outcomes

    def _cancel(self) -> None:
        for begun in self._waiting:
            if begun.work is not None:
                begun.work.cancel()

    async def _settle(self) -> None:
        for begun in self._waiting:
            await begun.end()
            begun.reservation.close()


@dataclass(slots=True, eq=False)
class _Begun:
    """An operation that was begun and not yielded. `work` leads to its outcome, perhaps by further work."""

    reservation: Reservation
    outcome: Outcome | None = None
    work: asyncio.Future[Any] | None = None

    async def end(self) -> Outcome:
        """Wait for the outcome."""
        while self.outcome is None and self.work is not None:
            await asyncio.wait({self.work})
        return self.outcome or EventsyncError()


def _known(error: BaseException, write: BulkWrite, decision: Decision) -> EventsyncError:
    """Return the error of an operation that failed in its group. An unexpected one is logged."""
    try:
        with translated_write(doing(decision.intent), write.author.hides):
            raise error  # noqa: TRY301 - it was raised elsewhere
    except EventsyncError as known:
        return known
    except Exception:
        logger.exception("an operation of a batch failed")
        return EventsyncError()


async def _guarded(work: Awaitable[T]) -> T | EventsyncError:
    """Return the result of `work`, or its error. An unexpected one is logged."""
    try:
        return await work
    except EventsyncError as error:
        return error
    except Exception:
        logger.exception("an operation of a batch failed")
        return EventsyncError()
