"""The parts of values too large for an event's row: `event_parts`, one MongoDB document a part, `_id: {l, n, v, p}`.

The row names the parts by a random id `v`, chosen by its writer, and by a checksum. Parts are written before the row,
so a row never lacks parts. Two writers of the same number never touch each other's parts; the insert of the row alone
decides between them. `sweep` removes the parts of a writer that lost or that died before it wrote its row.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from bson.binary import Binary
from pymongo import ASCENDING
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase

from eventsync.domain.event_key import event_key, key_range
from eventsync.domain.positions import LogId, Seq
from eventsync.domain.replay import DamagedEvents
from eventsync.mongodb.errors import translated
from eventsync.stores.log.stored_event import UNREADABLE, UnpackedText, unreadable

PART_BYTES = 8 * 1024 * 1024

_SWEPT_AT_ONCE = 500

_LARGE = ("b", "w", "d")
"""The fields of a row that may be in parts: the body, its type hints, and the document beside it."""

_PACKED = ("b", "d")
"""The fields that may be compressed."""


def is_whole(row: Mapping[str, Any]) -> bool:
    """Return True if no value of a row is in parts or compressed."""
    return isinstance(row.get("b"), str) and not isinstance(row.get("w"), dict) and isinstance(row.get("d", ""), str)


class EventParts:
    """Writes and reads the values that a row refers to by `{v: id, of: number of parts, sha256}`."""

    def __init__(self, database: AsyncDatabase[Any]) -> None:
        self._events: AsyncCollection[Any] = database["events"]
        self._parts: AsyncCollection[Any] = database["event_parts"]

    async def write(self, log: LogId, seq: Seq, value: bytes) -> dict[str, Any]:
        """Store a value of the future event `log:seq`. Return the reference for its row.

        Durable (majority, journal) when it returns.
        """
        # A name of its own keeps these parts apart from those of a rival that writes the same number.
        name, pieces = secrets.token_hex(8), [value[at : at + PART_BYTES] for at in range(0, len(value), PART_BYTES)]
        with translated(f"the parts of event {log}:{seq} can't be written"):
            for part, piece in enumerate(pieces):
                await self._parts.insert_one({"_id": event_key(log, seq) | {"v": name, "p": part}, "d": Binary(piece)})
        return {"v": name, "of": len(pieces), "sha256": Binary(await asyncio.to_thread(_sha256, value))}

    async def filled(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return `row` with the values that it refers to, and with its body and document unpacked.

        Raises `Damaged`, which names the event and the part.
        """
        named = [field for field in _LARGE if isinstance(row.get(field), dict)]
        try:
            whole = row | {field: await self._read(row, field) for field in named} if named else row
            for field in _PACKED:
                if isinstance(packed := whole.get(field), bytes):
                    whole = whole | {field: await asyncio.to_thread(UnpackedText.of, packed)}
        except UNREADABLE as error:
            raise unreadable(row, error) from error
        return whole

    async def _read(self, row: Mapping[str, Any], field: str) -> bytes:
        log, seq, reference = row["_id"]["l"], row["_id"]["n"], row[field]
        if not {"v", "of", "sha256"} <= reference.keys():
            raise DamagedEvents(f"the parts of event {log}:{seq} can't be read: its row does not name them", seq)
        pieces = []
        for part in range(reference["of"]):
            with translated(f"part {part} of event {log}:{seq} can't be read"):
                piece = await self._parts.find_one({"_id": event_key(log, seq) | {"v": reference["v"], "p": part}})
            if piece is None:
                raise DamagedEvents(f"part {part} of event {log}:{seq} is missing", seq)
            pieces.append(piece["d"])
        value = b"".join(pieces)
        if await asyncio.to_thread(_sha256, value) != reference["sha256"]:
            raise DamagedEvents(f"the parts of event {log}:{seq} have another checksum than what was written", seq)
        return value

    async def sweep(self, log: LogId) -> int:
        """Remove the parts whose number has a row of another writer. Return how many were removed.

        Parts whose number has no row yet may belong to an active writer. They stay until a later call.
        """
        swept = 0
        async with aclosing(self._named(log)) as batches:
            async for parts in batches:
                orphans = await self._orphans(parts)
                if orphans:
                    with translated("parts that belong to no event can't be removed"):
                        swept += (await self._parts.delete_many({"_id": {"$in": orphans}})).deleted_count
        return swept

    async def remove(self, log: LogId, up_to: Seq) -> None:
        """Remove the parts of all events up to `up_to`. Their rows were removed before."""
        bounds = {"$gte": event_key(log, 0), "$lt": event_key(log, up_to + 1)}
        with translated("the parts of events can't be removed"):
            await self._parts.delete_many({"_id": bounds})

    async def _named(self, log: LogId) -> AsyncGenerator[list[dict[str, Any]]]:
        """Yield the keys of all parts of a log, in batches."""
        batch: list[dict[str, Any]] = []
        with translated("the parts of events can't be listed"):
            cursor = self._parts.find({"_id": key_range(log)}, {"_id": 1}, sort=[("_id", ASCENDING)])
            async with cursor:
                async for row in cursor:
                    batch.append(row["_id"])
                    if len(batch) == _SWEPT_AT_ONCE:
                        yield batch
                        batch = []
        if batch:
            yield batch

    async def _orphans(self, parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
        keys = {part["n"]: event_key(part["l"], part["n"]) for part in parts}
        with translated("events can't be read"):
            cursor = self._events.find({"_id": {"$in": list(keys.values())}}, {f"{field}.v": 1 for field in _LARGE})
            rows = {row["_id"]["n"]: _names(row) async for row in cursor}
        # Only numbers that are taken: parts without a row may belong to an insert that is under way.
        return [part for part in parts if part["n"] in rows and part["v"] not in rows[part["n"]]]


def _sha256(value: bytes) -> bytes:
    return hashlib.sha256(value).digest()


def _names(row: Mapping[str, Any]) -> set[str]:
    """Return the ids of the values in parts that a row refers to."""
    return {row[field]["v"] for field in _LARGE if isinstance(row.get(field), dict)}
