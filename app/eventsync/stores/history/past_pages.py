"""Pages of a collection as it was at a position.

A page goes through the ids of the stored snapshot before the position, in its order, and then through those of
documents that were touched after it. The states are computed as those of single documents are.
"""

from __future__ import annotations

import heapq
import re
from bisect import bisect_right
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from itertools import islice
from typing import Final

from eventsync.concurrency.slices import SLICE, Slices
from eventsync.domain.ids import IdText
from eventsync.domain.positions import Position
from eventsync.errors import Malformed, TooComplex, Unavailable
from eventsync.stores.snapshots.store import StoredSnapshot
from eventsync.stores.stores import Stores

MAX_TOUCHED: Final = 200_000
"""Most documents touched since a stored snapshot of which a page is made."""

_STEP: Final = 1000
"""Touched documents that are skipped without a pause: 1 or 2 ms."""

_CURSOR: Final = re.compile(r"([0-9a-f]{16})\.(?:(\d{1,9})\.(\d{1,9})|created\.(\d{1,9})\.(.*))", re.DOTALL)


@dataclass(frozen=True, slots=True)
class PastCursor:
    """A place in a collection as it was: behind a row of a chunk of a snapshot, or behind a document created later.

    The latter place is `skip` touched documents behind the one that is `created`, or behind the first if it is empty.
    """

    snapshot: str
    chunk: int = 0
    row: int = 0
    created: IdText | None = None
    skip: int = 0

    @classmethod
    def parse(cls, text: str) -> PastCursor:
        """Read the text of a cursor. Raises `Malformed`."""
        if (found := _CURSOR.fullmatch(text)) is None:
            raise Malformed("after is the `next` of the page before")
        snapshot, chunk, row, skip, created = found.groups()
        if created is not None:
            return cls(snapshot, created=IdText(created), skip=int(skip))
        return cls(snapshot, int(chunk), int(row))

    def __str__(self) -> str:
        if self.created is not None:
            return f"{self.snapshot}.created.{self.skip}.{self.created}"
        return f"{self.snapshot}.{self.chunk}.{self.row}"


@dataclass(frozen=True, slots=True)
class PastId:
    """An id, the cursor behind it, and the number of touched documents from the beginning of the page up to it."""

    text: IdText
    cursor: PastCursor
    passed: int = 0

    def end(self, shown: PastId | None, after: PastCursor | None) -> PastCursor:
        """Return a cursor behind this document that names none but `shown`, the last one that the reader may know.

        The page begins behind `after`. Ids of other documents may be secrets.
        """
        if self.cursor.created is None or shown is self:
            return self.cursor
        if shown is not None and shown.cursor.created is not None:
            return replace(self.cursor, created=shown.text, skip=self.passed - shown.passed)
        start = None if after is None else after.created
        return replace(self.cursor, created=start or IdText(""), skip=self.passed)


class PastPages:
    """Lists the documents that a collection may have had at a position."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores

    async def ids(self, collection: str, position: Position, after: PastCursor | None, limit: int) -> list[PastId]:
        """Return the next ids; none at the end. Some may not have existed.

        Raises `NoBase`, `BehindHorizon`, `Damaged`, `TooComplex`, and `Unavailable` if the snapshot of the page before
        is not kept any more.
        """
        base = await self._base(collection, position, after)
        place = after or PastCursor(base.id)
        found: list[PastId] = []
        if place.created is None:
            async with aclosing(self._of_snapshot(base, place)) as rows:
                async for row in rows:
                    found.append(row)
                    if len(found) == limit:
                        return found
        runs = await self._touched(base, position)
        # Step by step: to sort 200,000 ids at once would block the event loop for 0.3 s.
        touched = heapq.merge(*(run[bisect_right(run, place.created or "") :] for run in runs))
        # More may have been touched since the page before. Then a document that was skipped comes again.
        slices, left, passed = Slices(), place.skip, place.skip
        while left and (some := list(islice(touched, min(left, _STEP)))):
            left -= len(some)
            await slices.did(SLICE)
        while len(found) < limit and (some := list(islice(touched, limit))):
            held = await self._stores.snapshots.stored.holds(base, some)
            for text in some:
                passed += 1
                if text not in held:
                    found.append(PastId(text, PastCursor(base.id, created=text), passed))
        return found[:limit]

    async def _base(self, collection: str, position: Position, after: PastCursor | None) -> StoredSnapshot:
        if after is None:
            return await self._stores.history.state.base(position.log, collection, position.seq)
        base = await self._stores.snapshots.stored.find(after.snapshot)
        if base is None or (base.log, base.shape) != (position.log, collection) or base.seq > position.seq:
            raise Unavailable("the snapshot of the page before is not kept any more: begin with the first page")
        return base

    async def _of_snapshot(self, base: StoredSnapshot, place: PastCursor) -> AsyncGenerator[PastId]:
        begin = place.row
        for chunk in range(place.chunk, base.chunks):
            ids = await self._stores.snapshots.stored.ids(base, chunk)
            for number in range(begin, len(ids)):
                yield PastId(ids[number], PastCursor(base.id, chunk, number + 1))
            begin = 0

    async def _touched(self, base: StoredSnapshot, position: Position) -> list[list[IdText]]:
        """Return the ids of the touched documents in sorted lists."""
        runs: list[list[IdText]] = []
        if base.seq == position.seq:
            return runs
        reading = self._stores.snapshots.squashed.touched(base.log, base.collection, after=base.seq, up_to=position.seq)
        async with aclosing(reading) as batches:
            async for batch in batches:
                runs.append(sorted(batch))
                if sum(map(len, runs)) > MAX_TOUCHED:
                    raise TooComplex(
                        f"over {MAX_TOUCHED} documents were touched since the stored snapshot before {position}"
                    )
        return runs
