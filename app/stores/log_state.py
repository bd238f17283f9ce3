"""What the log says that a collection is: its newest stored snapshot and the events after it.

The log is complete: this, at a checkpoint's seq, is the collection at that checkpoint's cluster time, BSON-exact.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from app.domain.ids import IdText
from app.domain.position import LogId, Seq
from app.domain.replay import State, applied
from app.errors import Unavailable
from app.stores.history import History
from app.stores.snapshot_store import Row, SnapshotStore, StoredSnapshot
from app.stores.tracking import TrackingStore

_BATCH = 500
"""Most documents in one batch: what `walk` holds at once, next to one chunk of the snapshot."""


class NoBase(Unavailable):
    """There is no stored snapshot of the collection yet: what came before the first event is not known."""


class LogState:
    """Answers from what is stored beside the collection alone; it itself is never asked."""

    def __init__(self, history: History, snapshots: SnapshotStore, tracking: TrackingStore) -> None:
        self._history = history
        self._snapshots = snapshots
        self._tracking = tracking
        self._checked: StoredSnapshot | None = None

    async def base(self, log: LogId, collection: str, upto: Seq) -> StoredSnapshot:
        """The snapshot that states at `upto` are made from. Raises `NoBase`, and `Damaged` where a chunk is missing."""
        found = await self._snapshots.newest(log, collection, upto)
        if found is None or found.seq < await self._tracked_since(log, collection):
            raise NoBase(f"there is no stored snapshot of {collection} at {log}:{upto} or before: is a worker running?")
        if found != self._checked:
            await self._snapshots.check(found)
            self._checked = found
        return found

    async def _tracked_since(self, log: LogId, collection: str) -> Seq:
        """What was stored before a collection was untracked says nothing about it once it is tracked again."""
        tracked = await self._tracking.read()
        return next((item.base for item in tracked if (item.name, item.log) == (collection, log)), Seq(0))

    async def documents(self, log: LogId, collection: str, ids: Sequence[IdText], upto: Seq) -> dict[IdText, State]:
        """What each of these documents is at `upto`: (version, document without `_sync`), or None where it is not.

        Raises `NoBase`, `Damaged` and `Unavailable`. Holds all of the answer: ask for bounded batches.
        """
        base = await self.base(log, collection, upto)
        states: dict[IdText, State] = dict.fromkeys(ids)
        async with aclosing(self._snapshots.rows_of(base, list(states))) as rows:
            async for text, version, document in rows:
                states[text] = (version, document)
        await self._replay(base, states, upto)
        return states

    async def walk(self, log: LogId, collection: str, upto: Seq) -> AsyncGenerator[list[Row]]:
        """The whole collection at `upto`, in batches: every document that then exists, exactly once.

        First what is in the snapshot, in id order, then what was created after it. Raises like `documents`.
        """
        base = await self.base(log, collection, upto)
        async with aclosing(self._snapshots.rows(base)) as chunks:
            async for chunk in chunks:
                for at in range(0, len(chunk), _BATCH):
                    states: dict[IdText, State] = {row[0]: row[1:] for row in chunk[at : at + _BATCH]}
                    await self._replay(base, states, upto)
                    yield _live(states)
        async with aclosing(self._touched(base, upto)) as batches:
            async for ids in batches:
                # What is in the snapshot had its turn, also where it was deleted and made again.
                known = await self._snapshots.holds(base, ids)
                states = {text: None for text in ids if text not in known}
                await self._replay(base, states, upto)
                yield _live(states)

    async def _replay(self, base: StoredSnapshot, states: dict[IdText, State], upto: Seq) -> None:
        """Bring `states` from the snapshot's seq to `upto`."""
        if not states or upto == base.seq:
            return
        changes = self._history.changes(base.log, base.collection, after=base.seq, upto=upto, ids=list(states))
        async with aclosing(changes):
            async for change in changes:
                states[change.id] = applied(states[change.id], change)

    async def _touched(self, base: StoredSnapshot, upto: Seq) -> AsyncGenerator[list[IdText]]:
        """The documents with events after the snapshot, in batches."""
        batch: list[IdText] = []
        async with aclosing(self._history.ids(base.log, base.collection, after=base.seq, upto=upto)) as ids:
            async for text in ids:
                batch.append(text)
                if len(batch) == _BATCH:
                    yield batch
                    batch = []
        if batch:
            yield batch


def _live(states: dict[IdText, State]) -> list[Row]:
    return [(text, *state) for text, state in states.items() if state is not None]
