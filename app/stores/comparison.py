"""The log's state and the collection, side by side at one point: what `verify` proves and what a repair mends."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass

from bson.timestamp import Timestamp

from app.domain.ids import IdText, filter_of, format_id
from app.domain.position import LogId, Seq
from app.domain.replay import State
from app.domain.stamp import unversioned
from app.domain.values import decode, same
from app.stores.log_state import LogState
from app.stores.snapshot_rows import Row
from app.stores.snapshots import SnapshotReader

_BATCH = 500
_BATCH_BYTES = 4 * 1024 * 1024
"""What is held at once, as BSON: this many documents, or bytes, of the collection; and what the log says of them."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A document that is not the same in the log and in the collection; None where it does not exist."""

    id: IdText
    in_log: State
    in_collection: State


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
        async with aclosing(self._batches(collection, time)) as batches:
            async for found in batches:
                said = await self._state.documents(log, collection, list(found), seq)
                for text, state in found.items():
                    if not same_state(said[text], state):
                        yield Difference(text, said[text], state)
                compared(len(found))
        async with aclosing(self._state.walk(log, collection, seq)) as walked:
            async for rows in walked:
                there = await self._existing(collection, rows, time)
                for text, version, document in rows:
                    if text not in there:
                        yield Difference(text, (version, document), None)
                compared(len(rows))

    async def _batches(self, collection: str, time: Timestamp) -> AsyncGenerator[dict[IdText, State]]:
        batch: dict[IdText, State] = {}
        size = 0
        async with aclosing(self._snapshots.read(collection, time)) as documents:
            async for raw in documents:
                version, document = unversioned(decode(raw))
                batch[format_id(document["_id"])] = (version, document)
                size += len(raw)
                if len(batch) >= _BATCH or size >= _BATCH_BYTES:
                    yield batch
                    batch, size = {}, 0
        if batch:
            yield batch

    async def _existing(self, collection: str, rows: list[Row], time: Timestamp) -> set[IdText]:
        query = dict(filter_of(*(document["_id"] for _, _, document in rows)))
        if not rows:
            return set()
        async with aclosing(self._snapshots.read(collection, time, query, fields={"_id": 1})) as found:
            return {_id(raw) async for raw in found}


def same_state(left: State, right: State) -> bool:
    """Whether two states are the same in version, value and BSON type."""
    if left is None or right is None:
        return left is right
    return left[0] == right[0] and same(left[1], right[1])


def _id(raw: bytes) -> IdText:
    return format_id(decode(raw)["_id"])
