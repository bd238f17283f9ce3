"""Time travel for many clients: concurrent identical reads are shared, and the number of reads is bounded.

A small request may replay a long history, so these reads have the same admission as those of clients behind the window.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

from eventsync.concurrency.admission import Admission
from eventsync.concurrency.offload import Offload
from eventsync.concurrency.single_flight import SingleFlight
from eventsync.concurrency.slices import Slices
from eventsync.domain.encoded_state import EncodedState, difference_json, document_json, seen
from eventsync.domain.ids import IdText
from eventsync.domain.points import Point
from eventsync.domain.positions import LogId, Position, Seq
from eventsync.domain.shapes import Shape
from eventsync.nodestorage import NodeStorage, Visible
from eventsync.stores.history.past_pages import PastCursor, PastId
from eventsync.stores.history.time_travel import Reading, TimeTravel
from eventsync.sync.live.continuity import Continuity
from eventsync.sync.live.window import Window

_AT_ONCE: Final = 20
"""Most documents whose states are computed at a time."""

_SMALL: Final = 256 * 1024
"""Bytes of their states; after more, fewer documents are taken."""


@dataclass(frozen=True, slots=True)
class PastPage:
    """Documents of a collection as they were at `position`, each `{"id", "version", "doc", "position", "now"}` in JSON.

    `now` is `same`, `changed` or `deleted`, at `head`. `end` is None on the last page.
    """

    position: Position
    head: Position
    rows: list[bytes]
    end: PastCursor | None


def _size(state: EncodedState) -> int:
    return 0 if state is None else len(state[1])


class TimeTravelReads:
    """Shared reads of the past; one instance a server process.

    All methods raise what `TimeTravel.document` raises, and `Unavailable` if too many reads wait.
    """

    def __init__(
        self,
        time_travel: TimeTravel,
        storage: NodeStorage,
        window: Window,
        continuity: Continuity,
        admission: Admission,
        offload: Offload,
    ) -> None:
        self._time_travel = time_travel
        self._storage = storage
        self._window = window
        self._continuity = continuity
        self._admission = admission
        self._offload = offload
        self._readings: SingleFlight[Reading] = SingleFlight()
        self._documents: SingleFlight[tuple[bytes, str]] = SingleFlight()
        self._differences: SingleFlight[bytes] = SingleFlight()

    async def document(self, shape: Shape, point: Point | None, visible: Visible | None = None) -> Reading:
        """Return the document at a point; None stands for the newest event. See `TimeTravel.document`.

        With `visible`, it is what may be seen of the document, and nothing where it may not be read.
        """
        # A request does not share a read that began before events which its client may have seen.
        reading = await self._readings.fetch((shape, point, *self._head()), lambda: self._read(shape, point))
        if visible is None or reading.encoded is None:
            return reading
        show = visible.guard.shown
        state = await self._offload.call(len(reading.encoded[1]), seen, reading.encoded, show)
        return replace(reading, encoded=state, view=visible.digest)

    async def page(
        self,
        collection: str,
        point: Point,
        after: PastCursor | None,
        *,
        limit: int,
        max_bytes: int,
        visible: Visible | None = None,
    ) -> PastPage:
        """Return a page of a collection as it was, each document compared with what it is now.

        With `visible`, those that may be read both then and now, as far as they may be seen.
        """
        async with self._continuity.reading(), self._admission.admitted():
            position, head, ids = await self._time_travel.page(collection, point, after, limit)
            rows: list[bytes] = []
            shown: PastId | None = None
            size = 0
            slices, first, count = Slices(), 0, 1
            while some := ids[first : first + count]:
                first += count
                texts = [item.text for item in some]
                then = await self._time_travel.states(collection, position, texts)
                now = await self._time_travel.states(collection, head, texts)
                sizes = {text: _size(then.get(text)) + _size(now.get(text)) for text in texts}
                count = max(1, count // 2) if sum(sizes.values()) > _SMALL else min(2 * count, _AT_ONCE)
                if visible is not None and visible.filter is not None:
                    # The stored document decides, too: a state in the log has a field name that stands twice once.
                    asked = [text for text in texts if text in then and text in now]
                    readable = await self._storage.readable(collection, asked, visible.guard)
                    now = {text: now[text] for text in readable}
                for item in some:
                    text = item.text
                    row = await self._past_row(text, then.get(text), now.get(text), position, visible)
                    await slices.did(sizes[text])
                    if row is not None:
                        rows.append(row)
                        size, shown = size + len(row), item
                    if size >= max_bytes:
                        return PastPage(position, head, rows, item.end(shown, after))
        return PastPage(position, head, rows, ids[-1].end(shown, after) if len(ids) == limit else None)

    async def _past_row(
        self, text: IdText, then: EncodedState, now: EncodedState, position: Position, visible: Visible | None
    ) -> bytes | None:
        if visible is not None:
            then, now = await self._seen(then, visible), await self._seen(now, visible)
            # A reader of the whole collection loses nothing by a rule: a document that is gone was deleted.
            if now is None and visible.filter is not None:
                return None
        if then is None:
            return None
        how = "deleted" if now is None else "same" if now[1] == then[1] else "changed"
        # All at once: to add something to 60 MB here would block for long.
        row, _ = await self._offload.call(len(then[1]), document_json, text, then, str(position), how)
        return row

    async def _seen(self, state: EncodedState, visible: Visible) -> EncodedState:
        show: Any = visible.guard.shown
        return None if state is None else await self._offload.call(len(state[1]), seen, state, show)

    async def document_json(self, shape: Shape, reading: Reading) -> tuple[bytes, str]:
        """Return the answer with the document of a reading, which has to have one, and the document's digest."""
        state = reading.encoded
        if shape.id is None or state is None:
            raise ValueError(f"{shape} was nothing at {reading.position}")
        text, position = shape.id, str(reading.position)
        return await self._documents.fetch(
            (shape, position, reading.view),
            lambda: self._offload.call(len(state[1]), document_json, text, state, position),
        )

    async def difference_json(self, shape: Shape, before: Reading, after: Reading) -> bytes:
        """Return the RFC 6902 patch from one reading of a document to another."""
        size = sum(len(one.encoded[1]) for one in (before, after) if one.encoded is not None)
        return await self._differences.fetch(
            (shape, before.position, after.position, before.view, after.view),
            lambda: self._offload.call(size, difference_json, before.encoded, after.encoded),
        )

    async def _read(self, shape: Shape, point: Point | None) -> Reading:
        async with self._continuity.reading(), self._admission.admitted():
            return await self._time_travel.document(shape, point)

    def _head(self) -> tuple[LogId | None, Seq]:
        return self._window.log, self._window.head
