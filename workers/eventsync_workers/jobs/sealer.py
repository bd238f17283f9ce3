"""Makes segments: reads events from MongoDB, writes an object, and verifies it by reading it back."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from eventsync.domain.positions import LogId, Seq
from eventsync.domain.replay import Damaged
from eventsync.domain.segments.file import SegmentBuilder, SegmentFile, open_block, open_footer, open_index
from eventsync.domain.segments.format import SealedEvent
from eventsync.stores.archive.objects import Objects
from eventsync.stores.archive.segments import Segment
from eventsync.stores.archive.tiered_log import TieredEvents
from eventsync_workers.jobs.job import YieldControl


@dataclass(frozen=True, slots=True)
class Limits:
    """Numbers of events and bytes that close a segment, and of bytes that close a block; all before compression."""

    events: int
    bytes: int
    block_bytes: int


class Sealer:
    """Seals events, which stay in MongoDB. The object that it writes is not registered yet."""

    def __init__(self, tiered: TieredEvents, objects: Objects, limits: Limits, yield_control: YieldControl) -> None:
        self._tiered = tiered
        self._objects = objects
        self._limits = limits
        self._yield_control = yield_control

    async def seal(self, log_id: LogId, after: Seq, last: Seq) -> Segment:
        """Write a segment of the first events with `after < seq <= last`, neither of which may lie in a transaction.

        Raises `Moved` if some have left MongoDB, `Damaged` if one can't be read, and `Unavailable`.
        """
        made = await self._build(log_id, after, last)
        span = made.footer.span
        path = f"{log_id}/{span.first:020}-{span.last:020}-{secrets.token_hex(4)}.seg"
        await self._objects.put(path, made.data)
        return Segment(log_id, span, path, len(made.data), made.raw, made.tail, made.sha256)

    async def _build(self, log_id: LogId, after: Seq, last: Seq) -> SegmentFile:
        builder, limits = SegmentBuilder(log_id), self._limits
        block: list[SealedEvent] = []
        size = total = 0
        async with aclosing(self._tiered.hot(log_id, after, last)) as events:
            async for event in events:
                await self._yield_control()
                block.append(event)
                size, total = size + len(event.body), total + len(event.body)
                full = event.seq - after >= limits.events or total >= limits.bytes
                # A segment ends with a whole transaction, because the border between the tiers must not lie inside one.
                if size >= limits.block_bytes or (full and event.closes):
                    await asyncio.to_thread(builder.add, block)
                    block, size = [], 0
                    if full and event.closes:
                        break
        if block:
            await asyncio.to_thread(builder.add, block)
        return await asyncio.to_thread(builder.finish)

    async def verify(self, segment: Segment) -> None:
        """Read a segment back from the storage, and compare all of it with MongoDB. Raises as `seal`."""
        data = await self._objects.read(segment.path)
        if len(data) != segment.size or await asyncio.to_thread(_sha256, data) != segment.sha256:
            raise Damaged(f"segment {segment.path} reads back differently")
        after = Seq(segment.span.first - 1)
        async with aclosing(self._tiered.hot(segment.log, after, segment.span.last)) as events:
            async with aclosing(self._events(data)) as sealed:
                async for event in sealed:
                    await self._yield_control()
                    if event != await anext(events, None):
                        raise Damaged(f"segment {segment.path}: event {event.seq} reads back differently")
                    after = event.seq
            if after != segment.span.last or await anext(events, None) is not None:
                raise Damaged(f"segment {segment.path} ends with event {after} instead of {segment.span.last}")

    async def _events(self, data: bytes) -> AsyncGenerator[SealedEvent]:
        footer = await asyncio.to_thread(open_footer, data, len(data))
        for entry in footer.blocks:
            block = await asyncio.to_thread(open_block, entry, entry.frame.cut(data))
            for n in range(block.count):
                yield block.event(n)
        await asyncio.to_thread(open_index, footer.index, footer.index.cut(data))


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()
