"""Two stages between the change stream and the log: conversion, and appending.

In a backlog no stage waits for another: the next batch is read while the last one is converted, and its events are
appended meanwhile. Conversion encodes their rows, too, so that no insert waits for that. In a steady stream of small
batches, what arrives during an insert is read and appended together after it (`paced`): the commands cost more than the
events. The order never changes. At most one insert is in flight; its order fences out a rival worker, so the log always
is a prefix of what was read.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from eventsync.mongodb.change_stream import Batch
from eventsync_workers.sequencing.log_writer import LogWriter, NumberedEvents
from eventsync_workers.sequencing.transactions import Transaction

_CONVERTED_AT_ONCE = 100
"""Maximum number of transactions that are converted at once: a few milliseconds, in which nothing else runs."""

_APPENDED_AT_ONCE = 1000
"""Number of events that make an insert while more are being converted. Fewer make one as soon as no more are coming."""

_BACKLOG = 512 * 1024
"""Bytes in the pipeline from which on reading, converting and appending overlap. Less is no backlog."""

_OVERHEAD = 1024
"""Bytes of memory that a change takes besides its own, about."""


@dataclass(frozen=True, slots=True)
class _ConvertTask:
    """Transactions to convert. `read` is the batch that ends with them and leaves none open, if any."""

    transactions: Sequence[Transaction]
    read: Batch | None
    size: int


class Pipeline:
    """Make one with `running`. Nothing else may use the writer, except while the pipeline is `drained`."""

    def __init__(self, writer: LogWriter, limit: int) -> None:
        self._writer = writer
        self._figures = writer.figures
        self._limit = limit
        self._waiting: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []
        """What the stages and the reader wait for."""
        self._read: deque[_ConvertTask] = deque()
        self._converted: deque[tuple[NumberedEvents, int]] = deque()
        self._is_converting = True
        self._is_closed = False
        self._is_inserting = False
        self._was_inserting = False
        """True if an insert was in flight at the last `put`."""
        self._in_flight = 0
        self._unconverted = 0
        self._bytes = 0
        self._failure: Exception | None = None

    @classmethod
    @asynccontextmanager
    async def running(cls, writer: LogWriter, limit: int) -> AsyncIterator[Pipeline]:
        """Run a pipeline that holds about `limit` bytes of changes. At the end of the block it appends all it has.

        It does so too if the block fails: what was read before an error is valid. If a stage fails, all before the
        failure is appended and nothing after it. The stage's error is raised instead of the block's own, because it is
        the earlier one in the stream.
        """
        pipeline, failure = cls(writer, limit), None
        async with asyncio.TaskGroup() as group:
            group.create_task(pipeline._convert(), name="convert changes")
            group.create_task(pipeline._append(), name="append events")
            try:
                yield pipeline
            except Exception as error:  # noqa: BLE001 - raised below: here the group would cancel an insert in flight
                failure = error
            pipeline._close()
        # What was not appended is read again.
        pipeline._figures.give_up()
        writer.give_up()
        if failure := pipeline._failure or failure:
            raise failure

    async def put(self, transactions: Sequence[Transaction], read: Batch | None = None) -> None:
        """Hand over transactions, and wait until there is room for more.

        `read` is the batch that ends with them, if it leaves no transaction open. Raises what has ended a stage.
        """
        self._was_inserting = self._is_inserting
        # At least one task, even without transactions: it carries the batch's checkpoint behind the events before it.
        cuts = range(0, len(transactions), _CONVERTED_AT_ONCE) or (0,)
        for start in cuts:
            some = transactions[start : start + _CONVERTED_AT_ONCE]
            size = sum(len(change.raw) + _OVERHEAD for transaction in some for change in transaction)
            self._read.append(_ConvertTask(some, read if start == cuts[-1] else None, size))
            self._bytes += size
            oldest = some[0][0].get("wallTime") if some else None
            self._figures.put(oldest, sum(map(len, some)), read.time if read else None)
        self._in_flight += len(cuts)
        self._unconverted += len(cuts)
        await self._until(lambda: self._bytes <= self._limit)

    async def drained(self) -> None:
        """Wait until all that was put is appended. Raises what has ended a stage."""
        await self._until(lambda: self._in_flight == 0)

    async def paced(self) -> None:
        """Wait until the next read is worth its commands. Raises what has ended a stage.

        The insert of a lone change is sent before the next read is. Changes that were read while an insert was in
        flight have to wait for it; those behind them are read, all together, once they are appended. A backlog is read
        without a pause.
        """
        if self._in_flight and self._bytes <= _BACKLOG:
            await (self.drained() if self._was_inserting else self._until(self._is_sent))

    def _is_sent(self) -> bool:
        return not self._unconverted and (self._is_inserting or not self._converted)

    async def _until(self, reached: Callable[[], bool]) -> None:
        # `put` has changed what the stages wait for.
        self._notify()
        await self._wait(lambda: self._failure is not None or reached())
        if self._failure is not None:
            raise self._failure

    def _close(self) -> None:
        self._is_closed = True
        self._notify()

    async def _wait(self, reached: Callable[[], bool]) -> None:
        """Wait until `reached` returns True; whoever changes what it depends on calls `_notify`.

        An `asyncio.Condition` would wake all of its waiters each time: 25 µs more for a lone change.
        """
        while not reached():
            entry = reached, asyncio.get_running_loop().create_future()
            self._waiting.append(entry)
            try:
                await entry[1]
            finally:
                self._waiting.remove(entry)

    def _notify(self) -> None:
        for reached, waiter in self._waiting:
            if not waiter.done() and reached():
                waiter.set_result(None)

    # --- the stages -----------------------------------------------------------------------------------------------

    async def _convert(self) -> None:
        try:
            while (task := await self._next_task()) is not None:
                began = time.monotonic()
                numbered = await self._writer.convert(task.transactions, task.read)
                if task.transactions:
                    self._figures.conversion.observe(time.monotonic() - began)
                self._converted.append((numbered, task.size))
                self._unconverted -= 1
                self._notify()
                await asyncio.sleep(0)  # Let the next batch be received and the next insert be sent.
        except Exception as error:  # noqa: BLE001 - `put` and `drained` raise it, which ends the term
            self._failure = self._failure or error
        self._is_converting = False
        self._notify()

    async def _next_task(self) -> _ConvertTask | None:
        """Return the next task; None if no more come, or if their events would not be appended."""
        await self._wait(lambda: bool(self._read) or self._is_closed or self._failure is not None)
        return self._read.popleft() if self._read and self._failure is None else None

    async def _append(self) -> None:
        try:
            while taken := await self._take():
                began = time.monotonic()
                await self._writer.append([numbered for numbered, _ in taken])
                if count := sum(len(numbered.events) for numbered, _ in taken):
                    self._figures.append.observe(time.monotonic() - began)
                    self._figures.events += count
                for _ in taken:
                    self._figures.in_flight.popleft()
                self._is_inserting = False
                self._in_flight -= len(taken)
                self._bytes -= sum(size for _, size in taken)
                self._notify()
        except Exception as error:  # noqa: BLE001 - as above; it is earlier in the stream than any error of `_convert`
            self._failure = error
            self._notify()

    async def _take(self) -> list[tuple[NumberedEvents, int]]:
        """Return all that is converted, once it is worth an insert or no more is coming; nothing at the end."""
        await self._wait(lambda: self._is_worth_an_insert() or not self._is_converting)
        taken = list(self._converted)
        self._converted.clear()
        self._is_inserting = bool(taken)
        self._notify()
        return taken

    def _is_worth_an_insert(self) -> bool:
        # All that was handed over is converted, so a longer wait would add nothing to the insert.
        if len(self._converted) == self._in_flight:
            return bool(self._converted)
        return sum(len(numbered.events) for numbered, _ in self._converted) >= _APPENDED_AT_ONCE
