"""Blocks: runs of events, each one zstd frame of NDJSON. Pure.

The first line is the *header*, columns of the events' other fields. Each further line is the body of one event, and
then each the document beside one. A reader that forwards events parses only the header, and slices the bodies by their
lengths.
"""

from __future__ import annotations

import sys
from base64 import b64decode, b64encode
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final

import orjson
import zstandard
from bson.timestamp import Timestamp

from eventsync.domain.events import TransactionPart
from eventsync.domain.ids import IdText
from eventsync.domain.positions import Seq
from eventsync.domain.predicates.keys import NO_KEYS
from eventsync.domain.replay import Damaged
from eventsync.domain.routes import Routes, joined, split
from eventsync.domain.segments.format import CompressedFrame, SealedEvent, Selection

_ALL: Final = Selection()
_LEVEL: Final = 6
_ROW_BYTES: Final = 300
"""Approximate memory of an event's columns, without its body."""
_KEY_BYTES: Final = 100
"""Approximate memory of a key."""
_ROUTES: Final = 1
"""The version of the form in which a block keeps routes."""


def pack_block(events: Sequence[SealedEvent]) -> tuple[bytes, int]:
    """Return the frame of consecutive events, and its uncompressed length. Raises `ValueError` for a line break."""
    documents = [event.routes.document for event in events if event.routes and event.routes.document is not None]
    if any(b"\n" in event.body for event in events) or any(b"\n" in document for document in documents):
        raise ValueError("a body of more than one line")
    raw = b"\n".join([orjson.dumps(_header(events)), *(event.body for event in events), *documents])
    return zstandard.ZstdCompressor(level=_LEVEL).compress(raw), len(raw)


def _header(events: Sequence[SealedEvent]) -> dict[str, Any]:
    names = sorted({event.collection for event in events})
    number = {name: index for index, name in enumerate(names)}
    return {
        "first": events[0].seq,
        "collections": names,
        "c": [number[event.collection] for event in events],
        "i": [event.id for event in events],
        "v": [event.version for event in events],
        "s": [(event.time.time, event.time.inc) for event in events],
        "length": [len(event.body) for event in events],
        # Most events have neither, so these two are keyed by the index in the block.
        "g": [(n, *_transaction(event.transaction)) for n, event in enumerate(events) if event.transaction is not None],
        "w": [(n, event.type_hints) for n, event in enumerate(events) if event.type_hints],
    } | _routes_header(events)


def _routes_header(events: Sequence[SealedEvent]) -> dict[str, Any]:
    """Return the routes of events. Without any, a block is as before there were declared shapes."""
    routed = [(n, event.routes) for n, event in enumerate(events) if event.routes is not None]
    if not routed:
        return {}
    return {
        "routes": _ROUTES,
        "k": [(n, _text(routes.keys), _text(routes.enters), _text(routes.leaves)) for n, routes in routed],
        "d": [(n, len(routes.document)) for n, routes in routed if routes.document is not None],
    }


def _text(keys: Collection[bytes]) -> str:
    return b64encode(joined(keys)).decode()


def _read_routes(header: Mapping[str, Any], raw: bytes, end: int) -> tuple[dict[int, Routes], int]:
    """Return the routes by event, and where the documents end that begin at `end`."""
    version = header.get("routes")
    if version is None:
        return {}, end
    if version != _ROUTES:
        raise ValueError(f"version {version} of its routes is not known")
    documents: dict[int, bytes] = {}
    for n, length in header["d"]:
        documents[n] = raw[end : end + length]
        end += length + 1
    return {
        n: Routes(tuple(sorted(_keys(keys))), _keys(enters), _keys(leaves), documents.get(n))
        for n, keys, enters, leaves in header["k"]
    }, end


def _keys(text: str) -> frozenset[bytes]:
    return split(b64decode(text, validate=True)) if text else NO_KEYS


def _transaction(transaction: TransactionPart) -> tuple[str, int, int]:
    return transaction.id, transaction.n, transaction.of


def unpack(frame: CompressedFrame, packed: bytes) -> bytes:
    """Return the contents of a frame, never more than its recorded length. Raises `Damaged`."""
    frame.check(packed)
    try:
        raw = zstandard.ZstdDecompressor().decompress(packed, max_output_size=frame.raw)
    except zstandard.ZstdError as error:
        raise Damaged(f"it can't be unpacked: {error}") from error
    if len(raw) != frame.raw:
        raise Damaged(f"it unpacks to {len(raw)} bytes instead of {frame.raw}")
    return raw


@dataclass(frozen=True, slots=True)
class Block:
    """An unpacked block: columns of equal length. Body n is `raw[starts[n] : starts[n + 1] - 1]`."""

    first: Seq
    collections: Sequence[str]
    ids: Sequence[str]
    versions: Sequence[int]
    times: Sequence[Sequence[int]]
    transactions: dict[int, TransactionPart]
    type_hints: dict[int, tuple[str, ...]]
    starts: Sequence[int]
    raw: bytes
    routes: dict[int, Routes]

    @classmethod
    def read(cls, raw: bytes) -> Block:
        """Read the contents of a block. Raises `Damaged` for anything that `pack_block` did not write."""
        try:
            return cls._read(raw)
        except (ValueError, LookupError, TypeError) as error:
            raise Damaged(f"it is no block of events: {error!r}") from error

    @classmethod
    def _read(cls, raw: bytes) -> Block:
        line, _, _ = raw.partition(b"\n")
        header = orjson.loads(line)
        # Interned: all cached blocks share the names, of which there are few.
        names = [sys.intern(name) for name in header["collections"]]
        starts = list(accumulate((length + 1 for length in header["length"]), initial=len(line) + 1))
        routes, end = _read_routes(header, raw, starts[-1])
        block = cls(
            first=Seq(header["first"]),
            collections=[names[number] for number in header["c"]],
            ids=header["i"],
            versions=header["v"],
            times=header["s"],
            transactions={n: TransactionPart(text, at, of) for n, text, at, of in header["g"]},
            type_hints={n: tuple(pointers) for n, pointers in header["w"]},
            starts=starts,
            raw=raw,
            routes=routes,
        )
        columns = {len(block.collections), len(block.ids), len(block.versions), len(block.times), len(starts) - 1}
        # A line break is counted behind each line, and there is none behind the last.
        if len(columns) > 1 or end != len(raw) + 1:
            raise ValueError("its columns have different lengths")
        return block

    @property
    def count(self) -> int:
        """The number of events."""
        return len(self.ids)

    @property
    def cost(self) -> int:
        """Approximate memory in bytes."""
        keys = sum(len(routes.keys) for routes in self.routes.values())
        documents = sum(len(routes.document or b"") for routes in self.routes.values())
        return len(self.raw) + _ROW_BYTES * self.count + _KEY_BYTES * keys + documents

    def event(self, n: int) -> SealedEvent:
        """Return the n-th event, counted from 0."""
        return SealedEvent(
            self.seq(n),
            self.collections[n],
            IdText(self.ids[n]),
            self.versions[n],
            Timestamp(*self.times[n]),
            self.body(n),
            self.type_hints.get(n, ()),
            self.transactions.get(n),
            self.routes.get(n),
        )

    def seq(self, n: int) -> Seq:
        """Return the seq of the n-th event."""
        return Seq(self.first + n)

    def body(self, n: int) -> bytes:
        """Return the body of the n-th event."""
        return self.raw[self.starts[n] : self.starts[n + 1] - 1]

    def numbers(self, after: Seq, up_to: Seq, selection: Selection = _ALL) -> list[int]:
        """Return the indexes of the events with `after < seq <= up_to` in `selection`."""
        span = range(max(0, after + 1 - self.first), min(self.count, up_to + 1 - self.first))
        if selection == _ALL:
            return list(span)
        return [n for n in span if selection.has(self.collections[n], self.ids[n], self.routes.get(n))]
