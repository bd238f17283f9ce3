"""Chunks of stored snapshots, unpacked, once for all clients that begin with them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from app.byte_cache import ByteCache
from app.stores.snapshot_chunks import Chunk
from app.sync.flights import Flights

_OVERHEAD = 64
"""What a row costs here besides its bytes, roughly."""

_MARKS = b',"marks":['

Rows = Sequence[bytes]
"""Documents in JSON, as they are sent: `{"id", "version", "doc"}`."""


class ChunkCache:
    """The most recently used chunks, bounded in bytes. Each is read once, however many ask for it at the same time."""

    def __init__(self, read: Callable[[str, int], Awaitable[Chunk]], limit_bytes: int) -> None:
        """`read` is given a snapshot's id and a chunk's number."""
        self._read = read
        self._kept: ByteCache[tuple[str, int], Rows] = ByteCache(limit_bytes, _cost)
        self._flights: Flights[Rows] = Flights()
        self.reads = 0
        """How many chunks were read from MongoDB."""

    async def rows(self, snapshot: str, number: int) -> Rows:
        """The rows of a chunk. Raises what `read` raises: `Damaged` and `Unavailable`."""
        key = (snapshot, number)
        if (known := self._kept.get(key)) is not None:
            return known
        return await self._flights.fetch(key, lambda: self._fetched(key))

    async def _fetched(self, key: tuple[str, int]) -> Rows:
        self.reads += 1
        chunk = await self._read(*key)
        rows = [unmarked(line) for line in chunk.lines]
        self._kept.keep(key, rows)
        return rows

    @property
    def bytes(self) -> int:
        """What it takes now."""
        return self._kept.bytes


def _cost(rows: Rows) -> int:
    return sum(map(len, rows)) + _OVERHEAD * len(rows)


def unmarked(line: bytes) -> bytes:
    """A stored row without its `marks`, which are nobody's but a replay's.

    They stand last in the row, and a list; a row without them ends with the braces of its document and its own.
    """
    return line[: line.rindex(_MARKS)] + b"}" if line.endswith(b"]}") else line
