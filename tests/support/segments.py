"""Reads of complete segment objects."""

from __future__ import annotations

from collections.abc import Iterator

from eventsync.domain.positions import Seq
from eventsync.domain.segments.block import Block
from eventsync.domain.segments.document_index import DocumentIndex
from eventsync.domain.segments.file import open_footer, open_index, open_numbered_block
from eventsync.domain.segments.format import SealedEvent


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
