"""A cache of snapshot chunks, unpacked and joined once for all clients that are sent them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from eventsync.concurrency.lru_cache import LRUCache
from eventsync.concurrency.single_flight import SingleFlight
from eventsync.stores.snapshots.chunks import Chunk

_OVERHEAD = 64
"""Approximate memory of a run besides its data, in bytes."""

_LARGE = 8 * 1024 * 1024
"""Bytes of a chunk from which on its rows are joined in a thread."""

_HINTS = b',"marks":['

_Key = tuple[str, int, int]


@dataclass(frozen=True, slots=True)
class Rows:
    """`count` documents in JSON, `{"id", "version", "doc"}`, joined by commas into runs.

    Single rows would be joined again for each client, which would be most of the cost of one more client.
    """

    count: int
    runs: Sequence[bytes]


class ChunkCache:
    """The most recently used chunks, bounded in bytes. Concurrent requests for a chunk share one read."""

    def __init__(self, read: Callable[[str, int], Awaitable[Chunk]], limit_bytes: int) -> None:
        """Create a cache over `read`, which takes a snapshot's id and a chunk's number."""
        self._read = read
        self._cache: LRUCache[_Key, Rows] = LRUCache(limit_bytes, _cost)
        self._single_flight: SingleFlight[Rows] = SingleFlight()
        self.reads = 0
        """Number of chunks read from MongoDB."""

    async def rows(self, snapshot: str, number: int, run_bytes: int = 0) -> Rows:
        """Return the rows of a chunk in runs of at most `run_bytes`, or of one larger row.

        Raises `Damaged` and `Unavailable`.
        """
        key = (snapshot, number, run_bytes)
        if (rows := self._cache.get(key)) is not None:
            return rows
        return await self._single_flight.fetch(key, lambda: self._fetch(key))

    async def _fetch(self, key: _Key) -> Rows:
        self.reads += 1
        snapshot, number, run_bytes = key
        chunk = await self._read(snapshot, number)
        if sum(map(len, chunk.lines)) > _LARGE:
            runs = await asyncio.to_thread(_joined, chunk.lines, run_bytes)
        else:
            runs = _joined(chunk.lines, run_bytes)
        rows = Rows(len(chunk.lines), runs)
        self._cache.keep(key, rows)
        return rows

    @property
    def bytes(self) -> int:
        """Memory of the cached chunks in bytes."""
        return self._cache.bytes


def _cost(rows: Rows) -> int:
    return sum(map(len, rows.runs)) + _OVERHEAD * len(rows.runs)


def _joined(lines: Iterable[bytes], max_bytes: int) -> list[bytes]:
    return list(_runs(map(without_hints, lines), max_bytes))


def _runs(rows: Iterable[bytes], max_bytes: int) -> Iterator[bytes]:
    run, size = list[bytes](), 0
    for row in rows:
        if run and size + len(row) > max_bytes:
            yield b",".join(run)
            run, size = [], 0
        run.append(row)
        size += len(row) + 1
    if run:
        yield b",".join(run)


def without_hints(line: bytes) -> bytes:
    """Return a stored row without its type hints (`marks`), which only a replay needs.

    They are a list and the last member of the row; a row without them ends with two braces.
    """
    if not line.endswith(b"]}"):
        return line
    with memoryview(line) as view:
        # One copy only: a copy of a 90 MiB line takes 30 ms.
        return b"".join((view[: line.rindex(_HINTS)], b"}"))
