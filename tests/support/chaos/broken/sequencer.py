"""Shared part of all broken sequencers: correct reading and conversion. Their faults are in numbering and storing."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from bson.int64 import Int64
from bson.raw_bson import RawBSONDocument

from eventsync.domain.events import TransactionPart, place
from eventsync.domain.positions import LogId, Seq
from eventsync.mongodb.change_stream import Token, watch
from eventsync.stores.stores import Stores
from eventsync_workers.sequencing.converter import convert
from eventsync_workers.sequencing.transactions import transaction_of

LOG = LogId("broken00")


class Change(NamedTuple):
    """One change that was read, and the transaction that it belongs to. `dropped`: its whole collection was dropped."""

    raw: Mapping[str, Any]
    transaction: str | None
    dropped: bool = False


@dataclass(slots=True)
class Reader:
    """Reads the changes of `names` in the right order, from `token` on."""

    stores: Stores
    names: Sequence[str]
    token: Token

    async def read(self) -> list[Change]:
        """All that is committed by now; the token stays where it is."""
        now = (await self.stores.data.command("ping"))["operationTime"]
        pipeline = [{"$match": {"ns.coll": {"$in": list(self.names)}}}]
        changes: list[Change] = []
        async with watch(self.stores.data, pipeline, after=self.token, images=True) as stream:
            while True:
                batch = await stream.read(wait=0.05, limit=1000)
                for raw in batch.changes:
                    changes += _dropped(raw, changes) if raw["operationType"] == "drop" else [_change(raw)]
                if not batch.changes and batch.time >= now:
                    return changes


def _change(raw: RawBSONDocument) -> Change:
    return Change(raw, transaction_of(raw))


def _dropped(drop: RawBSONDocument, before: Sequence[Change]) -> list[Change]:
    """The deletion of each document that the changes so far have left in a collection that is dropped."""
    left: dict[str, dict[str, Any]] = {}
    for change in before:
        if change.raw["ns"] == drop["ns"]:
            raw = dict(change.raw)
            left[str(change.raw["documentKey"]["_id"])] = raw
            if raw["operationType"] == "delete":
                del left[str(change.raw["documentKey"]["_id"])]
    told = {name: drop[name] for name in ("_id", "clusterTime", "wallTime", "ns")} | {"operationType": "delete"}
    return [
        Change(told | {"documentKey": raw["documentKey"], "fullDocumentBeforeChange": raw["fullDocument"]}, None, True)
        for raw in left.values()
    ]


async def now(stores: Stores) -> Token:
    """Return the token at which a stream that is opened now begins."""
    async with watch(stores.data, []) as stream:
        return stream.token


def groups(changes: Sequence[Change]) -> list[tuple[Change, TransactionPart | None]]:
    """The right marks, if `changes` holds whole transactions."""
    marked: list[tuple[Change, TransactionPart | None]] = []
    for name, members in itertools.groupby(changes, key=lambda change: change.transaction):
        found = list(members)
        marks = name is not None and len(found) > 1
        marked += [
            (change, TransactionPart(name, n, len(found)) if marks and name else None)
            for n, change in enumerate(found, 1)
        ]
    return marked


def row(change: Change, seq: int, mark: TransactionPart | None) -> dict[str, Any]:
    """The event as it is stored."""
    event = convert(change.raw)
    assert event is not None, "the broken ones meet no API deletes"
    stored = {
        "_id": {"l": LOG, "n": Int64(seq)},
        "t": change.raw["_id"]["_data"],
        "s": change.raw["clusterTime"],
        "c": event.collection,
        "i": event.id,
        "v": Int64(event.version),
        "b": place(event.encode(), Seq(seq), mark).decode(),
    }
    return stored | ({"g": {"id": mark.id, "n": mark.n, "of": mark.of}} if mark else {})
