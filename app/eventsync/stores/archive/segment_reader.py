"""Reads of the cold tier: events in segments, by range, by document, by time."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime

from bson.timestamp import Timestamp

from eventsync.concurrency.lru_cache import LRUCache
from eventsync.domain.events import timestamp
from eventsync.domain.positions import LogId, Seq
from eventsync.domain.replay import Damaged
from eventsync.domain.segments.block import Block
from eventsync.domain.segments.document_index import DocumentIndex
from eventsync.domain.segments.file import open_footer, open_index, open_numbered_block
from eventsync.domain.segments.format import BlockEntry, Footer, SealedEvent, Selection
from eventsync.errors import EventsyncError, Unavailable
from eventsync.stores.archive.objects import Objects
from eventsync.stores.archive.segments import Segment, SegmentStore
from eventsync.stores.log.tiers import BehindHorizon, TierStore

_ALL = Selection()

_MAX_BLOCKS = 16
"""Most blocks in one read of an object. A reader begins with one block and doubles the number with each read."""

_ENTRY_BYTES = 1000
"""The approximate size of a footer's entry in memory."""


@dataclass(frozen=True, slots=True)
class _Opened:
    """A cached footer of a segment."""

    footer: Footer

    @property
    def cost(self) -> int:
        return _ENTRY_BYTES * len(self.footer.blocks)


class SegmentReader:
    """Reads registered segments. Footers, indexes and blocks are cached, up to `cache_bytes`.

    Every method raises `BehindHorizon` for events that are no longer kept, `Damaged`, which names the segment, for
    missing or damaged ones, and `Unavailable`.
    """

    def __init__(self, segments: SegmentStore, objects: Objects | None, tiers: TierStore, *, cache_bytes: int) -> None:
        self._segments = segments
        self._objects = objects
        self._tiers = tiers
        self._cache: LRUCache[tuple[str, int], _Opened | DocumentIndex | Block] = LRUCache(
            cache_bytes, lambda part: part.cost
        )

    async def read(
        self, log: LogId, after: Seq, up_to: Seq, selection: Selection = _ALL
    ) -> AsyncGenerator[SealedEvent]:
        """Yield the events with `after < seq <= up_to` in `selection`, in order. The whole range must be archived."""
        async with aclosing(self.blocks(log, after, up_to, selection)) as blocks:
            async for block, numbers in blocks:
                for n in numbers:
                    yield block.event(n)

    async def blocks(
        self, log: LogId, after: Seq, up_to: Seq, selection: Selection = _ALL
    ) -> AsyncGenerator[tuple[Block, list[int]]]:
        """Yield blocks with events as `read` does, each with the indexes of its selected events, at least one."""
        position = after
        async with aclosing(self._segments.covering(log, after, up_to)) as segments:
            async for segment in segments:
                if segment.span.first > position + 1:
                    raise await self._missing(log, position, segment.span.first)
                async with aclosing(self._within(segment, position, up_to, selection)) as blocks:
                    async for selected in blocks:
                        yield selected
                position = max(position, min(segment.span.last, up_to))
        if position < up_to:
            raise await self._missing(log, position, Seq(up_to + 1))

    async def newest_at(self, log: LogId, at: datetime) -> Seq | None:
        """Return the newest archived event at a time, by its cluster time and its wall-clock time, or None."""
        time, wall = Timestamp(int(at.timestamp()), 2**32 - 1), timestamp(at)
        async with aclosing(self._segments.until(log, time)) as segments:
            async for segment in segments:
                try:
                    if segment.span.earliest <= wall and (newest := await self._newest_in(segment, time, wall)):
                        return newest
                except Damaged as error:
                    raise await self._explained(segment, Seq(segment.span.last - 1), error) from error
        return None

    async def check(self, segment: Segment) -> None:
        """Read every byte of a segment from the storage. Raises `Damaged` if it differs from what was registered."""
        try:
            # One byte more than registered: an object that has grown is damaged, too.
            data = await self._bytes(segment, 0, segment.size + 1)
            await asyncio.to_thread(_check, segment, data)
        except Damaged as error:
            raise await self._explained(segment, Seq(segment.span.last - 1), error) from error

    async def data(self, segment: Segment, offset: int = 0, length: int | None = None) -> bytes:
        """Return bytes of the segment's object."""
        return await self._bytes(segment, offset, segment.size - offset if length is None else length)

    async def _within(
        self, segment: Segment, after: Seq, up_to: Seq, selection: Selection
    ) -> AsyncGenerator[tuple[Block, list[int]]]:
        try:
            numbers = await self._numbers(segment, after, up_to, selection)
            async with aclosing(self._blocks(segment, numbers)) as blocks:
                async for block in blocks:
                    if indexes := block.numbers(after, up_to, selection):
                        yield block, indexes
                        after = block.seq(indexes[-1])
        except Damaged as error:
            raise await self._explained(segment, after, error) from error

    async def _numbers(self, segment: Segment, after: Seq, up_to: Seq, selection: Selection) -> list[int]:
        """Return the numbers of the blocks that may have selected events."""
        footer = await self._footer(segment)
        having: set[int] | None = None
        if selection.keys is not None:
            # Its events can't be told apart by route, so a client that needs them gets the present state instead.
            if not footer.has_routes:
                raise BehindHorizon(segment.log, after, segment.span.last)
            index = await self._index(segment, footer)
            having = {number for key in selection.keys for number in index.find_key(key)}
        elif selection.collection is not None and selection.ids is not None:
            index, name = await self._index(segment, footer), selection.collection
            having = {number for text in selection.ids for number in index.find(name, text)}
        return [
            number
            for number, entry in enumerate(footer.blocks)
            if entry.may_have(after, up_to, selection) and (having is None or number in having)
        ]

    async def _newest_in(self, segment: Segment, time: Timestamp, wall: str) -> Seq | None:
        footer = await self._footer(segment)
        for number in range(len(footer.blocks) - 1, -1, -1):
            span = footer.blocks[number].span
            if span.first_time > time or span.earliest > wall:
                continue
            block = await self._block(segment, footer, number)
            for n in range(block.count - 1, -1, -1):
                event = block.event(n)
                if event.time <= time and event.at <= wall:
                    return event.seq
        return None

    async def _blocks(self, segment: Segment, numbers: Sequence[int]) -> AsyncGenerator[Block]:
        """Yield these blocks in order. Adjacent blocks are read together, in growing runs."""
        footer = await self._footer(segment)
        max_run = 1
        while numbers:
            block = self._kept(segment, footer.blocks[numbers[0]])
            if block is not None:
                yield block
                numbers = numbers[1:]
                continue
            run = list(self._run(segment, footer, numbers[:max_run]))
            begin, last = footer.blocks[run[0]].frame.offset, footer.blocks[run[-1]].frame
            data = await self._bytes(segment, begin, last.offset + last.length - begin)
            for number in run:
                yield await self._opened(segment, footer, number, footer.blocks[number].frame.cut(data, begin))
            numbers, max_run = numbers[len(run) :], min(2 * max_run, _MAX_BLOCKS)

    def _run(self, segment: Segment, footer: Footer, numbers: Sequence[int]) -> Iterator[int]:
        """Yield the longest run of consecutive first numbers whose blocks are not cached."""
        for expected, number in enumerate(numbers, start=numbers[0]):
            if number != expected or self._kept(segment, footer.blocks[number]) is not None:
                return
            yield number

    def _kept(self, segment: Segment, entry: BlockEntry) -> Block | None:
        part = self._cache.get((segment.path, entry.frame.offset))
        return part if isinstance(part, Block) else None

    async def _block(self, segment: Segment, footer: Footer, number: int) -> Block:
        entry = footer.blocks[number]
        if (block := self._kept(segment, entry)) is not None:
            return block
        data = await self._bytes(segment, entry.frame.offset, entry.frame.length)
        return await self._opened(segment, footer, number, data)

    async def _opened(self, segment: Segment, footer: Footer, number: int, data: bytes) -> Block:
        block = await asyncio.to_thread(open_numbered_block, footer, number, data)
        self._cache.keep((segment.path, footer.blocks[number].frame.offset), block)
        return block

    async def _footer(self, segment: Segment) -> Footer:
        key = (segment.path, segment.tail)
        part = self._cache.get(key)
        if isinstance(part, _Opened):
            return part.footer
        end = await self._bytes(segment, segment.tail, segment.size - segment.tail)
        footer = await asyncio.to_thread(_open_footer, segment, end)
        self._cache.keep(key, _Opened(footer))
        return footer

    async def _index(self, segment: Segment, footer: Footer) -> DocumentIndex:
        key = (segment.path, footer.index.offset)
        part = self._cache.get(key)
        if isinstance(part, DocumentIndex):
            return part
        data = await self._bytes(segment, footer.index.offset, footer.index.length)
        index = await asyncio.to_thread(open_index, footer.index, data)
        self._cache.keep(key, index)
        return index

    async def _bytes(self, segment: Segment, offset: int, length: int) -> bytes:
        if self._objects is None:
            raise Unavailable("archived events can't be read here: archive_url names no archive").because(segment.path)
        return await self._objects.read(segment.path, offset, length)

    async def _missing(self, log: LogId, after: Seq, before: Seq) -> EventsyncError:
        horizon = (await self._tiers.read(log)).horizon
        if after < horizon:
            return BehindHorizon(log, after, horizon)
        return Damaged(f"events {after + 1} to {before - 1} of log {log} are in no segment")

    async def _explained(self, segment: Segment, after: Seq, error: Damaged) -> EventsyncError:
        """Return the error for an unreadable segment. The compactor may have removed it after raising the horizon."""
        horizon = (await self._tiers.read(segment.log)).horizon
        if after < horizon:
            return BehindHorizon(segment.log, after, horizon)
        return Damaged(f"segment {segment.path}: {error.message}").because(error.said)


def _open_footer(segment: Segment, end: bytes) -> Footer:
    """Return the footer at the end of the object. Raises `Damaged` if it is not that of the registered segment."""
    footer = open_footer(end, segment.size)
    if (footer.log, footer.span) != (segment.log, segment.span):
        raise Damaged(f"it has other events than what is registered: {footer.log} {footer.span}")
    return footer


def _check(segment: Segment, data: bytes) -> None:
    if len(data) != segment.size:
        raise Damaged(f"it has not the {segment.size} bytes that are registered")
    if hashlib.sha256(data).digest() != segment.sha256:
        raise Damaged("it has another checksum than what is registered")
    footer = _open_footer(segment, data)
    for number, entry in enumerate(footer.blocks):
        open_numbered_block(footer, number, entry.frame.cut(data))
    open_index(footer.index, footer.index.cut(data))
