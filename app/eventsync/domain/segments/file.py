"""Segment objects: building one block by block, and opening its parts. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from eventsync.domain.positions import LogId
from eventsync.domain.replay import Damaged
from eventsync.domain.segments.block import Block, pack_block, unpack
from eventsync.domain.segments.document_index import DocumentIndex, document_hash, key_hash
from eventsync.domain.segments.footer import TRAILER_BYTES, footer_frame, pack_footer, read_footer
from eventsync.domain.segments.format import BlockEntry, CompressedFrame, Footer, SealedEvent, span_of


@dataclass(frozen=True, slots=True)
class SegmentFile:
    """A segment's bytes. `raw` is the uncompressed size of its events, `tail` the offset of the footer."""

    footer: Footer
    data: bytes
    sha256: bytes
    raw: int
    tail: int


class SegmentBuilder:
    """Builds a segment from consecutive events, one block a call. Holds only the compressed blocks."""

    def __init__(self, log: LogId) -> None:
        self._log = log
        self._data = bytearray()
        self._blocks: list[BlockEntry] = []
        self._entries: set[tuple[int, int]] = set()

    def add(self, events: Sequence[SealedEvent]) -> None:
        """Add a block. Raises `Damaged` if a seq is missing before it or within it."""
        span = span_of(events)
        if self._blocks and self._blocks[-1].span.last + 1 != span.first:
            raise Damaged(f"event {span.first} comes after event {self._blocks[-1].span.last}")
        packed, raw = pack_block(events)
        frame = CompressedFrame.of(len(self._data), packed, raw)
        self._data += packed
        number = len(self._blocks)
        self._blocks.append(BlockEntry(frame, span, frozenset(event.collection for event in events)))
        self._entries.update((document_hash(event.collection, event.id), number) for event in events)
        self._entries.update((key_hash(key), number) for event in events if event.routes for key in event.routes.keys)

    def finish(self) -> SegmentFile:
        """Return the segment, which has at least one block. Call it once."""
        packed, raw = DocumentIndex.of(self._entries).pack()
        footer = Footer(self._log, tuple(self._blocks), CompressedFrame.of(len(self._data), packed, raw))
        self._data += packed
        tail = len(self._data)
        self._data += pack_footer(footer, tail)
        data = bytes(self._data)
        unpacked = sum(block.frame.raw for block in self._blocks)
        return SegmentFile(footer, data, hashlib.sha256(data).digest(), unpacked, tail)


def open_footer(end: bytes, size: int) -> Footer:
    """Return the footer of an object of `size` bytes. `end` are its last bytes, at least from the footer on.

    Raises `Damaged`, also if `end` is too short.
    """
    frame = footer_frame(end[-TRAILER_BYTES:])
    begins = frame.offset - (size - len(end))
    if begins < 0 or frame.offset + frame.length + TRAILER_BYTES != size:
        raise Damaged("its footer is not where it says")
    return read_footer(frame, end[begins : begins + frame.length])


def open_block(entry: BlockEntry, packed: bytes) -> Block:
    """Return the block of a footer entry. Raises `Damaged`, also if the block contains other events."""
    block = Block.read(unpack(entry.frame, packed))
    if (block.first, block.count) != (entry.span.first, entry.span.count):
        raise Damaged(f"it has {block.count} events from {block.first} on, the footer says {entry.span}")
    return block


def open_index(frame: CompressedFrame, packed: bytes) -> DocumentIndex:
    """Return the document index. Raises `Damaged`."""
    return DocumentIndex.read(unpack(frame, packed))


def open_numbered_block(footer: Footer, number: int, packed: bytes) -> Block:
    """Return a block by its number. Raises `Damaged`, which names it."""
    try:
        return open_block(footer.blocks[number], packed)
    except Damaged as error:
        raise Damaged(f"block {number}: {error.message}") from error
