"""Chunks of stored snapshots, unpacked and joined as they are sent, once for all clients that begin with them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from eventsync.concurrency.lru_cache import LRUCache
from eventsync.concurrency.single_flight import SingleFlight
from eventsync.stores.snapshots.chunks import Chunk

_OVERHEAD = 64
"""What a run costs here besides its bytes, roughly."""

_LARGE = 8 * 1024 * 1024
"""Bytes of a chunk from which on its rows are joined in a thread."""

_MARKS = b',"marks":['

_Key = tuple[str, int, int]


@dataclass(frozen=True, slots=True)
class Rows:
    """`count` documents in JSON, as they are sent: `{"id", "version", "doc"}`, in runs joined by commas.

    (A row by itself would be counted and joined again for each client, which is most of what one more costs.)
    """

    count: int
    runs: Sequence[bytes]


class ChunkCache:
    """The most recently used chunks, bounded in bytes. Each is read once, however many ask for it at the same time."""

    def __init__(self, read: Callable[[str, int], Awaitable[Chunk]], limit_bytes: int) -> None:
        """`read` is given a snapshot's id and a chunk's number."""
        self._read = read
        self._kept: LRUCache[_Key, Rows] = LRUCache(limit_bytes, _cost)
        self._flights: SingleFlight[Rows] = SingleFlight()
        self.reads = 0
        """How many chunks were read from MongoDB."""

    async def rows(self, snapshot: str, number: int, run_bytes: int = 0) -> Rows:
        """The rows of a chunk, in runs of at most `run_bytes`, or of one larger row.

        Raises what `read` raises: `Damaged` and `Unavailable`.
        """
        key = (snapshot, number, run_bytes)
        if (known := self._kept.get(key)) is not None:
            return known
        return await self._flights.fetch(key, lambda: self._fetched(key))

    async def _fetched(self, key: _Key) -> Rows:
        self.reads += 1
        snapshot, number, run_bytes = key
        chunk = await self._read(snapshot, number)
        if sum(map(len, chunk.lines)) > _LARGE:
            runs = await asyncio.to_thread(_joined, chunk.lines, run_bytes)
        else:
            runs = _joined(chunk.lines, run_bytes)
        rows = Rows(len(chunk.lines), runs)
        self._kept.keep(key, rows)
        return rows

    @property
    def bytes(self) -> int:
        """What it takes now."""
        return self._kept.bytes


def _cost(rows: Rows) -> int:
    return sum(map(len, rows.runs)) + _OVERHEAD * len(rows.runs)


def _joined(lines: Iterable[bytes], most: int) -> list[bytes]:
    return list(_runs(map(unmarked, lines), most))


def _runs(rows: Iterable[bytes], most: int) -> Iterator[bytes]:
    run, size = list[bytes](), 0
    for row in rows:
        if run and size + len(row) > most:
            yield b",".join(run)
            run, size = [], 0
        run.append(row)
        size += len(row) + 1
    if run:
        yield b",".join(run)


def unmarked(line: bytes) -> bytes:
    """A stored row without its `marks`, which are nobody's but a replay's.

    They stand last in the row, and a list; a row without them ends with the braces of its document and its own.
    """
    if not line.endswith(b"]}"):
        return line
    with memoryview(line) as view:
        # In one copy: of a line of 90 MiB each takes 30 ms.
        return b"".join((view[: line.rindex(_MARKS)], b"}"))
