"""The state of a collection according to the log: its newest stored snapshot and the events after it.

The log is complete. So this state, at a checkpoint's seq, is BSON-exactly the collection at its cluster time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Final, TypeVar

from eventsync.concurrency.offload import Offload, inline
from eventsync.concurrency.slices import SLICE, Slices
from eventsync.domain.encoded_state import EncodedState, change_of, head_of, replayed
from eventsync.domain.ids import IdText
from eventsync.domain.positions import LogId, Seq
from eventsync.domain.replay import Damaged, State, applied
from eventsync.domain.segments.format import SealedEvent
from eventsync.domain.shapes import Shape
from eventsync.errors import Unavailable
from eventsync.stores.history.change_reader import ChangeReader
from eventsync.stores.history.differing import EncodedDifference, StoredHistory, differing, replayed_all
from eventsync.stores.log.tracking import TrackingStore
from eventsync.stores.snapshots.pins import Pin, Pins
from eventsync.stores.snapshots.rows import Row, StoredLine, read_row, version_of
from eventsync.stores.snapshots.squashed import Squashed
from eventsync.stores.snapshots.store import SnapshotStore, StoredSnapshot

T = TypeVar("T")

Watch = Callable[[IdText, SealedEvent | None, State], None]
"""Called with a document's state in the snapshot, and then after each of its events. The next event changes it."""

_AT_ONCE: Final = 4 * 1024 * 1024
"""Bytes of events that are applied to a large document in one step."""

_EVENT: Final = 200
"""The fixed cost of an event, in bytes."""

_HELD: Final = 32 * 1024 * 1024
"""Most bytes that are compared in one step. A single document may exceed it."""

_STATES_AT_ONCE: Final = 20
"""Documents whose states are held at a time, of which each may have 16 MiB."""

_BATCH = 500
"""Most documents in one batch. `walk` holds one batch and one chunk of the snapshot."""


class NoBase(Unavailable):
    """There is no stored snapshot of the collection yet, so its state before the first event is unknown."""


class LogState:
    """Computes states from the log and the snapshots only. It never reads the collection itself."""

    def __init__(
        self,
        reader: ChangeReader,
        snapshots: SnapshotStore,
        tracking: TrackingStore,
        squashed: Squashed,
        pins: Pins,
        offload: Offload | None = None,
    ) -> None:
        """`offload` replays large documents; without it, they are replayed on the event loop."""
        self._offload = offload or inline()
        self._reader = reader
        self._pins = pins
        self._squashed = squashed
        self._snapshots = snapshots
        self._tracking = tracking
        self._checked: StoredSnapshot | None = None

    async def base(self, log: LogId, collection: str, up_to: Seq) -> StoredSnapshot:
        """Return the snapshot from which states at `up_to` are made.

        Raises `NoBase`, and `Damaged` if a chunk is missing.
        """
        snapshot = await self._snapshots.newest(log, collection, up_to)
        if snapshot is None or not await self._is_valid(snapshot):
            raise NoBase(
                f"there is no stored snapshot of {collection} at {log}:{up_to} or before: is a worker running?"
            )
        if snapshot != self._checked:
            await self._snapshots.check(snapshot)
            self._checked = snapshot
        return snapshot

    async def _is_valid(self, snapshot: StoredSnapshot) -> bool:
        """Return False for a snapshot from before the collection was tracked again."""
        active = await self._tracking.active(snapshot.log)
        return all(item.covers(snapshot.seq, snapshot.time) for item in active if item.name == snapshot.collection)

    async def document(self, log: LogId, collection: str, text: IdText, up_to: Seq) -> EncodedState:
        """Return one document as it is at `up_to`, encoded. Raises as `documents`. Holds few of its events at a
        time.
        """
        return await self._from_base(log, collection, [text], up_to, lambda base: self._state(base, text, up_to))

    async def _from_base(
        self,
        log: LogId,
        collection: str,
        ids: Sequence[IdText],
        up_to: Seq,
        read: Callable[[StoredSnapshot], Awaitable[T]],
    ) -> T:
        while True:
            base = await self._base_of(log, collection, ids, up_to)
            try:
                result = await read(base)
            except Damaged:
                # A chunk that is missing because the snapshot was just removed is no damage.
                if await self._snapshots.find(base.id):
                    raise
            else:
                # A snapshot is hidden before it is removed. If it can be found now, it existed during the whole read.
                if await self._snapshots.find(base.id):
                    return result

    async def _state(self, base: StoredSnapshot, text: IdText, up_to: Seq) -> EncodedState:
        state = await self._snapshots.state_of(base, text, self._offload)
        if up_to == base.seq:
            return state
        events = self._reader.sealed(base.log, base.collection, after=base.seq, up_to=up_to, ids=[text])
        return (await self.replay(base.log, events, state))[0]

    async def replay(
        self, log: LogId, events: AsyncGenerator[SealedEvent], state: EncodedState = None, *, whole: bool = True
    ) -> tuple[EncodedState, bool]:
        """Apply events of one document to its state, in steps; see `replayed`. Raises `Damaged`."""
        batch: list[SealedEvent] = []
        size = 0
        async with aclosing(events):
            async for event in events:
                batch.append(event)
                size += len(event.body) + _EVENT
                held = 0 if state is None else len(state[1])
                # A large document is decoded once for many events. Steps of a small one must not block the event loop.
                if size >= (_AT_ONCE if size + held > self._offload.above else SLICE):
                    state, whole = await self._replayed(log, state, batch, size, whole=whole)
                    batch, size = [], 0
        return await self._replayed(log, state, batch, size, whole=whole)

    async def _replayed(
        self, log: LogId, state: EncodedState, batch: list[SealedEvent], size: int, *, whole: bool
    ) -> tuple[EncodedState, bool]:
        if not batch:
            return state, whole
        await asyncio.sleep(0)
        size += 0 if state is None else len(state[1])
        return await self._offload.call(size, replayed, log, state, batch, whole)

    async def _base_of(self, log: LogId, collection: str, ids: Sequence[IdText], up_to: Seq) -> StoredSnapshot:
        """Return the newest usable snapshot. A single document may have a newer one of its own."""
        base = await self.base(log, collection, up_to)
        own = await self._snapshots.nearest(log, Shape(collection, ids[0]), up_to) if len(ids) == 1 else None
        if own is None or own.seq <= base.seq or not await self._is_valid(own):
            return base
        await self._snapshots.check(own)
        return own

    async def differing(
        self, log: LogId, collection: str, there: Mapping[IdText, bytes | None], up_to: Seq
    ) -> list[EncodedDifference]:
        """Compare documents of the collection, as BSON, with their states in the log at `up_to`.

        None stands for a document that does not exist there. Raises as `document`. Pass a bounded number of them.
        """
        ids = list(there)
        return await self._from_base(log, collection, ids, up_to, lambda base: self._differing(base, there, up_to))

    async def _differing(
        self, base: StoredSnapshot, there: Mapping[IdText, bytes | None], up_to: Seq
    ) -> list[EncodedDifference]:
        size = _bytes_of(there)
        lines: list[StoredLine] = []
        async with aclosing(self._snapshots.lines_of(base, list(there))) as stored:
            async for line in stored:
                lines.append(line)
                size += len(line[2])
                # The size of the states is known only once they are read. Then half of the documents are read at a
                # time.
                if size > _HELD and len(there) > 1:
                    return await self._differing_in_halves(base, there, up_to)
        states: Mapping[IdText, EncodedState] = {}
        events: list[SealedEvent] = []
        held = 0
        if up_to > base.seq:
            changes = self._reader.sealed(base.log, base.collection, after=base.seq, up_to=up_to, ids=list(there))
            async with aclosing(changes):
                async for event in changes:
                    events.append(event)
                    held += len(event.body) + _EVENT
                    if held < _AT_ONCE:
                        continue
                    history = StoredHistory(base.log, base.id, lines, states, events)
                    states = await self._offload.call(size + held, replayed_all, history)
                    lines, events, held = [], [], 0
                    size = _bytes_of(there) + sum(len(state[1]) for state in states.values() if state)
                    if size > _HELD and len(there) > 1:
                        return await self._differing_in_halves(base, there, up_to)
        return await self._offload.call(
            size + held, differing, StoredHistory(base.log, base.id, lines, states, events), there
        )

    async def _differing_in_halves(
        self, base: StoredSnapshot, there: Mapping[IdText, bytes | None], up_to: Seq
    ) -> list[EncodedDifference]:
        documents = list(there.items())
        middle = len(documents) // 2
        first = await self._differing(base, dict(documents[:middle]), up_to)
        return first + await self._differing(base, dict(documents[middle:]), up_to)

    async def states(
        self, log: LogId, collection: str, ids: Sequence[IdText], up_to: Seq
    ) -> AsyncGenerator[tuple[IdText, tuple[int, bytes]]]:
        """Yield the version and the BSON of those documents that exist at `up_to`. Raises as `document`."""
        for at in range(0, len(ids), _STATES_AT_ONCE):
            some = dict.fromkeys(ids[at : at + _STATES_AT_ONCE])
            for difference in await self.differing(log, collection, some, up_to):
                if difference.in_log is not None:
                    yield difference.id, difference.in_log

    async def versions(self, log: LogId, collection: str, up_to: Seq) -> AsyncGenerator[dict[IdText, int]]:
        """Yield the versions of all documents at `up_to`, as `walk` does, without decoding documents."""
        async with self._held(log, collection, up_to) as (base, pin), aclosing(self._versions(base, up_to)) as batches:
            async for batch in batches:
                await pin.keep()
                yield batch

    async def _versions(self, base: StoredSnapshot, up_to: Seq) -> AsyncGenerator[dict[IdText, int]]:
        async with aclosing(self._known(base, up_to)) as batches:
            async for lines in batches:
                versions = {text: None if line is None else version_of(base.id, line) for text, line in lines.items()}
                await self._bring(base, versions, up_to)
                yield {text: version for text, version in versions.items() if version is not None}

    async def _bring(self, base: StoredSnapshot, versions: dict[IdText, int | None], up_to: Seq) -> None:
        """Advance `versions` from the snapshot's seq to `up_to`. The version of a deleted document becomes None."""
        if not versions or up_to == base.seq:
            return
        slices = Slices()
        events = self._reader.sealed(base.log, base.collection, after=base.seq, up_to=up_to, ids=list(versions))
        async with aclosing(events):
            async for event in events:
                try:
                    op, version = head_of(event.body)
                except (LookupError, TypeError, ValueError) as error:
                    raise Damaged(f"event {base.log}:{event.seq} can't be read: {error}") from error
                versions[event.id] = None if op == "delete" else version
                await slices.did(_EVENT)

    async def walk(
        self, log: LogId, collection: str, up_to: Seq, *, since: Seq | None = None, watch: Watch | None = None
    ) -> AsyncGenerator[list[Row]]:
        """Yield every document of the collection at `up_to` exactly once, in batches.

        Documents in the snapshot come first, in id order, then those created after it. `watch` is called with every
        state of each document on the way, and begins with the newest snapshot at `since` or before, if there still is
        one. Raises as `document`.
        """
        begin = up_to if since is None else await self._begin(log, collection, since, up_to)
        async with (
            self._held(log, collection, begin) as (base, pin),
            aclosing(self._walk(base, up_to, watch)) as batches,
        ):
            async for batch in batches:
                await pin.keep()
                yield batch

    @asynccontextmanager
    async def _held(self, log: LogId, collection: str, up_to: Seq) -> AsyncIterator[tuple[StoredSnapshot, Pin]]:
        """Pin the base snapshot and the events after it while the block runs."""
        while True:
            base = await self.base(log, collection, up_to)
            async with self._pins.held(log, base.seq, base.id) as pin:
                # It may have been removed between the choice and the pin.
                if await self._snapshots.find(base.id):
                    yield base, pin
                    return

    async def _begin(self, log: LogId, collection: str, since: Seq, up_to: Seq) -> Seq:
        """Return where the newest valid snapshot at `since` or before is to be looked for: up to there."""
        for snapshot in (
            await self._snapshots.newest(log, collection, since),
            await self._snapshots.oldest(log, collection, since),
        ):
            if snapshot is not None and snapshot.seq <= up_to and await self._is_valid(snapshot):
                return snapshot.seq
        return up_to

    async def _walk(self, base: StoredSnapshot, up_to: Seq, watch: Watch | None) -> AsyncGenerator[list[Row]]:
        async with aclosing(self._known(base, up_to)) as batches:
            async for lines in batches:
                states: dict[IdText, State] = {
                    text: None if line is None else read_row(base.id, *line)[1:] for text, line in lines.items()
                }
                if watch is not None:
                    for text, state in states.items():
                        watch(text, None, state)
                await self._replay(base, states, up_to, watch)
                yield _live(states)

    async def _known(self, base: StoredSnapshot, up_to: Seq) -> AsyncGenerator[dict[IdText, StoredLine | None]]:
        """Yield all documents that may exist at `up_to`, in batches, each with its row in the snapshot or None."""
        async with aclosing(self._snapshots.lines(base)) as chunks:
            async for chunk in chunks:
                for at in range(0, len(chunk), _BATCH):
                    yield {line[1]: line for line in chunk[at : at + _BATCH]}
        touched = self._squashed.touched(base.log, base.collection, after=base.seq, up_to=up_to)
        async with aclosing(touched) as batches:
            async for ids in batches:
                # Documents in the snapshot were yielded already, even if they were deleted and created again.
                known = await self._snapshots.holds(base, ids)
                yield {text: None for text in ids if text not in known}

    async def _replay(self, base: StoredSnapshot, states: dict[IdText, State], up_to: Seq, watch: Watch | None) -> None:
        """Advance `states` from the snapshot's seq to `up_to`."""
        if not states or up_to == base.seq:
            return
        events = self._reader.sealed(base.log, base.collection, after=base.seq, up_to=up_to, ids=list(states))
        async with aclosing(events):
            async for event in events:
                states[event.id] = applied(states[event.id], change_of(base.log, event))
                if watch is not None:
                    watch(event.id, event, states[event.id])


def _bytes_of(documents: Mapping[IdText, bytes | None]) -> int:
    return sum(len(raw) for raw in documents.values() if raw is not None)


def _live(states: dict[IdText, State]) -> list[Row]:
    return [(text, *state) for text, state in states.items() if state is not None]
