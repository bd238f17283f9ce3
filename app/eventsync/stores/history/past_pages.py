"""Pages of a collection as it was at a position.

A page goes through the ids of the stored snapshot before the position, in its order, and then through those of
documents that were touched after it. The states are computed as those of single documents are.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

from eventsync.domain.ids import IdText
from eventsync.domain.positions import Position
from eventsync.errors import Malformed, TooComplex, Unavailable
from eventsync.stores.snapshots.store import StoredSnapshot
from eventsync.stores.stores import Stores

MAX_TOUCHED: Final = 200_000
"""Most documents touched since a stored snapshot of which a page is made."""

_CURSOR: Final = re.compile(r"([0-9a-f]{16})\.(?:(\d{1,9})\.(\d{1,9})|created\.(.*))", re.DOTALL)


@dataclass(frozen=True, slots=True)
class PastCursor:
    """A place in a collection as it was: behind a row of a chunk of a snapshot, or behind a document created later."""

    snapshot: str
    chunk: int = 0
    row: int = 0
    created: IdText | None = None

    @classmethod
    def parse(cls, text: str) -> PastCursor:
        """Read the text of a cursor. Raises `Malformed`."""
        if (found := _CURSOR.fullmatch(text)) is None:
            raise Malformed("after is the `next` of the page before")
        snapshot, chunk, row, created = found.groups()
        if created is not None:
            return cls(snapshot, created=IdText(created))
        return cls(snapshot, int(chunk), int(row))

    def __str__(self) -> str:
        if self.created is not None:
            return f"{self.snapshot}.created.{self.created}"
        return f"{self.snapshot}.{self.chunk}.{self.row}"


class PastPages:
    """Lists the documents that a collection may have had at a position."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores

    async def ids(
        self, collection: str, position: Position, after: PastCursor | None, limit: int
    ) -> list[tuple[IdText, PastCursor]]:
        """Return the next ids, each with the cursor behind it; none at the end. Some may not have existed.

        Raises `NoBase`, `BehindHorizon`, `Damaged`, `TooComplex`, and `Unavailable` if the snapshot of the page before
        is not kept any more.
        """
        base = await self._base(collection, position, after)
        place = after or PastCursor(base.id)
        found: list[tuple[IdText, PastCursor]] = []
        if place.created is None:
            async with aclosing(self._of_snapshot(base, place)) as rows:
                async for row in rows:
                    found.append(row)
                    if len(found) == limit:
                        return found
        after_id = place.created or IdText("")
        touched = await self._touched(base, position)
        while len(found) < limit:
            some = heapq.nsmallest(limit, (text for text in touched if text > after_id))
            if not some:
                break
            held = await self._stores.snapshots.stored.holds(base, some)
            found += [(text, PastCursor(base.id, created=text)) for text in some if text not in held]
            after_id = some[-1]
        return found[:limit]

    async def _base(self, collection: str, position: Position, after: PastCursor | None) -> StoredSnapshot:
        if after is None:
            return await self._stores.history.state.base(position.log, collection, position.seq)
        base = await self._stores.snapshots.stored.find(after.snapshot)
        if base is None or (base.log, base.shape) != (position.log, collection) or base.seq > position.seq:
            raise Unavailable("the snapshot of the page before is not kept any more: begin with the first page")
        return base

    async def _of_snapshot(self, base: StoredSnapshot, place: PastCursor) -> AsyncGenerator[tuple[IdText, PastCursor]]:
        begin = place.row
        for chunk in range(place.chunk, base.chunks):
            ids = await self._stores.snapshots.stored.ids(base, chunk)
            for number in range(begin, len(ids)):
                yield ids[number], PastCursor(base.id, chunk, number + 1)
            begin = 0

    async def _touched(self, base: StoredSnapshot, position: Position) -> set[IdText]:
        touched: set[IdText] = set()
        if base.seq == position.seq:
            return touched
        reading = self._stores.snapshots.squashed.touched(base.log, base.collection, after=base.seq, up_to=position.seq)
        async with aclosing(reading) as batches:
            async for batch in batches:
                touched.update(batch)
                if len(touched) > MAX_TOUCHED:
                    raise TooComplex(
                        f"over {MAX_TOUCHED} documents were touched since the stored snapshot before {position}"
                    )
        return touched
