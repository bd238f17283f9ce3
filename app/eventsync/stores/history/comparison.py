"""The comparison of the log's state with the collection, for `eventsync verify` and for repairs."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

from bson.timestamp import Timestamp

from eventsync.concurrency.slices import Slices
from eventsync.domain.bson_scan.opaque import field_of
from eventsync.domain.encoded_state import decoded
from eventsync.domain.ids import IdText, filter_of, format_id, stored_id
from eventsync.domain.positions import LogId, Seq
from eventsync.domain.replay import State
from eventsync.domain.stamp import unversioned
from eventsync.domain.values.extended_json import decode
from eventsync.stores.history.differing import EncodedDifference
from eventsync.stores.history.log_state import LogState
from eventsync.stores.snapshots.live_snapshots import SnapshotReader

_BATCH = 500
_BATCH_BYTES = 4 * 1024 * 1024
"""Most documents, and BSON bytes, of the collection in one batch. The log's states of them are held too."""

_KEY: Final = 256
"""The work of finding the id of a document, in bytes."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A document that differs between the log and the collection. A state is None if it does not exist there."""

    id: IdText
    in_log: State
    in_collection: State


@dataclass(frozen=True, slots=True)
class Outdated:
    """A document with a wrong state in the log: its version there, and its BSON in the collection.

    `in_log` is its BSON in the log, if that was asked for.
    """

    id: IdText
    version: int | None
    raw: bytes | None
    in_log: bytes | None = None


class Comparison:
    """Compares BSON-exact: version, and every field in value and type."""

    def __init__(self, snapshots: SnapshotReader, state: LogState) -> None:
        self._snapshots = snapshots
        self._state = state

    async def differences(
        self,
        log: LogId,
        collection: str,
        seq: Seq,
        time: Timestamp,
        *,
        compared: Callable[[int], None] = lambda _: None,
    ) -> AsyncGenerator[Difference]:
        """Yield each document that differs between the log at `seq` and the collection at cluster time `time`, once.

        Documents of the collection come first, in id order, then those that only the log has. After each batch,
        `compared` is called with the number of documents; each document counts once for each side that has it.

        Raises `NoBase`, `Damaged`, and `Unavailable` (MongoDB keeps a cluster time for five minutes by default).
        """
        # Both ways: a merge by id would need the log's later documents in BSON order, and so all of them in memory.
        async with aclosing(self._changed(log, collection, seq, time)) as batches:
            async for count, differences in batches:
                for one in differences:
                    in_collection = None if one.raw is None else unversioned(decode(one.raw))
                    yield Difference(one.id, decoded(one.in_log), in_collection)
                compared(count)
        async with aclosing(self._state.walk(log, collection, seq)) as walked:
            async for rows in walked:
                there = await self._existing(collection, [text for text, _, _ in rows], time)
                for text, version, document in rows:
                    if text not in there:
                        yield Difference(text, (version, document), None)
                compared(len(rows))

    async def outdated(
        self, log: LogId, collection: str, seq: Seq, time: Timestamp, *, whole: bool = False
    ) -> AsyncGenerator[Outdated]:
        """Yield as `differences` does, but without decoding documents on the event loop.

        With `whole`, each document that the log has comes with its BSON there.
        """
        async with aclosing(self._changed(log, collection, seq, time)) as batches:
            async for _, differences in batches:
                for one in differences:
                    version, in_log = (None, None) if one.in_log is None else one.in_log
                    yield Outdated(one.id, version, one.raw, in_log)
        async with aclosing(self._state.versions(log, collection, seq)) as walked:
            async for versions in walked:
                there = await self._existing(collection, versions.keys(), time)
                gone = {text: version for text, version in versions.items() if text not in there}
                if not whole:
                    for text, version in gone.items():
                        yield Outdated(text, version, None)
                    continue
                async with aclosing(self._state.states(log, collection, list(gone), seq)) as states:
                    async for text, (version, in_log) in states:
                        yield Outdated(text, version, None, in_log)

    async def _changed(
        self, log: LogId, collection: str, seq: Seq, time: Timestamp
    ) -> AsyncGenerator[tuple[int, list[EncodedDifference]]]:
        """Yield, for each batch of the collection, its size and the documents that differ from the log."""
        async with aclosing(self._batches(collection, time)) as batches:
            async for there in batches:
                yield len(there), await self._state.differing(log, collection, there, seq)

    async def _batches(self, collection: str, time: Timestamp) -> AsyncGenerator[dict[IdText, bytes]]:
        batch: dict[IdText, bytes] = {}
        size = 0
        slices = Slices()
        async with aclosing(self._snapshots.read(collection, time)) as documents:
            async for raw in documents:
                batch[_id(raw)] = raw
                size += len(raw)
                await slices.did(_KEY)
                if len(batch) >= _BATCH or size >= _BATCH_BYTES:
                    yield batch
                    batch, size = {}, 0
        if batch:
            yield batch

    async def _existing(self, collection: str, ids: Collection[IdText], time: Timestamp) -> set[IdText]:
        if not ids:
            return set()
        query = dict(filter_of(*map(stored_id, ids)))
        async with aclosing(self._snapshots.read(collection, time, query, fields={"_id": 1})) as documents:
            return {_id(raw) async for raw in documents}


def _id(raw: bytes) -> IdText:
    return format_id(field_of(raw, "_id"))
