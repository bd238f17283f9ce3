"""Logs with events of their own making, a local archive, and the jobs that move events between the tiers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
from bson.timestamp import Timestamp

from eventsync.domain.events import TransactionPart, timestamp
from eventsync.domain.ids import IdText
from eventsync.domain.positions import LogId, Seq
from eventsync.domain.segments.block import Block
from eventsync.domain.segments.document_index import DocumentIndex
from eventsync.domain.segments.file import open_footer, open_index, open_numbered_block
from eventsync.domain.segments.format import SealedEvent
from eventsync.domain.shapes import Shape
from eventsync.domain.values.extended_json import Document
from eventsync.settings import Settings
from eventsync.stores.log.events import NewEvent
from eventsync.stores.log.stored_event import StoredEvent
from eventsync.stores.stores import Stores
from eventsync_workers.jobs.archiver import Archiver
from eventsync_workers.jobs.compactor import Compactor
from support import logs_by_hand

BEGAN = datetime(2020, 1, 1, tzinfo=UTC)


def in_segments(settings: Settings, directory: Path, **more: Any) -> Settings:
    """Settings with segments of 20 events in an archive in `directory`; 15 events stay hot, and none is too old."""
    cold = {"archive_url": str(directory / "archive"), "hot_events": 15, "hot_age": 10.0**9, "segment_events": 20}
    return settings.model_copy(update=cold | more)


def event(
    seq: int,
    collection: str = "docs",
    id_text: str | None = None,
    *,
    transaction: TransactionPart | None = None,
    pad: str = "x" * 20,
) -> NewEvent:
    """Event `seq` replaces a document. It was committed `seq` seconds after `BEGAN`."""
    text, at = IdText(id_text or f"int:{seq % 10}"), BEGAN + timedelta(seconds=seq)
    body = {"seq": seq, "collection": collection, "id": text, "op": "replace", "base": 0, "version": seq}
    body |= {"doc": {"_id": text, "n": seq, "pad": pad}, "at": timestamp(at)}
    stored = StoredEvent(Seq(seq), collection, text, orjson.dumps(body), transaction)
    type_hints = ("/n",) if seq % 7 == 0 else ()
    return NewEvent(stored, seq, f"82{seq:08}", Timestamp(int(at.timestamp()), seq), type_hints)


def sealed(new: NewEvent) -> SealedEvent:
    """Return an event as it has to be read back."""
    stored = new.event
    return SealedEvent(
        stored.seq,
        stored.collection,
        stored.id,
        new.version,
        new.time,
        stored.body,
        tuple(new.type_hints),
        stored.transaction,
        stored.routes,
    )


async def begun(stores: Stores, events: Sequence[NewEvent], collections: Iterable[str] = ("docs",)) -> LogId:
    """A log with these events, its collections active in it and with a stored snapshot at the newest event."""
    log = await logs_by_hand.begun(stores, *collections)
    await stores.events.append(log, events)
    for name in collections:
        await stored(stores, log, name, events[-1].event.seq)
    return log


async def stored(stores: Stores, log: LogId, name: str, seq: int) -> None:
    """An (empty) stored snapshot at `seq`: what it says is not looked at here."""

    async def documents() -> AsyncGenerator[tuple[int, Document]]:
        none: list[tuple[int, Document]] = []
        for row in none:
            yield row

    await stores.snapshots.stored.write(log, name, Seq(seq), Timestamp(1, 1), documents())


def archiver(stores: Stores, settings: Settings) -> Archiver:
    return Archiver(stores, settings, "me", asyncio.Event())


def compactor(stores: Stores, settings: Settings) -> Compactor:
    return Compactor(stores, settings, "me", asyncio.Event())


async def everything(
    stores: Stores, log: LogId, after: int, up_to: int, shape: Shape | None = None
) -> list[SealedEvent]:
    async with aclosing(stores.archive.tiered.read(log, Seq(after), Seq(up_to), shape)) as events:
        return [event async for event in events]


async def hot_seqs(stores: Stores, log: LogId) -> list[int]:
    rows = stores.log["events"].find({"_id.l": log}, {"_id": 1}, sort=[("_id", 1)])
    return [row["_id"]["n"] async for row in rows]


def blocks_of(data: bytes) -> Iterator[Block]:
    """Yield all blocks, verified. Raises `Damaged`."""
    footer = open_footer(data, len(data))
    for number, entry in enumerate(footer.blocks):
        yield open_numbered_block(footer, number, entry.frame.cut(data))


def events_of(data: bytes) -> Iterator[SealedEvent]:
    """Yield all events, in order. Raises `Damaged`."""
    for block in blocks_of(data):
        for index in block.numbers(Seq(block.first - 1), Seq(block.first + block.count)):
            yield block.event(index)


def index_of(data: bytes) -> DocumentIndex:
    """Return the document index. Raises `Damaged`."""
    frame = open_footer(data, len(data)).index
    return open_index(frame, frame.cut(data))
