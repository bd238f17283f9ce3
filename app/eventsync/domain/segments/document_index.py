"""The document index of a segment: which blocks may have events of a document, or of a route. Pure.

Sorted 64-bit hashes of (collection, id), and of keys, each with a block number, in one zstd frame. A hash collision
only costs one unnecessary read of a block, because readers compare the ids or the keys.
"""

from __future__ import annotations

import hashlib
import struct
import sys
from array import array
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import zstandard

from eventsync.domain.ids import IdText
from eventsync.domain.replay import Damaged

_LEVEL: Final = 3
_COUNT: Final = struct.Struct("<I")
_ENTRY_BYTES: Final = 12


def document_hash(collection: str, id_text: IdText) -> int:
    """Return 64 bits of BLAKE2b over collection and id, with a length prefix between them."""
    named = f"{len(collection)}:{collection}{id_text}".encode()
    return int.from_bytes(hashlib.blake2b(named, digest_size=8).digest(), "little")


def key_hash(key: bytes) -> int:
    """Return 64 bits of a key, which is a digest itself."""
    return int.from_bytes(key[:8], "little")


@dataclass(frozen=True, slots=True)
class DocumentIndex:
    """`hashes` in order; `blocks` are the block numbers beside them."""

    hashes: array[int]
    blocks: array[int]

    @classmethod
    def of(cls, entries: Iterable[tuple[int, int]]) -> DocumentIndex:
        """Build an index from (hash, block number) pairs in any order."""
        ordered = sorted(entries)
        return cls(array("Q", (key for key, _ in ordered)), array("I", (block for _, block in ordered)))

    @classmethod
    def read(cls, raw: bytes) -> DocumentIndex:
        """Read an index. Raises `Damaged` for anything that `pack` did not write."""
        if len(raw) < _COUNT.size or len(raw) != _COUNT.size + _ENTRY_BYTES * _COUNT.unpack_from(raw)[0]:
            raise Damaged("it is no document index")
        middle = _COUNT.size + 8 * _COUNT.unpack_from(raw)[0]
        hashes, blocks = array("Q"), array("I")
        hashes.frombytes(raw[_COUNT.size : middle])
        blocks.frombytes(raw[middle:])
        return cls(_little(hashes), _little(blocks))

    def pack(self) -> tuple[bytes, int]:
        """Return the frame, and its uncompressed length."""
        columns = _little(self.hashes[:]).tobytes() + _little(self.blocks[:]).tobytes()
        raw = _COUNT.pack(len(self.hashes)) + columns
        return zstandard.ZstdCompressor(level=_LEVEL).compress(raw), len(raw)

    def find(self, collection: str, id_text: IdText) -> list[int]:
        """Return the numbers of the blocks that may have events of the document, in order, without duplicates."""
        return self._find(document_hash(collection, id_text))

    def find_key(self, key: bytes) -> list[int]:
        """Return the numbers of the blocks that may have events with a key, as `find` does."""
        return self._find(key_hash(key))

    def _find(self, key: int) -> list[int]:
        at = bisect_left(self.hashes, key)
        found = []
        while at < len(self.hashes) and self.hashes[at] == key:
            found.append(self.blocks[at])
            at += 1
        return found

    @property
    def cost(self) -> int:
        """Memory in bytes."""
        return _ENTRY_BYTES * len(self.hashes)


def _little(column: array[int]) -> array[int]:
    """Convert a column to little-endian, in place, on a big-endian machine."""
    if sys.byteorder == "big":
        column.byteswap()
    return column
