"""A log's events wherever they are: sealed in segments up to its floor, in MongoDB beyond it."""

from __future__ import annotations

import zlib
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from app.domain.event import Group
from app.domain.ids import IdText
from app.domain.marks import unpacked
from app.domain.position import LogId, Seq
from app.domain.replay import Damaged
from app.domain.segment import SealedEvent, Selection
from app.domain.shape import Shape
from app.errors import Malformed
from app.stores.hot import Find, HotRows, Moved, in_order
from app.stores.segment_reader import SegmentReader
from app.stores.tiers import TierStore


class TieredEvents:
    """Reads events in the order of their seqs, across the tiers, while the archiver moves them.

    What is in neither tier is never passed over in silence: `BehindHorizon` for what is not kept any more, `Damaged`
    for what should be there. Raises `Unavailable` too.
    """

    def __init__(self, hot: HotRows, cold: SegmentReader, tiers: TierStore) -> None:
        self._hot = hot
        self._cold = cold
        self._tiers = tiers

    async def read(
        self, log: LogId, after: Seq, upto: Seq, shape: Shape | None = None, *, above: int = 0, batch: int = 1000
    ) -> AsyncGenerator[SealedEvent]:
        """Events with `after < seq <= upto`, of everything or of one shape, with a version above `above`.

        Holds one batch, or one read of a segment.
        """
        position = after
        while position < upto:
            # Where to begin is what somebody has read here last; what is read is judged by what is true.
            floor = min(self._tiers.seen(log).floor, upto)
            if position < floor:
                source, end = self._from_cold(log, position, floor, shape, above), floor
            else:
                source, end = (
                    self._from_hot(log, in_order(log, position, upto, shape, above=above), position, batch),
                    upto,
                )
            try:
                async with aclosing(source) as events:
                    async for event in events:
                        yield event
                        position = event.seq
            except Moved:
                continue  # the floor has been read for that
            position = end

    async def hot(self, log: LogId, after: Seq, upto: Seq, *, batch: int = 1000) -> AsyncGenerator[SealedEvent]:
        """Those that are in MongoDB. Raises `Moved` where some are not any more."""
        async with aclosing(self._from_hot(log, in_order(log, after, upto), after, batch)) as events:
            async for event in events:
                yield event

    async def _from_hot(self, log: LogId, find: Find, position: Seq, batch: int) -> AsyncGenerator[SealedEvent]:
        async with aclosing(self._hot.after(log, find, position, batch=batch)) as batches:
            async for rows in batches:
                for row in rows:
                    yield sealed_event(row)

    async def _from_cold(
        self, log: LogId, after: Seq, upto: Seq, shape: Shape | None, above: int
    ) -> AsyncGenerator[SealedEvent]:
        async with aclosing(self._cold.read(log, after, upto, Selection.of(shape))) as events:
            async for event in events:
                if above <= 0 or event.version > above:
                    yield event


def sealed_event(row: dict[str, Any]) -> SealedEvent:
    """A whole row of `events`. Raises `Damaged`."""
    body, group = row["b"], row.get("g")
    try:
        return SealedEvent(
            Seq(row["_id"]["n"]),
            row["c"],
            IdText(row["i"]),
            int(row["v"]),
            row["s"],
            body.encode() if isinstance(body, str) else zlib.decompress(body),
            tuple(unpacked(row.get("w"))),
            Group(group["id"], group["n"], group["of"]) if group else None,
        )
    except (Malformed, LookupError, TypeError, ValueError, AttributeError, zlib.error) as error:
        raise Damaged(f"event {row['_id']['l']}:{row['_id']['n']} can't be read: {error}") from error
