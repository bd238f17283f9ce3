"""A segment: an immutable, compressed, checksummed piece of a log, from one seq to another without a gap. Pure.

An object is, from its first byte to its last:

- *blocks*: each one zstd frame (`eventsync.domain.segments.block`), about as large as one read should be;
- the *document index*: which blocks have events of a document (`eventsync.domain.segments.document_index`);
- the *footer*: where the blocks and the index are, what they span, and their checksums (`domain.segments.footer`);
- the *trailer*, of fixed size: where the footer is, and its checksum.

So whoever has the object alone can read all of it; whoever looks for one seq, document or time reads the footer and
then the blocks that it needs. Nothing is taken out of a frame before its SHA-256 is right.
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

    @property
    def closes(self) -> bool:
        """True if a segment may end after it: it is outside any transaction, or the last event of one."""
        return unfinished(self.transaction) is None

    @property
    def at(self) -> str:
        """When the change was committed, by the wall clock: RFC 3339, in UTC with milliseconds, so that it sorts.

        Raises `Damaged` for a body that does not say it.
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
    """Which events: those of everything, of one collection, or of these documents of one collection."""

    collection: str | None = None
    ids: frozenset[IdText] | None = None

    @classmethod
    def of(cls, shape: Shape | None) -> Selection:
        """Those that a shape names; None stands for everything."""
        if shape is None:
            return cls()
        return cls(shape.collection, None if shape.id is None else frozenset([IdText(shape.id)]))

    def has(self, collection: str, id_text: str) -> bool:
        """Whether an event of this document is one of them."""
        return self.collection is None or (
            collection == self.collection and (self.ids is None or IdText(id_text) in self.ids)
        )


@dataclass(frozen=True, slots=True)
class Span:
    """What some consecutive events cover: their numbers, and their times by the cluster's clock and by the wall's.

    Of the times it has the least and the greatest: the wall's may go back in a log, at an election.
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
    """The span of at least one event. Raises `Damaged` where a number is missing."""
    for before, event in pairwise(events):
        if event.seq != before.seq + 1:
            raise Damaged(f"event {event.seq} comes after event {before.seq}")
    times, walls = [event.time for event in events], [event.at for event in events]
    return Span(events[0].seq, events[-1].seq, min(times), max(times), min(walls), max(walls))


def joined(spans: Sequence[Span]) -> Span:
    """The span of consecutive spans, of which there is at least one."""
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
    """Where one zstd frame is in the object; `raw` is its length when unpacked, and `sha256` is of its packed bytes."""

    offset: int
    length: int
    raw: int
    sha256: bytes

    @classmethod
    def of(cls, offset: int, packed: bytes, raw: int) -> CompressedFrame:
        return cls(offset, len(packed), raw, hashlib.sha256(packed).digest())

    def check(self, packed: bytes) -> None:
        """Raises `Damaged` where these are not the bytes that were written."""
        if len(packed) != self.length:
            raise Damaged(f"{len(packed)} bytes instead of {self.length}: it is cut off")
        if hashlib.sha256(packed).digest() != self.sha256:
            raise Damaged("another checksum than what was written")


@dataclass(frozen=True, slots=True)
class BlockEntry:
    """A block as the footer knows it; `collections` are those that it has events of."""

    frame: CompressedFrame
    span: Span
    collections: frozenset[str]

    def may_have(self, after: Seq, up_to: Seq, selection: Selection) -> bool:
        """Whether any of its events can have `after < seq <= up_to` and be one of `selection`."""
        within = self.span.last > after and self.span.first <= up_to
        return within and (selection.collection is None or selection.collection in self.collections)


@dataclass(frozen=True, slots=True)
class Footer:
    """The contents of a segment of log `log`."""

    log: LogId
    blocks: tuple[BlockEntry, ...]
    index: CompressedFrame

    @property
    def span(self) -> Span:
        """What the whole segment covers."""
        return joined([block.span for block in self.blocks])
