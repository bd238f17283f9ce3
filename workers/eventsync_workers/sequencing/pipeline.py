"""Between the change stream and the log: conversion and appending, each a stage of its own behind the reading.

None of the three waits for another while there is work: the next read is under way while what came is converted, and
what is converted is appended meanwhile. The order never changes, and one insert at a time is under way, because that is
what fences: the log stays a clean prefix of what was read.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from bson.raw_bson import RawBSONDocument

from eventsync.mongodb.change_stream import Batch
from eventsync_workers.sequencing.log_writer import LogWriter, NumberedEvents

GroupOfChanges = Sequence[RawBSONDocument]

_PORTION = 100
"""Most groups that are converted at once: a few milliseconds, in which nothing else runs."""

_FULL = 1000
"""So many events are appended at once while more are being converted. Fewer go as soon as there are no more."""

_OVERHEAD = 1024
"""Bytes of memory that a change takes besides its own, about."""


@dataclass(frozen=True, slots=True)
class _Piece:
    """Whole groups to convert; with `read`, the batch that ends with them and leaves no group open."""

    groups: Sequence[GroupOfChanges]
    read: Batch | None
    size: int


class Pipeline:
    """Make one with `running`. Only its own tasks use the writer, but for when it is `drained`."""

    def __init__(self, writer: LogWriter, limit: int) -> None:
        self._writer = writer
        self._limit = limit
        self._moved = asyncio.Condition()
        self._read: deque[_Piece] = deque()
        self._converted: deque[tuple[NumberedEvents, int]] = deque()
        self._converting = True
        self._closed = False
        self._under_way = 0
        self._bytes = 0
        self._failure: Exception | None = None

    @classmethod
    @asynccontextmanager
    async def running(cls, writer: LogWriter, limit: int) -> AsyncIterator[Pipeline]:
        """A pipeline that holds about `limit` bytes of changes, while the block runs. What it has got, it appends.

        Also where the block fails: what was read before an error is as good as without it. Where a stage fails, all
        before the failure is appended, nothing behind it is, and its error is raised, instead of the block's own if it
        has one: it is the earlier one in the stream.
        """
        pipeline, failure = cls(writer, limit), None
        async with asyncio.TaskGroup() as group:
            group.create_task(pipeline._convert(), name="convert changes")
            group.create_task(pipeline._append(), name="append events")
            try:
                yield pipeline
            except Exception as error:  # noqa: BLE001 - raised below: here the group would cancel an insert under way
                failure = error
            await pipeline._close()
        if failure := pipeline._failure or failure:
            raise failure

    async def put(self, groups: Sequence[GroupOfChanges], read: Batch | None = None) -> None:
        """Hand over whole groups. Waits until there is room for more.

        `read` is the batch that ends with them, where it leaves no group open. Raises what has ended a stage.
        """
        cuts = range(0, len(groups), _PORTION) or (0,)
        for start in cuts:
            some = groups[start : start + _PORTION]
            size = sum(len(change.raw) + _OVERHEAD for group in some for change in group)
            self._read.append(_Piece(some, read if start == cuts[-1] else None, size))
            self._bytes += size
        self._under_way += len(cuts)
        await self._until(lambda: self._bytes <= self._limit)

    async def drained(self) -> None:
        """Wait until all that was put is appended. Raises what has ended a stage."""
        await self._until(lambda: self._under_way == 0)

    async def _until(self, reached: Callable[[], bool]) -> None:
        async with self._moved:
            self._moved.notify_all()
            await self._moved.wait_for(lambda: self._failure is not None or reached())
        if self._failure is not None:
            raise self._failure

    async def _close(self) -> None:
        async with self._moved:
            self._closed = True
            self._moved.notify_all()

    # --- the stages -----------------------------------------------------------------------------------------------

    async def _convert(self) -> None:
        try:
            while (piece := await self._next_piece()) is not None:
                portion = await self._writer.convert(piece.groups, piece.read)
                async with self._moved:
                    self._converted.append((portion, piece.size))
                    self._moved.notify_all()
                await asyncio.sleep(0)  # what has arrived meanwhile is taken, and the next insert sent
        except Exception as error:  # noqa: BLE001 - it ends the term: whoever puts or drains raises it
            self._failure = self._failure or error
        async with self._moved:
            self._converting = False
            self._moved.notify_all()

    async def _next_piece(self) -> _Piece | None:
        """What to convert next; None where there will be no more, or it would not be appended."""
        async with self._moved:
            await self._moved.wait_for(lambda: self._read or self._closed or self._failure is not None)
            return self._read.popleft() if self._read and self._failure is None else None

    async def _append(self) -> None:
        try:
            while taken := await self._take():
                await self._writer.append([portion for portion, _ in taken])
                async with self._moved:
                    self._under_way -= len(taken)
                    self._bytes -= sum(size for _, size in taken)
                    self._moved.notify_all()
        except Exception as error:  # noqa: BLE001 - as above; it comes before whatever conversion has met
            async with self._moved:
                self._failure = error
                self._moved.notify_all()

    async def _take(self) -> list[tuple[NumberedEvents, int]]:
        """All that is converted: as soon as it is worth an insert, or all there is. Empty at the end."""
        async with self._moved:
            await self._moved.wait_for(lambda: self._worth_an_insert() or not self._converting)
            taken = list(self._converted)
            self._converted.clear()
            return taken

    def _worth_an_insert(self) -> bool:
        if len(self._converted) == self._under_way:
            return bool(self._converted)
        return sum(len(portion.events) for portion, _ in self._converted) >= _FULL
