"""The footer of a segment, and the trailer with its location. Pure."""

from __future__ import annotations

import hashlib
import struct
from itertools import pairwise
from typing import Any, Final

import orjson
import zstandard
from bson.timestamp import Timestamp

from eventsync.domain.positions import LogId, Seq
from eventsync.domain.replay import Damaged
from eventsync.domain.segments.block import unpack
from eventsync.domain.segments.format import BlockEntry, CompressedFrame, Footer, Span

_MAGIC: Final = b"EVSYNC\x00\x01"
"""The last byte is the version of the format."""

_TRAILER: Final = struct.Struct("<QII32s8s")
TRAILER_BYTES: Final = _TRAILER.size


def pack_footer(footer: Footer, offset: int) -> bytes:
    """Return the footer, to be written at `offset`, followed by the trailer."""
    raw = orjson.dumps(
        {
            "log": footer.log,
            "blocks": [_block(entry) for entry in footer.blocks],
            "index": _frame(footer.index),
            "routes": footer.has_routes,
        }
    )
    packed = zstandard.ZstdCompressor(level=3).compress(raw)
    return packed + _TRAILER.pack(offset, len(packed), len(raw), hashlib.sha256(packed).digest(), _MAGIC)


def footer_frame(trailer: bytes) -> CompressedFrame:
    """Return the location of the footer from the last `TRAILER_BYTES` of an object. Raises `Damaged`."""
    if len(trailer) != TRAILER_BYTES or trailer[-8:-1] != _MAGIC[:-1]:
        raise Damaged("it does not end as a segment does: it is cut off, or it is something else")
    offset, length, raw, digest, magic = _TRAILER.unpack(trailer)
    if magic != _MAGIC:
        raise Damaged(f"it is a segment of format {magic[-1]}, which this version does not know")
    return CompressedFrame(offset, length, raw, digest)


def read_footer(frame: CompressedFrame, packed: bytes) -> Footer:
    """Read a footer. Raises `Damaged` for anything that `pack_footer` did not write."""
    raw = unpack(frame, packed)
    try:
        tree = orjson.loads(raw)
        blocks = tuple(_read_block(entry) for entry in tree["blocks"])
        footer = Footer(LogId(tree["log"]), blocks, _read_frame(tree["index"]), tree.get("routes", False))
    except (ValueError, LookupError, TypeError) as error:
        raise Damaged(f"its footer can't be read: {error!r}") from error
    for before, block in pairwise(blocks):
        if block.span.first != before.span.last + 1:
            raise Damaged(f"its block after event {before.span.last} begins with event {block.span.first}")
    if not blocks:
        raise Damaged("it has no blocks")
    return footer


def _block(entry: BlockEntry) -> dict[str, Any]:
    return {"frame": _frame(entry.frame), "span": span_to_json(entry.span), "collections": sorted(entry.collections)}


def _read_block(tree: dict[str, Any]) -> BlockEntry:
    return BlockEntry(_read_frame(tree["frame"]), span_from_json(tree["span"]), frozenset(tree["collections"]))


def _frame(frame: CompressedFrame) -> dict[str, Any]:
    return {"offset": frame.offset, "length": frame.length, "raw": frame.raw, "sha256": frame.sha256.hex()}


def _read_frame(tree: dict[str, Any]) -> CompressedFrame:
    return CompressedFrame(tree["offset"], tree["length"], tree["raw"], bytes.fromhex(tree["sha256"]))


def span_to_json(span: Span) -> dict[str, Any]:
    """Return the JSON form of a span. Cluster times are [seconds, increment]."""
    return {
        "first": span.first,
        "last": span.last,
        "first_time": [span.first_time.time, span.first_time.inc],
        "last_time": [span.last_time.time, span.last_time.inc],
        "earliest": span.earliest,
        "latest": span.latest,
    }


def span_from_json(tree: dict[str, Any]) -> Span:
    """Read the JSON form of a span. Raises `ValueError`, `LookupError` or `TypeError`."""
    return Span(
        Seq(tree["first"]),
        Seq(tree["last"]),
        Timestamp(*tree["first_time"]),
        Timestamp(*tree["last_time"]),
        tree["earliest"],
        tree["latest"],
    )
