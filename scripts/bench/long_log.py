"""The processes of a deployment whose log lives for years, and what its tiers hold."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from eventsync.domain.positions import LogId, Seq
from eventsync.settings import Settings
from eventsync.stores.stores import Stores

Found = TypeVar("Found")
Rows = dict[str, dict[str, list[float]]]

MIB = 1024 * 1024
_LOOK = 0.1
_COLLECTIONS = ("events", "snapshot_chunks", "snapshots", "touched", "tallies", "segments")
_STORED = re.compile(r"a snapshot of docs is stored \(([^)]*)\): (\d+) documents, \d+ bytes, at (\d+), in ([\d.]+) s")


class LateError(Exception):
    """An expected event has not happened."""


async def until(what: str, look: Callable[[], Awaitable[Found | None]], seconds: float = 240.0) -> Found:
    """Call `look` until it finds something, and return that. Raises `LateError`."""
    deadline = time.monotonic() + seconds
    while not (found := await look()):
        if time.monotonic() >= deadline:
            raise LateError(f"{what}: not within {seconds:g} s")
        await asyncio.sleep(_LOOK)  # the event is in another process
    return found


def policy_snapshots(log: Path, documents: int) -> list[float]:
    """Seconds that each snapshot of all `documents` took that a worker has made by policy, from its log."""
    return [
        float(found[4])
        for found in _STORED.finditer(log.read_text())
        if int(found[2]) == documents and found[1] != "it was requested"
    ]


def once(figures: dict[str, float]) -> dict[str, list[float]]:
    """A table's row of one round."""
    return {name: [float(value)] for name, value in figures.items()}


class LongLog:
    """One log, seen from outside."""

    def __init__(self, stores: Stores, name: LogId) -> None:
        self.stores = stores
        self.name = name

    async def head(self) -> int:
        tail = await self.stores.events.tail(self.name)
        return tail.seq if tail else 0

    async def reached(self, seq: int) -> None:
        """Wait until the log has that many events. Raises `LateError`."""
        await until(f"event {seq}", lambda: self._has(seq))

    async def _has(self, seq: int) -> bool:
        return await self.head() >= seq

    async def settled(self, settings: Settings) -> bool:
        """Return True if the jobs have nothing left to do: archived, dropped, and no snapshot under way."""
        head = await self.head()
        floor = (await self.stores.tiers.read(self.name)).archived_up_to
        if head - settings.hot_events - floor >= settings.segment_events:
            return False
        first = await self.stores.hot.first(self.name)
        unfinished = await self.stores.log["snapshots"].find_one({"complete": False})
        return first is not None and first > floor and unfinished is None

    async def horizon_for(self, settings: Settings) -> int:
        """Return the position at which the horizon has to be, by `retention_events`."""
        target = await self.head() - settings.retention_events
        goal = 0
        async for segment in self.stores.archive.segments.covering(self.name, Seq(0), Seq(target)):
            goal = segment.span.last if segment.span.last <= target else goal
        return goal

    async def compacted(self, goal: int) -> bool:
        """Return True if the horizon has reached `goal` and everything behind it is gone."""
        horizon = (await self.stores.tiers.read(self.name)).horizon
        return horizon >= goal and await self.stores.archive.segments.starting(self.name, Seq(1)) is None

    async def sizes(self, archive: Path) -> Rows:
        """Return each tier's number of entries, and its MiB of data, on disk, and of indexes."""
        rows = {"collection": await self._collection("docs", of_data=True)}
        for name in _COLLECTIONS:
            rows[name] = await self._collection(name)
        totals = await self.stores.archive.segments.totals(self.name)
        files = _file_sizes(archive)
        if sum(files) != totals.bytes or len(files) != totals.segments:
            raise LateError(f"{len(files)} objects of {sum(files)} bytes, registered are {totals}")
        rows["archive"] = _row(totals.events, totals.raw, totals.bytes, 0)
        return rows

    async def _collection(self, name: str, *, of_data: bool = False) -> dict[str, list[float]]:
        database = self.stores.data if of_data else self.stores.log
        found = await database.command({"collStats": name})
        return _row(found["count"], found["size"], found["storageSize"], found["totalIndexSize"])


def _file_sizes(directory: Path) -> list[int]:
    return [path.stat().st_size for path in directory.rglob("*") if path.is_file()]


def _row(count: int, size: int, stored: int, indexes: int) -> dict[str, list[float]]:
    figures = {"MiB": size / MIB, "MiB on disk": stored / MIB, "MiB of indexes": indexes / MIB}
    return once({"number": count} | figures)
