"""A segment: an immutable, compressed, checksummed piece of a log, from one seq to another without a gap. Pure.

An object is, from its first byte to its last:

- *blocks*: each one zstd frame (`eventsync.domain.segments.block`), about as large as one read should be;
- the *document index*: which blocks have events of a document (`eventsync.domain.segments.document_index`);
- the *footer*: where the blocks and the index are, what they span, and their checksums (`domain.segments.footer`);
- the *trailer*, of fixed size: where the footer is, and its checksum.

The object alone is therefore sufficient to read it. A search for one seq, document or time reads the footer and then
only the blocks that it needs. A frame is decompressed only after its SHA-256 was verified.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import orjson
from bson.timestamp import Timestamp

from eventsync.domain.events import TransactionPart, unfinished
from eventsync.domain.ids import IdText
from eventsync.domain.positions import LogId, Seq
from eventsync.domain.replay import Damaged
from eventsync.domain.routes import Routes
from eventsync.domain.shapes import Shape


@dataclass(frozen=True, slots=True)
class SealedEvent:
    """An event with all that has to outlive its row: only what resumes the change stream is left out.

    `time` is the change's cluster time; `type_hints` say what the JSON of `body` can't (`domain.values.type_hints`).
    """

    seq: Seq
    collection: str
    id: IdText
    version: int
    time: Timestamp
    body: bytes
    type_hints: tuple[str, ...] = ()
    transaction: TransactionPart | None = None
    routes: Routes | None = None

    @property
    def closes(self) -> bool:
        """True if a segment may end after it: it is outside any transaction, or the last event of one."""
        return unfinished(self.transaction) is None

    @property
    def at(self) -> str:
        """The commit time by the wall clock, in RFC 3339 with milliseconds in UTC, so that it sorts as text.

        Raises `Damaged` for a body without it.
        """
        try:
            at = orjson.loads(self.body)["at"]
        except (ValueError, LookupError, TypeError) as error:
            raise Damaged(f"event {self.seq} does not say when it happened: {error!r}") from error
        if not isinstance(at, str):
            raise Damaged(f"event {self.seq} does not say when it happened, but {at!r}")
        return at


@dataclass(frozen=True, slots=True)
class Selection:
    """A selection of events: all, those of one collection, or of it those of some documents, or of a route."""

    collection: str | None = None
    ids: frozenset[IdText] | None = None
    keys: frozenset[bytes] | None = None

    @classmethod
    def of(cls, shape: Shape | None) -> Selection:
        """Return the selection for a shape, which is bound; None selects everything."""
        if shape is None:
            return cls()
        if (keys := shape.keys) is not None:
            return cls(shape.collection, keys=keys)
        return cls(shape.collection, None if shape.id is None else frozenset([IdText(shape.id)]))

    def has(self, collection: str, id_text: str, routes: Routes | None) -> bool:
        """Return True if events of this document with these routes are selected."""
        if self.keys is not None:
            return routes is not None and not self.keys.isdisjoint(routes.keys)
        return self.collection is None or (
            collection == self.collection and (self.ids is None or IdText(id_text) in self.ids)
        )


@dataclass(frozen=True, slots=True)
class Span:
    """The range of consecutive events: their seqs, and their cluster and wall clock times.

    The times are minima and maxima, because the wall clock may go back at an election.
    """

    first: Seq
    last: Seq
    first_time: Timestamp
    last_time: Timestamp
    earliest: str
    latest: str

    @property
    def count(self) -> int:
        """The number of events."""
        return self.last - self.first + 1


def span_of(events: Sequence[SealedEvent]) -> Span:
    """Return the span of at least one event. Raises `Damaged` if a seq is missing."""
    for before, event in pairwise(events):
        if event.seq != before.seq + 1:
            raise Damaged(f"event {event.seq} comes after event {before.seq}")
    times, walls = [event.time for event in events], [event.at for event in events]
    return Span(events[0].seq, events[-1].seq, min(times), max(times), min(walls), max(walls))


def joined(spans: Sequence[Span]) -> Span:
    """Return the span that covers consecutive spans, at least one."""
    return Span(
        spans[0].first,
        spans[-1].last,
        min(span.first_time for span in spans),
        max(span.last_time for span in spans),
        min(span.earliest for span in spans),
        max(span.latest for span in spans),
    )


@dataclass(frozen=True, slots=True)
class CompressedFrame:
    """The location of a zstd frame in the object. `raw` is its uncompressed length, `sha256` of the compressed
    bytes.
    """

    offset: int
    length: int
    raw: int
    sha256: bytes

    @classmethod
    def of(cls, offset: int, packed: bytes, raw: int) -> CompressedFrame:
        return cls(offset, len(packed), raw, hashlib.sha256(packed).digest())

    def cut(self, data: bytes, start: int = 0) -> bytes:
        """Return the frame's bytes from `data`, the object's bytes from the offset `start` on."""
        begin = self.offset - start
        return data[begin : begin + self.length]

    def check(self, packed: bytes) -> None:
        """Verify the compressed bytes. Raises `Damaged`."""
        if len(packed) != self.length:
            raise Damaged(f"{len(packed)} bytes instead of {self.length}: it is cut off")
        if hashlib.sha256(packed).digest() != self.sha256:
            raise Damaged("another checksum than what was written")


@dataclass(frozen=True, slots=True)
class BlockEntry:
    """A block's entry in the footer. `collections` are those with events in the block."""

    frame: CompressedFrame
    span: Span
    collections: frozenset[str]

    def may_have(self, after: Seq, up_to: Seq, selection: Selection) -> bool:
        """Return True if the block may have events with `after < seq <= up_to` in `selection`."""
        within = self.span.last > after and self.span.first <= up_to
        return within and (selection.collection is None or selection.collection in self.collections)


@dataclass(frozen=True, slots=True)
class Footer:
    """The contents of a segment of log `log`.

    `has_routes` is False for one of an archiver that knew nothing of routes: its events may have lost them.
    """

    log: LogId
    blocks: tuple[BlockEntry, ...]
    index: CompressedFrame
    has_routes: bool = True

    @property
    def span(self) -> Span:
        """The span of the whole segment."""
        return joined([block.span for block in self.blocks])
