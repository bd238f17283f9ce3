"""The log's state and the collection, side by side at one point: what `verify` proves and what a repair mends."""

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
"""What is held at once, as BSON: this many documents, or bytes, of the collection; and what the log says of them."""

_KEY: Final = 256
"""Bytes of work that it counts for to find the id of a document."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A document that is not the same in the log and in the collection; None where it does not exist."""

    id: IdText
    in_log: State
    in_collection: State


@dataclass(frozen=True, slots=True)
class Outdated:
    """A document of which the log does not say what it is: its version there, and its BSON in the collection."""

    id: IdText
    version: int | None
    raw: bytes | None


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
        """Each document in which the log at `seq` and the collection at cluster time `time` differ, once.

        First those that the collection has, in id order, then those that only the log has. `compared` is called with
        the number of documents after each batch: each document counts once for each side that has it.

        Raises `NoBase`, `Damaged`, and `Unavailable` (MongoDB keeps a cluster time for five minutes by default).
        """
        async with aclosing(self._changed(log, collection, seq, time)) as batches:
            async for count, found in batches:
                for one in found:
                    yield Difference(one.id, decoded(one.in_log), unversioned(decode(one.raw)))
                compared(count)
        async with aclosing(self._state.walk(log, collection, seq)) as walked:
            async for rows in walked:
                there = await self._existing(collection, [text for text, _, _ in rows], time)
                for text, version, document in rows:
                    if text not in there:
                        yield Difference(text, (version, document), None)
                compared(len(rows))

    async def outdated(self, log: LogId, collection: str, seq: Seq, time: Timestamp) -> AsyncGenerator[Outdated]:
        """Do as `differences`, without taking a document apart on the event loop."""
        async with aclosing(self._changed(log, collection, seq, time)) as batches:
            async for _, found in batches:
                for one in found:
                    yield Outdated(one.id, None if one.in_log is None else one.in_log[0], one.raw)
        async with aclosing(self._state.versions(log, collection, seq)) as walked:
            async for versions in walked:
                there = await self._existing(collection, versions.keys(), time)
                for text, version in versions.items():
                    if text not in there:
                        yield Outdated(text, version, None)

    async def _changed(
        self, log: LogId, collection: str, seq: Seq, time: Timestamp
    ) -> AsyncGenerator[tuple[int, list[EncodedDifference]]]:
        """Documents that the collection has in another way than the log; with each batch, how many were compared."""
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
        async with aclosing(self._snapshots.read(collection, time, query, fields={"_id": 1})) as found:
            return {_id(raw) async for raw in found}


def _id(raw: bytes) -> IdText:
    return format_id(field_of(raw, "_id"))
